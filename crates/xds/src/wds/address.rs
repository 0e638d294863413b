//! Workloads and services: message to model. Called by `wds::Decoder`.

use std::sync::Arc;

use mesh::{
    identity::Identity,
    policy::PolicyName,
    service::{
        AppProtocol, IpFamilies, LoadBalancing, Mode, Scope, Service, ServicePort, Vip, Visibility,
        WeightedWaypoint,
    },
    workload::{
        ApplicationProtocol, ApplicationTunnel, GatewayAddress, GatewayDestination, Locality,
        NamespacedHostname, NetworkAddress, NetworkMode, PortPair, ServicePorts, TunnelProtocol,
        Workload, WorkloadType,
    },
};
use proto::workload as pb;

use super::{
    field::{self, FieldError, Result},
    intern::Interner,
};

/// What an empty trust domain on the wire means.
pub(super) const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// One line per field: long, but flat.
pub(super) fn workload(interner: &mut Interner, message: &pb::Workload) -> Result<Workload> {
    Ok(Workload {
        uid: field::required("uid", &message.uid)?.into(),
        // Like the uid hardly ever shared: not interned.
        name: (&*message.name).into(),
        namespace: interner.string(&message.namespace),
        addresses: field::each("addresses", &message.addresses, |bytes| field::ip(bytes))?,
        hostname: interner.string(&message.hostname),
        network: interner.string(&message.network),
        network_gateway: gateway(
            interner,
            "network_gateway",
            message.network_gateway.as_ref(),
        )?,
        tunnel_protocol: tunnel_protocol(message.tunnel_protocol)?,
        native_tunnel: message.native_tunnel,
        identity: identity(interner, message)?,
        waypoint: gateway(interner, "waypoint", message.waypoint.as_ref())?,
        node: interner.string(&message.node),
        canonical_name: interner.string(&message.canonical_name),
        canonical_revision: interner.string(&message.canonical_revision),
        workload_type: workload_type(message.workload_type),
        workload_name: interner.string(&message.workload_name),
        cluster_id: interner.string(&message.cluster_id),
        authorization_policies: policies(interner, &message.authorization_policies)?,
        healthy: field::known("status", message.status)
            .map(|s: pb::WorkloadStatus| s == pb::WorkloadStatus::Healthy)?,
        services: services(interner, message)?,
        application_tunnel: message
            .application_tunnel
            .as_ref()
            .map(application_tunnel)
            .transpose()?,
        locality: message
            .locality
            .as_ref()
            .map(|message| locality(interner, message)),
        network_mode: match field::known("network_mode", message.network_mode)? {
            pb::NetworkMode::Standard => NetworkMode::Standard,
            pb::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
        },
        capacity: message.capacity.unwrap_or(1),
    })
}

/// One line per field: long, but flat.
pub(super) fn service(interner: &mut Interner, message: &pb::Service) -> Result<Service> {
    let hostname = field::required("hostname", &message.hostname)?;
    Ok(Service {
        key: NamespacedHostname::new(
            interner.string(&message.namespace),
            interner.string(hostname),
        ),
        name: interner.string(&message.name),
        vips: field::each("addresses", &message.addresses, |address| {
            vip(interner, address)
        })?,
        ports: field::each("ports", &message.ports, service_port)?,
        subject_alt_names: message
            .subject_alt_names
            .iter()
            .map(|name| interner.string(name))
            .collect(),
        waypoint: gateway(interner, "waypoint", message.waypoint.as_ref())?,
        weighted_waypoints: field::each(
            "weighted_waypoints",
            &message.weighted_waypoints,
            |one| weighted_waypoint(interner, one),
        )?,
        load_balancing: load_balancing(message.load_balancing.as_ref())
            .map_err(|e| e.at("load_balancing"))?,
        ip_families: match field::known("ip_families", message.ip_families)? {
            pb::IpFamilies::Automatic => IpFamilies::Automatic,
            pb::IpFamilies::Ipv4Only => IpFamilies::V4Only,
            pb::IpFamilies::Ipv6Only => IpFamilies::V6Only,
            pb::IpFamilies::Dual => IpFamilies::Dual,
        },
        canonical: message.canonical,
        ingress_use_waypoint: message.ingress_use_waypoint,
        visibility: match field::known("visibility", message.visibility)? {
            pb::ServiceVisibility::Public => Visibility::Public,
            pb::ServiceVisibility::Namespace => Visibility::Namespace,
        },
    })
}

