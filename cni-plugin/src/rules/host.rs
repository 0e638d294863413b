//! The rule of the node's own namespace: what a process of the node (the kubelet with its probes) sends to a pod of the
//! mesh gets a source address by which the pod's rules know it. Forwarded traffic, a Service's from outside for one,
//! keeps its own and is captured. Pure; called by the agent's `host`.
use std::net::IpAddr;

use super::{
    Action, Chain, HOST_TABLE, Hook, Match, PROBE_V4, PROBE_V6, Priority, Protocol, Returns, Rule,
    Ruleset, Set, Writer, rule,
};

const V4: &str = "probed-v4";
const V6: &str = "probed-v6";

/// The rules of a node with these pods in the mesh.
#[must_use]
pub fn host(ipv6: bool, pods: impl IntoIterator<Item = IpAddr>) -> Ruleset {
    let sets = probe_sets(ipv6, pods);
    let rules = sets.iter().map(|set| probes_of(set.ipv6)).collect();
    let chain = Chain {
        name: "probes",
        kind: "nat",
        hook: Hook::Postrouting,
        priority: Priority::BeforeSrcnat,
        rules,
    };
    Ruleset {
        table: HOST_TABLE,
        sets,
        chains: vec![chain],
        returns: Returns::None,
        writer: Writer::default(),
    }
}

/// The addresses as sets, one for each family.
#[must_use]
pub fn probe_sets(ipv6: bool, pods: impl IntoIterator<Item = IpAddr>) -> Vec<Set> {
    let all: std::collections::BTreeSet<IpAddr> =
        pods.into_iter().map(|ip| ip.to_canonical()).collect();
    let (v4, v6) = all.into_iter().partition(IpAddr::is_ipv4);
    let of = |name, ipv6, addresses| Set {
        name,
        ipv6,
        addresses,
    };
    let mut sets = vec![of(V4, false, v4)];
    if ipv6 {
        sets.push(of(V6, true, v6));
    }
    sets
}

fn probes_of(ipv6: bool) -> Rule {
    let (name, address) = if ipv6 {
        (V6, IpAddr::from(PROBE_V6))
    } else {
        (V4, IpAddr::from(PROBE_V4))
    };
    let to_pods = [
        Match::DestinationIn(name, ipv6),
        Match::Protocol(Protocol::Tcp),
        Match::HasSocket,
    ];
    rule(
        &to_pods,
        Action::SourceNat(address),
        "probes of the node are known by this address",
    )
}
