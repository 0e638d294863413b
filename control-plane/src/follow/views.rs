//! What subscribers see, and which identities run where. Filled by `follow`, asked by `serve`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::discovery::Node;
use tokio::sync::watch;
use tonic::Status as Refusal;
use xds::server::{Client, Nack, Resources, Source, Step, View};

use super::{GatewayName, change, renew};
use crate::{
    status::Status,
    translate::{GATEWAY_NAME, envoy},
};

/// Namespace and service account.
pub(super) type Account = (Box<str>, Box<str>);
/// The node that a pod is on, and its account.
pub(super) type Place = (Box<str>, Account);
/// Where a pod was and where it is.
pub(super) type Move = (Option<Place>, Option<Place>);
/// Resources by type URL.
pub(super) type Typed = BTreeMap<Arc<str>, Arc<Resources>>;

/// Names of Gateways that are not there yet and for which somebody of the same namespace waits; a waypoint may start before its
/// Gateway is read, but names cost memory.
const MOST_WAITING: usize = 64;
/// Steps of a type that are remembered for subscribers that are behind.
const STEPS: usize = 64;

/// What subscribers see, and which identities run where.
pub struct Views {
    inner: Mutex<Inner>,
    status: Arc<Status>,
}

#[derive(Default)]
pub(super) struct Inner {
    /// What everybody sees: addresses, workloads, policies.
    shared: Typed,
    /// The latest steps to it.
    steps: BTreeMap<Arc<str>, Arc<[Step]>>,
    /// What each waypoint sees besides.
    waypoints: BTreeMap<GatewayName, Typed>,
    everybody: watch::Sender<Arc<View>>,
    by_gateway: BTreeMap<GatewayName, watch::Sender<Arc<View>>>,
    /// How many pods of each account are on each node.
    residents: BTreeMap<Box<str>, BTreeMap<Account, usize>>,
    namespaces: watch::Sender<Arc<BTreeSet<String>>>,
}

impl Inner {
    pub fn shared(&self) -> Typed {
        self.shared.clone()
    }

    /// Replaces what everybody sees.
    pub fn share(&mut self, shared: Typed) {
        self.shared = shared;
        self.steps.clear();
    }

    /// Changes what everybody sees of one type: of `names`, those with a body are there, the others are not.
    pub fn change(&mut self, url: &str, names: Vec<Arc<str>>, bodies: BTreeMap<String, Vec<u8>>) {
        let Some((url, old)) = self.shared.get_key_value(url) else {
            return;
        };
        let Some(new) = change(old, &names, bodies) else {
            return;
        };
        let step = Step {
            from: Arc::downgrade(old),
            names: names.into(),
        };
        let url = url.clone();
        let known = self.steps.get(&url).map_or(&[][..], |steps| steps);
        let recent = known[known.len().saturating_sub(STEPS - 1)..]
            .iter()
            .cloned();
        let steps: Vec<Step> = recent.chain([step]).collect();
        self.steps.insert(url.clone(), steps.into());
        self.shared.insert(url, new);
    }

    /// Replaces what all waypoints see; those that are not named are no more.
    pub fn keep_waypoints(&mut self, new: Vec<(GatewayName, envoy::Resources)>) {
        let names: BTreeSet<GatewayName> = new.iter().map(|(name, _)| name.clone()).collect();
        self.waypoints.retain(|name, _| names.contains(name));
        self.renew_waypoints(new);
    }

    /// Replaces what these waypoints see.
    pub fn renew_waypoints(&mut self, new: Vec<(GatewayName, envoy::Resources)>) {
        for (name, resources) in new {
            let types = [
                (proto::type_url::CLUSTER, resources.clusters),
                (proto::type_url::ENDPOINT, resources.endpoints),
                (proto::type_url::LISTENER, resources.listeners),
            ];
            let old = self.waypoints.remove(&name).unwrap_or_default();
            let types = types.map(|(url, bodies)| (Arc::from(url), renew(old.get(url), bodies)));
            self.waypoints.insert(name, types.into());
        }
    }

    pub fn settle(&mut self, residents: BTreeMap<Box<str>, BTreeMap<Account, usize>>) {
        self.residents = residents;
    }

    /// Moves pods from where they were to where they are.
    pub fn shift(&mut self, moves: &[Move]) {
        for (before, after) in moves {
            if let Some((node, account)) = before
                && let Some(accounts) = self.residents.get_mut(node)
                && let Some(count) = accounts.get_mut(account)
            {
                *count -= 1;
                if *count == 0 {
                    accounts.remove(account);
                }
                if accounts.is_empty() {
                    self.residents.remove(node);
                }
            }
            if let Some((node, account)) = after {
                let accounts = self.residents.entry(node.clone()).or_default();
                *accounts.entry(account.clone()).or_default() += 1;
            }
        }
    }

    pub fn name(&mut self, now: BTreeSet<String>) {
        self.namespaces.send_if_modified(|namespaces| {
            let differ = **namespaces != now;
            if differ {
                *namespaces = Arc::new(now);
            }
            differ
        });
    }