/// The addresses of a workload that was refused, as far as they can be read. None on the host network: they are the
/// node's.
pub(super) fn claimed_by_workload(message: &pb::Workload) -> Vec<Vip> {
    if message.network_mode == i32::from(pb::NetworkMode::HostNetwork) {
        return Vec::new();
    }
    let addresses = message.addresses.iter().filter_map(|b| field::ip(b).ok());
    addresses
        .map(|address| Vip::address(&*message.network, address))
        .collect()
}

/// The same of a service.
pub(super) fn claimed_by_service(message: &pb::Service) -> Vec<Vip> {
    let readable = message.addresses.iter().filter_map(|claimed| {
        let range = field::range(&claimed.address, claimed.length).ok()?;
        let network = (&*claimed.network).into();
        Some(Vip { network, range })
    });
    readable.collect()
}

fn tunnel_protocol(value: i32) -> Result<TunnelProtocol> {
    Ok(match field::known("tunnel_protocol", value)? {
        pb::TunnelProtocol::None => TunnelProtocol::None,
        pb::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
        pb::TunnelProtocol::LegacyIstioMtls => TunnelProtocol::LegacyIstioMtls,
    })
}

/// Telemetry only: a kind that we do not know is no reason to refuse a workload.
fn workload_type(value: i32) -> WorkloadType {
    match pb::WorkloadType::try_from(value) {
        Ok(pb::WorkloadType::Deployment) => WorkloadType::Deployment,
        Ok(pb::WorkloadType::Cronjob) => WorkloadType::CronJob,
        Ok(pb::WorkloadType::Job) => WorkloadType::Job,
        Ok(pb::WorkloadType::Pod) | Err(_) => WorkloadType::Pod,
    }
}

/// Without a service account there is no identity.
fn identity(interner: &mut Interner, message: &pb::Workload) -> Result<Option<Identity>> {
    if message.service_account.is_empty() {
        return Ok(None);
    }
    let trust_domain = match &*message.trust_domain {
        "" => DEFAULT_TRUST_DOMAIN,
        other => other,
    };
    let identity = Identity::new(trust_domain, &message.namespace, &message.service_account);
    let identity =
        identity.map_err(|error| FieldError::new(error.to_string()).at("service_account"))?;
    Ok(Some(interner.identity(&identity)))
}

fn policies(interner: &mut Interner, names: &[String]) -> Result<Arc<[PolicyName]>> {
    let names: Vec<_> = field::each("authorization_policies", names, |name| {
        let name = super::policy::name(field::required("name", name)?);
        Ok(PolicyName::new(
            interner.string(&name.namespace),
            interner.string(&name.name),
        ))
    })?;
    Ok(interner.policies(names))
}

fn services(interner: &mut Interner, message: &pb::Workload) -> Result<Box<[ServicePorts]>> {
    let convert = |(key, list): (&String, &pb::PortList)| {
        let error =
            |problem: FieldError| problem.at(format_args!("services[{}]", field::quoted(key)));
        let parts = key
            .split_once('/')
            .filter(|(_, hostname)| !hostname.is_empty());
        let (namespace, hostname) = parts.ok_or_else(|| {
            error(FieldError::new(
                "the key is not of the form namespace/hostname",
            ))
        })?;
        let pairs: Vec<_> = field::each("ports", &list.ports, port_pair).map_err(error)?;
        Ok(ServicePorts {
            service: NamespacedHostname::new(interner.string(namespace), interner.string(hostname)),
            ports: interner.ports(&pairs),
        })
    };
    let services: Result<Vec<_>> = message.services.iter().map(convert).collect();
    let mut services = services?;
    // On the wire they are in the order of their text, in which `a-b/h` comes before `a/h`.
    services.sort_by(|a, b| a.service.cmp(&b.service));
    Ok(services.into())
}

fn port_pair(message: &pb::Port) -> Result<PortPair> {
    Ok(PortPair {
        service_port: field::port("service_port", message.service_port)?,
        target_port: field::port_or_zero("target_port", message.target_port)?,
    })
}

fn service_port(message: &pb::Port) -> Result<ServicePort> {
    let PortPair {
        service_port,
        target_port,
    } = port_pair(message)?;
    Ok(ServicePort {
        service_port,
        target_port,
        app_protocol: app_protocol(message.app_protocol),
    })
}

