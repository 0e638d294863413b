//! Objects to resources, purely: the same objects give the same resources. Called by `serve` after each change.

use std::collections::BTreeMap;

use objects::Fault;
use proto::{security::Authorization, workload::Address};

use crate::store::Store;

mod binding;
mod canary;
pub mod envoy;
mod index;
mod peer;
mod policy;
mod require;
mod routes;
mod service;
mod update;
pub mod verdict;
mod workload;

pub use binding::{GATEWAY_NAME, Waypoint};
pub use index::Index;
pub use update::{PodName, Touched, update};

/// What is the same for the whole mesh.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// Prefix of workload uids; upstream's default is `Kubernetes`.
    pub cluster_id: String,
    /// Trust domain of all identities.
    pub trust_domain: String,
    /// DNS domain of services.
    pub domain: String,
    /// Policies of this namespace without selector hold for the whole mesh.
    pub root_namespace: String,
    /// Network of workloads that no label places elsewhere; empty is the default network.
    pub network: String,
    /// Take pods whose labels enrol them for captured. Needed where no API server carries the node agent's
    /// annotation `ambient.istio.io/redirection`.
    pub labels_enrol: bool,
}

impl Default for Mesh {
    fn default() -> Self {
        Mesh {
            cluster_id: "Kubernetes".into(),
            trust_domain: "cluster.local".into(),
            domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            network: String::new(),
            labels_enrol: true,
        }
    }
}

/// What a ztunnel is told.
#[derive(Debug, Default, PartialEq)]
pub struct Translation {
    /// Workloads by uid, services by `namespace/hostname`.
    pub addresses: BTreeMap<String, Address>,
    /// L4 policies by `namespace/name`.
    pub authorizations: BTreeMap<String, Authorization>,
    /// Objects that are used only in part, and references that lead nowhere.
    pub faults: Vec<Fault>,
}

/// Translates everything for ztunnels.
#[must_use]
pub fn translate(index: &Index<'_>) -> Translation {
    let mut faults = Vec::new();
    let mut addresses = BTreeMap::new();
    for pod in index.store.pods.all() {
        if let Some(workload) = workload::of_pod(index, pod, &mut faults) {
            addresses.insert(workload.uid.clone(), workload::address(workload));
        }
    }
    for workload in workload::of_endpoint_slices(index) {
        addresses.insert(workload.uid.clone(), workload::address(workload));
    }
    for service in index.store.services.all() {
        if let Some((name, address)) = service::translate(index, service, &mut faults) {
            addresses.insert(name, address);
        }
    }
    let mut authorizations = BTreeMap::new();
    for policy in index.store.authorization_policies.all() {
        if let Some(translated) = policy::translate(policy, index.mesh, &mut faults) {
            authorizations.insert(policy::resource_name(&translated), translated);
        }
    }
    for translated in index
        .peers
        .policies()
        .into_iter()
        .chain(require::policies(index))
    {
        authorizations.insert(policy::resource_name(&translated), translated);
    }
    faults.extend(index.waypoint_faults());
    Translation {
        addresses,
        authorizations,
        faults,
    }
}

impl Mesh {
    /// `name.namespace.svc.domain`.
    #[must_use]
    pub fn hostname(&self, namespace: &str, name: &str) -> String {
        format!("{name}.{namespace}.svc.{}", self.domain)
    }

    /// The index of a store, for [`translate`].
    #[must_use]
    pub fn index<'a>(&'a self, store: &'a Store) -> Index<'a> {
        Index::new(store, self)
    }

    /// An index that knows of no pods, for what does not ask for them.
    #[must_use]
    pub fn bare_index<'a>(&'a self, store: &'a Store) -> Index<'a> {
        Index::bare(store, self)
    }
}

#[cfg(test)]
mod tests;
