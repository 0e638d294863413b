//! What a waypoint is told: clusters, endpoints and listeners in the names and shapes that istiod uses, so that any
//! waypoint understands them. Pure; called by `follow` for each Gateway of a waypoint class.
//!
//! A connection goes connect_terminate → main_internal → the chain of its service → a cluster `inbound-vip|…` →
//! connect_originate → the destination's ztunnel.

use std::collections::{BTreeMap, BTreeSet};

use objects::Fault;
use proto::workload::{self as wds, AppProtocol, address, gateway_address::Destination};

use super::{Index, Translation, Waypoint, service::app_protocol};

mod canonical;
mod chain;
mod cluster;
mod endpoint;
mod listener;
mod matcher;
mod pack;
mod rbac;
mod route;
mod tls;

pub(super) use route::needs_prefix;

/// Encoded resources of one waypoint by name.
#[derive(Debug, Default)]
pub struct Resources {
    /// CDS.
    pub clusters: BTreeMap<String, Vec<u8>>,
    /// EDS.
    pub endpoints: BTreeMap<String, Vec<u8>>,
    /// LDS.
    pub listeners: BTreeMap<String, Vec<u8>>,
}

/// What one waypoint serves.
pub(super) struct Served<'a> {
    pub index: &'a Index<'a>,
    pub translation: &'a Translation,
    pub waypoint: &'a Waypoint,
    /// Services bound to it whose namespace it admits, by host name.
    pub services: Vec<ServedService<'a>>,
    /// Workloads bound to it whose namespace it admits.
    pub workloads: Vec<&'a wds::Workload>,
    /// All workloads by the services that they stand behind (`namespace/hostname`).
    pub behind: BTreeMap<&'a str, Vec<&'a wds::Workload>>,
}

/// One service: as WDS tells it, and as the user wrote it.
#[derive(Clone, Copy)]
pub(super) struct ServedService<'a> {
    pub wds: &'a wds::Service,
    pub object: &'a objects::Service,
}

/// The two sorts of chains and clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Http,
    Tcp,
}

/// One port of a service that a waypoint handles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    pub number: u16,
    pub protocol: AppProtocol,
}

impl Port {
    /// A port of unknown protocol is looked at per connection, so it has both.
    pub fn layers(self) -> &'static [Layer] {
        match self.protocol {
            AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => &[Layer::Http],
            AppProtocol::Tcp | AppProtocol::Tls => &[Layer::Tcp],
            AppProtocol::Unknown => &[Layer::Http, Layer::Tcp],
        }
    }

    /// Whether the application speaks HTTP/2 without negotiation.
    pub fn is_http2(self) -> bool {
        matches!(self.protocol, AppProtocol::Http2 | AppProtocol::Grpc)
    }
}

/// The TCP ports of a service.
pub(super) fn ports(service: &objects::Service) -> impl Iterator<Item = Port> {
    let tcp = service
        .spec
        .ports
        .iter()
        .filter(|port| super::service::is_tcp(&port.protocol));
    tcp.map(|port| Port {
        number: port.port,
        protocol: app_protocol(port),
    })
}

/// The name of a service's chain and cluster, the same for both.
pub(super) fn name(port: u16, layer: Layer, host: &str) -> String {
    let layer = match layer {
        Layer::Http => "http",
        Layer::Tcp => "tcp",
    };
    format!("inbound-vip|{port}|{layer}|{host}")
}

/// Translates for one waypoint.
#[must_use]
pub fn translate(
    index: &Index<'_>,
    translation: &Translation,
    waypoint: &Waypoint,
    faults: &mut Vec<Fault>,
) -> Resources {
    let served = Served::new(index, translation, waypoint);
    let routes = route::Routes::new(&served, faults);
    let mut resources = Resources::default();
    for cluster in cluster::fixed(&served) {
        resources
            .clusters
            .insert(cluster.name.clone(), canonical::cluster(&cluster));
    }
    let own = served.services.iter().map(|service| service.object);
    let others = routes.other_backends.iter().copied();
    for service in own.chain(others) {
        let meta = &service.metadata;
        let called = |port| routes.leads_calls_to(&meta.namespace, &meta.name, port);
        for (cluster, endpoints) in cluster::of_service(&served, service, called) {
            resources
                .endpoints
                .insert(cluster.name.clone(), canonical::endpoints(&endpoints));
            resources
                .clusters
                .insert(cluster.name.clone(), canonical::cluster(&cluster));
        }
    }
    for listener in listener::fixed(&served)
        .into_iter()
        .chain([chain::main_internal(&served, &routes, faults)])
    {
        resources
            .listeners
            .insert(listener.name.clone(), canonical::listener(&listener));
    }
    resources
}

