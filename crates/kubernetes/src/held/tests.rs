//! What readers are told of what is heard.

use serde_json::{Value, json};

use super::*;

fn held() -> Held {
    Held::new([Kind::Pod, Kind::AuthorizationPolicy])
}

fn pod(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "labels": {"l": label}}})
}

fn policy(action: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"action": action, "rules": [{}]}})
}

fn seen(held: &mut Held, kind: Kind, value: Value) {
    let name = value["metadata"]["name"].as_str().unwrap().into();
    held.take(
        kind,
        Report::Seen(objects::read(kind, value), "n".into(), name),
    );
}

fn list(held: &mut Held, kind: Kind, values: impl IntoIterator<Item = Value>) {
    held.take(kind, Report::Listing);
    values.into_iter().for_each(|value| seen(held, kind, value));
    held.take(kind, Report::Listed);
}

/// What is told, as text: the changes (or `all` and the objects), and the faults.
fn told(held: &mut Held) -> Option<(Vec<String>, Vec<String>)> {
    let text = |object: &Object| {
        let policy = matches!(object, Object::AuthorizationPolicy(p) if p.invalid.is_some());
        let label = object
            .meta()
            .label("l")
            .unwrap_or(if policy { "denies" } else { "-" });
        format!("{} {label}", object.key())
    };
    let (changes, faults) = match held.event()? {
        Event::Snapshot { objects, faults } => {
            let all = std::iter::once("all".to_owned());
            (all.chain(objects.iter().map(text)).collect(), faults)
        }
        Event::Changes { changes, faults } => {
            let changes = changes.iter().map(|change| match change {
                Change::Upsert(object) => format!("+{}", text(object)),
                Change::Remove(key) => format!("-{key}"),
            });
            (changes.collect(), faults)
        }
    };
    Some((changes, faults.iter().map(ToString::to_string).collect()))
}

fn changes(held: &mut Held) -> Vec<String> {
    told(held).expect("something to tell").0
}

#[test]
fn nothing_is_told_before_every_kind_was_seen() {
    let mut held = held();
    list(&mut held, Kind::Pod, [pod("a", "1")]);
    assert_eq!(told(&mut held), None);
    held.take(Kind::AuthorizationPolicy, Report::Away("broken".into()));
    assert_eq!(told(&mut held), None);
    list(&mut held, Kind::AuthorizationPolicy, [policy("ALLOW")]);
    held.take(Kind::AuthorizationPolicy, Report::Back);
    assert_eq!(
        changes(&mut held),
        ["all", "Pod n/a 1", "AuthorizationPolicy n/p -"]
    );
    assert_eq!(told(&mut held), None);
}

#[test]
fn a_kind_that_the_server_does_not_have_is_empty_until_it_comes() {
    let mut held = held();
    held.take(Kind::AuthorizationPolicy, Report::Absent);
    list(&mut held, Kind::Pod, []);
    assert_eq!(changes(&mut held), ["all"]);
    list(&mut held, Kind::AuthorizationPolicy, [policy("DENY")]);
    assert_eq!(changes(&mut held), ["+AuthorizationPolicy n/p -"]);
    held.take(Kind::AuthorizationPolicy, Report::Absent);
    assert_eq!(changes(&mut held), ["-AuthorizationPolicy n/p"]);
}

#[test]
fn a_new_list_finds_what_went_away_meanwhile_and_repeats_nothing() {
    let mut held = held();
    list(&mut held, Kind::AuthorizationPolicy, []);
    list(
        &mut held,
        Kind::Pod,
        [pod("a", "1"), pod("b", "1"), pod("c", "1")],
    );
    changes(&mut held);
    held.take(Kind::Pod, Report::Listing);
    seen(&mut held, Kind::Pod, pod("a", "1"));
    seen(&mut held, Kind::Pod, pod("c", "2"));
    // A list that is not complete takes nothing away.
    assert_eq!(changes(&mut held), ["+Pod n/c 2"]);
    held.take(Kind::Pod, Report::Listed);
    assert_eq!(changes(&mut held), ["-Pod n/b"]);
}

#[test]
fn a_list_that_broke_off_takes_nothing_away() {
    let mut held = held();
    list(&mut held, Kind::AuthorizationPolicy, []);
    list(&mut held, Kind::Pod, [pod("a", "1"), pod("b", "1")]);
    changes(&mut held);
    held.take(Kind::Pod, Report::Listing);
    seen(&mut held, Kind::Pod, pod("a", "1"));
    list(&mut held, Kind::Pod, [pod("a", "1"), pod("b", "1")]);
    assert_eq!(told(&mut held), None);
}

#[test]
fn the_last_good_version_of_a_refused_object_stays() {
    let mut held = held();
    list(&mut held, Kind::Pod, []);
    list(&mut held, Kind::AuthorizationPolicy, [policy("ALLOW")]);
    changes(&mut held);
    seen(&mut held, Kind::AuthorizationPolicy, policy("MAYBE"));
    let (none, faults) = told(&mut held).unwrap();
    assert!(
        none.is_empty() && faults[0].contains("n/p: spec.action"),
        "{faults:?}"
    );
    // Also over a new list.
    list(&mut held, Kind::AuthorizationPolicy, [policy("MAYBE")]);
    assert_eq!(told(&mut held), None);
    seen(&mut held, Kind::AuthorizationPolicy, policy("DENY"));
    assert_eq!(
        told(&mut held).unwrap(),
        (vec!["+AuthorizationPolicy n/p -".into()], vec![])
    );
}

#[test]
fn a_guard_that_was_never_good_denies_and_hides_no_other() {
    let mut held = held();
    list(&mut held, Kind::AuthorizationPolicy, [policy("MAYBE")]);
    list(
        &mut held,
        Kind::Pod,
        [pod("a", "1"), json!({"metadata": {"name": "b"}, "spec": 3})],
    );
    let (objects, faults) = told(&mut held).unwrap();
    assert_eq!(
        objects,
        ["all", "Pod n/a 1", "AuthorizationPolicy n/p denies"]
    );
    assert_eq!(faults.len(), 2);
    held.take(
        Kind::AuthorizationPolicy,
        Report::Gone("n".into(), "p".into()),
    );
    held.take(Kind::Pod, Report::Gone("n".into(), "b".into()));
    assert_eq!(
        told(&mut held).unwrap(),
        (vec!["-AuthorizationPolicy n/p".into()], vec![])
    );
}

#[test]
fn kinds_that_cannot_be_read_for_one_reason_are_one_fault() {
    let mut held = held();
    list(&mut held, Kind::Pod, [pod("a", "1")]);
    list(&mut held, Kind::AuthorizationPolicy, []);
    changes(&mut held);
    for kind in [Kind::Pod, Kind::AuthorizationPolicy] {
        held.take(kind, Report::Away("gone".into()));
    }
    let faults = vec!["gone; as last read stay: Pod, AuthorizationPolicy".to_owned()];
    assert_eq!(told(&mut held).unwrap(), (vec![], faults));
    held.take(Kind::Pod, Report::Away("gone".into()));
    assert_eq!(told(&mut held), None);
    for kind in [Kind::Pod, Kind::AuthorizationPolicy] {
        held.take(kind, Report::Back);
    }
    assert_eq!(told(&mut held).unwrap(), (vec![], vec![]));
}
