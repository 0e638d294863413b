//! Tables of what a subscriber is sent. (Against the client's half: `tests/pair.rs`; over a stream:
//! `tests/stream.rs`.) Long because each rule of the protocol has its own case here.

use proto::discovery::Status as Detail;
use proto::type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINT, LISTENER, ROUTE};

use super::*;
use crate::machine::LONGEST_NACK;

fn resources(names: &[(&str, &str)]) -> Arc<Resources> {
    let resource = |(name, version): &(&str, &str)| {
        let body = Bytes::from(format!("{name}@{version}"));
        (
            Arc::from(*name),
            Resource {
                version: Arc::from(*version),
                body,
            },
        )
    };
    Arc::new(names.iter().map(resource).collect())
}

fn view(types: &[(&str, &[(&str, &str)])]) -> View {
    View {
        types: types
            .iter()
            .map(|(t, names)| (Arc::from(*t), resources(names)))
            .collect(),
        ..View::default()
    }
}

fn subscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    }
}

fn unsubscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_unsubscribe = names.iter().map(|n| (*n).to_owned()).collect();
    DeltaDiscoveryRequest {
        resource_names_unsubscribe,
        ..subscribe(type_url, &[])
    }
}

fn ack(push: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: push.nonce.clone(),
        ..subscribe(&push.type_url, &[])
    }
}

fn nack(push: &DeltaDiscoveryResponse, message: &str) -> DeltaDiscoveryRequest {
    let detail = Detail {
        code: 3,
        message: message.to_owned(),
        details: vec![],
    };
    DeltaDiscoveryRequest {
        error_detail: Some(detail),
        ..ack(push)
    }
}

/// A push as text: `+name@version -name`.
fn shown(push: &DeltaDiscoveryResponse) -> String {
    let added = push
        .resources
        .iter()
        .map(|r| format!("+{}@{}", r.name, r.version));
    let removed = push.removed_resources.iter().map(|n| format!("-{n}"));
    added.chain(removed).collect::<Vec<_>>().join(" ")
}

/// The next push, answered with an ACK.
fn next(session: &mut Session, view: &View) -> Option<(String, String)> {
    let push = session.push(view)?;
    let answered = session.request(ack(&push));
    assert!(
        matches!(answered, Event::Accepted | Event::Mended { .. }),
        "{answered:?}"
    );
    let kind = push
        .type_url
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .to_owned();
    Some((kind, shown(&push)))
}

/// All pushes that a view causes, each answered.
fn all(session: &mut Session, view: &View) -> Vec<String> {
    std::iter::from_fn(|| next(session, view))
        .map(|(kind, text)| format!("{kind} {text}"))
        .collect()
}

fn started(requests: &[DeltaDiscoveryRequest], view: &View) -> Session {
    let mut session = Session::new();
    for request in requests {
        assert_eq!(session.request(request.clone()), Event::Subscribed);
    }
    all(&mut session, view);
    session
}

#[test]
fn a_wildcard_subscriber_gets_all_then_only_what_changed() {
    let first = view(&[(ADDRESS, &[("a", "1"), ("b", "1")])]);
    let mut session = Session::new();
    session.request(subscribe(ADDRESS, &[]));
    let push = session.push(&first).unwrap();
    assert_eq!(shown(&push), "+a@1 +b@1");
    let body = push.resources[0].resource.as_ref().unwrap();
    assert_eq!(
        (body.type_url.as_str(), body.value.as_slice()),
        (ADDRESS, &b"a@1"[..])
    );
    session.request(ack(&push));
    assert_eq!(session.push(&first), None);
    let second = view(&[(ADDRESS, &[("b", "2"), ("c", "1")])]);
    assert_eq!(all(&mut session, &second), ["Address +b@2 +c@1 -a"]);
    assert_eq!(all(&mut session, &View::default()), ["Address -b -c"]);
}

