//! Endpoints of a service port: through the tunnel where the workload has one, plainly where it has none, and through
//! its own waypoint where the service belongs to another.

use std::{collections::BTreeMap, net::IpAddr};

use envoy_types::pb::envoy::config::{
    core::v3::{HealthStatus, Locality},
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
};
use proto::workload::{
    self as wds, TunnelProtocol, WorkloadStatus, address, gateway_address::Destination,
};

use super::{Port, Served, cluster::ORIGINAL_DST, pack};

/// Region, zone, subzone.
type Place = (String, String, String);

pub(super) fn of_port(
    served: &Served<'_>,
    service: &objects::Service,
    port: Port,
    cluster: &str,
) -> ClusterLoadAssignment {
    let by_place = if served.serves(service) {
        direct(served, service, port)
    } else {
        match served.wds_of(service) {
            // Its waypoint must not be gone around.
            Some(wds) if wds.waypoint.is_some() => through_waypoint(served, wds, port),
            _ => direct(served, service, port),
        }
    };
    let endpoints = by_place
        .into_iter()
        .map(|(place, endpoints)| locality(place, endpoints));
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: endpoints.collect(),
        ..ClusterLoadAssignment::default()
    }
}

fn locality((region, zone, sub_zone): Place, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    let weight = lb_endpoints
        .iter()
        .filter_map(|e| e.load_balancing_weight.as_ref())
        .map(|w| w.value);
    LocalityLbEndpoints {
        locality: Some(Locality {
            region,
            zone,
            sub_zone,
        }),
        load_balancing_weight: pack::number({ weight }.sum()),
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    }
}

fn direct(
    served: &Served<'_>,
    service: &objects::Service,
    port: Port,
) -> BTreeMap<Place, Vec<LbEndpoint>> {
    let name = super::super::service::resource_name(served.index.mesh, service);
    let mut by_place = BTreeMap::<Place, Vec<LbEndpoint>>::new();
    for workload in served.behind.get(name.as_str()).into_iter().flatten() {
        let ports = workload
            .services
            .get(&name)
            .map_or(&[][..], |ports| &ports.ports);
        let Some(target) = ports
            .iter()
            .find(|p| p.service_port == u32::from(port.number))
        else {
            continue;
        };
        let Ok(target) = u16::try_from(target.target_port) else {
            continue;
        };
        if let Some(endpoint) = of_workload(served, workload, target, service) {
            let place = workload.locality.clone().unwrap_or_default();
            by_place
                .entry((place.region, place.zone, place.subzone))
                .or_default()
                .push(endpoint);
        }
    }
    by_place
}

fn of_workload(
    served: &Served<'_>,
    workload: &wds::Workload,
    target: u16,
    service: &objects::Service,
) -> Option<LbEndpoint> {
    let ip = ip(workload.addresses.first()?)?;
    let local = socket_text(ip, target);
    let who = [
        &workload.workload_name,
        &workload.namespace,
        &workload.canonical_name,
        &workload.canonical_revision,
        &served.index.mesh.cluster_id,
    ];
    let istio = pack::object([("workload", pack::text(who.map(String::as_str).join(";")))]);
    let ready = workload.status == i32::from(WorkloadStatus::Healthy);
    // Ready or not is nothing to a service that publishes either.
    let health = if ready || service.spec.publish_not_ready_addresses {
        HealthStatus::Healthy
    } else {
        HealthStatus::Unhealthy
    };
    let tunnelled = workload.tunnel_protocol == i32::from(TunnelProtocol::Hbone);
    let (address, metadata) = if tunnelled {
        let destination = pack::object([("local", pack::text(&local))]);
        let metadata = pack::metadata([(ORIGINAL_DST, destination), ("istio", istio)]);
        (
            pack::internal_address("connect_originate", &local),
            metadata,
        )
    } else {
        (
            pack::socket_address(&ip.to_string(), target),
            pack::metadata([("istio", istio)]),
        )
    };
    Some(LbEndpoint {
        host_identifier: endpoint(address),
        health_status: health.into(),
        metadata: Some(metadata),
        load_balancing_weight: pack::number(workload.capacity.unwrap_or(1)),
    })
}

fn endpoint(address: envoy_types::pb::envoy::config::core::v3::Address) -> Option<HostIdentifier> {
    Some(HostIdentifier::Endpoint(Endpoint {
        address: Some(address),
        ..Endpoint::default()
    }))
}

/// One endpoint: the service's own address, by way of its waypoint. None while either has no address.
fn through_waypoint(
    served: &Served<'_>,
    service: &wds::Service,
    port: Port,
) -> BTreeMap<Place, Vec<LbEndpoint>> {
    let hop = || {
        let waypoint = service.waypoint.as_ref()?;
        let Some(Destination::Hostname(host)) = &waypoint.destination else {
            return None;
        };
        let name = format!("{}/{}", host.namespace, host.hostname);
        let Some(address::Type::Service(found)) = &served.translation.addresses.get(&name)?.r#type
        else {
            return None;
        };
        let hop = socket_text(
            ip(&found.addresses.first()?.address)?,
            u16::try_from(waypoint.hbone_mtls_port).ok()?,
        );
        let local = socket_text(ip(&service.addresses.first()?.address)?, port.number);
        let destination =
            pack::object([("local", pack::text(&local)), ("waypoint", pack::text(hop))]);
        Some(LbEndpoint {
            host_identifier: endpoint(pack::internal_address("connect_originate", &local)),
            health_status: HealthStatus::Healthy.into(),
            metadata: Some(pack::metadata([(ORIGINAL_DST, destination)])),
            load_balancing_weight: pack::number(1),
        })
    };
    hop()
        .map(|endpoint| (Place::default(), vec![endpoint]))
        .into_iter()
        .collect()
}

/// An address from its bytes.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn socket_text(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}
