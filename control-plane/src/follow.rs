//! From the source's events to the views of subscribers: the store is kept up to date, and what differs is published.
//! A change of pods alone, the usual one, costs what those pods cost; any other is translated as a whole. Run by `app`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use objects::{Change, EndpointSlice, Event, Fault, Kind, Object, Pod};
use prost::Message as _;
use proto::{type_url, workload::address};
use tokio::sync::watch;

use crate::{
    conditions::{self, Published, Verdicts},
    resources::{change, renew},
    status::{Status, TranslationStatus},
    store::Store,
    translate::{
        GATEWAY_NAME, Mesh, PodName, Touched, Translation, Waypoint, envoy, translate, update,
    },
};

mod views;

pub use views::Views;
use views::{Account, Move, Place, Typed};

/// Namespace and name of a Gateway.
type GatewayName = (String, String);

/// Takes events, publishes.
pub struct Follower {
    mesh: Mesh,
    store: Store,
    views: Arc<Views>,
    source_faults: Arc<[Fault]>,
    /// What was published last.
    translation: Translation,
    waypoints: BTreeMap<GatewayName, Served>,
    pending: Pending,
    verdicts: watch::Sender<Option<Arc<Verdicts>>>,
    /// Faults that verdicts were given on last.
    judged: Vec<Fault>,
    /// Whether anything was translated yet.
    started: bool,
    /// Whether pods come from an API server, which names the account of each that may have one.
    of_cluster: bool,
}

/// What one waypoint was told last, apart from the resources.
#[derive(Default)]
struct Served {
    /// Hosts that its clusters lead to.
    hosts: BTreeSet<String>,
    faults: Vec<Fault>,
}

/// What has changed since the last publication.
#[derive(Default)]
struct Pending {
    /// Something else than pods.
    everything: bool,
    pods: BTreeSet<PodName>,
    /// Where pods were, and where they are.
    moves: Vec<Move>,
}

impl Follower {
    /// With nothing in store.
    #[must_use]
    pub fn new(mesh: Mesh, status: Arc<Status>) -> Follower {
        Follower {
            mesh,
            store: Store::default(),
            views: Arc::new(Views::new(status)),
            source_faults: Arc::new([]),
            translation: Translation::default(),
            waypoints: BTreeMap::new(),
            pending: Pending::default(),
            verdicts: watch::Sender::default(),
            judged: Vec::new(),
            started: false,
            of_cluster: false,
        }
    }

    /// Pods come from an API server: one without an account has none there, and is nobody's `default`.
    #[must_use]
    pub fn of_cluster(mut self) -> Follower {
        self.of_cluster = true;
        self
    }

    /// What the status of the objects should say, anew with each translation once somebody has asked.
    #[must_use]
    pub fn verdicts(&mut self) -> Published {
        let published = self.verdicts.subscribe();
        if self.started && published.borrow().is_none() {
            self.pending.everything = true;
            self.publish();
        }
        published
    }

    /// What is published.
    #[must_use]
    pub fn views(&self) -> Arc<Views> {
        self.views.clone()
    }

    /// Takes an event and publishes what follows from it.
    pub fn take(&mut self, event: Event) {
        self.store(event);
        self.publish();
    }

    /// Takes an event; what follows from it waits for [`Follower::publish`].
    pub fn store(&mut self, event: Event) {
        match event {
            Event::Snapshot { objects, faults } => {
                self.store = Store::default();
                let upserts = objects.into_iter().map(Change::Upsert);
                upserts.for_each(|change| self.store.apply(change));
                self.pending.everything = true;
                self.source_faults = faults;
            }
            Event::Changes { changes, faults } => {
                for change in changes {
                    self.note(&change);
                    self.store.apply(change);
                }
                self.source_faults = faults;
            }
        }
    }

