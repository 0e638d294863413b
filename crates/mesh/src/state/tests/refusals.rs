//! Workloads and services that were refused: their addresses are known to lead nowhere.

use super::*;

fn refused(name: &str, vips: &[&str]) -> Update {
    let Service { vips, .. } = svc("x/x", vips);
    Update::RefusedAddress(Arc::new(RefusedAddress {
        name: name.into(),
        vips,
        why: "odd".into(),
    }))
}

fn refused_at(state: &State, address: &str) -> Option<String> {
    let found = state.current().refused_at("", ip(address));
    found.map(|refused| refused.name.to_string())
}

#[test]
fn the_addresses_of_a_refused_resource_are_known() {
    let state = mesh([refused("app/h", &["10.1.0.1", "10.2.0.0/16"])]);
    for claimed in ["10.1.0.1", "10.2.7.7", "::ffff:10.1.0.1"] {
        assert_eq!(
            refused_at(&state, claimed).as_deref(),
            Some("app/h"),
            "{claimed}"
        );
    }
    assert_eq!(refused_at(&state, "10.1.0.2"), None);
    assert!(state.current().refused_at("far", ip("10.1.0.1")).is_none());
    assert_eq!(behind(&state, "10.1.0.1"), "nobody", "it is no service");
}

#[test]
fn a_refusal_ends_with_a_good_version_or_a_removal() {
    let bad = || refused("app/h", &["10.1.0.1"]);
    let mut state = mesh([bad()]);
    put(&mut state, [svc("app/h", &["10.1.0.1"]).into()]);
    assert_eq!(refused_at(&state, "10.1.0.1"), None);
    put(&mut state, [bad()]);
    // The same good version again: what is known already ends the refusal too.
    put(&mut state, [svc("app/h", &["10.1.0.1"]).into()]);
    assert_eq!(refused_at(&state, "10.1.0.1"), None);
    put(&mut state, [bad(), gone("app/h")]);
    assert_eq!(refused_at(&state, "10.1.0.1"), None);
    let uid = "c//Pod/app/p";
    put(&mut state, [refused(uid, &["10.0.0.1"])]);
    put(&mut state, [pod("p", &["10.0.0.1"], &[]).into()]);
    assert_eq!(refused_at(&state, "10.0.0.1"), None);
}

#[test]
fn the_last_good_version_stays_beside_a_refusal() {
    let state = mesh([
        svc("app/h", &["10.1.0.1"]).into(),
        refused("app/h", &["10.1.0.1", "10.1.0.2"]),
    ]);
    assert_eq!(behind(&state, "10.1.0.1"), "app/h");
    assert_eq!(refused_at(&state, "10.1.0.2").as_deref(), Some("app/h"));
}

#[test]
fn a_refusal_that_is_new_or_different_counts_as_a_change() {
    let mut state = mesh([]);
    let mut touched = |update| state.apply(vec![update]).refusals.len();
    assert_eq!(touched(refused("app/h", &["10.1.0.1"])), 1);
    assert_eq!(touched(refused("app/h", &["10.1.0.1"])), 0);
    assert_eq!(touched(refused("app/h", &["10.1.0.2"])), 1);
    assert_eq!(touched(gone("app/h")), 1);
    assert_eq!(touched(gone("app/h")), 0);
    assert_eq!(refused_at(&state, "10.1.0.1"), None);
}

#[test]
fn a_refused_service_is_found_by_its_host_name_and_a_workload_is_not() {
    let named = |state: &State| -> Vec<String> {
        let found = state.current().refused_named("h").iter();
        found.map(|refused| refused.name.to_string()).collect()
    };
    let mut state = mesh([
        refused("b/h", &[]),
        refused("a/h", &["10.1.0.1"]),
        refused("c//Pod/app/h", &["10.0.0.1"]),
    ]);
    assert_eq!(named(&state), ["a/h", "b/h"]);
    put(&mut state, [svc("a/h", &["10.1.0.1"]).into()]);
    assert_eq!(named(&state), ["b/h"]);
    put(&mut state, [gone("b/h")]);
    assert!(named(&state).is_empty());
}