/// A hint: one that we do not know is as good as none.
fn app_protocol(value: i32) -> AppProtocol {
    match pb::AppProtocol::try_from(value) {
        Ok(pb::AppProtocol::Http11) => AppProtocol::Http11,
        Ok(pb::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(pb::AppProtocol::Grpc) => AppProtocol::Grpc,
        Ok(pb::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(pb::AppProtocol::Tls) => AppProtocol::Tls,
        Ok(pb::AppProtocol::Unknown) | Err(_) => AppProtocol::Unknown,
    }
}

fn application_tunnel(message: &pb::ApplicationTunnel) -> Result<ApplicationTunnel> {
    let convert = || {
        Ok(ApplicationTunnel {
            protocol: match field::known("protocol", message.protocol)? {
                pb::application_tunnel::Protocol::None => ApplicationProtocol::None,
                pb::application_tunnel::Protocol::Proxy => ApplicationProtocol::Proxy,
            },
            port: field::port_or_zero("port", message.port)?,
        })
    };
    convert().map_err(|error: FieldError| error.at("application_tunnel"))
}

fn locality(interner: &mut Interner, message: &pb::Locality) -> Arc<Locality> {
    let locality = Locality {
        region: interner.string(&message.region),
        zone: interner.string(&message.zone),
        subzone: interner.string(&message.subzone),
    };
    interner.locality(locality)
}

fn vip(interner: &mut Interner, message: &pb::NetworkAddress) -> Result<Vip> {
    let range = field::range(&message.address, message.length)?;
    Ok(Vip {
        network: interner.string(&message.network),
        range,
    })
}

fn weighted_waypoint(
    interner: &mut Interner,
    message: &pb::WeightedWaypoint,
) -> Result<WeightedWaypoint> {
    let destination = gateway(interner, "destination", message.destination.as_ref())?;
    let destination = destination.ok_or_else(|| FieldError::new("is missing").at("destination"))?;
    Ok(WeightedWaypoint {
        destination,
        weight: message.weight,
    })
}

fn gateway(
    interner: &mut Interner,
    field: &'static str,
    message: Option<&pb::GatewayAddress>,
) -> Result<Option<Arc<GatewayAddress>>> {
    let convert = |message| gateway_address(interner, message).map_err(|error| error.at(field));
    message.map(convert).transpose()
}

fn gateway_address(
    interner: &mut Interner,
    message: &pb::GatewayAddress,
) -> Result<Arc<GatewayAddress>> {
    use pb::gateway_address::Destination;
    let destination = match &message.destination {
        // A waypoint that cannot be read must not look like no waypoint: refused, never dropped.
        None => return Err(FieldError::new("is missing").at("destination")),
        Some(Destination::Hostname(name)) => {
            let hostname =
                field::required("hostname", &name.hostname).map_err(|e| e.at("hostname"))?;
            let (namespace, hostname) =
                (interner.string(&name.namespace), interner.string(hostname));
            GatewayDestination::Hostname(NamespacedHostname {
                namespace,
                hostname,
            })
        }
        Some(Destination::Address(at)) => {
            let address = field::ip(&at.address).map_err(|error| error.at("address.address"))?;
            GatewayDestination::Address(NetworkAddress {
                network: interner.string(&at.network),
                address,
            })
        }
    };
    let hbone_mtls_port = field::port("hbone_mtls_port", message.hbone_mtls_port)?;
    Ok(interner.gateway(GatewayAddress {
        destination,
        hbone_mtls_port,
    }))
}

fn load_balancing(message: Option<&pb::LoadBalancing>) -> Result<LoadBalancing> {
    use pb::load_balancing::{HealthPolicy, Mode as PbMode};
    let Some(message) = message else {
        return Ok(LoadBalancing::default());
    };
    Ok(LoadBalancing {
        scopes: field::each("routing_preference", &message.routing_preference, |value| {
            scope(*value)
        })?,
        mode: match field::known("mode", message.mode)? {
            PbMode::UnspecifiedMode => Mode::Unspecified,
            PbMode::Strict => Mode::Strict,
            PbMode::Failover => Mode::Failover,
            PbMode::Passthrough => Mode::Passthrough,
        },
        allow_unhealthy: field::known("health_policy", message.health_policy)
            .map(|policy: HealthPolicy| policy == HealthPolicy::AllowAll)?,
    })
}

fn scope(value: i32) -> Result<Scope> {
    use pb::load_balancing::Scope as PbScope;
    match PbScope::try_from(value) {
        Ok(PbScope::Region) => Ok(Scope::Region),
        Ok(PbScope::Zone) => Ok(Scope::Zone),
        Ok(PbScope::Subzone) => Ok(Scope::Subzone),
        Ok(PbScope::Node) => Ok(Scope::Node),
        Ok(PbScope::Cluster) => Ok(Scope::Cluster),
        Ok(PbScope::Network) => Ok(Scope::Network),
        Ok(PbScope::UnspecifiedScope) | Err(_) => {
            Err(FieldError::new(format!("{value} is not a known value")))
        }
    }
}
