//! Workloads (endpoints) as WDS describes them, in plain values. Built by `xds::wds` and the control plane,
//! read by `state`, `balance`, `authz` and ztunnel's routing.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{identity::Identity, policy::PolicyName};

/// One endpoint: a pod, a WorkloadEntry, or an address without a pod. `Default` is the empty one, for
/// struct update syntax; a usable workload has at least `uid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Unique name and resource name: `cluster/group/kind/namespace/name`, see [`pod_uid`].
    pub uid: Arc<str>,
    /// Name of the pod (or of what stands in for it).
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Addresses on `network`; empty when only a gateway or a host name leads there.
    pub addresses: Box<[IpAddr]>,
    /// Name to be resolved when there are no addresses; empty = none.
    pub hostname: Arc<str>,
    /// Network id; empty is an ordinary id (the only network of most meshes).
    pub network: Arc<str>,
    /// Where traffic from other networks enters.
    pub network_gateway: Option<Arc<GatewayAddress>>,
    /// How to talk to it.
    pub tunnel_protocol: TunnelProtocol,
    /// The workload itself speaks HBONE (no ztunnel in front of it).
    pub native_tunnel: bool,
    /// Who it is; `None` when it has no service account, and then nobody may answer as it.
    /// Its namespace is `namespace`.
    pub identity: Option<Identity>,
    /// The waypoint for traffic addressed to the workload itself (not to a service).
    pub waypoint: Option<Arc<GatewayAddress>>,
    /// Kubernetes node; empty = unknown.
    pub node: Arc<str>,
    /// `service.istio.io/canonical-name` or what stands in for it (telemetry).
    pub canonical_name: Arc<str>,
    /// Canonical revision (telemetry).
    pub canonical_revision: Arc<str>,
    /// Kind of the owner, kept for old readers.
    pub workload_type: WorkloadType,
    /// Name of the owner, e.g. the Deployment.
    pub workload_name: Arc<str>,
    /// Cluster id.
    pub cluster_id: Arc<str>,
    /// Policies bound to it by selector, in the control plane's order.
    pub authorization_policies: Arc<[PolicyName]>,
    /// May receive traffic.
    pub healthy: bool,
    /// Services it backs, sorted by key, each once.
    pub services: Box<[ServicePorts]>,
    /// Its own tunnel to the application, if any.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Where it runs; `None` = nothing known.
    pub locality: Option<Arc<Locality>>,
    /// Host network: the address belongs to the node, never to this workload alone.
    pub network_mode: NetworkMode,
    /// Load balancing weight; 0 = receives nothing.
    pub capacity: u32,
}

/// Name of a service, and where a host name lies: `namespace/hostname`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NamespacedHostname {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Full host name, e.g. `echo.app.svc.cluster.local`.
    pub hostname: Arc<str>,
}

/// An address on a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkAddress {
    /// Network id.
    pub network: Arc<str>,
    /// The address.
    pub address: IpAddr,
}

/// Where a waypoint or a network gateway is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// Service or address.
    pub destination: GatewayDestination,
    /// Its HBONE port, usually 15008.
    pub hbone_mtls_port: u16,
}

/// The two ways to name a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// A service.
    Hostname(NamespacedHostname),
    /// A VIP or a pod's address.
    Address(NetworkAddress),
}

/// Ports of one service on one workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePorts {
    /// The service.
    pub service: NamespacedHostname,
    /// Service port to port of this workload, in the control plane's order.
    pub ports: Arc<[PortPair]>,
}

/// One line of a port map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPair {
    /// Port of the service.
    pub service_port: u16,
    /// Port of the workload; 0 = not said here.
    pub target_port: u16,
}

/// How bytes reach a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    None,
    /// HBONE on 15008.
    Hbone,
    /// mTLS of the sidecars; we treat it as plain TCP.
    LegacyIstioMtls,
}

/// Kind of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum WorkloadType {
    /// Deployment.
    #[default]
    Deployment,
    /// CronJob.
    CronJob,
    /// Pod: what every current control plane sends.
    Pod,
    /// Job.
    Job,
}

/// Whose address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum NetworkMode {
    /// The workload's own.
    #[default]
    Standard,
    /// The node's.
    HostNetwork,
}

/// A tunnel that ends in the application itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// What is spoken on it.
    pub protocol: ApplicationProtocol,
    /// Port it listens on; 0 = the port that was asked for.
    pub port: u16,
}

/// What an application tunnel speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum ApplicationProtocol {
    /// Plain bytes.
    #[default]
    None,
    /// PROXY protocol version 2 first.
    Proxy,
}

/// Where a workload runs; empty = unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Subzone.
    pub subzone: Arc<str>,
}

impl Workload {
    /// Ports of `service` on this workload, if it backs that service.
    #[must_use]
    pub fn ports_of(&self, service: &NamespacedHostname) -> Option<&ServicePorts> {
        let found = self
            .services
            .binary_search_by(|ports| ports.service.cmp(service))
            .ok()?;
        Some(&self.services[found])
    }

    /// Service account; empty when it has none.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.identity.as_ref().map_or("", Identity::service_account)
    }

    /// Whether it is a pod rather than an entry that somebody wrote (read off the uid).
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.uid.split('/').nth(2) == Some("Pod")
    }

    /// Whether an address alone may be read as this workload.
    #[must_use]
    pub fn owns_its_addresses(&self) -> bool {
        self.network_mode == NetworkMode::Standard
    }
}

impl Default for Workload {
    fn default() -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            uid: empty.clone(),
            name: empty.clone(),
            namespace: empty.clone(),
            addresses: Box::default(),
            hostname: empty.clone(),
            network: empty.clone(),
            network_gateway: None,
            tunnel_protocol: TunnelProtocol::None,
            native_tunnel: false,
            identity: None,
            waypoint: None,
            node: empty.clone(),
            canonical_name: empty.clone(),
            canonical_revision: empty.clone(),
            workload_type: WorkloadType::Pod,
            workload_name: empty.clone(),
            cluster_id: empty,
            authorization_policies: Arc::default(),
            healthy: true,
            services: Box::default(),
            application_tunnel: None,
            locality: None,
            network_mode: NetworkMode::Standard,
            capacity: 1,
        }
    }
}

impl NamespacedHostname {
    /// From its two parts.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, hostname: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.into(),
        }
    }
}

impl PortPair {
    /// From service port and target port.
    #[must_use]
    pub fn new(service_port: u16, target_port: u16) -> Self {
        Self {
            service_port,
            target_port,
        }
    }
}

/// The uid (and resource name) of a pod: `cluster//Pod/namespace/name`.
#[must_use]
pub fn pod_uid(cluster: &str, namespace: &str, name: &str) -> String {
    format!("{cluster}//Pod/{namespace}/{name}")
}

impl fmt::Display for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            GatewayDestination::Hostname(name) => write!(f, "{name}:{}", self.hbone_mtls_port),
            GatewayDestination::Address(at) => write!(f, "{at}:{}", self.hbone_mtls_port),
        }
    }
}
