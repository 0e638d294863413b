//! Endpoints (EDS, or written in a cluster) → `model::Endpoints`.

use super::listener::socket_address;
use super::strings::metadata_text;
use super::{At, Converted, decode, number, required, take};
use crate::model::cluster::{Endpoint, Endpoints, Health, Target, WorkloadName};
use envoy_types::pb::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, EnvoyInternalAddress, HealthStatus, Metadata, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as ProtoEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};
use std::net::SocketAddr;

/// Metadata namespace that tells a tunnel where to go.
const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

/// Metadata namespace by which sockets are chosen.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// An EDS resource.
pub fn from_bytes(bytes: &[u8]) -> Converted<Endpoints> {
    let url = super::type_url::<ClusterLoadAssignment>();
    let at = &At::root(&url);
    endpoints(at, decode(at, bytes)?)
}

/// The endpoints of a cluster.
pub fn endpoints(at: &At<'_>, message: ClusterLoadAssignment) -> Converted<Endpoints> {
    take!(at, message => ClusterLoadAssignment { cluster_name, endpoints, policy } ignored {}
        refused { named_endpoints });
    let mut overprovisioning = 140;
    if let Some(policy) = policy {
        let at = &at.field("policy");
        take!(at, policy => Policy { overprovisioning_factor } ignored {}
            refused { drop_overloads, endpoint_stale_after, weighted_priority_health });
        overprovisioning = number(overprovisioning_factor).unwrap_or(140).max(100);
    }
    let mut out = Endpoints {
        name: cluster_name.into(),
        endpoints: Vec::new(),
        overprovisioning,
    };
    for (i, group) in endpoints.into_iter().enumerate() {
        locality(&at.index("endpoints", i), group, &mut out.endpoints)?;
    }
    Ok(out)
}

fn locality(at: &At<'_>, group: LocalityLbEndpoints, out: &mut Vec<Endpoint>) -> Converted<()> {
    take!(at, group => LocalityLbEndpoints { lb_endpoints, priority }
        ignored { locality, load_balancing_weight, metadata } refused { proximity, lb_config });
    for (i, endpoint) in lb_endpoints.into_iter().enumerate() {
        out.push(one(&at.index("lb_endpoints", i), endpoint, priority)?);
    }
    Ok(())
}

fn one(at: &At<'_>, message: LbEndpoint, priority: u32) -> Converted<Endpoint> {
    take!(at, message => LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } ignored {}
        refused {});
    let health = match HealthStatus::try_from(health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => {
            Health::Unhealthy
        }
        Err(_) => {
            return Err(at
                .field("health_status")
                .refuse(format!("value {health_status} is not known")));
        }
    };
    let endpoint = match required(at, "endpoint", host_identifier)? {
        HostIdentifier::Endpoint(endpoint) => endpoint,
        HostIdentifier::EndpointName(_) => return Err(at.unsupported("endpoint_name")),
    };
    let at = &at.field("endpoint");
    take!(at, endpoint => ProtoEndpoint { address } ignored { hostname, additional_addresses, observability_name }
        refused { health_check_config });
    Ok(Endpoint {
        target: target(
            &at.field("address"),
            required(at, "address", address)?,
            metadata.as_ref(),
        )?,
        health,
        weight: number(load_balancing_weight).unwrap_or(1).max(1),
        priority,
        mutual_tls: metadata_text(metadata.as_ref(), SOCKET_MATCH, "tlsMode") == "istio"
            && metadata_text(metadata.as_ref(), SOCKET_MATCH, "tunnel") != "http",
        workload: workload(metadata_text(metadata.as_ref(), "istio", "workload")),
    })
}

fn target(at: &At<'_>, message: Address, metadata: Option<&Metadata>) -> Converted<Target> {
    match message.address {
        Some(address::Address::SocketAddress(_)) => socket_address(at, message).map(Target::Plain),
        Some(address::Address::EnvoyInternalAddress(internal)) => {
            internal_target(&at.field("envoy_internal_address"), internal, metadata)
        }
        _ => Err(at.refuse("must be a socket address or an internal address")),
    }
}

fn internal_target(
    at: &At<'_>,
    message: EnvoyInternalAddress,
    metadata: Option<&Metadata>,
) -> Converted<Target> {
    let EnvoyInternalAddress {
        endpoint_id,
        address_name_specifier,
    } = message;
    let AddressNameSpecifier::ServerListenerName(listener) =
        required(at, "server_listener_name", address_name_specifier)?;
    let parse = |text: &str| text.parse::<SocketAddr>().ok();
    match listener.as_str() {
        "connect_originate" => {
            let local = metadata_text(metadata, ORIGINAL_DST, "local");
            let address = parse(if local.is_empty() {
                &endpoint_id
            } else {
                local
            })
            .ok_or_else(|| at.field("endpoint_id").refuse("is not an address and port"))?;
            let via = metadata_text(metadata, ORIGINAL_DST, "waypoint");
            let via = match via {
                "" => None,
                text => Some(
                    parse(text)
                        .ok_or_else(|| at.refuse(format!("waypoint {text:?} is not an address")))?,
                ),
            };
            Ok(Target::Tunnel { address, via })
        }
        "inner_connect_originate" => {
            let gateway = parse(metadata_text(metadata, ORIGINAL_DST, "local"))
                .or_else(|| parse(&endpoint_id));
            let inner = double_target(metadata);
            match (gateway, inner) {
                (Some(gateway), Some(inner)) => Ok(Target::Double(inner.into(), gateway)),
                _ => Err(at.refuse("lacks the gateway's address or the inner target")),
            }
        }
        other => Err(at
            .field("server_listener_name")
            .refuse(format!("listener {other:?} is not one of a waypoint"))),
    }
}

fn double_target(metadata: Option<&Metadata>) -> Option<&str> {
    use envoy_types::pb::google::protobuf::value::Kind;
    let double = metadata?
        .filter_metadata
        .get("istio")?
        .fields
        .get("double_hbone")?
        .kind
        .as_ref()?;
    let Kind::StructValue(double) = double else {
        return None;
    };
    match double.fields.get("hbone_target_address")?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// `name;namespace;canonical;revision;cluster`.
fn workload(text: &str) -> WorkloadName {
    let mut parts = text.split(';');
    let mut next = || parts.next().unwrap_or_default().into();
    WorkloadName {
        name: next(),
        namespace: next(),
        canonical: next(),
        revision: next(),
        cluster: next(),
    }
}