#[test]
fn a_first_request_is_answered_even_if_there_is_nothing() {
    let mut session = Session::new();
    session.request(subscribe(ADDRESS, &[]));
    assert_eq!(all(&mut session, &View::default()), ["Address "]);
}

#[test]
fn a_resumed_subscriber_gets_the_difference() {
    let mut request = subscribe(ADDRESS, &[]);
    let held = [("same", "1"), ("old", "1"), ("gone", "1")];
    request.initial_resource_versions = held
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    let now = view(&[(ADDRESS, &[("same", "1"), ("old", "2"), ("new", "1")])]);
    let mut session = Session::new();
    session.request(request);
    assert_eq!(all(&mut session, &now), ["Address +new@1 +old@2 -gone"]);
}

#[test]
fn names_are_sent_alone_and_absent_ones_are_said_to_be_absent_once() {
    let first = view(&[(ENDPOINT, &[("a", "1"), ("b", "1")])]);
    let mut session = started(&[subscribe(ENDPOINT, &["a"])], &first);
    session.request(subscribe(ENDPOINT, &["b", "x"]));
    assert_eq!(all(&mut session, &first), ["ClusterLoadAssignment +b@1 -x"]);
    let second = view(&[(ENDPOINT, &[("a", "1"), ("b", "1"), ("c", "1")])]);
    assert_eq!(all(&mut session, &second), [""; 0]);
    let third = view(&[(ENDPOINT, &[("a", "1"), ("x", "5")])]);
    assert_eq!(all(&mut session, &third), ["ClusterLoadAssignment +x@5 -b"]);
    let fourth = view(&[(ENDPOINT, &[("a", "1"), ("x", "5"), ("y", "1")])]);
    assert_eq!(all(&mut session, &fourth), [""; 0]);
}

#[test]
fn asking_again_sends_again() {
    let now = view(&[(ENDPOINT, &[("a", "1")])]);
    let mut session = started(&[subscribe(ENDPOINT, &["a", "x"])], &now);
    session.request(subscribe(ENDPOINT, &["a", "x"]));
    assert_eq!(all(&mut session, &now), ["ClusterLoadAssignment +a@1 -x"]);
}

#[test]
fn what_is_no_longer_asked_for_is_no_longer_sent() {
    let mut session = started(
        &[subscribe(ENDPOINT, &["a", "b"])],
        &view(&[(ENDPOINT, &[("a", "1")])]),
    );
    session.request(unsubscribe(ENDPOINT, &["a"]));
    let now = view(&[(ENDPOINT, &[("a", "2"), ("b", "1")])]);
    assert_eq!(all(&mut session, &now), ["ClusterLoadAssignment +b@1"]);
}

#[test]
fn the_wildcard_can_be_asked_for_by_name_and_given_up() {
    let now = view(&[(ADDRESS, &[("a", "1"), ("b", "1")])]);
    let mut session = started(&[subscribe(ADDRESS, &["*", "a"])], &now);
    session.request(unsubscribe(ADDRESS, &["*"]));
    let later = view(&[(ADDRESS, &[("a", "2"), ("b", "2")])]);
    assert_eq!(all(&mut session, &later), ["Address +a@2"]);
    // On demand from the start: both in one request.
    let mut demand = subscribe(ADDRESS, &["*"]);
    demand.resource_names_unsubscribe = vec!["*".to_owned()];
    let mut session = Session::new();
    session.request(demand);
    assert_eq!(all(&mut session, &now), ["Address "]);
}

#[test]
fn one_push_per_type_waits_for_its_answer_and_then_catches_up() {
    let mut session = Session::new();
    session.request(subscribe(ADDRESS, &[]));
    let push = session.push(&view(&[(ADDRESS, &[("a", "1")])])).unwrap();
    for version in ["2", "3", "4"] {
        assert_eq!(session.push(&view(&[(ADDRESS, &[("a", version)])])), None);
    }
    session.request(ack(&push));
    let last = view(&[(ADDRESS, &[("a", "4")])]);
    assert_eq!(all(&mut session, &last), ["Address +a@4"]);
}

