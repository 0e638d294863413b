//! One instance of everything that many resources have in common: strings, identities, port lists, policy
//! lists, gateways. Used by the decoder. What nobody holds any more is swept when a set has doubled.

use std::{borrow::Borrow, collections::HashSet, hash::Hash, sync::Arc};

use mesh::{
    identity::Identity,
    policy::PolicyName,
    workload::{GatewayAddress, Locality, PortPair},
};

/// The instances.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: Set<Arc<str>>,
    identities: Set<Arc<Identity>>,
    ports: Set<Arc<[PortPair]>>,
    policies: Set<Arc<[PolicyName]>>,
    gateways: Set<Arc<GatewayAddress>>,
    localities: Set<Arc<Locality>>,
}

impl Interner {
    pub(super) fn string(&mut self, text: &str) -> Arc<str> {
        self.strings.intern(text)
    }

    pub(super) fn identity(&mut self, identity: Identity) -> Identity {
        Identity::clone(&self.identities.intern_owned(Arc::new(identity)))
    }

    pub(super) fn ports(&mut self, ports: Vec<PortPair>) -> Arc<[PortPair]> {
        self.ports.intern(&ports[..])
    }

    pub(super) fn policies(&mut self, names: Vec<PolicyName>) -> Arc<[PolicyName]> {
        self.policies.intern_owned(names.into())
    }

    pub(super) fn gateway(&mut self, gateway: GatewayAddress) -> Arc<GatewayAddress> {
        self.gateways.intern_owned(Arc::new(gateway))
    }

    pub(super) fn locality(&mut self, locality: Locality) -> Arc<Locality> {
        self.localities.intern_owned(Arc::new(locality))
    }
}