/// Remarks on what no waypoint takes up, after all of them have been translated.
#[must_use]
pub fn astray(index: &Index<'_>, translation: &Translation) -> Vec<Fault> {
    rbac::astray(index, translation)
}

/// The WDS form of a service.
fn wds_of<'t>(
    index: &Index<'_>,
    translation: &'t Translation,
    service: &objects::Service,
) -> Option<&'t wds::Service> {
    let name = super::service::resource_name(index.mesh, service);
    match &translation.addresses.get(&name)?.r#type {
        Some(address::Type::Service(service)) => Some(service),
        _ => None,
    }
}

/// The waypoint that serves a service.
pub(crate) fn waypoint_of<'i>(
    index: &'i Index<'_>,
    translation: &Translation,
    service: &objects::Service,
) -> Option<&'i Waypoint> {
    let wds = wds_of(index, translation, service)?;
    index
        .waypoints()
        .find(|waypoint| takes_service(index, waypoint, wds))
}

/// Whether a service is bound to this waypoint, wholly or in part, and may use it.
fn takes_service(index: &Index<'_>, waypoint: &Waypoint, service: &wds::Service) -> bool {
    let shares = service.weighted_waypoints.iter();
    let mut bound = service
        .waypoint
        .iter()
        .chain(shares.filter_map(|share| share.destination.as_ref()));
    bound.any(|bound| takes(index, waypoint, &service.namespace, Some(bound)))
}

/// Whether what is bound like this, in that namespace, is for this waypoint and may use it. What is bound and may not
/// has no chain: traffic to it, which is still sent there, is refused.
fn takes(
    index: &Index<'_>,
    waypoint: &Waypoint,
    namespace: &str,
    bound: Option<&wds::GatewayAddress>,
) -> bool {
    let here = match bound.and_then(|bound| bound.destination.as_ref()) {
        Some(Destination::Hostname(host)) => {
            host.namespace == waypoint.namespace && host.hostname == waypoint.hostname
        }
        _ => false,
    };
    here && waypoint.admits(index.store, namespace)
}

impl<'a> Served<'a> {
    fn new(
        index: &'a Index<'a>,
        translation: &'a Translation,
        waypoint: &'a Waypoint,
    ) -> Served<'a> {
        let mut served = Served {
            index,
            translation,
            waypoint,
            services: Vec::new(),
            workloads: Vec::new(),
            behind: BTreeMap::new(),
        };
        for address in translation.addresses.values() {
            match &address.r#type {
                Some(address::Type::Service(wds)) if takes_service(index, waypoint, wds) => {
                    let object = index.store.services.find(&wds.namespace, &wds.name);
                    served
                        .services
                        .extend(object.map(|object| ServedService { wds, object }));
                }
                Some(address::Type::Workload(workload)) => {
                    for service in workload.services.keys() {
                        served.behind.entry(service).or_default().push(workload);
                    }
                    if takes(
                        index,
                        waypoint,
                        &workload.namespace,
                        workload.waypoint.as_ref(),
                    ) {
                        served.workloads.push(workload);
                    }
                }
                _ => {}
            }
        }
        served
            .services
            .sort_by(|a, b| a.wds.hostname.cmp(&b.wds.hostname));
        served
    }

    /// The WDS form of a service.
    pub fn wds_of(&self, service: &objects::Service) -> Option<&'a wds::Service> {
        wds_of(self.index, self.translation, service)
    }

    /// Whether this waypoint serves it.
    pub fn serves(&self, service: &objects::Service) -> bool {
        self.wds_of(service)
            .is_some_and(|service| takes_service(self.index, self.waypoint, service))
    }

    /// Port numbers of all served services with every protocol that is known to stand behind them.
    pub fn protocols_by_port(&self) -> BTreeMap<u16, BTreeSet<i32>> {
        let mut by_port = BTreeMap::<u16, BTreeSet<i32>>::new();
        for port in self
            .services
            .iter()
            .flat_map(|service| ports(service.object))
        {
            by_port
                .entry(port.number)
                .or_default()
                .insert(port.protocol.into());
        }
        by_port
    }
}

#[cfg(test)]
mod tests;
