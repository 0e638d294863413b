//! Which waypoint an object is bound to. Rule of the house: a waypoint that is named stays named, whether it is there
//! or not, so that nobody gets around it.

use std::{collections::BTreeMap, sync::Arc};

use objects::{AuthorizationPolicy, Fault, Gateway, Key, Meta, Pod, RouteNamespaces, Service};
use proto::workload::{
    GatewayAddress, NamespacedHostname, WeightedWaypoint, gateway_address::Destination,
};

use super::{Index, Mesh, canary, index::Name, policy, routes::Refusal};
use crate::{conditions::CONTROLLER, store::Store};

/// Port on which waypoints take HBONE.
pub(crate) const HBONE_PORT: u16 = 15008;
/// Label of the pods (and the Service) that serve a Gateway.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
pub(super) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USES_WAYPOINT: &str = "metadata.labels[istio.io/use-waypoint]";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// Host of a waypoint that is never there: what is bound to it is refused. Reserved by RFC 2606, so no Service is called so.
const NOWHERE: &str = "service-accounts-differ.invalid";
/// Gateways of this class are served by our own waypoint.
const OWN_CLASS: &str = "causeway-waypoint";
const CLASSES: [&str; 2] = [OWN_CLASS, "istio-waypoint"];

/// A Gateway of a waypoint class.
#[derive(Debug, Clone, PartialEq)]
pub struct Waypoint {
    /// Namespace of the Gateway.
    pub namespace: String,
    /// Name of the Gateway.
    pub name: String,
    /// Class of the Gateway.
    pub class: String,
    /// Host name of the Service that stands for it.
    pub hostname: String,
    /// Its HBONE port.
    pub port: u16,
    /// Whether that Service is among the objects.
    pub has_service: bool,
    /// Whether its class is kept by this control plane.
    pub ours: bool,
    /// Takes traffic to services.
    pub for_services: bool,
    /// Takes traffic to workloads.
    pub for_workloads: bool,
    admits: RouteNamespaces,
}

/// What is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Service,
    Workload,
}

/// All waypoints.
pub(super) fn waypoints<'a>(store: &'a Store, mesh: &Mesh) -> BTreeMap<Name<'a>, Waypoint> {
    let ours = store
        .gateways
        .all()
        .filter(|gateway| is_waypoint(store, gateway));
    ours.map(|gateway| {
        let name = (
            gateway.metadata.namespace.as_str(),
            gateway.metadata.name.as_str(),
        );
        (name, waypoint(store, mesh, gateway))
    })
    .collect()
}

/// By the name of its class, or because the class names our controller.
fn is_waypoint(store: &Store, gateway: &Gateway) -> bool {
    let class = gateway.spec.gateway_class_name.as_str();
    let object = store.gateway_classes.find("", class);
    CLASSES.contains(&class) || object.is_some_and(|class| class.spec.controller_name == CONTROLLER)
}

fn waypoint(store: &Store, mesh: &Mesh, gateway: &Gateway) -> Waypoint {
    let (namespace, name) = (&gateway.metadata.namespace, &gateway.metadata.name);
    let service = service_of(store, namespace, name);
    let class = store
        .gateway_classes
        .find("", &gateway.spec.gateway_class_name);
    let traffic = gateway
        .metadata
        .label(WAYPOINT_FOR)
        .or_else(|| class.and_then(|class| class.metadata.label(WAYPOINT_FOR)))
        .unwrap_or("service");
    let listener = gateway
        .spec
        .listeners
        .iter()
        .find(|listener| listener.protocol == "HBONE");
    Waypoint {
        namespace: namespace.clone(),
        name: name.clone(),
        class: gateway.spec.gateway_class_name.clone(),
        hostname: mesh.hostname(
            namespace,
            service.map_or(name, |service| &service.metadata.name),
        ),
        port: listener.map_or(HBONE_PORT, |listener| listener.port),
        has_service: service.is_some(),
        ours: class.is_some_and(|class| class.spec.controller_name == CONTROLLER),
        for_services: matches!(traffic, "service" | "all"),
        for_workloads: matches!(traffic, "workload" | "all"),
        admits: listener
            .map(|listener| listener.allowed_routes.namespaces.clone())
            .unwrap_or_default(),
    }
}

