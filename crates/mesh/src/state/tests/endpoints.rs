//! Workloads, the services that they back, and the order in which both come and go.

use super::*;

#[test]
fn the_same_uid_with_other_addresses_leaves_nothing_at_the_old_ones() {
    let state = mesh([
        pod("a", &["10.0.0.1", "10.0.0.2"], &[]).into(),
        pod("a", &["10.0.0.2", "10.0.0.3"], &[]).into(),
    ]);
    assert_eq!(
        ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| at(&state, ip)),
        ["nobody", "a", "a"]
    );
    assert_eq!(state.current().workloads().len(), 1);
}

#[test]
fn an_address_is_told_apart_by_network() {
    let mut other = pod("b", &["10.0.0.1"], &[]);
    other.network = "far".into();
    let mut state = mesh([pod("a", &["10.0.0.1"], &[]).into(), other.into()]);
    assert_eq!(at(&state, "10.0.0.1"), "a");
    assert_eq!(
        &*state
            .current()
            .workload_at("far", ip("10.0.0.1"))
            .unwrap()
            .uid,
        "c//Pod/app/b"
    );
    // The same pod moves to the other network.
    let mut moved = pod("a", &["10.0.0.1"], &[]);
    moved.network = "far".into();
    put(&mut state, [moved.into()]);
    assert_eq!(at(&state, "10.0.0.1"), "nobody");
}

#[test]
fn mapped_ipv4_is_the_same_address() {
    let state = mesh([
        pod("a", &["::ffff:10.0.0.1"], &[]).into(),
        svc("app/h", &["10.1.0.1"]).into(),
    ]);
    assert_eq!(at(&state, "10.0.0.1"), "a");
    assert_eq!(at(&state, "::ffff:10.0.0.1"), "a");
    assert_eq!(behind(&state, "::ffff:10.1.0.1"), "app/h");
}

#[test]
fn of_two_that_claim_an_address_the_pod_then_the_healthy_then_the_smaller_uid_wins_in_any_order() {
    let entry = || Workload {
        uid: "c/networking.istio.io/WorkloadEntry/app/0".into(),
        ..pod("x", &["10.0.0.1"], &[])
    };
    let ending = || Workload {
        healthy: false,
        ..pod("a", &["10.0.0.1"], &[])
    };
    let claimants: [fn() -> Workload; 4] = [
        entry,
        ending,
        || pod("b", &["10.0.0.1"], &[]),
        || pod("c", &["10.0.0.1"], &[]),
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut state = mesh(order.map(|index| Update::from(claimants[index]())));
        let mut winners = Vec::new();
        for uid in [
            "c//Pod/app/b",
            "c//Pod/app/c",
            "c//Pod/app/a",
            "c/networking.istio.io/WorkloadEntry/app/0",
        ] {
            winners.push(at(&state, "10.0.0.1"));
            put(&mut state, [gone(uid)]);
        }
        winners.push(at(&state, "10.0.0.1"));
        assert_eq!(winners, ["b", "c", "a", "0", "nobody"]);
    }
}

#[test]
fn a_change_of_health_changes_who_wins_an_address() {
    let mut state = mesh([
        pod("a", &["10.0.0.1"], &[]).into(),
        pod("b", &["10.0.0.1"], &[]).into(),
    ]);
    assert_eq!(at(&state, "10.0.0.1"), "a");
    put(
        &mut state,
        [Workload {
            healthy: false,
            ..pod("a", &["10.0.0.1"], &[])
        }
        .into()],
    );
    assert_eq!(at(&state, "10.0.0.1"), "b");
}

#[test]
fn host_network_workloads_own_no_address() {
    let host = || Workload {
        network_mode: NetworkMode::HostNetwork,
        ..pod("h", &["10.0.0.1"], &["app/h"])
    };
    let mut state = mesh([host().into()]);
    assert_eq!(
        (at(&state, "10.0.0.1"), backends(&state, "app/h")),
        ("nobody".into(), "h".into())
    );
    put(&mut state, [pod("h", &["10.0.0.1"], &["app/h"]).into()]);
    assert_eq!(at(&state, "10.0.0.1"), "h");
    put(&mut state, [host().into()]);
    assert_eq!(at(&state, "10.0.0.1"), "nobody");
}

#[test]
fn endpoints_may_come_before_their_service_and_after_it() {
    let state = mesh([
        pod("a", &[], &["app/h"]).into(),
        svc("app/h", &[]).into(),
        pod("b", &[], &["app/h"]).into(),
    ]);
    assert_eq!(backends(&state, "app/h"), "a b");
}

#[test]
fn endpoints_without_service_are_listed_as_staged() {
    let state = mesh([
        pod("a", &[], &["app/h", "app/i"]).into(),
        svc("app/h", &[]).into(),
    ]);
    let staged: Vec<_> = state
        .current()
        .staged_services()
        .map(ToString::to_string)
        .collect();
    assert_eq!(staged, ["app/i"]);
}

#[test]
fn a_service_that_comes_back_finds_its_endpoints() {
    let mut state = mesh([
        svc("app/h", &[]).into(),
        pod("a", &[], &["app/h"]).into(),
        gone("app/h"),
    ]);
    assert!(state.current().service("app", "h").is_none());
    put(
        &mut state,
        [pod("b", &[], &["app/h"]).into(), svc("app/h", &[]).into()],
    );
    assert_eq!(backends(&state, "app/h"), "a b");
}

#[test]
fn a_workload_that_leaves_a_service_or_goes_is_no_longer_behind_it() {
    let mut state = mesh([
        pod("a", &[], &["app/h", "app/i"]).into(),
        pod("b", &[], &["app/h"]).into(),
    ]);
    put(&mut state, [pod("a", &[], &["app/i", "app/j"]).into()]);
    assert_eq!(
        ["app/h", "app/i", "app/j"].map(|service| backends(&state, service)),
        ["b", "a", "a"]
    );
    put(&mut state, [gone("c//Pod/app/a"), gone("c//Pod/app/a")]);
    assert_eq!(
        ["app/h", "app/i", "app/j"].map(|service| backends(&state, service)),
        ["b", "", ""]
    );
}

#[test]
fn every_index_holds_the_newest_version_of_a_workload() {
    let mut newer = pod("a", &["10.0.0.1"], &["app/h"]);
    newer.capacity = 9;
    let state = mesh([pod("a", &["10.0.0.1"], &["app/h"]).into(), newer.into()]);
    let snapshot = state.current();
    assert_eq!(snapshot.workload("c//Pod/app/a").unwrap().capacity, 9);
    assert_eq!(
        snapshot.workload_at("", ip("10.0.0.1")).unwrap().capacity,
        9
    );
    assert_eq!(
        snapshot.endpoints(&key("app/h")).next().unwrap().capacity,
        9
    );
}

#[test]
fn a_workload_that_names_an_address_or_a_service_twice_is_still_one() {
    let mut state = mesh([pod("a", &["10.0.0.1", "10.0.0.1"], &["app/h", "app/h"]).into()]);
    assert_eq!(
        (at(&state, "10.0.0.1"), backends(&state, "app/h")),
        ("a".into(), "a".into())
    );
    put(&mut state, [gone("c//Pod/app/a")]);
    assert_eq!(
        (at(&state, "10.0.0.1"), backends(&state, "app/h")),
        ("nobody".into(), "".into())
    );
}
