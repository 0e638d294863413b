//! From the source's events to the views of subscribers: the store is kept up to date, everything is translated
//! anew, and what differs is published. Run by `app`; asked by `serve`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use objects::{Event, Fault};
use prost::Message as _;
use proto::{discovery::Node, type_url, workload::address};
use tokio::sync::watch;
use tonic::Status as Refusal;
use xds::server::{Client, Nack, Resources, Source, View};

use crate::{
    resources::renew,
    status::{Status, TranslationStatus},
    store::Store,
    translate::{GATEWAY_NAME, Mesh, Translation, envoy, translate},
};

/// Namespace and name of a Gateway.
type GatewayName = (String, String);
/// Resources of each waypoint by type URL.
type ByGateway = BTreeMap<GatewayName, BTreeMap<Arc<str>, Arc<Resources>>>;
/// Namespace and service account.
type Account = (Box<str>, Box<str>);

/// Takes events, publishes.
pub struct Follower {
    mesh: Mesh,
    store: Store,
    views: Arc<Views>,
    source_faults: Arc<[Fault]>,
}

/// What subscribers see, and which identities run where.
pub struct Views {
    inner: Mutex<Inner>,
    status: Arc<Status>,
}

#[derive(Default)]
struct Inner {
    /// What everybody sees: addresses, workloads, policies.
    shared: BTreeMap<Arc<str>, Arc<Resources>>,
    /// What each waypoint sees besides.
    waypoints: ByGateway,
    everybody: watch::Sender<Arc<View>>,
    by_gateway: BTreeMap<GatewayName, watch::Sender<Arc<View>>>,
    residents: BTreeMap<Box<str>, BTreeSet<Account>>,
}

impl Follower {
    /// With nothing in store.
    #[must_use]
    pub fn new(mesh: Mesh, status: Arc<Status>) -> Follower {
        let views = Arc::new(Views {
            inner: Mutex::default(),
            status,
        });
        Follower {
            mesh,
            store: Store::default(),
            views,
            source_faults: Arc::new([]),
        }
    }

    /// What is published.
    #[must_use]
    pub fn views(&self) -> Arc<Views> {
        self.views.clone()
    }

    /// Takes an event and publishes what follows from it.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Snapshot { objects, faults } => {
                self.store = Store::default();
                objects
                    .into_iter()
                    .for_each(|object| self.store.apply(objects::Change::Upsert(object)));
                self.source_faults = faults;
            }
            Event::Changes { changes, faults } => {
                changes
                    .into_iter()
                    .for_each(|change| self.store.apply(change));
                self.source_faults = faults;
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let start = Instant::now();
        let index = self.mesh.index(&self.store);
        let translation = translate(&index);
        let size = TranslationStatus {
            addresses: translation.addresses.len(),
            authorizations: translation.authorizations.len(),
            waypoints: index.waypoints().count(),
            ..TranslationStatus::default()
        };
        let mut faults: Vec<Fault> = self
            .source_faults
            .iter()
            .chain(&translation.faults)
            .cloned()
            .collect();
        let waypoints = index.waypoints().map(|waypoint| {
            let name = (waypoint.namespace.clone(), waypoint.name.clone());
            (
                name,
                envoy::translate(&index, &translation, waypoint, &mut faults),
            )
        });
        let waypoints: Vec<(GatewayName, envoy::Resources)> = waypoints.collect();
        faults.extend(envoy::astray(&index, &translation));
        let mut inner = self.views.lock();
        inner.shared = shared(&inner.shared, &translation);
        inner.waypoints = own(&inner.waypoints, waypoints);
        inner.residents = residents(&self.store);
        inner.send();
        drop(inner);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.views
            .status
            .translated(TranslationStatus { micros, ..size }, faults);
    }
}

fn shared(
    old: &BTreeMap<Arc<str>, Arc<Resources>>,
    translation: &Translation,
) -> BTreeMap<Arc<str>, Arc<Resources>> {
    let addresses = translation
        .addresses
        .iter()
        .map(|(name, address)| (name.clone(), address.encode_to_vec()));
    let workloads =
        translation
            .addresses
            .iter()
            .filter_map(|(name, address)| match &address.r#type {
                Some(address::Type::Workload(workload)) => {
                    Some((name.clone(), workload.encode_to_vec()))
                }
                _ => None,
            });
    let policies = translation
        .authorizations
        .iter()
        .map(|(name, policy)| (name.clone(), policy.encode_to_vec()));
    let types = [
        (type_url::ADDRESS, addresses.collect()),
        (type_url::WORKLOAD, workloads.collect()),
        (type_url::AUTHORIZATION, policies.collect()),
    ];
    types
        .into_iter()
        .map(|(url, bodies): (&str, BTreeMap<_, _>)| (url.into(), renew(old.get(url), bodies)))
        .collect()
}

fn own(old: &ByGateway, new: Vec<(GatewayName, envoy::Resources)>) -> ByGateway {
    let renewed = new.into_iter().map(|(name, resources)| {
        let types = [
            (type_url::CLUSTER, resources.clusters),
            (type_url::ENDPOINT, resources.endpoints),
            (type_url::LISTENER, resources.listeners),
        ];
        let before = |url: &str| old.get(&name).and_then(|types| types.get(url));
        let types = types.map(|(url, bodies)| (Arc::from(url), renew(before(url), bodies)));
        (name.clone(), types.into())
    });
    renewed.collect()
}

fn residents(store: &Store) -> BTreeMap<Box<str>, BTreeSet<Account>> {
    let mut residents = BTreeMap::<Box<str>, BTreeSet<Account>>::new();
    for pod in store
        .pods
        .all()
        .filter(|pod| !pod.is_finished() && !pod.spec.node_name.is_empty())
    {
        let account = (
            pod.metadata.namespace.as_str().into(),
            pod.service_account().into(),
        );
        residents
            .entry(pod.spec.node_name.as_str().into())
            .or_default()
            .insert(account);
    }
    residents
}

impl Inner {
    fn send(&mut self) {
        publish(&self.everybody, self.shared.clone());
        self.by_gateway.retain(|_, view| view.receiver_count() > 0);
        for (name, view) in &self.by_gateway {
            publish(view, self.types_of(name));
        }
    }

    fn types_of(&self, gateway: &GatewayName) -> BTreeMap<Arc<str>, Arc<Resources>> {
        let mut types = self.shared.clone();
        types.extend(
            self.waypoints
                .get(gateway)
                .into_iter()
                .flatten()
                .map(|(url, r)| (url.clone(), r.clone())),
        );
        types
    }
}

/// Sends the view unless it is the same as before.
fn publish(view: &watch::Sender<Arc<View>>, types: BTreeMap<Arc<str>, Arc<Resources>>) {
    let same = |old: &View| {
        old.types.len() == types.len()
            && types
                .iter()
                .all(|(url, new)| old.of(url).is_some_and(|old| Arc::ptr_eq(old, new)))
    };
    if !same(&view.borrow()) {
        view.send_replace(Arc::new(View { types }));
    }
}

impl Views {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each publication replaces whole values; a panic in between leaves an older, consistent one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a pod of this account is on the node, by the objects.
    #[must_use]
    pub fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        let account = (namespace.into(), service_account.into());
        self.lock()
            .residents
            .get(node)
            .is_some_and(|accounts| accounts.contains(&account))
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
                let types = inner.types_of(&gateway);
                let view = inner.by_gateway.entry(gateway).or_default();
                publish(view, types);
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

#[cfg(test)]
mod tests;
