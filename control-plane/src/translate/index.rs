//! What several translations ask for, worked out once per run: waypoints, which pods stand behind which service, and
//! the effective peer authentication.

use std::{collections::BTreeMap, sync::Arc};

use objects::{Fault, Key, Kind, Pod, Service};

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
        let mut index = Index {
            store,
            mesh,
            waypoints: binding::waypoints(store, mesh),
            members: BTreeMap::new(),
            services_of: BTreeMap::new(),
            peers: Peers::new(store, mesh),
            routes: ByParent::new(store),
        };
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
    let live = |pod: &&Arc<Pod>| !pod.is_finished() && !pod.addresses().is_empty();
    if !service.spec.selector.is_empty() {
        let selected = |pod: &&Arc<Pod>| {
            service
                .spec
                .selector
                .iter()
                .all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
        };
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
            .filter(selected)
            .filter(live)
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
        .filter(live)
        .collect();
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    pods.dedup_by(|a, b| a.metadata.name == b.metadata.name);
    pods
}

/// The label that ties an EndpointSlice to its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
