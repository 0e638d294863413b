//! VIPs that are ranges (CIDR): found by asking once per prefix length in use, the longest first. There are
//! few lengths and any number of ranges.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::claims::Claims;
use crate::{
    map::Map,
    service::{Service, Vip},
};

/// All ranges of all networks.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges {
    services: Map<Vip, Claims<Service>>,
    /// How many ranges have that length; v4 and v6 lengths apart.
    lengths: Arc<BTreeMap<(bool, u8), usize>>,
}

impl Ranges {
    pub(super) fn insert(&mut self, range: &Vip, service: &Arc<Service>) {
        let range = canonical(range);
        if self.services.get(&range).is_none() {
            *Arc::make_mut(&mut self.lengths)
                .entry(length(&range.range))
                .or_default() += 1;
        }
        self.services
            .change(&range, |claims| Some(Claims::with(claims, service)));
    }

    pub(super) fn remove(&mut self, range: &Vip, service: &Service) {
        let range = canonical(range);
        // A service may name one range twice: its length must not be given up twice.
        if self.services.get(&range).is_none() {
            return;
        }
        self.services
            .change(&range, |claims| claims?.without(service));
        if self.services.get(&range).is_some() {
            return;
        }
        let lengths = Arc::make_mut(&mut self.lengths);
        if let Some(count) = lengths.get_mut(&length(&range.range)) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&length(&range.range));
            }
        }
    }

    /// Claims on ranges that hold `address`, the longest prefix first.
    pub(super) fn holding<'a>(
        &'a self,
        network: &str,
        address: IpAddr,
    ) -> impl Iterator<Item = &'a [Arc<Service>]> {
        let v6 = address.is_ipv6();
        self.lengths
            .range((v6, 0)..=(v6, u8::MAX))
            .rev()
            .filter_map(move |((_, length), _)| {
                let range = IpNet::new(address, *length).ok()?.trunc();
                let is = |vip: &Vip| *vip.network == *network && vip.range == range;
                self.services
                    .find(&(network, range), is)
                    .map(Claims::as_slice)
            })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.services.len(), self.lengths.values().sum())
    }
}

fn canonical(range: &Vip) -> Vip {
    Vip {
        network: range.network.clone(),
        range: range.range.trunc(),
    }
}

fn length(range: &IpNet) -> (bool, u8) {
    (matches!(range, IpNet::V6(_)), range.prefix_len())
}
