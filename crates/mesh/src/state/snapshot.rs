//! The reader's side of the state: an immutable view with every lookup that routing and policy need. Held by
//! workers, control tasks and dumps; lookups do not allocate.

use std::{net::IpAddr, sync::Arc};

use super::{
    claims::Claims,
    policies::{Bound, Policies},
    ranges::Ranges,
    refused::{Refusals, RefusedAddress},
};
use crate::{
    map::{self, Map},
    policy::{Policy, PolicyName},
    service::Service,
    workload::{NamespacedHostname, NetworkAddress, Workload},
};

/// One version of the mesh.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(super) generation: u64,
    pub(super) workloads: Map<Arc<str>, Arc<Workload>>,
    pub(super) addresses: Map<NetworkAddress, Claims<Workload>>,
    pub(super) services: Map<NamespacedHostname, Arc<Service>>,
    pub(super) hostnames: Map<Arc<str>, Claims<Service>>,
    pub(super) vips: Map<NetworkAddress, Claims<Service>>,
    pub(super) ranges: Ranges<Service>,
    pub(super) refusals: Refusals,
    /// Kept by the workloads alone: endpoints may come before their service and stay after it.
    pub(super) endpoints: Map<NamespacedHostname, Backends>,
    pub(super) policies: Policies,
}

/// Workloads behind one service, by uid.
pub(super) type Backends = Map<Arc<str>, Arc<Workload>>;

impl Snapshot {
    /// Grows with each apply that changed something.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Grows with each change of a policy. A decision holds as long as this and the workload stay what they are.
    #[must_use]
    pub fn policy_version(&self) -> u64 {
        self.policies.version()
    }

    /// The workload of that uid.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.find(uid, |key| **key == *uid)
    }

    /// Whose address that is. Workloads on the host network are not found here: the address is the node's.
    /// Where several claim it: a pod before other entries, then a healthy one, then the smaller uid.
    #[must_use]
    pub fn workload_at(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        let address = address.to_canonical();
        let is = |key: &NetworkAddress| key.address == address && *key.network == *network;
        self.addresses
            .find(&(network, address), is)
            .map(Claims::best)
    }

    /// The service of that key.
    #[must_use]
    pub fn service(&self, namespace: &str, hostname: &str) -> Option<&Arc<Service>> {
        let is =
            |key: &NamespacedHostname| *key.hostname == *hostname && *key.namespace == *namespace;
        self.services.find(&(namespace, hostname), is)
    }

    /// All services of that host name (several namespaces may claim one), sorted by key.
    #[must_use]
    pub fn services_named(&self, hostname: &str) -> &[Arc<Service>] {
        self.hostnames
            .find(hostname, |key| **key == *hostname)
            .map_or(&[], Claims::as_slice)
    }

    /// The service of that host name that a caller in `from_namespace` means: its own namespace's, then the
    /// canonical one, then the first; those that it may not see do not count.
    #[must_use]
    pub fn service_named(&self, hostname: &str, from_namespace: &str) -> Option<&Arc<Service>> {
        preferred(self.services_named(hostname), from_namespace)
    }

    /// The service behind a VIP for a caller in `from_namespace`. Exact addresses come before ranges. Among
    /// the services at one address: its own namespace's, then the canonical one, then the first. Among
    /// ranges: one of its own namespace, else the longest prefix. Those that it may not see do not count.
    #[must_use]
    pub fn service_at(
        &self,
        network: &str,
        address: IpAddr,
        from_namespace: &str,
    ) -> Option<&Arc<Service>> {
        let address = address.to_canonical();
        let is = |key: &NetworkAddress| key.address == address && *key.network == *network;
        let exact = self
            .vips
            .find(&(network, address), is)
            .map_or(&[][..], Claims::as_slice);
        preferred(exact, from_namespace)
            .or_else(|| self.service_around(network, address, from_namespace))
    }

    fn service_around(
        &self,
        network: &str,
        address: IpAddr,
        from_namespace: &str,
    ) -> Option<&Arc<Service>> {
        let mut longest = None;
        for claims in self.ranges.holding(network, address) {
            match preferred(claims, from_namespace) {
                Some(own) if *own.key.namespace == *from_namespace => return Some(own),
                other => longest = longest.or(other),
            }
        }
        longest
    }

    /// A workload or service that was refused and that claims `address`. To be asked where nothing else is known of
    /// the address: what was last good there still counts.
    #[must_use]
    pub fn refused_at(&self, network: &str, address: IpAddr) -> Option<&Arc<RefusedAddress>> {
        self.refusals.at(network, address.to_canonical())
    }

    /// Services of that host name that were refused, sorted by resource name. What was last good of them may still be
    /// among [`Snapshot::services_named`].
    #[must_use]
    pub fn refused_named(&self, hostname: &str) -> &[Arc<RefusedAddress>] {
        self.refusals.named(hostname)
    }

    /// The workloads that back a service, whether or not the service itself is known. Which ports they have
    /// for it: [`Workload::ports_of`].
    #[must_use]
    pub fn endpoints(&self, service: &NamespacedHostname) -> Endpoints<'_> {
        Endpoints(self.endpoints.get(service).map(Map::iter))
    }

    /// The policy of that name.
    #[must_use]
    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }

    /// Policies that guard a workload: mesh-wide ones, those of its namespace, those that it names (known or
    /// not), each once.
    pub fn policies_of<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = Bound<'a>> + Clone {
        self.policies.of(workload)
    }

    /// All workloads, in no order that means anything.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.iter().map(|(_, workload)| workload)
    }

    /// All services, in no order that means anything.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter().map(|(_, service)| service)
    }

    /// All policies, in no order that means anything.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<Policy>> {
        self.policies.all()
    }

    /// Services that have endpoints but are not known themselves (dumps call them staged).
    pub fn staged_services(&self) -> impl Iterator<Item = &NamespacedHostname> {
        self.endpoints
            .iter()
            .map(|(key, _)| key)
            .filter(|key| self.services.get(key).is_none())
    }
}

/// The workloads that back one service. Walks without allocating, in an order that depends only on the set.
#[derive(Debug, Clone)]
pub struct Endpoints<'a>(Option<map::Iter<'a, Arc<str>, Arc<Workload>>>);

impl<'a> Iterator for Endpoints<'a> {
    type Item = &'a Arc<Workload>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.as_mut()?.next().map(|(_, workload)| workload)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.as_ref().map_or((0, Some(0)), Iterator::size_hint)
    }
}

impl ExactSizeIterator for Endpoints<'_> {}

fn preferred<'a>(claims: &'a [Arc<Service>], from_namespace: &str) -> Option<&'a Arc<Service>> {
    let visible = || {
        claims
            .iter()
            .filter(|service| service.visible_to(from_namespace))
    };
    visible()
        .find(|service| *service.key.namespace == *from_namespace)
        .or_else(|| visible().find(|service| service.canonical))
        .or_else(|| visible().next())
}