    /// Remembers what follows from a change that is about to be applied.
    fn note(&mut self, change: &Change) {
        let key = match change {
            Change::Upsert(object) => object.key(),
            Change::Remove(key) => key.clone(),
        };
        match (key.kind, change) {
            (Kind::Pod, _) => {
                let before = self.store.pods.find(&key.namespace, &key.name);
                let after = match change {
                    Change::Upsert(Object::Pod(pod)) => Some(pod),
                    _ => None,
                };
                // What runs as a waypoint decides about others.
                let mut both = before.into_iter().chain(after);
                let is_waypoint = |pod: &Arc<Pod>| pod.metadata.label(GATEWAY_NAME).is_some();
                self.pending.everything |= both.any(is_waypoint);
                let of_cluster = self.of_cluster;
                let place = |pod: Option<&Arc<Pod>>| pod.and_then(|pod| place(pod, of_cluster));
                self.pending.moves.push((place(before), place(after)));
                self.pending.pods.insert((key.namespace, key.name));
            }
            (Kind::EndpointSlice, _) => {
                let before = self.store.endpoint_slices.find(&key.namespace, &key.name);
                let after = match change {
                    Change::Upsert(Object::EndpointSlice(slice)) => Some(slice),
                    _ => None,
                };
                let mut slices = before.into_iter().chain(after);
                self.pending.everything |= !slices.all(|slice| self.only_repeats_pods(slice));
            }
            _ => self.pending.everything = true,
        }
    }

    /// Whether nothing is read from a slice: all its endpoints are pods, and its service finds them by its selector.
    fn only_repeats_pods(&self, slice: &EndpointSlice) -> bool {
        let is_pod = |endpoint: &objects::Endpoint| {
            let target = endpoint.target_ref.as_ref();
            target.is_some_and(|target| target.kind == "Pod")
        };
        let meta = &slice.metadata;
        let service = meta.label("kubernetes.io/service-name");
        let service = service.and_then(|name| self.store.services.find(&meta.namespace, name));
        slice.endpoints.iter().all(is_pod)
            && service.is_none_or(|service| !service.spec.selector.is_empty())
    }

    /// Publishes what follows from the events that were taken.
    pub fn publish(&mut self) {
        let start = Instant::now();
        let pending = std::mem::take(&mut self.pending);
        self.started = true;
        let (waypoints, differs) = if pending.everything {
            (self.publish_everything(), true)
        } else {
            self.publish_pods(&pending)
        };
        let mut faults: Vec<Fault> = self.source_faults.to_vec();
        faults.extend(self.translation.faults.iter().cloned());
        faults.extend(
            self.waypoints
                .values()
                .flat_map(|served| served.faults.iter().cloned()),
        );
        faults.extend(envoy::astray(
            &self.mesh.bare_index(&self.store),
            &self.translation,
        ));
        // A version that is refused changes nothing but the faults, and pods may change what a service is bound to.
        if differs || faults != self.judged {
            self.judge(&faults);
            self.judged.clone_from(&faults);
        }
        let size = TranslationStatus {
            addresses: self.translation.addresses.len(),
            authorizations: self.translation.authorizations.len(),
            waypoints,
            micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..TranslationStatus::default()
        };
        self.views.status().translated(size, faults);
    }

    /// Says anew what the status of the objects should be, if anybody has asked.
    fn judge(&self, faults: &[Fault]) {
        if self.verdicts.receiver_count() == 0 {
            return;
        }
        let index = self.mesh.index(&self.store);
        let new = conditions::judge(&index, &self.translation, faults);
        self.verdicts.send_if_modified(|old| {
            let differs = old.as_deref() != Some(&new);
            *old = Some(Arc::new(new));
            differs
        });
    }

    /// Translates everything anew; the number of waypoints.
    fn publish_everything(&mut self) -> usize {
        let index = self.mesh.index(&self.store);
        let translation = translate(&index);
        let mut served = BTreeMap::new();
        let mut resources = Vec::new();
        for waypoint in index.waypoints() {
            let name = (waypoint.namespace.clone(), waypoint.name.clone());
            let (of_it, its) = serve(&index, &translation, waypoint);
            served.insert(name.clone(), of_it);
            resources.push((name, its));
        }
        let count = resources.len();
        let mut inner = self.views.lock();
        let everybody = shared(&inner.shared(), &translation);
        inner.share(everybody);
        inner.keep_waypoints(resources);
        inner.settle(residents(&self.store, self.of_cluster));
        inner.name(namespaces(&self.store));
        inner.send();
        drop(inner);
        (self.translation, self.waypoints) = (translation, served);
        count
    }

