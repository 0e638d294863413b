//! Workloads, services and policies: model to message, and to the bytes of a resource. Called by the control
//! plane and tests. The same value always gives the same bytes.

mod policy;

use std::net::IpAddr;

use mesh::{
    policy::Policy,
    service::{
        AppProtocol, IpFamilies, LoadBalancing, Mode, Scope, Service, ServicePort, Vip, Visibility,
    },
    workload::{
        ApplicationProtocol, ApplicationTunnel, GatewayAddress, GatewayDestination, NetworkMode,
        PortPair, TunnelProtocol, Workload, WorkloadType,
    },
};
use prost::Message as _;
use proto::workload as pb;

pub use self::policy::policy_message;
use super::address::DEFAULT_TRUST_DOMAIN;

/// Body of an `Address` resource named [`Workload::uid`].
#[must_use]
pub fn encode_workload(workload: &Workload) -> Vec<u8> {
    let r#type = Some(pb::address::Type::Workload(workload_message(workload)));
    pb::Address { r#type }.encode_to_vec()
}

/// Body of an `Address` resource named by [`Service::key`].
#[must_use]
pub fn encode_service(service: &Service) -> Vec<u8> {
    let r#type = Some(pb::address::Type::Service(service_message(service)));
    pb::Address { r#type }.encode_to_vec()
}

/// Body of an `Authorization` resource named [`super::policy_resource_name`]. A policy that is invalid cannot
/// be said on the wire: what goes out is a DENY of everything.
#[must_use]
pub fn encode_policy(policy: &Policy) -> Vec<u8> {
    policy_message(policy).encode_to_vec()
}

/// The message of a workload. (One line per field: long, but flat.)
#[must_use]
pub fn workload_message(workload: &Workload) -> pb::Workload {
    let identity = workload.identity.as_ref();
    let trust_domain = identity
        .map(|identity| identity.trust_domain())
        .filter(|td| *td != DEFAULT_TRUST_DOMAIN);
    pb::Workload {
        uid: text(&workload.uid),
        name: text(&workload.name),
        namespace: text(&workload.namespace),
        addresses: workload.addresses.iter().map(ip).collect(),
        hostname: text(&workload.hostname),
        network: text(&workload.network),
        network_gateway: workload.network_gateway.as_deref().map(gateway),
        tunnel_protocol: tunnel_protocol(workload.tunnel_protocol).into(),
        native_tunnel: workload.native_tunnel,
        trust_domain: trust_domain.unwrap_or_default().to_owned(),
        service_account: workload.service_account().to_owned(),
        waypoint: workload.waypoint.as_deref().map(gateway),
        node: text(&workload.node),
        canonical_name: text(&workload.canonical_name),
        canonical_revision: text(&workload.canonical_revision),
        workload_type: workload_type(workload.workload_type).into(),
        workload_name: text(&workload.workload_name),
        cluster_id: text(&workload.cluster_id),
        authorization_policies: workload
            .authorization_policies
            .iter()
            .map(ToString::to_string)
            .collect(),
        status: match workload.healthy {
            true => pb::WorkloadStatus::Healthy,
            false => pb::WorkloadStatus::Unhealthy,
        }
        .into(),
        services: workload
            .services
            .iter()
            .map(|one| (one.service.to_string(), port_list(&one.ports)))
            .collect(),
        application_tunnel: workload.application_tunnel.map(application_tunnel),
        locality: workload.locality.as_deref().map(|locality| pb::Locality {
            region: text(&locality.region),
            zone: text(&locality.zone),
            subzone: text(&locality.subzone),
        }),
        network_mode: match workload.network_mode {
            NetworkMode::Standard => pb::NetworkMode::Standard,
            NetworkMode::HostNetwork => pb::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: Vec::new(),
        capacity: (workload.capacity != 1).then_some(workload.capacity),
    }
}

/// The message of a service. (One line per field: long, but flat.)
#[must_use]
pub fn service_message(service: &Service) -> pb::Service {
    pb::Service {
        name: text(&service.name),
        namespace: text(&service.key.namespace),
        hostname: text(&service.key.hostname),
        addresses: service.vips.iter().map(vip).collect(),
        ports: service.ports.iter().map(service_port).collect(),
        subject_alt_names: service.subject_alt_names.iter().map(text).collect(),
        waypoint: service.waypoint.as_deref().map(gateway),
        load_balancing: load_balancing(&service.load_balancing),
        ip_families: match service.ip_families {
            IpFamilies::Automatic => pb::IpFamilies::Automatic,
            IpFamilies::V4Only => pb::IpFamilies::Ipv4Only,
            IpFamilies::V6Only => pb::IpFamilies::Ipv6Only,
            IpFamilies::Dual => pb::IpFamilies::Dual,
        }
        .into(),
        extensions: Vec::new(),
        canonical: service.canonical,
        ingress_use_waypoint: service.ingress_use_waypoint,
        weighted_waypoints: service
            .weighted_waypoints
            .iter()
            .map(|one| pb::WeightedWaypoint {
                destination: Some(gateway(&one.destination)),
                weight: one.weight,
            })
            .collect(),
        visibility: match service.visibility {
            Visibility::Public => pb::ServiceVisibility::Public,
            Visibility::Namespace => pb::ServiceVisibility::Namespace,
        }
        .into(),
    }
}

fn text(value: impl AsRef<str>) -> String {
    value.as_ref().to_owned()
}

fn ip(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn tunnel_protocol(protocol: TunnelProtocol) -> pb::TunnelProtocol {
    match protocol {
        TunnelProtocol::None => pb::TunnelProtocol::None,
        TunnelProtocol::Hbone => pb::TunnelProtocol::Hbone,
        TunnelProtocol::LegacyIstioMtls => pb::TunnelProtocol::LegacyIstioMtls,
    }
}

fn workload_type(kind: WorkloadType) -> pb::WorkloadType {
    match kind {
        WorkloadType::Deployment => pb::WorkloadType::Deployment,
        WorkloadType::CronJob => pb::WorkloadType::Cronjob,
        WorkloadType::Pod => pb::WorkloadType::Pod,
        WorkloadType::Job => pb::WorkloadType::Job,
    }
}

fn gateway(gateway: &GatewayAddress) -> pb::GatewayAddress {
    use pb::gateway_address::Destination;
    let destination = match &gateway.destination {
        GatewayDestination::Hostname(name) => Destination::Hostname(pb::NamespacedHostname {
            namespace: text(&name.namespace),
            hostname: text(&name.hostname),
        }),
        GatewayDestination::Address(at) => Destination::Address(pb::NetworkAddress {
            network: text(&at.network),
            address: ip(&at.address),
            length: None,
        }),
    };
    pb::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: gateway.hbone_mtls_port.into(),
    }
}

fn port_list(pairs: &[PortPair]) -> pb::PortList {
    let port = |pair: &PortPair| pb::Port {
        service_port: pair.service_port.into(),
        target_port: pair.target_port.into(),
        app_protocol: pb::AppProtocol::Unknown.into(),
    };
    pb::PortList {
        ports: pairs.iter().map(port).collect(),
    }
}

fn service_port(port: &ServicePort) -> pb::Port {
    let app_protocol = match port.app_protocol {
        AppProtocol::Unknown => pb::AppProtocol::Unknown,
        AppProtocol::Http11 => pb::AppProtocol::Http11,
        AppProtocol::Http2 => pb::AppProtocol::Http2,
        AppProtocol::Grpc => pb::AppProtocol::Grpc,
        AppProtocol::Tcp => pb::AppProtocol::Tcp,
        AppProtocol::Tls => pb::AppProtocol::Tls,
    };
    pb::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.into(),
        app_protocol: app_protocol.into(),
    }
}

fn application_tunnel(tunnel: ApplicationTunnel) -> pb::ApplicationTunnel {
    let protocol = match tunnel.protocol {
        ApplicationProtocol::None => pb::application_tunnel::Protocol::None,
        ApplicationProtocol::Proxy => pb::application_tunnel::Protocol::Proxy,
    };
    pb::ApplicationTunnel {
        protocol: protocol.into(),
        port: tunnel.port.into(),
    }
}

fn vip(vip: &Vip) -> pb::NetworkAddress {
    let length = (!vip.is_single()).then_some(u32::from(vip.range.prefix_len()));
    pb::NetworkAddress {
        network: text(&vip.network),
        address: ip(&vip.range.addr()),
        length,
    }
}

/// Left out when it says nothing, as istiod does.
fn load_balancing(balancing: &LoadBalancing) -> Option<pb::LoadBalancing> {
    use pb::load_balancing::{HealthPolicy, Mode as PbMode, Scope as PbScope};
    let scope = |scope: &Scope| match scope {
        Scope::Region => PbScope::Region,
        Scope::Zone => PbScope::Zone,
        Scope::Subzone => PbScope::Subzone,
        Scope::Node => PbScope::Node,
        Scope::Cluster => PbScope::Cluster,
        Scope::Network => PbScope::Network,
    };
    let mode = match balancing.mode {
        Mode::Unspecified => PbMode::UnspecifiedMode,
        Mode::Strict => PbMode::Strict,
        Mode::Failover => PbMode::Failover,
        Mode::Passthrough => PbMode::Passthrough,
    };
    let health_policy = match balancing.allow_unhealthy {
        true => HealthPolicy::AllowAll,
        false => HealthPolicy::OnlyHealthy,
    };
    (*balancing != LoadBalancing::default()).then(|| pb::LoadBalancing {
        routing_preference: balancing
            .scopes
            .iter()
            .map(|one| scope(one).into())
            .collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    })
}
