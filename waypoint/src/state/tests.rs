//! Resources go in one by one; bad ones change nothing.

use super::*;
use crate::envoy::tests::capture;

const SET: &str = "istio-master-20260827";
const ECHO: &str = "inbound-vip|80|http|echo.app.svc.cluster.local";

fn loaded() -> State {
    let mut state = State::default();
    for file in ["00-Cluster", "05-ClusterLoadAssignment", "01-Listener"] {
        for (url, name, bytes) in capture(SET, file) {
            state.upsert(&url, &name, &bytes).unwrap();
        }
    }
    state
}

#[test]
fn the_captured_set_becomes_one_snapshot() {
    let state = loaded();
    let snapshot = state.snapshot();
    assert_eq!(snapshot.clusters[ECHO].hosts.len(), 2);
    assert_eq!(
        snapshot.terminate.as_ref().unwrap().addresses,
        ["0.0.0.0:15008".parse().unwrap()]
    );
    let peers = snapshot.tunnel_peers().unwrap();
    assert_eq!(peers[0].0, "spiffe://cluster.local/");
    assert_eq!(state.wanted_endpoints().len(), 3);
    assert!(state.wanted_routes().is_empty());
    assert_eq!(state.listeners().count(), 5);
}

#[test]
fn equal_bytes_change_nothing_and_a_refused_resource_leaves_the_last_good_one() {
    let mut state = loaded();
    let generation = state.snapshot().generation;
    let chain = state.snapshot().chain(ECHO).unwrap().clone();
    for (url, name, bytes) in capture(SET, "01-Listener") {
        state.upsert(&url, &name, &bytes).unwrap();
        assert!(state.upsert(&url, &name, &[0xff]).is_err());
    }
    assert_eq!(state.snapshot().generation, generation);
    assert!(Arc::ptr_eq(&chain, state.snapshot().chain(ECHO).unwrap()));
}

#[test]
fn endpoints_follow_their_cluster_in_any_order() {
    let mut state = State::default();
    let all = |file| {
        capture(SET, file)
            .into_iter()
            .find(|(_, name, _)| name == ECHO)
            .unwrap()
    };
    let (eds, name, body) = all("05-ClusterLoadAssignment");
    state.upsert(&eds, &name, &body).unwrap();
    let (cds, _, cluster) = all("00-Cluster");
    state.upsert(&cds, &name, &cluster).unwrap();
    assert_eq!(state.snapshot().clusters[ECHO].hosts.len(), 2);
    state.remove(&eds, &name);
    assert!(state.snapshot().clusters[ECHO].hosts.is_empty());
    state.remove(&cds, &name);
    assert!(state.snapshot().cluster(ECHO).is_none());
    state.upsert(&eds, &name, &body).unwrap();
    state.upsert(&cds, &name, &cluster).unwrap();
    assert_eq!(state.snapshot().clusters[ECHO].hosts.len(), 2);
    assert!(
        state
            .upsert("type.googleapis.com/other", "x", &[])
            .unwrap_err()
            .contains("was not asked for")
    );
}
