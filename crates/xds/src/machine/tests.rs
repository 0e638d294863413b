//! Tables of what the client says. (Against the server's half: `tests/pair.rs`.)

use prost_types::Any;

use super::*;

const TYPE: &str = "type.example/T";

fn resource(name: &str, version: &str) -> Resource {
    let body = Any {
        type_url: TYPE.to_owned(),
        value: version.as_bytes().to_vec(),
    };
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(body),
        ..Default::default()
    }
}

fn response(nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: TYPE.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    }
}

fn refuse(name: &str, reason: &str) -> Rejected {
    Rejected {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Applies a push of which `rejected` are refused.
fn push(
    machine: &mut Machine,
    response: DeltaDiscoveryResponse,
    rejected: Vec<Rejected>,
) -> (Vec<ResourceUpdate>, Answer) {
    let (updates, receipt) = machine.receive(response).split();
    (updates, machine.applied(receipt, rejected))
}

fn held(machine: &Machine) -> Vec<(&str, &str)> {
    let mut held: Vec<_> = machine.held().collect();
    held.sort_unstable();
    held
}

fn upsert(name: &str, version: &str) -> ResourceUpdate {
    let (name, body) = (name.to_owned(), version.as_bytes().to_vec());
    ResourceUpdate::Upsert {
        name,
        version: version.to_owned(),
        body,
    }
}

#[test]
fn the_wildcard_is_asked_for_by_no_names_at_all() {
    let request = Machine::new(Subscription::all(TYPE)).connected().unwrap();
    assert_eq!(
        request,
        DeltaDiscoveryRequest {
            type_url: TYPE.to_owned(),
            ..Default::default()
        }
    );
}

#[test]
fn the_wildcard_beside_names_is_said() {
    let mut wanted = Subscription::all(TYPE);
    wanted.names.insert("a".to_owned());
    let request = Machine::new(wanted).connected().unwrap();
    assert_eq!(request.resource_names_subscribe, ["*", "a"]);
}

#[test]
fn nothing_is_asked_until_there_is_a_name() {
    let mut machine = Machine::new(Subscription::named::<&str>(TYPE, []));
    assert!(machine.idle());
    assert_eq!(machine.connected(), None);
    assert_eq!(machine.unsubscribe(["a"], true), None);
    let first = machine.subscribe(["a", "b"], true).unwrap();
    assert_eq!(first.resource_names_subscribe, ["a", "b"]);
    assert_eq!(machine.subscribe(["b"], true), None);
    assert_eq!(
        machine
            .subscribe(["b", "c"], true)
            .unwrap()
            .resource_names_subscribe,
        ["c"]
    );
    assert_eq!(
        machine
            .unsubscribe(["a", "x"], true)
            .unwrap()
            .resource_names_unsubscribe,
        ["a"]
    );
}

#[test]
fn names_asked_without_a_stream_go_into_the_first_request() {
    let mut machine = Machine::new(Subscription::named(TYPE, ["a"]));
    assert_eq!(machine.subscribe(["b"], false), None);
    assert_eq!(machine.unsubscribe(["a"], false), None);
    assert_eq!(machine.connected().unwrap().resource_names_subscribe, ["b"]);
}

#[test]
fn a_good_push_is_acked_and_held() {
    let mut machine = Machine::new(Subscription::all(TYPE));
    let resources = vec![resource("a", "1"), resource("b", "1")];
    let (updates, answer) = push(&mut machine, response("n1", resources, &["c"]), vec![]);
    let remove = ResourceUpdate::Remove {
        name: "c".to_owned(),
    };
    assert_eq!(updates, [upsert("a", "1"), upsert("b", "1"), remove]);
    assert_eq!(answer.refused, 0);
    let ack = DeltaDiscoveryRequest {
        type_url: TYPE.to_owned(),
        response_nonce: "n1".to_owned(),
        ..Default::default()
    };
    assert_eq!(answer.request, ack);
    assert_eq!(held(&machine), [("a", "1"), ("b", "1")]);
}

#[test]
fn a_nack_names_each_refused_resource_and_the_rest_is_held() {
    let mut machine = Machine::new(Subscription::all(TYPE));
    push(
        &mut machine,
        response("n1", vec![resource("a", "1")], &[]),
        vec![],
    );
    let resources = vec![resource("a", "2"), resource("b", "2"), resource("c", "2")];
    let rejected = vec![refuse("a", "port: 70000"), refuse("c", "empty")];
    let (_, answer) = push(&mut machine, response("n2", resources, &[]), rejected);
    let error = answer.request.error_detail.unwrap();
    assert_eq!(error.message, "a: port: 70000; c: empty");
    assert_eq!(error.code, 3);
    assert_eq!(answer.request.response_nonce, "n2");
    assert_eq!(answer.refused, 2);
    // The last good version of `a` stays; `c` was never held.
    assert_eq!(held(&machine), [("a", "1"), ("b", "2")]);
}

#[test]
fn resources_without_body_or_of_another_type_are_refused_before_the_handler_sees_them() {
    let mut machine = Machine::new(Subscription::all(TYPE));
    let bare = Resource {
        resource: None,
        ..resource("a", "1")
    };
    let other = Any {
        type_url: "type.example/U".to_owned(),
        value: vec![],
    };
    let other = Resource {
        resource: Some(other),
        ..resource("b", "1")
    };
    let (updates, answer) = push(&mut machine, response("n", vec![bare, other], &[]), vec![]);
    assert_eq!(updates, []);
    let want = "a: has no body; b: is of type \"type.example/U\" in a push of type.example/T";
    assert_eq!(answer.request.error_detail.unwrap().message, want);
}

#[test]
fn a_new_stream_resumes_from_what_is_held() {
    let mut machine = Machine::new(Subscription::all(TYPE));
    machine.connected();
    let resources = vec![resource("a", "1"), resource("b", "7")];
    push(&mut machine, response("n1", resources, &[]), vec![]);
    push(&mut machine, response("n2", vec![], &["a"]), vec![]);
    let request = machine.connected().unwrap();
    let versions = [("b".to_owned(), "7".to_owned())].into();
    assert_eq!(request.initial_resource_versions, versions);
    assert_eq!(request.response_nonce, "");
}

#[test]
fn a_new_stream_names_what_was_refused_so_that_its_removal_is_told() {
    let mut machine = Machine::new(Subscription::all(TYPE));
    machine.connected();
    let resources = vec![resource("a", "1"), resource("b", "1"), resource("c", "1")];
    let rejected = || vec![refuse("b", "bad"), refuse("c", "bad")];
    push(&mut machine, response("n1", resources, &[]), rejected());
    let resumed = |machine: &mut Machine| machine.connected().unwrap().initial_resource_versions;
    let versions = |pairs: &[(&str, &str)]| {
        let pair = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        pairs.iter().map(pair).collect()
    };
    assert_eq!(
        resumed(&mut machine),
        versions(&[("a", "1"), ("b", ""), ("c", "")])
    );
    assert_eq!(held(&machine), [("a", "1")]);
    // One comes in a good version, the other is told to be gone: nothing is left to be told.
    let good = response("n2", vec![resource("b", "2")], &["c"]);
    push(&mut machine, good, vec![]);
    assert_eq!(resumed(&mut machine), versions(&[("a", "1"), ("b", "2")]));
}

#[test]
fn a_push_that_crossed_an_unsubscribe_is_passed_over() {
    let mut machine = Machine::new(Subscription::named(TYPE, ["a", "10.0.0.1"]));
    machine.connected();
    machine.unsubscribe(["a"], true);
    let alias = Resource {
        aliases: vec!["10.0.0.1".to_owned()],
        ..resource("uid", "1")
    };
    let pushed = response("n", vec![resource("a", "1"), alias], &[]);
    let (updates, answer) = push(&mut machine, pushed, vec![]);
    assert_eq!(updates, [upsert("uid", "1")]);
    assert_eq!(answer.refused, 0);
    assert_eq!(held(&machine), [("uid", "1")]);
}

#[test]
fn unsubscribing_forgets_what_was_held_unless_the_wildcard_keeps_it() {
    for (wildcard, left) in [(false, 0), (true, 1)] {
        let wanted = Subscription {
            wildcard,
            ..Subscription::named(TYPE, ["a"])
        };
        let mut machine = Machine::new(wanted);
        machine.connected();
        push(
            &mut machine,
            response("n", vec![resource("a", "1")], &[]),
            vec![],
        );
        machine.unsubscribe(["a"], true).unwrap();
        assert_eq!(machine.held().len(), left);
    }
}

#[test]
fn a_long_nack_is_cut_and_says_how_many_more() {
    let many: Vec<_> = (0..10_000)
        .map(|i| refuse(&format!("name-{i}"), "no good"))
        .collect();
    let text = nack_text(&many);
    assert!(text.len() < LONGEST_NACK + 40, "{}", text.len());
    assert!(text.starts_with("name-0: no good; name-1: no good; "));
    let shown = text.matches("no good").count();
    assert!(
        text.ends_with(&format!("; and {} more", 10_000 - shown)),
        "{}",
        &text[text.len() - 60..]
    );
    let one = nack_text(&[refuse("a", &"ü".repeat(LONGEST_NACK))]);
    assert!(one.len() <= LONGEST_NACK + 3 && one.ends_with('…'));
}