#[test]
fn a_refusal_is_reported_and_nothing_is_sent_again_until_it_changes() {
    let mut session = Session::new();
    session.request(subscribe(ADDRESS, &[]));
    let push = session
        .push(&view(&[(ADDRESS, &[("a", "1"), ("b", "1")])]))
        .unwrap();
    let event = session.request(nack(&push, "a: no good"));
    let want = Nack {
        type_url: ADDRESS.to_owned(),
        message: "a: no good".to_owned(),
    };
    assert_eq!(event, Event::Refused(want));
    assert_eq!(
        all(&mut session, &view(&[(ADDRESS, &[("a", "1"), ("b", "1")])])),
        [""; 0]
    );
    let mended = view(&[(ADDRESS, &[("a", "2"), ("b", "1")])]);
    assert_eq!(all(&mut session, &mended), ["Address +a@2"]);
}

#[test]
fn an_answer_to_an_older_push_changes_nothing() {
    let now = view(&[(ADDRESS, &[("a", "1")])]);
    let mut session = Session::new();
    session.request(subscribe(ADDRESS, &[]));
    let push = session.push(&now).unwrap();
    session.request(ack(&push));
    let later = session.push(&view(&[(ADDRESS, &[("a", "2")])])).unwrap();
    assert_eq!(session.request(nack(&push, "late")), Event::Stale);
    assert_eq!(
        session.push(&view(&[(ADDRESS, &[("a", "3")])])),
        None,
        "{}",
        later.nonce
    );
    assert_eq!(session.request(ack(&later)), Event::Accepted);
}

#[test]
fn types_go_out_in_the_order_of_dependence() {
    let types = [
        AUTHORIZATION,
        ROUTE,
        ADDRESS,
        "type.example/T.Other",
        LISTENER,
        ENDPOINT,
        CLUSTER,
    ];
    let now = view(&types.map(|t| (t, &[("a", "1")][..])));
    let mut session = Session::new();
    for type_url in types {
        session.request(subscribe(type_url, &[]));
    }
    let order: Vec<_> = std::iter::from_fn(|| session.push(&now))
        .map(|p| p.type_url)
        .collect();
    let want = [
        CLUSTER,
        ENDPOINT,
        LISTENER,
        ROUTE,
        ADDRESS,
        AUTHORIZATION,
        "type.example/T.Other",
    ];
    assert_eq!(order, want);
}

#[test]
fn clusters_go_only_after_listeners_and_routes_have_let_go_of_them() {
    let before = view(&[
        (CLUSTER, &[("old", "1")]),
        (ENDPOINT, &[("old", "1")]),
        (LISTENER, &[("l", "to old")]),
    ]);
    let after = view(&[
        (CLUSTER, &[("new", "1")]),
        (ENDPOINT, &[("new", "1")]),
        (LISTENER, &[("l", "to new")]),
    ]);
    let mut session = started(
        &[CLUSTER, ENDPOINT, LISTENER].map(|t| subscribe(t, &[])),
        &before,
    );
    let cluster = session.push(&after).unwrap();
    assert_eq!(shown(&cluster), "+new@1");
    session.request(ack(&cluster));
    let endpoint = session.push(&after).unwrap();
    assert_eq!(shown(&endpoint), "+new@1");
    session.request(ack(&endpoint));
    let listener = session.push(&after).unwrap();
    assert_eq!(shown(&listener), "+l@to new");
    assert_eq!(
        session.push(&after),
        None,
        "the listener is not answered yet"
    );
    session.request(ack(&listener));
    assert_eq!(
        all(&mut session, &after),
        ["Cluster -old", "ClusterLoadAssignment -old"]
    );
}

