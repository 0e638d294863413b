//! What several translations ask for, worked out once per run: waypoints, which pods stand behind which service, and
//! the effective peer authentication.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use objects::{Fault, Key, Kind, Meta, Pod, Service};

use super::{
    Mesh,
    binding::{self, Waypoint},
    peer::Peers,
    routes::ByParent,
};
use crate::store::Store;

/// `namespace` and `name`.
pub(crate) type Name<'a> = (&'a str, &'a str);

/// Look-ups over one state of the objects.
pub struct Index<'a> {
    /// The objects.
    pub store: &'a Store,
    /// Mesh-wide settings.
    pub mesh: &'a Mesh,
    /// Waypoints by namespace and name of their Gateway.
    pub(crate) waypoints: BTreeMap<Name<'a>, Waypoint>,
    /// Live pods behind each service that selects pods or whose slices name pods.
    pub(crate) members: BTreeMap<Name<'a>, Vec<&'a Arc<Pod>>>,
    /// The reverse: services of each pod.
    pub(crate) services_of: BTreeMap<Name<'a>, Vec<&'a Arc<Service>>>,
    pub(crate) peers: Peers<'a>,
    /// Routes by the service that they name as parent.
    pub(crate) routes: ByParent<'a>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(store: &'a Store, mesh: &'a Mesh) -> Index<'a> {
        let mut index = Index::bare(store, mesh);
        let mut by_label = ByLabel::new();
        for pod in store.pods.all() {
            for (key, value) in &pod.metadata.labels {
                let label = (
                    pod.metadata.namespace.as_str(),
                    key.as_str(),
                    value.as_str(),
                );
                by_label.entry(label).or_default().push(pod);
            }
        }
        for service in store.services.all() {
            let name = (
                service.metadata.namespace.as_str(),
                service.metadata.name.as_str(),
            );
            for pod in pods_behind(store, service, &by_label) {
                let pod_name = (pod.metadata.namespace.as_str(), pod.metadata.name.as_str());
                index.members.entry(name).or_default().push(pod);
                index.services_of.entry(pod_name).or_default().push(service);
            }
        }
        index
    }

    /// Without pods.
    pub(crate) fn bare(store: &'a Store, mesh: &'a Mesh) -> Index<'a> {
        Index {
            store,
            mesh,
            waypoints: binding::waypoints(store, mesh),
            members: BTreeMap::new(),
            services_of: BTreeMap::new(),
            peers: Peers::new(store, mesh),
            routes: ByParent::new(store),
        }
    }

    /// As far as these pods are concerned: the services that they stand behind, and what stands behind those and behind
    /// the services that they stood behind before. Of other pods and services nothing is known.
    pub(crate) fn of_pods(
        store: &'a Store,
        mesh: &'a Mesh,
        pods: &BTreeSet<(Arc<str>, Arc<str>)>,
        former: &BTreeSet<(String, String)>,
    ) -> Index<'a> {
        let mut index = Index::bare(store, mesh);
        let mut touched = BTreeMap::<Name<'a>, &'a Arc<Service>>::new();
        let former = former
            .iter()
            .filter_map(|(ns, name)| store.services.find(ns, name));
        touched.extend(former.map(|service| (name_of(&service.metadata), service)));
        for (namespace, name) in pods {
            let Some(pod) = store.pods.find(namespace, name).filter(is_live) else {
                continue;
            };
            let behind = |service: &&Arc<Service>| match service.spec.selector.is_empty() {
                true => pods_behind(store, service, &ByLabel::new())
                    .iter()
                    .any(|member| member.metadata.name == pod.metadata.name),
                false => service.spec.r#type != "ExternalName" && is_selected(service, pod),
            };
            for service in store.services.of(namespace).filter(behind) {
                let services = index.services_of.entry(name_of(&pod.metadata)).or_default();
                services.push(service);
                touched.insert(name_of(&service.metadata), service);
            }
        }
        for (name, service) in touched {
            let members = if service.spec.selector.is_empty() {
                pods_behind(store, service, &ByLabel::new())
            } else if service.spec.r#type == "ExternalName" {
                Vec::new()
            } else {
                let selected = store
                    .pods
                    .of(name.0)
                    .filter(|pod| is_selected(service, pod));
                selected.filter(is_live).collect()
            };
            if !members.is_empty() {
                index.members.insert(name, members);
            }
        }
        index
    }

    /// All waypoints.
    pub fn waypoints(&self) -> impl Iterator<Item = &Waypoint> {
        self.waypoints.values()
    }

    /// Gateways of a waypoint class that nothing can reach.
    pub(crate) fn waypoint_faults(&self) -> Vec<Fault> {
        let lacking = self
            .waypoints
            .iter()
            .filter(|(_, waypoint)| !waypoint.has_service);
        lacking
            .map(|((namespace, name), waypoint)| {
                let why = format!(
                    "no Service `{}` stands for this waypoint; what is bound to it is refused",
                    waypoint.hostname
                );
                Fault::warning(Some(Key::new(Kind::Gateway, namespace, name)), "", why)
            })
            .collect()
    }
}

fn name_of(meta: &Meta) -> Name<'_> {
    (meta.namespace.as_str(), meta.name.as_str())
}

/// Whether traffic may go to it: it has an address and has not ended.
fn is_live(pod: &&Arc<Pod>) -> bool {
    !pod.is_finished() && !pod.addresses().is_empty()
}

fn is_selected(service: &Service, pod: &Pod) -> bool {
    let mut wanted = service.spec.selector.iter();
    wanted.all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
}

/// Pods by namespace, and key and value of a label.
type ByLabel<'a> = BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Arc<Pod>>>;

/// Pods that a service leads to. Pods that have ended or have no address are left out.
fn pods_behind<'a>(
    store: &'a Store,
    service: &'a Service,
    by_label: &ByLabel<'a>,
) -> Vec<&'a Arc<Pod>> {
    let namespace = service.metadata.namespace.as_str();
    if service.spec.r#type == "ExternalName" {
        return Vec::new();
    }
    if !service.spec.selector.is_empty() {
        // The rarest label of the selector leaves the fewest pods to look at.
        let lists = service.spec.selector.iter().map(|(key, value)| {
            by_label
                .get(&(namespace, key.as_str(), value.as_str()))
                .map_or(&[][..], Vec::as_slice)
        });
        let fewest = lists.min_by_key(|list| list.len()).unwrap_or_default();
        return fewest
            .iter()
            .copied()
            .filter(|pod| is_selected(service, pod))
            .filter(is_live)
            .collect();
    }
    let slices = store.endpoint_slices.of(namespace);
    let own =
        slices.filter(|slice| slice.metadata.label(SERVICE_NAME) == Some(&service.metadata.name));
    let mut pods: Vec<&Arc<Pod>> = own
        .flat_map(|slice| &slice.endpoints)
        .filter_map(|endpoint| endpoint.target_ref.as_ref())
        .filter(|target| target.kind == "Pod")
        .filter_map(|target| store.pods.find(namespace, &target.name))
        .filter(is_live)
        .collect();
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    pods.dedup_by(|a, b| a.metadata.name == b.metadata.name);
    pods
}

/// The label that ties an EndpointSlice to its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
