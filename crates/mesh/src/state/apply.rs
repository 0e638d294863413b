//! The one place where the state changes: each update becomes index changes and a line in `Changes`.
//! Called by `State::apply`.

use std::sync::Arc;

use super::{Changes, Snapshot, Update, claims::Claims};
use crate::{
    policy::{Policy, PolicyName},
    service::{Service, Vip},
    workload::{NetworkAddress, Workload},
};

pub(super) fn apply(to: &mut Snapshot, updates: Vec<Update>) -> Changes {
    let mut changes = Changes::default();
    for update in updates {
        match update {
            Update::Workload(workload) => to.put_workload(workload, &mut changes),
            Update::Service(service) => to.put_service(service, &mut changes),
            Update::Policy(policy) => to.put_policy(policy, &mut changes),
            Update::RefusedPolicy(policy) => {
                let last_good = to
                    .policies
                    .get(&policy.name)
                    .is_some_and(|known| known.invalid.is_none());
                if !last_good {
                    to.put_policy(policy, &mut changes);
                }
            }
            Update::RefusedAddress(refused) => {
                let name = refused.name.clone();
                if to.refusals.put(refused) {
                    changes.refusals.push(name);
                }
            }
            Update::RemoveAddress(name) => {
                to.take_refusal(&name, &mut changes);
                to.take_workload(&name, &mut changes);
                to.take_service(&name, &mut changes);
            }
            Update::RemovePolicy(name) => to.take_policy(&name, &mut changes),
        }
    }
    if !changes.is_empty() {
        to.generation += 1;
    }
    // Merging with nothing sorts and removes repetitions.
    let mut merged = Changes {
        generation: to.generation,
        ..Changes::default()
    };
    merged.merge(changes);
    merged
}

impl Snapshot {
    fn take_refusal(&mut self, name: &str, changes: &mut Changes) {
        if self.refusals.take(name) {
            changes.refusals.push(name.into());
        }
    }

    fn put_workload(&mut self, new: Arc<Workload>, changes: &mut Changes) {
        self.take_refusal(&new.uid, changes);
        let old = self.workloads.get(&new.uid).cloned();
        if old.as_ref() == Some(&new) {
            return;
        }
        // A resource of this name may have been a service.
        self.take_service(&new.uid, changes);
        if let Some(old) = &old {
            self.unindex_workload(old, Some(&new));
        }
        for key in address_keys(&new) {
            self.addresses
                .change(&key, |claims| Some(Claims::with(claims, &new)));
        }
        for ports in &new.services {
            self.endpoints.change(&ports.service, |backends| {
                let mut backends = backends.unwrap_or_default();
                backends.insert(new.uid.clone(), new.clone());
                Some(backends)
            });
        }
        changes.workloads.push(new.uid.clone());
        self.workloads.insert(new.uid.clone(), new);
    }

    fn take_workload(&mut self, uid: &Arc<str>, changes: &mut Changes) {
        if let Some(old) = self.workloads.remove(uid) {
            self.unindex_workload(&old, None);
            changes.workloads.push(old.uid.clone());
        }
    }

    /// Takes `old` out of every index where `new` will not replace it.
    fn unindex_workload(&mut self, old: &Workload, new: Option<&Workload>) {
        for key in address_keys(old) {
            let kept = |new| address_keys(new).any(|kept| kept == key);
            if !new.is_some_and(kept) {
                self.addresses.change(&key, |claims| claims?.without(old));
            }
        }
        for ports in &old.services {
            if new.is_none_or(|new| new.ports_of(&ports.service).is_none()) {
                self.endpoints.change(&ports.service, |backends| {
                    let mut backends = backends?;
                    backends.remove(&old.uid);
                    (!backends.is_empty()).then_some(backends)
                });
            }
        }
    }

    fn put_service(&mut self, new: Arc<Service>, changes: &mut Changes) {
        // The text of the key is made only when there is something to look for.
        if !self.refusals.is_empty() {
            self.take_refusal(&new.key.to_string(), changes);
        }
        if self.services.get(&new.key) == Some(&new) {
            return;
        }
        // A resource of this name may have been a workload.
        self.take_workload(&Arc::from(new.key.to_string()), changes);
        if let Some(old) = self.services.get(&new.key).cloned() {
            self.unindex_service(&old);
        }
        self.hostnames
            .change(&new.key.hostname, |claims| Some(Claims::with(claims, &new)));
        for vip in &new.vips {
            match single(vip) {
                Some(key) => self
                    .vips
                    .change(&key, |claims| Some(Claims::with(claims, &new))),
                None => self.ranges.insert(vip, &new),
            }
        }
        changes.services.push(new.key.clone());
        self.services.insert(new.key.clone(), new);
    }

    fn take_service(&mut self, name: &str, changes: &mut Changes) {
        // The key is `namespace/hostname`; a uid has more slashes and is no host name.
        let Some((namespace, hostname)) = name.split_once('/') else {
            return;
        };
        let Some(old) = self.service(namespace, hostname).cloned() else {
            return;
        };
        self.unindex_service(&old);
        self.services.remove(&old.key);
        changes.services.push(old.key.clone());
    }

    fn unindex_service(&mut self, old: &Service) {
        self.hostnames
            .change(&old.key.hostname, |claims| claims?.without(old));
        for vip in &old.vips {
            match single(vip) {
                Some(key) => self.vips.change(&key, |claims| claims?.without(old)),
                None => self.ranges.remove(vip, old),
            }
        }
    }

    fn put_policy(&mut self, new: Arc<Policy>, changes: &mut Changes) {
        let old = self.policies.get(&new.name);
        if old == Some(&new) {
            return;
        }
        if let Some(old) = old {
            changes.policies.push((old.name.clone(), old.scope));
        }
        changes.policies.push((new.name.clone(), new.scope));
        self.policies.insert(new);
    }

    fn take_policy(&mut self, name: &PolicyName, changes: &mut Changes) {
        if let Some(old) = self.policies.remove(name) {
            changes.policies.push((old.name.clone(), old.scope));
        }
    }
}

/// Under which addresses a workload is found; none for one on the host network.
fn address_keys(workload: &Workload) -> impl Iterator<Item = NetworkAddress> {
    let own = if workload.owns_its_addresses() {
        &workload.addresses[..]
    } else {
        &[]
    };
    own.iter().map(|address| NetworkAddress {
        network: workload.network.clone(),
        address: address.to_canonical(),
    })
}

fn single(vip: &Vip) -> Option<NetworkAddress> {
    vip.is_single().then(|| NetworkAddress {
        network: vip.network.clone(),
        address: vip.range.addr().to_canonical(),
    })
}