/// The Service that stands for a Gateway: one that belongs to it, else the one that is called so, else one that is labelled.
/// Anybody who may make Services can label one, and must not take a waypoint's traffic by that.
fn service_of<'s>(store: &'s Store, namespace: &str, name: &str) -> Option<&'s Arc<Service>> {
    let labelled = |service: &&Arc<Service>| service.metadata.label(GATEWAY_NAME) == Some(name);
    let owned = |service: &&Arc<Service>| {
        let mut owners = service.metadata.owner_references.iter();
        owners.any(|owner| owner.kind == "Gateway" && owner.name == name)
    };
    let services = || store.services.of(namespace).filter(labelled);
    let named = || store.services.find(namespace, name);
    let own = || named().filter(owned).or_else(|| services().find(owned));
    own().or_else(named).or_else(|| services().next())
}

impl Waypoint {
    /// Whether it may be an Envoy, which takes filters that our own waypoint does not have (and refuses).
    pub(crate) fn is_envoy(&self) -> bool {
        self.class != OWN_CLASS && !self.ours
    }

    /// How WDS names it.
    pub(crate) fn address(&self) -> GatewayAddress {
        gateway_address(&self.namespace, self.hostname.clone(), self.port)
    }

    fn takes(&self, traffic: Traffic) -> bool {
        match traffic {
            Traffic::Service => self.for_services,
            Traffic::Workload => self.for_workloads,
        }
    }

    /// Whether its listener lets services and workloads of that namespace in.
    pub(crate) fn admits(&self, store: &Store, namespace: &str) -> bool {
        match self.admits.from.as_str() {
            "All" => true,
            "None" => false,
            "Selector" => store.namespaces.find("", namespace).is_some_and(|object| {
                self.admits
                    .selector
                    .as_ref()
                    .is_some_and(|selector| selector.matches(&object.metadata.labels))
            }),
            _ => self.namespace == namespace,
        }
    }
}

fn gateway_address(namespace: &str, hostname: String, port: u16) -> GatewayAddress {
    let hostname = NamespacedHostname {
        namespace: namespace.into(),
        hostname,
    };
    GatewayAddress {
        hbone_mtls_port: port.into(),
        destination: Some(Destination::Hostname(hostname)),
    }
}

/// Where a binding was written.
struct Wish<'a> {
    name: &'a str,
    namespace: &'a str,
    /// On the object itself or its service account, not inherited from the namespace.
    explicit: bool,
    /// On the object itself.
    own: bool,
}

/// What an object is bound to, and what its author should know of that.
#[derive(Default)]
pub(super) struct Binding {
    /// Namespace and name of the waypoint that is named and used.
    pub waypoint: Option<String>,
    /// How WDS names it.
    pub address: Option<GatewayAddress>,
    /// Namespace and name of a waypoint that takes a share of a service's traffic.
    pub canary: Option<String>,
    /// The shares, where there is a canary.
    pub weighted: Vec<WeightedWaypoint>,
    /// Why a waypoint that is named is not used, or refuses what is sent to it.
    pub problems: Vec<Refusal>,
}

impl Binding {
    /// The binding, with its problems told as faults of `object`.
    pub fn told(mut self, object: &Key, faults: &mut Vec<Fault>) -> Binding {
        let problems = std::mem::take(&mut self.problems);
        let told =
            |problem: Refusal| Fault::warning(Some(object.clone()), USES_WAYPOINT, problem.why);
        faults.extend(problems.into_iter().map(told));
        self
    }
}

/// The waypoint of a pod, if it is bound to one that takes workload traffic.
pub(super) fn of_pod(index: &Index<'_>, pod: &Pod) -> Binding {
    if is_waypoint_pod(pod) {
        return Binding::default();
    }
    let namespace = &pod.metadata.namespace;
    let account = index
        .store
        .service_accounts
        .find(namespace, pod.service_account());
    let own = account.map(|account| &account.metadata);
    match wish(index, &pod.metadata, own) {
        Some(wish) => bind(index, &wish, namespace, Traffic::Workload),
        None => Binding::default(),
    }
}

