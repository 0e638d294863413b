//! What the accepted resources amount to, as plain maps of messages, and every lookup as a walk over all of
//! them. Shares no code with the product: messages are read directly.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use prost::Message as _;
use proto::{security, type_url, workload as pb};

use super::pushes::{Change, Push};

/// By resource name.
#[derive(Clone, Default)]
pub struct Fold {
    pub addresses: BTreeMap<String, pb::Address>,
    pub policies: BTreeMap<String, security::Authorization>,
    /// Refused policies without a last good one, with the scope in which they deny.
    pub denying: BTreeMap<String, i32>,
}

impl Fold {
    pub fn apply(&mut self, push: &Push) {
        for change in &push.changes {
            match (push.type_url, change) {
                (type_url::ADDRESS, Change::Put(resource)) if !resource.bad => {
                    let message = pb::Address::decode(&*resource.body).expect("was accepted");
                    self.addresses.insert(resource.name.clone(), message);
                }
                (type_url::ADDRESS, Change::Put(_)) => {}
                (type_url::ADDRESS, Change::Remove(name)) => drop(self.addresses.remove(name)),
                (_, Change::Put(resource)) if !resource.bad => {
                    let message =
                        security::Authorization::decode(&*resource.body).expect("was accepted");
                    self.denying.remove(&resource.name);
                    self.policies.insert(resource.name.clone(), message);
                }
                (_, Change::Put(resource)) if self.policies.contains_key(&resource.name) => {}
                (_, Change::Put(resource)) => {
                    self.denying.insert(resource.name.clone(), resource.scope);
                }
                (_, Change::Remove(name)) => {
                    self.denying.remove(name);
                    self.policies.remove(name);
                }
            }
        }
    }

    pub fn workloads(&self) -> impl Iterator<Item = &pb::Workload> {
        self.addresses
            .values()
            .filter_map(|message| match &message.r#type {
                Some(pb::address::Type::Workload(workload)) => Some(workload),
                _ => None,
            })
    }

    pub fn services(&self) -> impl Iterator<Item = &pb::Service> {
        self.addresses
            .values()
            .filter_map(|message| match &message.r#type {
                Some(pb::address::Type::Service(service)) => Some(service),
                _ => None,
            })
    }

    /// Names of resources that differ between the two.
    pub fn differing(&self, other: &Self) -> BTreeSet<String> {
        let mut names: BTreeSet<&String> = self
            .addresses
            .keys()
            .chain(other.addresses.keys())
            .collect();
        names.retain(|name| self.addresses.get(*name) != other.addresses.get(*name));
        let policies = self.policies.keys().chain(other.policies.keys());
        let mut more: BTreeSet<&String> = policies
            .chain(self.denying.keys())
            .chain(other.denying.keys())
            .collect();
        more.retain(|name| {
            self.policies.get(*name) != other.policies.get(*name)
                || self.denying.get(*name) != other.denying.get(*name)
        });
        names.into_iter().chain(more).cloned().collect()
    }

    pub fn workload_at(&self, network: &str, address: IpAddr) -> Option<String> {
        let claims = |workload: &&pb::Workload| {
            workload.network == network
                && workload.network_mode == 0
                && workload.addresses.iter().any(|bytes| ip(bytes) == address)
        };
        let written = |workload: &pb::Workload| !workload.uid.contains("//Pod/");
        let best = self
            .workloads()
            .filter(claims)
            .min_by_key(|w| (written(w), w.status, w.uid.clone()));
        best.map(|workload| workload.uid.clone())
    }

    pub fn service_at(&self, network: &str, address: IpAddr, namespace: &str) -> Option<String> {
        let visible =
            |service: &&pb::Service| service.visibility == 0 || service.namespace == namespace;
        // Longest prefix that holds the address, with 999 for a single address.
        let length = |service: &pb::Service| {
            let holding = service
                .addresses
                .iter()
                .filter(|vip| vip.network == network);
            let lengths = holding.filter_map(|vip| match vip.length {
                None => (ip(&vip.address) == address).then_some(999),
                Some(length) => holds(ip(&vip.address), length, address).then_some(length),
            });
            lengths.max()
        };
        let candidates = self
            .services()
            .filter(visible)
            .filter_map(|service| Some((length(service)?, service)));
        let best = candidates.min_by_key(|(length, service)| {
            let own = service.namespace == namespace;
            let order = match length {
                // Exact ones come first, among them the own namespace; then ranges of the own namespace; then
                // the longest.
                999 => (0, u32::from(!own), 0),
                length if own => (1, 0, 1000 - length),
                length => (2, 0, 1000 - length),
            };
            (order, !service.canonical && !own, service_key(service))
        });
        best.map(|(_, service)| service_key(service))
    }

    pub fn endpoints(&self, service: &str) -> BTreeSet<String> {
        self.workloads()
            .filter(|w| w.services.contains_key(service))
            .map(|w| w.uid.clone())
            .collect()
    }

    pub fn policies_of(&self, uid: &str) -> BTreeSet<String> {
        let workload = self
            .workloads()
            .find(|workload| workload.uid == uid)
            .expect("asked for a known one");
        let good = self
            .policies
            .iter()
            .map(|(name, policy)| (name, policy.scope));
        let all = good.chain(self.denying.iter().map(|(name, scope)| (name, *scope)));
        let guards = |(name, scope): &(&String, i32)| match scope {
            0 => true,
            1 => name.split('/').next() == Some(&workload.namespace),
            _ => false,
        } || workload.authorization_policies.contains(name);
        let mut names: BTreeSet<String> =
            all.filter(guards).map(|(name, _)| name.clone()).collect();
        for name in &workload.authorization_policies {
            if !self.policies.contains_key(name) && !self.denying.contains_key(name) {
                names.insert(format!("missing {name}"));
            }
        }
        names
    }
}

pub fn service_key(service: &pb::Service) -> String {
    format!("{}/{}", service.namespace, service.hostname)
}

pub fn policy_name(policy: &security::Authorization) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

fn ip(bytes: &[u8]) -> IpAddr {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).expect("4 bytes").into(),
        _ => <[u8; 16]>::try_from(bytes).expect("16 bytes").into(),
    }
}

/// Bit by bit.
fn holds(range: IpAddr, length: u32, address: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 4),
        IpAddr::V6(v6) => (v6.to_bits(), 6),
    };
    let ((range, family), (address, other)) = (bits(range), bits(address));
    family == other
        && (0..length).all(|bit| (range >> (127 - bit)) & 1 == (address >> (127 - bit)) & 1)
}
