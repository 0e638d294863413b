//! Policies by name, and those that guard a workload. Used by `snapshot`, read by `authz`.

use std::sync::Arc;

use crate::{
    map::Map,
    policy::{Policy, PolicyName, Scope},
    workload::Workload,
};

/// A policy that concerns a workload.
#[derive(Debug, Clone, Copy)]
pub enum Bound<'a> {
    /// It is here.
    Known(&'a Arc<Policy>),
    /// The workload names it and we lack it.
    Missing(&'a PolicyName),
}

/// All policies.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    names: Map<PolicyName, Arc<Policy>>,
    global: List,
    namespaces: Map<Arc<str>, List>,
    pub(super) version: u64,
}

/// Sorted by name.
type List = Arc<[Arc<Policy>]>;

impl Policies {
    /// Grows with each change of a policy.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.names.get(name)
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Policy>> {
        self.names.iter().map(|(_, policy)| policy)
    }

    /// Puts `policy` in, in place of an older version of any scope.
    pub(super) fn insert(&mut self, policy: Arc<Policy>) {
        self.remove(&policy.name);
        match policy.scope {
            Scope::Global => self.global = with(Some(&self.global), &policy),
            Scope::Namespace => {
                self.namespaces.change(&policy.name.namespace, |list| {
                    Some(with(list.as_ref(), &policy))
                });
            }
            Scope::Selector => {}
        }
        self.names.insert(policy.name.clone(), policy);
        self.version += 1;
    }

    pub(super) fn remove(&mut self, name: &PolicyName) -> Option<Arc<Policy>> {
        let removed = self.names.remove(name)?;
        match removed.scope {
            Scope::Global => self.global = without(&self.global, name),
            Scope::Namespace => self.namespaces.change(&name.namespace, |list| {
                let rest = without(&list?, name);
                (!rest.is_empty()).then_some(rest)
            }),
            Scope::Selector => {}
        }
        self.version += 1;
        Some(removed)
    }

    /// Mesh-wide ones, those of its namespace, those that it names; each once. Does not allocate.
    pub(super) fn of<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = Bound<'a>> + Clone {
        let namespace = self
            .namespaces
            .get(&workload.namespace)
            .map_or(&[][..], |list| &**list);
        let everywhere = self.global.iter().chain(namespace).map(Bound::Known);
        let named =
            workload
                .authorization_policies
                .iter()
                .filter_map(|name| match self.names.get(name) {
                    None => Some(Bound::Missing(name)),
                    Some(known) if comes_anyway(known, workload) => None,
                    Some(known) => Some(Bound::Known(known)),
                });
        everywhere.chain(named)
    }
}

fn comes_anyway(policy: &Policy, workload: &Workload) -> bool {
    match policy.scope {
        Scope::Global => true,
        Scope::Namespace => policy.name.namespace == workload.namespace,
        Scope::Selector => false,
    }
}

fn with(list: Option<&List>, policy: &Arc<Policy>) -> List {
    let mut all: Vec<_> = list
        .into_iter()
        .flat_map(|list| list.iter())
        .chain([policy])
        .cloned()
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.into()
}

fn without(list: &List, name: &PolicyName) -> List {
    list.iter()
        .filter(|policy| policy.name != *name)
        .cloned()
        .collect()
}