#[test]
fn a_removal_alone_is_not_held_back() {
    let listeners = resources(&[("l", "1")]);
    let with = |clusters: &[(&str, &str)], listeners: &Arc<Resources>| View {
        types: [
            (Arc::from(CLUSTER), resources(clusters)),
            (Arc::from(LISTENER), listeners.clone()),
        ]
        .into(),
        ..View::default()
    };
    let requests = [CLUSTER, LISTENER].map(|t| subscribe(t, &[]));
    let mut session = started(&requests, &with(&[("a", "1")], &listeners));
    assert_eq!(all(&mut session, &with(&[], &listeners)), ["Cluster -a"]);
    // Nor when the listeners were built anew without a change.
    let mut session = started(&requests, &with(&[("a", "1")], &listeners));
    assert_eq!(
        all(&mut session, &with(&[], &resources(&[("l", "1")]))),
        ["Cluster -a"]
    );
}

fn mended() -> Event {
    Event::Mended {
        type_url: ADDRESS.to_owned(),
    }
}

#[test]
fn a_refusal_stands_until_what_was_refused_is_taken_anew_or_removed() {
    let mut session = Session::new();
    session.request(subscribe(ADDRESS, &[]));
    let mut answer = |view: &View, refusal: Option<&str>| {
        let push = session.push(view).unwrap();
        match refusal {
            Some(message) => session.request(nack(&push, message)),
            None => session.request(ack(&push)),
        }
    };
    let refused = |event| matches!(event, Event::Refused(_));
    let at = |a: &'static str, b: &'static str| view(&[(ADDRESS, &[("a", a), ("b", b)])]);
    assert!(refused(answer(&at("1", "1"), Some("a: bad"))));
    // Something else of the type is no word on it.
    assert_eq!(answer(&at("1", "2"), None), Event::Accepted);
    assert_eq!(answer(&at("2", "2"), None), mended());
    assert_eq!(answer(&at("3", "2"), None), Event::Accepted);
    assert!(refused(answer(&at("4", "3"), Some("no word on which"))));
    assert_eq!(answer(&at("5", "3"), None), Event::Accepted);
    assert_eq!(answer(&view(&[(ADDRESS, &[("a", "5")])]), None), mended());
}

#[test]
fn a_refusal_stands_for_the_names_that_it_has_in_full_and_no_others() {
    let names = ["web-1", "web-10", "web-2"];
    let at = |version: &'static str, names: &[&'static str]| {
        let all: Vec<_> = names.iter().map(|name| (*name, version)).collect();
        view(&[(ADDRESS, &all)])
    };
    let long = format!("web-10: {}", "é".repeat(1 << 20));
    for (message, refused) in [
        ("web-10: bad", &["web-10"][..]),
        ("web-10: bad; web-2: bad: very", &["web-10", "web-2"]),
        ("Error adding address web-10, 'web-2'", &["web-10", "web-2"]),
        ("bad", &names),
        ("web-10: bad; and 2 more", &names),
        (&*long, &names),
    ] {
        let mut session = Session::new();
        session.request(subscribe(ADDRESS, &[]));
        let push = session.push(&at("1", &names)).unwrap();
        let Event::Refused(told) = session.request(nack(&push, message)) else {
            panic!("{message:.40} is a refusal");
        };
        assert!(told.message.len() <= LONGEST_NACK && message.starts_with(&told.message));
        // All of the refused but the last are taken anew: that is no end yet.
        let (mut sent, mut versions) = (Vec::new(), view(&[]));
        for (i, name) in refused.iter().enumerate() {
            sent.push((*name, "2"));
            let rest = names
                .iter()
                .filter(|name| !sent.iter().any(|s| s.0 == **name));
            let all: Vec<_> = sent
                .iter()
                .copied()
                .chain(rest.map(|n| (*n, "1")))
                .collect();
            versions = view(&[(ADDRESS, &all)]);
            let push = session.push(&versions).unwrap();
            let last = i + 1 == refused.len();
            let expected = if last { mended() } else { Event::Accepted };
            assert_eq!(
                session.request(ack(&push)),
                expected,
                "{message:.40} {name}"
            );
        }
        assert_eq!(session.push(&versions), None);
    }
}