    /// Translates what follows from a change of pods alone; the number of waypoints, and whether more than pods differs.
    fn publish_pods(&mut self, pending: &Pending) -> (usize, bool) {
        let touched = update(
            &mut self.translation,
            &self.store,
            &self.mesh,
            &pending.pods,
        );
        if touched.lacking {
            return (self.publish_everything(), true);
        }
        let index = self.mesh.bare_index(&self.store);
        let count = index.waypoints().count();
        let mut resources = Vec::new();
        for waypoint in index.waypoints() {
            let name = (waypoint.namespace.clone(), waypoint.name.clone());
            let before = self.waypoints.get(&name);
            if before.is_none_or(|before| is_concerned(before, waypoint, &touched)) {
                let (served, its) = serve(&index, &self.translation, waypoint);
                self.waypoints.insert(name.clone(), served);
                resources.push((name, its));
            }
        }
        let mut inner = self.views.lock();
        for (url, names, bodies) in changed(&self.translation, &touched) {
            inner.change(url, names, bodies);
        }
        inner.renew_waypoints(resources);
        inner.shift(&pending.moves);
        inner.send();
        (count, touched.binding)
    }
}

/// Whether what a waypoint is told may differ.
fn is_concerned(before: &Served, waypoint: &Waypoint, touched: &Touched) -> bool {
    let leads_to = |name: &String| {
        let host = name.split_once('/').map_or(&**name, |(_, host)| host);
        before.hosts.contains(host)
    };
    touched.binding
        || touched.waypoints.contains(&waypoint.hostname)
        || touched.services.iter().any(leads_to)
}

fn serve(
    index: &crate::translate::Index<'_>,
    translation: &Translation,
    waypoint: &Waypoint,
) -> (Served, envoy::Resources) {
    let mut faults = Vec::new();
    let resources = envoy::translate(index, translation, waypoint, &mut faults);
    // `inbound-vip|80|http|host`; other clusters lead nowhere in particular.
    let hosts = resources
        .clusters
        .keys()
        .filter_map(|name| name.rsplit_once('|'));
    let hosts = hosts.map(|(_, host)| host.to_owned()).collect();
    (Served { hosts, faults }, resources)
}

/// What differs of one type: its URL, names, and the encoded bodies of those that are there.
type Changed = (&'static str, Vec<Arc<str>>, BTreeMap<String, Vec<u8>>);

/// The addresses that differ.
fn changed(translation: &Translation, touched: &Touched) -> [Changed; 2] {
    let (mut addresses, mut workloads) = (BTreeMap::new(), BTreeMap::new());
    for name in &touched.addresses {
        if let Some(address) = translation.addresses.get(name) {
            addresses.insert(name.clone(), address.encode_to_vec());
            if let Some(address::Type::Workload(workload)) = &address.r#type {
                workloads.insert(name.clone(), workload.encode_to_vec());
            }
        }
    }
    // A service is called like no workload, so that its name changes nothing among these.
    let names: Vec<Arc<str>> = touched
        .addresses
        .iter()
        .map(|name| name.as_str().into())
        .collect();
    [
        (type_url::ADDRESS, names.clone(), addresses),
        (type_url::WORKLOAD, names, workloads),
    ]
}

fn shared(old: &Typed, translation: &Translation) -> Typed {
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

/// On the copy that a kubelet makes, on the API server, of a pod of its own.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Node and account of a pod that runs or will. A ztunnel gets certificates of what is on its node by this. Kubelets make pods
/// on the API server too, but none with an account: of these nothing follows, or a node could be anybody's `default`.
fn place(pod: &Pod, of_cluster: bool) -> Option<Place> {
    let without_account =
        pod.spec.service_account_name.is_empty() || pod.metadata.annotation(MIRROR).is_some();
    if of_cluster && without_account {
        return None;
    }
    let node = pod.spec.node_name.as_str();
    let account = (
        pod.metadata.namespace.as_str().into(),
        pod.service_account().into(),
    );
    (!pod.is_finished() && !node.is_empty()).then(|| (node.into(), account))
}

fn residents(store: &Store, of_cluster: bool) -> BTreeMap<Box<str>, BTreeMap<Account, usize>> {
    let mut residents = BTreeMap::<Box<str>, BTreeMap<Account, usize>>::new();
    for (node, account) in store.pods.all().filter_map(|pod| place(pod, of_cluster)) {
        *residents
            .entry(node)
            .or_default()
            .entry(account)
            .or_default() += 1;
    }
    residents
}

/// Those that are not being deleted.
fn namespaces(store: &Store) -> BTreeSet<String> {
    let all = store.namespaces.all();
    let lasting = all.filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    lasting
        .map(|namespace| namespace.metadata.name.clone())
        .collect()
}

#[cfg(test)]
mod tests;
