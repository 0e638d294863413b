//! Kubernetes services to WDS services.

use std::net::IpAddr;

use objects::{Fault, IntOrString, Key, Kind, Service, ServicePort};
use proto::workload::{
    self as wds, Address, AppProtocol, IpFamilies, LoadBalancing, NetworkAddress, Port, address,
    load_balancing::{HealthPolicy, Mode, Scope},
};

use super::{Index, Mesh, binding};

const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";

/// `namespace/hostname`.
pub(super) fn resource_name(mesh: &Mesh, service: &Service) -> String {
    format!(
        "{}/{}",
        service.metadata.namespace,
        mesh.hostname(&service.metadata.namespace, &service.metadata.name)
    )
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Kubernetes' default protocol is TCP.
pub(super) fn is_tcp(protocol: &str) -> bool {
    matches!(protocol, "" | "TCP")
}

/// The WDS service; an `ExternalName` service has none.
pub(super) fn translate(
    index: &Index<'_>,
    service: &Service,
    faults: &mut Vec<Fault>,
) -> Option<(String, Address)> {
    let (meta, spec) = (&service.metadata, &service.spec);
    if spec.r#type == "ExternalName" {
        return None;
    }
    let key = Key::new(Kind::Service, &meta.namespace, &meta.name);
    let namespace = index.store.namespaces.find("", &meta.namespace);
    let ingress = meta
        .label(INGRESS_USE_WAYPOINT)
        .or_else(|| namespace.and_then(|namespace| namespace.metadata.label(INGRESS_USE_WAYPOINT)));
    let addresses = spec.addresses().into_iter();
    let binding = binding::of_service(index, service).told(&key, faults);
    let translated = wds::Service {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        hostname: index.mesh.hostname(&meta.namespace, &meta.name),
        addresses: addresses
            .map(|ip| NetworkAddress {
                network: index.mesh.network.clone(),
                address: octets(ip),
                length: None,
            })
            .collect(),
        ports: spec.ports.iter().map(port).collect(),
        waypoint: binding.address,
        weighted_waypoints: binding.weighted,
        load_balancing: load_balancing(index, service),
        ip_families: ip_families(service).into(),
        canonical: true,
        ingress_use_waypoint: ingress == Some("true"),
        ..wds::Service::default()
    };
    let address = Address {
        r#type: Some(address::Type::Service(translated)),
    };
    Some((resource_name(index.mesh, service), address))
}

fn port(port: &ServicePort) -> Port {
    let target_port = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => name.parse().unwrap_or(0),
    };
    Port {
        service_port: port.port.into(),
        target_port: target_port.into(),
        app_protocol: app_protocol(port).into(),
    }
}

/// The protocol of a port: `appProtocol`, else the prefix of its name, else the well-known TCP ports.
pub(crate) fn app_protocol(port: &ServicePort) -> AppProtocol {
    if !is_tcp(&port.protocol) {
        return AppProtocol::Unknown;
    }
    if !port.app_protocol.is_empty() {
        let text = match port.app_protocol.to_ascii_lowercase().as_str() {
            "kubernetes.io/h2c" => "http2".to_owned(),
            "kubernetes.io/ws" => "http".to_owned(),
            "kubernetes.io/wss" => "https".to_owned(),
            other => other.to_owned(),
        };
        return named_protocol(&text);
    }
    let prefix = port.name.split('-').next().unwrap_or_default();
    let grpc_web = port.name.starts_with("grpc-web");
    match named_protocol(if grpc_web { "grpc-web" } else { prefix }) {
        AppProtocol::Unknown if matches!(port.port, 25 | 53 | 3306 | 27017) => AppProtocol::Tcp,
        known => known,
    }
}

fn named_protocol(text: &str) -> AppProtocol {
    match text.to_ascii_lowercase().as_str() {
        "http" | "http_proxy" | "http-proxy" | "grpc-web" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "https" | "tls" => AppProtocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}

fn ip_families(service: &Service) -> IpFamilies {
    match service
        .spec
        .ip_families
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()[..]
    {
        ["IPv4"] => IpFamilies::Ipv4Only,
        ["IPv6"] => IpFamilies::Ipv6Only,
        [_, _] => IpFamilies::Dual,
        _ => IpFamilies::Automatic,
    }
}

fn load_balancing(index: &Index<'_>, service: &Service) -> Option<LoadBalancing> {
    let namespace = index.store.namespaces.find("", &service.metadata.namespace);
    let inherited =
        || namespace.and_then(|namespace| namespace.metadata.annotation(TRAFFIC_DISTRIBUTION));
    let spec = Some(service.spec.traffic_distribution.as_str()).filter(|text| !text.is_empty());
    let wish = spec
        .or_else(|| service.metadata.annotation(TRAFFIC_DISTRIBUTION))
        .or_else(inherited);
    let (mode, preference): (Mode, &[Scope]) = if service.spec.internal_traffic_policy == "Local" {
        (Mode::Strict, &[Scope::Node])
    } else {
        match wish {
            Some("PreferClose" | "PreferSameZone") => (
                Mode::Failover,
                &[Scope::Network, Scope::Region, Scope::Zone],
            ),
            Some("PreferSameNode") => (
                Mode::Failover,
                &[
                    Scope::Network,
                    Scope::Region,
                    Scope::Zone,
                    Scope::Subzone,
                    Scope::Node,
                ],
            ),
            _ => (Mode::UnspecifiedMode, &[]),
        }
    };
    let health = if service.spec.publish_not_ready_addresses {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    let balancing = LoadBalancing {
        routing_preference: preference.iter().map(|scope| i32::from(*scope)).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    };
    (balancing != LoadBalancing::default()).then_some(balancing)
}
