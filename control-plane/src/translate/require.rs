//! Pods that nobody but their waypoints may reach. A waypoint that is named says where traffic goes, not that none may come
//! another way; a namespace (or a pod) that is labelled so says that too. Called by `translate` and `workload`.

use std::collections::BTreeSet;

use objects::{Meta, Pod};
use proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType,
};

use super::{Index, binding, policy::resource_name};

/// On a namespace or a pod: `true` lets only waypoints in, as upstream's PILOT_AUTO_ALLOW_WAYPOINT_POLICY does for all.
const REQUIRE_WAYPOINT: &str = "ambient.causeway.dev/require-waypoint";

/// The policies that a pod's workload names for this: one for each waypoint of the pod and of its services.
pub(super) fn names_for(index: &Index<'_>, pod: &Pod) -> Vec<String> {
    let named = waypoints_of(index, pod);
    let policies = named.iter().map(|waypoint| allow(index, waypoint));
    policies.map(|policy| resource_name(&policy)).collect()
}

/// All policies that pods name for this.
pub(super) fn policies(index: &Index<'_>) -> Vec<Authorization> {
    let mut named = BTreeSet::new();
    for pod in index.store.pods.all() {
        named.extend(waypoints_of(index, pod));
    }
    named
        .iter()
        .map(|waypoint| allow(index, waypoint))
        .collect()
}

fn is_asked_for(index: &Index<'_>, pod: &Meta) -> bool {
    let namespace = index.store.namespaces.find("", &pod.namespace);
    let of_namespace = || namespace.and_then(|object| object.metadata.label(REQUIRE_WAYPOINT));
    pod.label(REQUIRE_WAYPOINT).or_else(of_namespace) == Some("true")
}

/// `namespace/name` of the waypoints that a pod is to be reached through; none unless that is asked for.
fn waypoints_of(index: &Index<'_>, pod: &Pod) -> BTreeSet<String> {
    let meta = &pod.metadata;
    if !is_asked_for(index, meta) || binding::is_waypoint_pod(pod) {
        return BTreeSet::new();
    }
    let services = index
        .services_of
        .get(&(meta.namespace.as_str(), meta.name.as_str()));
    let of_services = services.into_iter().flatten().flat_map(|service| {
        let binding = binding::of_service(index, service);
        binding.waypoint.into_iter().chain(binding.canary)
    });
    let own = binding::of_pod(index, pod).waypoint;
    own.into_iter().chain(of_services).collect()
}

/// Lets in what runs as the waypoint's pods do. While it has none, that is its name, which waypoints run as unless told
/// otherwise.
fn allow(index: &Index<'_>, waypoint: &str) -> Authorization {
    let (namespace, name) = waypoint.split_once('/').unwrap_or(("", waypoint));
    let pods = index.store.pods.of(namespace);
    let own = pods.filter(|pod| pod.metadata.label(binding::GATEWAY_NAME) == Some(name));
    let mut accounts: BTreeSet<&str> = own.map(|pod| pod.service_account()).collect();
    if accounts.is_empty() {
        accounts.insert(name);
    }
    let trust_domain = &index.mesh.trust_domain;
    let principals = accounts.into_iter().map(|account| StringMatch {
        match_type: Some(MatchType::Exact(format!(
            "{trust_domain}/ns/{namespace}/sa/{account}"
        ))),
    });
    let clause = Clause {
        matches: vec![Match {
            principals: principals.collect(),
            ..Match::default()
        }],
    };
    Authorization {
        // No object of Kubernetes can be called so.
        name: format!("istio_allow_waypoint_{namespace}_{name}"),
        namespace: namespace.into(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Allow.into(),
        rules: vec![Rule {
            clauses: vec![clause],
        }],
        ..Authorization::default()
    }
}
