//! What an apply touched. Read by those who re-ask decisions: live connections, waiting connections,
//! certificate prefetch.

use std::sync::Arc;

use crate::{
    policy::{PolicyName, Scope},
    workload::{NamespacedHostname, Workload},
};

/// What one apply, or several merged ones, changed: added, replaced or removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Generation of the state after it.
    pub generation: u64,
    /// Workloads, by uid.
    pub workloads: Vec<Arc<str>>,
    /// Services. Endpoints are workloads: a service is not listed because its endpoints changed.
    pub services: Vec<NamespacedHostname>,
    /// Policies, with each scope that they had or have now.
    pub policies: Vec<(PolicyName, Scope)>,
    /// Names of workloads and services that are refused now, or no longer.
    pub refusals: Vec<Arc<str>>,
}

impl Changes {
    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty()
            && self.services.is_empty()
            && self.policies.is_empty()
            && self.refusals.is_empty()
    }

    /// Whether that workload changed.
    #[must_use]
    pub fn touches_workload(&self, uid: &str) -> bool {
        self.workloads.iter().any(|changed| **changed == *uid)
    }

    /// Whether that service changed.
    #[must_use]
    pub fn touches_service(&self, service: &NamespacedHostname) -> bool {
        self.services.contains(service)
    }

    /// Whether that policy changed.
    #[must_use]
    pub fn touches_policy(&self, name: &PolicyName) -> bool {
        self.policies.iter().any(|(changed, _)| changed == name)
    }

    /// Whether a decision of [`crate::authz`] about traffic to `workload` (as it is now) may differ from before.
    #[must_use]
    pub fn touches_authorization_of(&self, workload: &Workload) -> bool {
        self.touches_workload(&workload.uid)
            || self.policies.iter().any(|(name, scope)| {
                *scope == Scope::Global
                    || *scope == Scope::Namespace && name.namespace == workload.namespace
                    || workload.authorization_policies.contains(name)
            })
    }

    /// Adds what a later apply changed.
    pub fn merge(&mut self, later: Self) {
        self.generation = self.generation.max(later.generation);
        merge(&mut self.workloads, later.workloads);
        merge(&mut self.services, later.services);
        merge(&mut self.policies, later.policies);
        merge(&mut self.refusals, later.refusals);
    }
}

fn merge<T: Ord>(into: &mut Vec<T>, more: Vec<T>) {
    if more.is_empty() {
        return;
    }
    into.extend(more);
    into.sort_unstable();
    into.dedup();
}
