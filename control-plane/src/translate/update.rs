//! A change of pods alone, in a mesh of many: only what follows from those pods is translated anew. The result is what
//! [`translate`](super::translate()) gives for all objects; a property test holds the two together. Called by `follow`.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use objects::{Key, Kind};
use proto::workload::{Address, Workload, address};

use super::{Index, Mesh, Translation, require, service, workload};
use crate::store::Store;

/// Namespace and name of a pod.
pub type PodName = (Arc<str>, Arc<str>);

/// What differs after an update.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Names of addresses that are new, gone or different.
    pub addresses: BTreeSet<String>,
    /// `namespace/hostname` of the services that the pods stand or stood behind.
    pub services: BTreeSet<String>,
    /// Host names of waypoints that the pods are or were bound to.
    pub waypoints: BTreeSet<String>,
    /// Whether a service differs, not only workloads.
    pub binding: bool,
    /// Whether a workload names a policy that is not among the translated: then policies follow from pods here, and
    /// everything must be translated anew.
    pub lacking: bool,
}

/// Brings `translation` to what `store` says, given that only `pods` differ from what it was made of.
pub fn update(
    translation: &mut Translation,
    store: &Store,
    mesh: &Mesh,
    pods: &BTreeSet<PodName>,
) -> Touched {
    let mut touched = Touched::default();
    let (pods, index) = concerned(translation, store, mesh, pods);
    let pods = &*pods;
    let uid = |pod: &PodName| uid(mesh, pod);
    let before: Vec<Option<Address>> = pods
        .iter()
        .map(|pod| translation.addresses.remove(&uid(pod)))
        .collect();
    for address in before.iter().flatten() {
        touched.note(address);
    }
    let mut faults = Vec::new();
    for (pod, before) in pods.iter().zip(before) {
        let found = store.pods.find(&pod.0, &pod.1);
        let now = found
            .and_then(|pod| workload::of_pod(&index, pod, &mut faults))
            .map(workload::address);
        if let Some(address) = &now {
            touched.note(address);
        }
        if now != before {
            touched.addresses.insert(uid(pod));
        }
        if let Some(Address {
            r#type: Some(address::Type::Workload(workload)),
        }) = &now
        {
            let mut named = workload.authorization_policies.iter();
            touched.lacking |= !named.all(|name| translation.authorizations.contains_key(name));
        }
        translation
            .addresses
            .extend(now.map(|address| (uid(pod), address)));
    }
    let services: Vec<_> = touched
        .services
        .iter()
        .filter_map(|name| named(name))
        .collect();
    for (namespace, name) in &services {
        let Some(object) = store.services.find(namespace, name) else {
            continue;
        };
        if let Some((name, address)) = service::translate(&index, object, &mut faults)
            && translation.addresses.get(&name) != Some(&address)
        {
            touched.binding = true;
            touched.addresses.insert(name.clone());
            translation.addresses.insert(name, address);
        }
    }
    let stale = |key: &Key| match key.kind {
        Kind::Pod => pods.contains(&(key.namespace.clone(), key.name.clone())),
        Kind::Service => services
            .iter()
            .any(|(ns, name)| **ns == *key.namespace && **name == *key.name),
        _ => false,
    };
    let named_stale = |key: &Option<Key>| key.as_ref().is_some_and(stale);
    translation.faults.retain(|fault| !named_stale(&fault.key));
    translation.faults.extend(faults);
    touched
}

/// The pods that must be translated anew, those that changed and those that hang on them, and what is known around them.
fn concerned<'a, 'p>(
    translation: &Translation,
    store: &'a Store,
    mesh: &'a Mesh,
    changed: &'p BTreeSet<PodName>,
) -> (Cow<'p, BTreeSet<PodName>>, Index<'a>) {
    let index_of = |pods: &BTreeSet<PodName>| {
        let workloads = pods
            .iter()
            .filter_map(|pod| workload_of(translation, mesh, pod));
        let services = workloads.flat_map(|workload| workload.services.keys());
        let former = services.filter_map(|name| named(name)).collect();
        Index::of_pods(store, mesh, pods, &former)
    };
    let index = index_of(changed);
    let workloads = changed
        .iter()
        .filter_map(|pod| workload_of(translation, mesh, pod));
    let accounts = workloads
        .map(|workload| (workload.namespace.clone(), workload.service_account.clone()))
        .collect();
    let beside = require::beside(&index, changed, &accounts);
    if beside.is_empty() {
        return (Cow::Borrowed(changed), index);
    }
    let pods: BTreeSet<PodName> = changed.iter().cloned().chain(beside).collect();
    let index = index_of(&pods);
    (Cow::Owned(pods), index)
}

fn uid(mesh: &Mesh, (namespace, name): &PodName) -> String {
    format!("{}//Pod/{namespace}/{name}", mesh.cluster_id)
}

fn workload_of<'t>(
    translation: &'t Translation,
    mesh: &Mesh,
    pod: &PodName,
) -> Option<&'t Workload> {
    match &translation.addresses.get(&uid(mesh, pod))?.r#type {
        Some(address::Type::Workload(workload)) => Some(workload),
        _ => None,
    }
}

/// Namespace and name of the service that is called `namespace/name.namespace.svc.domain`.
fn named(resource: &str) -> Option<(String, String)> {
    let (namespace, host) = resource.split_once('/')?;
    let (name, _) = host.split_once('.')?;
    Some((namespace.to_owned(), name.to_owned()))
}

impl Touched {
    fn note(&mut self, address: &Address) {
        let Some(address::Type::Workload(workload)) = &address.r#type else {
            return;
        };
        self.services.extend(workload.services.keys().cloned());
        let bound = workload
            .waypoint
            .as_ref()
            .and_then(|waypoint| waypoint.destination.as_ref());
        if let Some(proto::workload::gateway_address::Destination::Hostname(host)) = bound {
            self.waypoints.insert(host.hostname.clone());
        }
    }
}

#[cfg(test)]
mod tests;
