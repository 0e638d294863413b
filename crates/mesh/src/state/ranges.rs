//! VIPs that are ranges (CIDR): found by asking once per prefix length in use, the longest first. There are
//! few lengths and any number of ranges.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::claims::{Claimant, Claims};
use crate::{map::Map, service::Vip};

/// All ranges of all networks.
#[derive(Debug)]
pub(super) struct Ranges<T> {
    claims: Map<Vip, Claims<T>>,
    /// How many ranges have that length; v4 and v6 lengths apart.
    lengths: Arc<BTreeMap<(bool, u8), usize>>,
}

impl<T> Clone for Ranges<T> {
    fn clone(&self) -> Self {
        Self {
            claims: self.claims.clone(),
            lengths: self.lengths.clone(),
        }
    }
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self {
            claims: Map::default(),
            lengths: Arc::default(),
        }
    }
}

impl<T: Claimant> Ranges<T> {
    pub(super) fn insert(&mut self, range: &Vip, claimant: &Arc<T>) {
        let range = canonical(range);
        if self.claims.get(&range).is_none() {
            *Arc::make_mut(&mut self.lengths)
                .entry(length(&range.range))
                .or_default() += 1;
        }
        self.claims
            .change(&range, |claims| Some(Claims::with(claims, claimant)));
    }

    pub(super) fn remove(&mut self, range: &Vip, claimant: &T) {
        let range = canonical(range);
        // A claimant may name one range twice: its length must not be given up twice.
        if self.claims.get(&range).is_none() {
            return;
        }
        self.claims
            .change(&range, |claims| claims?.without(claimant));
        if self.claims.get(&range).is_some() {
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
    ) -> impl Iterator<Item = &'a [Arc<T>]> {
        let v6 = address.is_ipv6();
        self.lengths
            .range((v6, 0)..=(v6, u8::MAX))
            .rev()
            .filter_map(move |((_, length), _)| {
                let range = IpNet::new(address, *length).ok()?.trunc();
                let is = |vip: &Vip| *vip.network == *network && vip.range == range;
                self.claims
                    .find(&(network, range), is)
                    .map(Claims::as_slice)
            })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.claims.len(), self.lengths.values().sum())
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
