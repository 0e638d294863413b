//! One instance of everything that many resources have in common: strings, identities, port lists, policy
//! lists, gateways. Used by the decoder. What nobody holds any more is swept when a set has doubled.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use mesh::{
    identity::Identity,
    policy::PolicyName,
    workload::{GatewayAddress, Locality, PortPair},
};

/// Parts of a set.
const PARTS: usize = 64;
/// Parts smaller than this are not swept.
const SMALL: usize = 16;

/// The instances.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: Set<str>,
    ports: Set<[PortPair]>,
    policies: Set<[PolicyName]>,
    gateways: Set<GatewayAddress>,
    localities: Set<Locality>,
}

impl Interner {
    pub(super) fn string(&mut self, text: &str) -> Arc<str> {
        self.strings.intern(text)
    }

    /// The same identity on the shared instance of its URI.
    pub(super) fn identity(&mut self, identity: &Identity) -> Identity {
        Identity::try_from(self.strings.intern(identity.uri())).expect("the URI of an identity")
    }

    pub(super) fn ports(&mut self, ports: &[PortPair]) -> Arc<[PortPair]> {
        self.ports.intern(ports)
    }

    pub(super) fn policies(&mut self, names: Vec<PolicyName>) -> Arc<[PolicyName]> {
        self.policies.intern(names)
    }

    pub(super) fn gateway(&mut self, gateway: GatewayAddress) -> Arc<GatewayAddress> {
        self.gateways.intern(gateway)
    }

    pub(super) fn locality(&mut self, locality: Locality) -> Arc<Locality> {
        self.localities.intern(locality)
    }
}

/// Split by hash, so that growth re-allocates one small part: one update must not pay for the whole mesh.
#[derive(Debug)]
struct Set<T: ?Sized> {
    parts: [Part<T>; PARTS],
}

#[derive(Debug)]
struct Part<T: ?Sized> {
    held: HashSet<Arc<T>>,
    /// Sweep at this size.
    sweep_at: usize,
}

impl<T: ?Sized + Eq + Hash> Set<T> {
    fn intern<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        let mut hasher = DefaultHasher::new();
        value.borrow().hash(&mut hasher);
        let part = hasher.finish() % PARTS as u64;
        self.parts[usize::try_from(part).expect("less than PARTS")].intern(value)
    }
}

impl<T: ?Sized + Eq + Hash> Part<T> {
    fn intern<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(held) = self.held.get::<T>(value.borrow()) {
            return held.clone();
        }
        if self.held.len() >= self.sweep_at {
            self.held.retain(|held| Arc::strong_count(held) > 1);
            self.sweep_at = (self.held.len() * 2).max(SMALL);
        }
        let new: Arc<T> = value.into();
        self.held.insert(new.clone());
        new
    }
}

impl<T: ?Sized> Default for Set<T> {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Part {
                held: HashSet::new(),
                sweep_at: SMALL,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_instance() {
        let mut interner = Interner::default();
        let (a, b) = (interner.string("node1"), interner.string("node1"));
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn what_nobody_holds_is_swept_and_what_is_held_stays() {
        let mut interner = Interner::default();
        let kept = interner.string("kept");
        for index in 0..10 * PARTS * SMALL {
            interner.string(&index.to_string());
        }
        let held: usize = interner
            .strings
            .parts
            .iter()
            .map(|part| part.held.len())
            .sum();
        assert!(held <= PARTS * (SMALL + 1), "{held}");
        assert!(Arc::ptr_eq(&kept, &interner.string("kept")));
    }
}
