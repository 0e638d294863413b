//! What the mesh looks like: `State` takes updates, `Snapshot` is what readers hold, `Changes` says what an
//! apply touched. Called by ztunnel's control half (and tests) for writing, by everything for reading.
//!
//! Resources may arrive in any order (an endpoint before its service, a policy after the workload that names
//! it): what is indexed depends only on what is present, never on the order in which it came.

mod apply;
mod changes;
mod claims;
mod policies;
mod ranges;
mod refused;
mod snapshot;

use std::sync::Arc;

pub use self::{
    changes::Changes,
    policies::Bound,
    refused::RefusedAddress,
    snapshot::{Endpoints, Snapshot},
};
use crate::{
    policy::{Policy, PolicyName},
    service::Service,
    workload::Workload,
};

/// One change of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Adds or replaces the workload of that uid.
    Workload(Arc<Workload>),
    /// Adds or replaces the service of that key.
    Service(Arc<Service>),
    /// Adds or replaces the policy of that name.
    Policy(Arc<Policy>),
    /// The control plane sent a policy that we refused: the last good one of that name stays; where there is
    /// none, this one (see [`Policy::invalid`]) denies in its place until a good one comes.
    RefusedPolicy(Arc<Policy>),
    /// The control plane sent a workload or service that we refused: the last good one of that name stays, and
    /// addresses that nobody else has must not be called (see [`Snapshot::refused_at`]) until a good one comes.
    RefusedAddress(Arc<RefusedAddress>),
    /// Removes the workload of that uid or the service of that key (`namespace/hostname`). Unknown: no change.
    RemoveAddress(Arc<str>),
    /// Removes a policy. Unknown: no change.
    RemovePolicy(PolicyName),
}

/// The writer's side. Not shared: one owner applies updates and hands out snapshots.
#[derive(Debug, Default)]
pub struct State {
    current: Snapshot,
}

impl State {
    /// An empty mesh at generation 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies `updates` in their order. The generation grows by one if anything changed at all; an update
    /// that says what is known already changes nothing.
    pub fn apply(&mut self, updates: Vec<Update>) -> Changes {
        apply::apply(&mut self.current, updates)
    }

    /// What readers may hold as long as they like; costs a dozen reference counts.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.current.clone())
    }

    /// What is current, without a copy.
    #[must_use]
    pub fn current(&self) -> &Snapshot {
        &self.current
    }
}

#[cfg(test)]
mod tests;
