//! What ADS sent, compiled: `State` takes resources one by one and refuses bad ones alone, `Snapshot` is
//! what the data path reads. A refused resource leaves the last good one in force.

#[cfg(test)]
mod tests;

use crate::cluster::Live;
use crate::envoy::listener::Compiled;
use crate::envoy::{self, content_hash};
use crate::model::cluster::{Cluster, Discovery, Endpoints, PeerPrefix};
use crate::model::listener::{Chain, ChainKind, HttpChain, Inbound, RouteSource, Terminate};
use crate::model::route::RouteTable;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Type URLs of the four resource kinds.
pub mod types {
    /// CDS.
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// EDS.
    pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// LDS.
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// RDS.
    pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
}

/// The compiled configuration, immutable.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Grows by one with each change.
    pub generation: u64,
    /// `connect_terminate`, once it was sent.
    pub terminate: Option<Arc<Terminate>>,
    /// `main_internal`.
    pub inbound: Arc<Inbound>,
    /// By name.
    pub clusters: HashMap<Arc<str>, Arc<Live>>,
    /// RDS tables by name.
    pub routes: HashMap<Arc<str>, Arc<RouteTable>>,
}

impl Snapshot {
    /// A chain by name.
    pub fn chain(&self, name: &str) -> Option<&Arc<Chain>> {
        self.inbound.chains.get(name)
    }

    /// The routes of an HTTP chain; `None` while RDS owes them.
    pub fn routes<'a>(&'a self, chain: &'a HttpChain) -> Option<&'a Arc<RouteTable>> {
        match &chain.routes {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(name) => self.routes.get(name),
        }
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Live>> {
        self.clusters.get(name)
    }

    /// Prefixes of which the next hop's identity must have one; `None` before the tunnel cluster was sent.
    pub fn tunnel_peers(&self) -> Option<&[PeerPrefix]> {
        Some(&self.clusters.get("connect_originate")?.config.peers)
    }
}

/// The last good resources and the snapshot made of them.
#[derive(Default)]
pub struct State {
    snapshot: Snapshot,
    configs: BTreeMap<String, Arc<Cluster>>,
    endpoints: BTreeMap<String, Arc<Endpoints>>,
    listeners: BTreeSet<String>,
    /// Hash of the last accepted bytes, by type and name: equal bytes are not compiled again.
    hashes: HashMap<(&'static str, String), u64>,
}

impl State {
    /// The configuration now in force.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// EDS names that the clusters ask for.
    pub fn wanted_endpoints(&self) -> BTreeSet<String> {
        let names = self
            .configs
            .values()
            .filter_map(|cluster| match &cluster.discovery {
                Discovery::Eds(name) => Some(name.to_string()),
                _ => None,
            });
        names.collect()
    }

    /// RDS names that the chains ask for.
    pub fn wanted_routes(&self) -> BTreeSet<String> {
        let chains = self.snapshot.inbound.chains.values();
        let names = chains.filter_map(|chain| match &chain.kind {
            ChainKind::Http(chain) => match &chain.routes {
                RouteSource::Named(name) => Some(name.to_string()),
                RouteSource::Inline(_) => None,
            },
            ChainKind::Tcp(_) => None,
        });
        names.collect()
    }

    /// Takes a new version of a resource. The error is the refusal's text; nothing has changed then.
    pub fn upsert(&mut self, type_url: &str, name: &str, body: &[u8]) -> Result<(), String> {
        let Some(kind) = known_type(type_url) else {
            return Err(format!("type '{type_url}' was not asked for"));
        };
        let key = (kind, name.to_owned());
        let hash = content_hash(body);
        if self.hashes.get(&key) == Some(&hash) {
            return Ok(());
        }
        match kind {
            types::CLUSTER => self.cluster(name, body),
            types::ENDPOINT => self.endpoint(name, body),
            types::LISTENER => self.listener(name, body),
            _ => self.route(name, body),
        }
        .map_err(|refusal| refusal.to_string())?;
        self.hashes.insert(key, hash);
        self.snapshot.generation += 1;
        Ok(())
    }

    /// Takes a resource away.
    pub fn remove(&mut self, type_url: &str, name: &str) {
        let Some(kind) = known_type(type_url) else {
            return;
        };
        self.hashes.remove(&(kind, name.to_owned()));
        self.snapshot.generation += 1;
        match kind {
            types::CLUSTER => {
                self.configs.remove(name);
                self.snapshot.clusters.remove(name);
            }
            types::ENDPOINT => {
                self.endpoints.remove(name);
                self.refresh_users_of(name);
            }
            types::LISTENER => {
                self.listeners.remove(name);
                match name {
                    "connect_terminate" => self.snapshot.terminate = None,
                    "main_internal" => self.snapshot.inbound = Arc::default(),
                    _ => {}
                }
            }
            _ => drop(self.snapshot.routes.remove(name)),
        }
    }

    fn cluster(&mut self, name: &str, body: &[u8]) -> Result<(), envoy::Refusal> {
        let config = Arc::new(envoy::cluster::from_bytes(body)?);
        self.configs.insert(name.to_owned(), config.clone());
        self.refresh(config);
        Ok(())
    }

    fn endpoint(&mut self, name: &str, body: &[u8]) -> Result<(), envoy::Refusal> {
        let endpoints = Arc::new(envoy::endpoint::from_bytes(body)?);
        self.endpoints.insert(name.to_owned(), endpoints);
        self.refresh_users_of(name);
        Ok(())
    }

    fn listener(&mut self, name: &str, body: &[u8]) -> Result<(), envoy::Refusal> {
        let (_, compiled) = envoy::listener::from_bytes(body, Some(&self.snapshot.inbound))?;
        match compiled {
            Compiled::Terminate(terminate) => self.snapshot.terminate = Some(Arc::new(terminate)),
            Compiled::Inbound(inbound) => self.snapshot.inbound = Arc::new(inbound),
            Compiled::Originate => {}
        }
        self.listeners.insert(name.to_owned());
        Ok(())
    }

    fn route(&mut self, name: &str, body: &[u8]) -> Result<(), envoy::Refusal> {
        let table = Arc::new(envoy::route::from_bytes(body)?);
        self.snapshot.routes.insert(name.into(), table);
        Ok(())
    }

    fn refresh_users_of(&mut self, endpoints: &str) {
        let uses = |cluster: &Cluster| matches!(&cluster.discovery, Discovery::Eds(name) if **name == *endpoints);
        let users: Vec<_> = self
            .configs
            .values()
            .filter(|cluster| uses(cluster))
            .cloned()
            .collect();
        for config in users {
            self.refresh(config);
        }
    }

    fn refresh(&mut self, config: Arc<Cluster>) {
        let endpoints = match &config.discovery {
            Discovery::Eds(name) => self.endpoints.get(&**name).cloned(),
            Discovery::Static(endpoints) => Some(endpoints.clone()),
            Discovery::Passthrough | Discovery::Fixed => None,
        };
        let before = self.snapshot.clusters.get(&config.name);
        let live = Live::new(
            config.clone(),
            endpoints.as_deref(),
            before.map(|live| &**live),
        );
        self.snapshot
            .clusters
            .insert(config.name.clone(), Arc::new(live));
    }

    /// Names of the listeners in force, for dumps.
    pub fn listeners(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(String::as_str)
    }
}

fn known_type(type_url: &str) -> Option<&'static str> {
    [
        types::CLUSTER,
        types::ENDPOINT,
        types::LISTENER,
        types::ROUTE,
    ]
    .into_iter()
    .find(|known| *known == type_url)
}