#[test]
fn a_stream_may_not_name_without_end() {
    let session = started(&[subscribe(ADDRESS, &[])], &view(&[]));
    assert_eq!(session.admits(&subscribe(CLUSTER, &["a"])), Ok(()));
    let long = "x".repeat(1025);
    assert_eq!(
        session.admits(&subscribe(CLUSTER, &[&long])),
        Err("a name of more than 1024 bytes".into())
    );
    let many: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut full = started(&[subscribe(ENDPOINT, &names)], &view(&[]));
    assert_eq!(
        full.admits(&subscribe(CLUSTER, &["a"])),
        Err("more than 100000 names on one stream".into())
    );
    full.request(unsubscribe(ENDPOINT, &["7"]));
    assert_eq!(full.admits(&subscribe(CLUSTER, &["a"])), Ok(()));
    let mut session = Session::new();
    for i in 0..32 {
        let request = subscribe(&format!("type {i}"), &[]);
        assert_eq!(session.admits(&request), Ok(()));
        session.request(request);
    }
    assert_eq!(
        session.admits(&subscribe("one more", &[])),
        Err("more than 32 types on one stream".into())
    );
    assert_eq!(session.admits(&subscribe("type 1", &["a"])), Ok(()));
}

/// Resources by name and version.
type Written = std::collections::BTreeMap<String, u8>;

fn arc(written: &Written) -> Arc<Resources> {
    let versions: Vec<(String, String)> = written
        .iter()
        .map(|(n, v)| (n.clone(), v.to_string()))
        .collect();
    let pairs: Vec<(&str, &str)> = versions
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    resources(&pairs)
}

proptest::proptest! {
    /// A subscriber that is brought up by steps is sent what one is sent that compares everything, whatever it skips.
    #[test]
    fn steps_give_the_same_pushes_as_a_comparison_of_everything(
        changes in proptest::collection::vec((0..6_u8, proptest::option::of(0..3_u8), proptest::bool::ANY), 1..40),
        names in proptest::collection::btree_set(0..6_u8, 0..3),
    ) {
        let names: Vec<String> = names.iter().map(|n| format!("r{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut written = Written::new();
        let mut current = arc(&written);
        let mut steps = Vec::new();
        let view = |steps: &[Step], current: &Arc<Resources>| View {
            types: [(Arc::from(ADDRESS), current.clone())].into(),
            steps: [(Arc::from(ADDRESS), Arc::from(steps))].into(),
        };
        let start = view(&[], &current);
        let (mut by_steps, mut whole) = (Session::new(), Session::new());
        let mut first = Vec::new();
        for session in [&mut by_steps, &mut whole] {
            session.request(subscribe(ADDRESS, &names));
            let push = session.push(&start).expect("an answer");
            session.request(ack(&push));
            first.push(push.nonce);
        }
        for (name, version, looks) in changes {
            let name = format!("r{name}");
            match version {
                Some(version) => written.insert(name.clone(), version),
                None => written.remove(&name),
            };
            let next = arc(&written);
            steps.push(Step { from: Arc::downgrade(&current), names: Arc::new([Arc::from(name.as_str())]) });
            current = next;
            if !looks {
                continue;
            }
            let a = by_steps.push(&view(&steps, &current));
            let b = whole.push(&view(&[], &current));
            let told = |push: &Option<DeltaDiscoveryResponse>| push.as_ref().map(|push| {
                let mut removed = push.removed_resources.clone();
                removed.sort();
                (push.resources.clone(), removed)
            });
            proptest::prop_assert_eq!(told(&a), told(&b));
            for (session, push) in [(&mut by_steps, a), (&mut whole, b)] {
                if let Some(push) = push {
                    session.request(ack(&push));
                }
            }
        }
    }
}
