//! Pods that nobody but their waypoints may reach. A waypoint that is named says where traffic goes, not that none may come
//! another way; a namespace (or a pod) that is labelled so says that too. Called by `translate`, `update` and `workload`.

use std::collections::BTreeSet;

use objects::{Meta, Pod};
use proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType,
};

use super::{Index, PodName, binding, policy::resource_name};

/// On a namespace or a pod: `true` lets only waypoints in, as upstream's PILOT_AUTO_ALLOW_WAYPOINT_POLICY does for all.
const REQUIRE_WAYPOINT: &str = "ambient.causeway.dev/require-waypoint";

/// The policies that a pod's workload names for this: one for each waypoint of the pod and of its services.
pub(super) fn names_for(index: &Index<'_>, pod: &Pod) -> Vec<String> {
    let Some(waypoints) = waypoints_of(index, pod) else {
        return Vec::new();
    };
    if waypoints.is_empty() {
        return vec![resource_name(&nobody(&pod.metadata.namespace))];
    }
    let policies = waypoints.iter().map(|waypoint| allow(index, waypoint));
    policies.map(|policy| resource_name(&policy)).collect()
}

/// All policies that pods name for this.
pub(super) fn policies(index: &Index<'_>) -> Vec<Authorization> {
    let (mut named, mut without) = (BTreeSet::new(), BTreeSet::new());
    for pod in index.store.pods.all() {
        match waypoints_of(index, pod) {
            Some(waypoints) if waypoints.is_empty() => {
                without.extend([&pod.metadata.namespace]);
            }
            waypoints => named.extend(waypoints.into_iter().flatten()),
        }
    }
    let allowing = named.iter().map(|waypoint| allow(index, waypoint));
    allowing
        .chain(without.into_iter().map(|namespace| nobody(namespace)))
        .collect()
}

/// The pods beside those that changed whose policies may differ too: they ask for this, and stand behind a service whose
/// waypoint follows from what the accounts of all its endpoints say. `former` are namespace and account of the changed ones
/// before. Where all accounts say the same, then and now, nothing follows.
pub(super) fn beside(
    index: &Index<'_>,
    changed: &BTreeSet<PodName>,
    former: &BTreeSet<(String, String)>,
) -> BTreeSet<PodName> {
    let mut beside = BTreeSet::new();
    for ((namespace, name), members) in &index.members {
        let service = index.store.services.find(namespace, name);
        if service.is_none_or(|service| binding::speaks_for_itself(service)) {
            continue;
        }
        let now = members.iter().map(|pod| pod.service_account());
        let before = former.iter().filter(|(of, _)| of == namespace);
        let accounts = now.chain(before.map(|(_, account)| account.as_str()));
        let said: BTreeSet<_> = accounts
            .map(|account| binding::said_by(index, namespace, account))
            .collect();
        if said.len() < 2 {
            continue;
        }
        let asking = members
            .iter()
            .filter(|pod| is_asked_for(index, &pod.metadata));
        let names = asking.map(|pod| {
            let meta = &pod.metadata;
            (meta.namespace.as_str().into(), meta.name.as_str().into())
        });
        beside.extend(names.filter(|name| !changed.contains(name)));
    }
    beside
}

fn is_asked_for(index: &Index<'_>, pod: &Meta) -> bool {
    let namespace = index.store.namespaces.find("", &pod.namespace);
    let of_namespace = || namespace.and_then(|object| object.metadata.label(REQUIRE_WAYPOINT));
    pod.label(REQUIRE_WAYPOINT).or_else(of_namespace) == Some("true")
}

/// `namespace/name` of the waypoints that a pod is to be reached through, if that is asked for.
fn waypoints_of(index: &Index<'_>, pod: &Pod) -> Option<BTreeSet<String>> {
    let meta = &pod.metadata;
    if !is_asked_for(index, meta) || binding::is_waypoint_pod(pod) {
        return None;
    }
    let services = index
        .services_of
        .get(&(meta.namespace.as_str(), meta.name.as_str()));
    let of_services = services.into_iter().flatten().flat_map(|service| {
        let binding = binding::of_service(index, service);
        binding.waypoint.into_iter().chain(binding.canary)
    });
    let own = binding::of_pod(index, pod).waypoint;
    Some(own.into_iter().chain(of_services).collect())
}

/// Lets nobody in: for pods that have no waypoint to be reached through. Without it a slip that takes a waypoint away would
/// open what only the waypoint guards.
fn nobody(namespace: &str) -> Authorization {
    Authorization {
        name: "istio_allow_no_waypoint".into(),
        namespace: namespace.into(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Allow.into(),
        ..Authorization::default()
    }
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