/// The waypoint of a service.
pub(super) fn of_service(index: &Index<'_>, service: &Service) -> Binding {
    let (namespace, name) = (
        service.metadata.namespace.as_str(),
        service.metadata.name.as_str(),
    );
    if is_waypoint_service(index, service) {
        return Binding::default();
    }
    let members = index
        .members
        .get(&(namespace, name))
        .map_or(&[][..], Vec::as_slice);
    let account = |pod: &Pod| {
        let account = index
            .store
            .service_accounts
            .find(namespace, pod.service_account());
        account.map(|account| &account.metadata)
    };
    let says = |pod: &Pod| said_by(index, namespace, pod.service_account());
    // Endpoints may be changing from one account to another: what counts is that all say the same.
    let shared = members
        .first()
        .filter(|first| members.iter().all(|pod| says(pod) == says(first)));
    let differ = shared.is_none()
        && !speaks_for_itself(service)
        && members.iter().any(|pod| names_one(says(pod)));
    let wish = wish(
        index,
        &service.metadata,
        shared.and_then(|pod| account(pod)),
    );
    let mut binding = match wish {
        Some(wish) => {
            let mut binding = bind(index, &wish, namespace, Traffic::Service);
            share(index, service, &wish, &mut binding);
            binding
        }
        None => Binding::default(),
    };
    if differ {
        let guard = guard_of(index, service).filter(|_| binding.address.is_none());
        binding
            .problems
            .insert(0, accounts_differ(guard.map(|policy| &policy.metadata)));
        if guard.is_some() {
            binding.address = Some(gateway_address(namespace, NOWHERE.into(), HBONE_PORT));
        }
    }
    binding
}

fn accounts_differ(guard: Option<&Meta>) -> Refusal {
    let differ = "the service accounts of its endpoints do not all name the same waypoint: none of theirs is used for the \
                  service";
    let why = match guard {
        None => format!("{differ}; label the Service itself"),
        Some(policy) => format!(
            "{differ}, and traffic to it is refused, because AuthorizationPolicy {} would not be asked; label the Service \
             itself",
            policy.name
        ),
    };
    Refusal {
        reason: "ServiceAccountsDiffer",
        why,
    }
}

/// A policy for this very service that only a waypoint could enforce.
fn guard_of<'a>(index: &Index<'a>, service: &Service) -> Option<&'a AuthorizationPolicy> {
    let meta = &service.metadata;
    let mut policies = index.store.authorization_policies.of(&meta.namespace);
    let guard = policies.find(|policy| {
        let mut targets = policy.spec.targets();
        policy::decides(policy)
            && targets.any(|target| target.kind == "Service" && target.name == meta.name)
    });
    guard.map(|policy| &**policy)
}

/// Whether a service has a word of its own on waypoints, so that those of its endpoints' accounts do not count.
pub(super) fn speaks_for_itself(service: &Service) -> bool {
    service.metadata.label(USE_WAYPOINT).is_some()
}

/// What an account says of waypoints: which, and of which namespace. None if there is no such account.
pub(super) fn said_by<'a>(
    index: &Index<'a>,
    namespace: &str,
    account: &str,
) -> Option<(Option<&'a str>, Option<&'a str>)> {
    let account = index.store.service_accounts.find(namespace, account)?;
    let meta = &account.metadata;
    Some((meta.label(USE_WAYPOINT), meta.label(USE_WAYPOINT_NAMESPACE)))
}

/// Gives a canary its share of what is bound and let in.
fn share(index: &Index<'_>, service: &Service, wish: &Wish<'_>, binding: &mut Binding) {
    let primary = index.waypoints.get(&(wish.namespace, wish.name));
    let Some(primary) =
        primary.filter(|_| binding.address.is_some() && binding.problems.is_empty())
    else {
        return;
    };
    match canary::of_service(index, service, primary) {
        Ok(Some(shared)) => {
            binding.canary = Some(shared.canary);
            binding.weighted = shared.weighted;
        }
        Ok(None) => {}
        Err(refusal) => binding.problems.push(refusal),
    }
}

