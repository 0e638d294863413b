//! PeerAuthentication: which workloads demand an identity of their peers, written as DENY policies that a ztunnel
//! understands.

use std::collections::{BTreeMap, BTreeSet};

use objects::{Meta, MtlsMode, PeerAuthentication};
use proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType,
};

use super::Mesh;
use crate::store::Store;

/// Name of the policy that every wholly strict workload shares; it stands in the root namespace.
const STATIC_STRICT: &str = "istio_converted_static_strict";
const CONVERTED: &str = "converted_peer_authentication_";

/// All PeerAuthentications by what they are for.
#[derive(Debug)]
pub(crate) struct Peers<'a> {
    mesh: &'a Mesh,
    mesh_wide: MtlsMode,
    by_namespace: BTreeMap<&'a str, MtlsMode>,
    /// With a selector, by namespace; oldest first.
    selective: BTreeMap<&'a str, Vec<&'a PeerAuthentication>>,
}

/// What one workload demands.
#[derive(Debug, PartialEq, Eq)]
enum Demand {
    Nothing,
    Everywhere,
    /// Everywhere but on these ports.
    Except(BTreeSet<u32>),
    /// Only on these ports.
    Only(BTreeSet<u32>),
}

impl<'a> Peers<'a> {
    pub fn new(store: &'a Store, mesh: &'a Mesh) -> Peers<'a> {
        let mut all: Vec<&PeerAuthentication> = store
            .peer_authentications
            .all()
            .map(|policy| &**policy)
            .collect();
        // The oldest wins in its scope; one without a time (a manifest) is as old as can be, then the name decides.
        all.sort_by(|a, b| {
            let age = |policy: &PeerAuthentication| {
                (
                    policy.metadata.creation_timestamp.clone(),
                    policy.metadata.name.clone(),
                )
            };
            age(a).cmp(&age(b))
        });
        let mut peers = Peers {
            mesh,
            mesh_wide: MtlsMode::Unset,
            by_namespace: BTreeMap::new(),
            selective: BTreeMap::new(),
        };
        let mut mesh_seen = false;
        for policy in all {
            let namespace = policy.metadata.namespace.as_str();
            let selector = policy.spec.selector.as_ref();
            if selector.is_some_and(|selector| !selector.match_labels.is_empty()) {
                peers.selective.entry(namespace).or_default().push(policy);
            } else if namespace != mesh.root_namespace {
                peers
                    .by_namespace
                    .entry(namespace)
                    .or_insert(policy.spec.mode());
            } else if !mesh_seen {
                (mesh_seen, peers.mesh_wide) = (true, policy.spec.mode());
            }
        }
        peers
    }

    /// The mode of a namespace where no selector decides.
    fn inherited(&self, namespace: &str) -> MtlsMode {
        match self.by_namespace.get(namespace) {
            None | Some(MtlsMode::Unset) => self.mesh_wide,
            Some(mode) => *mode,
        }
    }

    fn demand(&self, policy: &PeerAuthentication) -> Demand {
        let own = policy.spec.mode();
        let base = if own == MtlsMode::Unset {
            self.inherited(&policy.metadata.namespace)
        } else {
            own
        };
        let strict = base == MtlsMode::Strict;
        let ports = policy
            .spec
            .port_level_mtls
            .iter()
            .filter_map(|(port, mtls)| Some((port.parse().ok()?, mtls.mode)));
        let differing: BTreeSet<u32> = ports
            .filter(|(_, mode)| *mode != MtlsMode::Unset && (*mode == MtlsMode::Strict) != strict)
            .map(|(port, _)| port)
            .collect();
        match (strict, differing.is_empty()) {
            (true, true) => Demand::Everywhere,
            (true, false) => Demand::Except(differing),
            (false, true) => Demand::Nothing,
            (false, false) => Demand::Only(differing),
        }
    }

    /// The policy that a workload with this metadata must name.
    pub fn name_for(&self, pod: &Meta) -> Option<String> {
        let shared = || format!("{}/{STATIC_STRICT}", self.mesh.root_namespace);
        let selective = self
            .selective
            .get(pod.namespace.as_str())
            .into_iter()
            .flatten();
        let selects = |policy: &&&PeerAuthentication| {
            policy
                .spec
                .selector
                .as_ref()
                .is_some_and(|s| s.matches(&pod.labels))
        };
        let Some(policy) = { selective }.find(selects) else {
            return (self.inherited(&pod.namespace) == MtlsMode::Strict).then(shared);
        };
        match self.demand(policy) {
            Demand::Nothing => None,
            Demand::Everywhere => Some(shared()),
            Demand::Except(_) | Demand::Only(_) => Some(format!(
                "{}/{CONVERTED}{}",
                policy.metadata.namespace, policy.metadata.name
            )),
        }
    }

    /// All policies that workloads may name.
    pub fn policies(&self) -> Vec<Authorization> {
        let mut policies = Vec::new();
        let modes = self.by_namespace.values().chain([&self.mesh_wide]);
        let mut shared = { modes }.any(|mode| *mode == MtlsMode::Strict);
        for policy in self.selective.values().flatten() {
            shared |= policy.spec.mode() == MtlsMode::Strict;
            let rules = match self.demand(policy) {
                Demand::Nothing | Demand::Everywhere => continue,
                Demand::Except(ports) => {
                    let elsewhere = Match {
                        not_destination_ports: ports.into_iter().collect(),
                        ..Match::default()
                    };
                    vec![Rule {
                        clauses: vec![clause(no_identity()), clause(elsewhere)],
                    }]
                }
                Demand::Only(ports) => {
                    let here = |port| Match {
                        destination_ports: vec![port],
                        ..Match::default()
                    };
                    let rule = |port| Rule {
                        clauses: vec![clause(no_identity()), clause(here(port))],
                    };
                    ports.into_iter().map(rule).collect()
                }
            };
            let name = format!("{CONVERTED}{}", policy.metadata.name);
            policies.push(deny(&policy.metadata.namespace, name, rules));
        }
        if shared {
            let rules = vec![Rule {
                clauses: vec![clause(no_identity())],
            }];
            policies.push(deny(&self.mesh.root_namespace, STATIC_STRICT.into(), rules));
        }
        policies
    }
}

fn no_identity() -> Match {
    let anyone = StringMatch {
        match_type: Some(MatchType::Presence(())),
    };
    Match {
        not_principals: vec![anyone],
        ..Match::default()
    }
}

fn clause(wanted: Match) -> Clause {
    Clause {
        matches: vec![wanted],
    }
}

fn deny(namespace: &str, name: String, rules: Vec<Rule>) -> Authorization {
    Authorization {
        name,
        namespace: namespace.into(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        rules,
        ..Authorization::default()
    }
}
