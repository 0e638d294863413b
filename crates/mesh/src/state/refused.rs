//! Addresses of workloads and services that were refused. Nobody knows which waypoint and which policies stand
//! before them, so traffic there must not be taken for traffic out of the mesh. Filled by `apply`.

use std::{net::IpAddr, sync::Arc};

use super::{
    claims::{Claimant, Claims},
    ranges::Ranges,
};
use crate::{map::Map, service::Vip};

/// A workload or service that the control plane sent and that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedAddress {
    /// Its resource name.
    pub name: Arc<str>,
    /// The addresses and ranges that it claims, as far as they could be read.
    pub vips: Box<[Vip]>,
    /// Why it was refused.
    pub why: Arc<str>,
}

impl RefusedAddress {
    /// Namespace and host name, if its resource name is a service's. (A workload's uid has more slashes.)
    #[must_use]
    pub fn service(&self) -> Option<(&str, &str)> {
        self.name
            .split_once('/')
            .filter(|(_, host)| !host.contains('/'))
    }
}

impl Claimant for RefusedAddress {
    fn rank(&self) -> impl Ord + '_ {
        &self.name
    }

    fn same_resource(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// All of them. Nearly always empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals {
    by_name: Map<Arc<str>, Arc<RefusedAddress>>,
    /// Those that are services, by host name.
    by_host: Map<Arc<str>, Claims<RefusedAddress>>,
    places: Ranges<RefusedAddress>,
}

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// True if that is news.
    pub(super) fn put(&mut self, new: Arc<RefusedAddress>) -> bool {
        if self.by_name.get(&new.name) == Some(&new) {
            return false;
        }
        self.take(&new.name);
        for vip in &new.vips {
            self.places.insert(vip, &new);
        }
        if let Some((_, host)) = new.service() {
            self.by_host
                .change(&Arc::from(host), |claims| Some(Claims::with(claims, &new)));
        }
        self.by_name.insert(new.name.clone(), new);
        true
    }

    /// True if it was there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let Some(old) = self.by_name.find(name, |key| **key == *name).cloned() else {
            return false;
        };
        for vip in &old.vips {
            self.places.remove(vip, &old);
        }
        if let Some((_, host)) = old.service() {
            self.by_host
                .change(&Arc::from(host), |claims| claims?.without(&old));
        }
        self.by_name.remove(&old.name).is_some()
    }

    /// Services of that host name, sorted by resource name.
    pub(super) fn named(&self, hostname: &str) -> &[Arc<RefusedAddress>] {
        self.by_host
            .find(hostname, |key| **key == *hostname)
            .map_or(&[], Claims::as_slice)
    }

    /// The one that claims `address` most closely.
    pub(super) fn at(&self, network: &str, address: IpAddr) -> Option<&Arc<RefusedAddress>> {
        let mut holding = self.places.holding(network, address);
        holding.next().and_then(<[_]>::first)
    }
}