/// What an account says, if it has a word on waypoints at all: whether it names one.
fn names_one(says: Option<(Option<&str>, Option<&str>)>) -> bool {
    let name = says.and_then(|(name, _)| name);
    name.is_some_and(|name| !matches!(name, "none" | ""))
}

/// A pod that serves a Gateway never has a waypoint itself, and is not captured by label.
pub(super) fn is_waypoint_pod(pod: &Pod) -> bool {
    pod.metadata.label(GATEWAY_NAME).is_some()
}

fn is_waypoint_service(index: &Index<'_>, service: &Service) -> bool {
    let meta = &service.metadata;
    let hostname = index.mesh.hostname(&meta.namespace, &meta.name);
    meta.label(GATEWAY_NAME).is_some()
        || index
            .waypoints
            .values()
            .any(|w| w.namespace == meta.namespace && w.hostname == hostname)
}

/// The first of object, service account and namespace that says something; `none` says no.
fn wish<'a>(index: &Index<'a>, object: &'a Meta, account: Option<&'a Meta>) -> Option<Wish<'a>> {
    let namespace = index
        .store
        .namespaces
        .find("", &object.namespace)
        .map(|n| &n.metadata);
    let places = [(Some(object), true), (account, true), (namespace, false)];
    let (meta, explicit) = places.into_iter().find_map(|(meta, explicit)| {
        Some((meta.filter(|m| m.label(USE_WAYPOINT).is_some())?, explicit))
    })?;
    let name = meta
        .label(USE_WAYPOINT)
        .filter(|name| !matches!(*name, "none" | ""))?;
    Some(Wish {
        name,
        namespace: meta
            .label(USE_WAYPOINT_NAMESPACE)
            .unwrap_or(&object.namespace),
        explicit,
        own: object.label(USE_WAYPOINT).is_some(),
    })
}

fn bind(index: &Index<'_>, wish: &Wish<'_>, namespace: &str, traffic: Traffic) -> Binding {
    let name = format!("{}/{}", wish.namespace, wish.name);
    let subject = format!("waypoint {name}");
    let problem = |reason, why| vec![Refusal { reason, why }];
    let Some(waypoint) = index.waypoints.get(&(wish.namespace, wish.name)) else {
        // Which traffic an absent waypoint is for is not known; the default is services, and an object that names
        // it itself means it.
        if !wish.explicit && traffic == Traffic::Workload {
            return Binding::default();
        }
        let host = index.mesh.hostname(wish.namespace, wish.name);
        let why = format!("{subject} is not there; traffic through it is refused until it is");
        return Binding {
            waypoint: Some(name),
            address: Some(gateway_address(wish.namespace, host, HBONE_PORT)),
            problems: problem("WaypointIsNotReady", why),
            ..Binding::default()
        };
    };
    if !waypoint.takes(traffic) {
        // A service account speaks for both, so only what cannot be meant otherwise is worth a word.
        let (meant, what) = match traffic {
            Traffic::Workload => (wish.explicit && !waypoint.for_services, "workloads"),
            Traffic::Service => (wish.own, "services"),
        };
        let why = format!("{subject} takes no traffic to {what}; it is not used");
        let problems = if meant {
            problem("UnsupportedTrafficType", why)
        } else {
            Vec::new()
        };
        return Binding {
            problems,
            ..Binding::default()
        };
    }
    let problems = if waypoint.admits(index.store, namespace) {
        Vec::new()
    } else {
        let why = format!(
            "{subject} does not admit namespace {namespace}; traffic through it is refused"
        );
        problem("AttachmentDenied", why)
    };
    Binding {
        waypoint: Some(name),
        address: Some(waypoint.address()),
        problems,
        ..Binding::default()
    }
}