    /// Tells subscribers.
    pub fn send(&mut self) {
        publish(&self.everybody, self.shared.clone(), &self.steps);
        self.by_gateway.retain(|_, view| view.receiver_count() > 0);
        for (name, view) in &self.by_gateway {
            publish(view, self.types_of(name), &self.steps);
        }
    }

    /// Whether a subscriber of this Gateway may be taken: it is there, or few are waited for.
    fn has_room(&mut self, gateway: &GatewayName) -> bool {
        if self.waypoints.contains_key(gateway) || self.by_gateway.contains_key(gateway) {
            return true;
        }
        self.by_gateway.retain(|_, view| view.receiver_count() > 0);
        let waits =
            |name: &&GatewayName| name.0 == gateway.0 && !self.waypoints.contains_key(*name);
        self.by_gateway.keys().filter(waits).count() < MOST_WAITING
    }

    fn types_of(&self, gateway: &GatewayName) -> Typed {
        let mut types = self.shared.clone();
        let own = self.waypoints.get(gateway).into_iter().flatten();
        types.extend(own.map(|(url, resources)| (url.clone(), resources.clone())));
        types
    }
}

/// Sends the view unless it is the same as before.
fn publish(view: &watch::Sender<Arc<View>>, types: Typed, steps: &BTreeMap<Arc<str>, Arc<[Step]>>) {
    let same = |old: &View| {
        old.types.len() == types.len()
            && types
                .iter()
                .all(|(url, new)| old.of(url).is_some_and(|old| Arc::ptr_eq(old, new)))
    };
    if !same(&view.borrow()) {
        let steps = steps.clone();
        view.send_replace(Arc::new(View { types, steps }));
    }
}

impl Views {
    pub(super) fn new(status: Arc<Status>) -> Views {
        Views {
            inner: Mutex::default(),
            status,
        }
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each publication replaces whole values; a panic in between leaves an older, consistent one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespaces that exist and are not being deleted.
    #[must_use]
    pub fn namespaces(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.lock().namespaces.subscribe()
    }

    /// Whether a pod of this account is on the node, by the objects.
    #[must_use]
    pub fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        let account = (namespace.into(), service_account.into());
        self.lock()
            .residents
            .get(node)
            .is_some_and(|accounts| accounts.contains_key(&account))
    }
}

impl Source for Views {
    fn subscribe(&self, client: &Client) -> Result<watch::Receiver<Arc<View>>, Refusal> {
        let Some(identity) = &client.identity else {
            return Err(Refusal::unauthenticated(
                "neither a token nor a client certificate was shown",
            ));
        };
        let mut inner = self.lock();
        let receiver = match client.node.id.split('~').next() {
            Some("waypoint") => {
                let gateway = gateway_of(&client.node)?;
                if gateway.0 != identity.namespace() {
                    let text = format!(
                        "node metadata says namespace {}, but the caller is {identity}",
                        gateway.0
                    );
                    return Err(Refusal::permission_denied(text));
                }
                if !inner.has_room(&gateway) {
                    let text = format!(
                        "there is no Gateway {}/{}, and {MOST_WAITING} others are waited for already in its namespace",
                        gateway.0, gateway.1
                    );
                    return Err(Refusal::resource_exhausted(text));
                }
                let types = inner.types_of(&gateway);
                let steps = inner.steps.clone();
                let view = inner.by_gateway.entry(gateway).or_default();
                publish(view, types, &steps);
                view.subscribe()
            }
            Some("ztunnel") => inner.everybody.subscribe(),
            _ => {
                let text = format!(
                    "node id {:?} must begin with `ztunnel~` or `waypoint~`",
                    client.node.id
                );
                return Err(Refusal::invalid_argument(text));
            }
        };
        drop(inner);
        self.status.subscribed(client.stream, &client.node.id);
        tracing::info!(node = client.node.id, peer = %identity, "subscribed");
        Ok(receiver)
    }

    fn refused(&self, client: &Client, nack: Nack) {
        self.status
            .refused(client.stream, &nack.type_url, &nack.message);
    }

    fn mended(&self, client: &Client, type_url: &str) {
        self.status.mended(client.stream, type_url);
    }

    fn left(&self, client: &Client) {
        self.status.left(client.stream);
    }
}

/// Which Gateway a waypoint serves, by its metadata.
fn gateway_of(node: &Node) -> Result<GatewayName, Refusal> {
    use prost_types::{Struct, value::Kind};
    let fields = |of: &Struct, name: &str| of.fields.get(name).and_then(|value| value.kind.clone());
    let metadata = node.metadata.as_ref();
    let namespace = metadata.and_then(|metadata| fields(metadata, "NAMESPACE"));
    let Some(Kind::StringValue(namespace)) = namespace else {
        return Err(Refusal::invalid_argument("node metadata has no NAMESPACE"));
    };
    let labels = metadata.and_then(|metadata| fields(metadata, "LABELS"));
    let name = match labels {
        Some(Kind::StructValue(labels)) => fields(&labels, GATEWAY_NAME),
        _ => None,
    };
    match name {
        Some(Kind::StringValue(name)) => Ok((namespace, name)),
        _ => Err(Refusal::invalid_argument(format!(
            "node metadata LABELS has no {GATEWAY_NAME}"
        ))),
    }
}
