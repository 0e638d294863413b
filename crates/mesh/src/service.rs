//! Services as WDS describes them, in plain values. Built by `xds::wds` and the control plane, read by
//! `state`, `balance`, ztunnel's routing and DNS.

use std::sync::Arc;

use ipnet::IpNet;

use crate::workload::{GatewayAddress, NamespacedHostname};

/// One service: a Kubernetes Service or one host of a ServiceEntry. `Default` is the empty one, for struct
/// update syntax.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Its key and resource name.
    pub key: NamespacedHostname,
    /// Name of the Kubernetes object.
    pub name: Arc<str>,
    /// Addresses under which it is called.
    pub vips: Box<[Vip]>,
    /// Ports, in the control plane's order; one number may stand twice (UDP and TCP).
    pub ports: Box<[ServicePort]>,
    /// Further identities that may answer for it.
    pub subject_alt_names: Box<[Arc<str>]>,
    /// The waypoint that traffic to this service passes.
    pub waypoint: Option<Arc<GatewayAddress>>,
    /// Canary waypoints with weights; not empty = used instead of `waypoint`.
    pub weighted_waypoints: Box<[WeightedWaypoint]>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Which address families endpoints are called on.
    pub ip_families: IpFamilies,
    /// The one that stands for this host name, where several namespaces claim it.
    pub canonical: bool,
    /// Gateways send to its waypoint as well.
    pub ingress_use_waypoint: bool,
    /// Who may see it.
    pub visibility: Visibility,
}

/// Addresses that lead to a service: one address (full prefix length) or a range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// Network id.
    pub network: Arc<str>,
    /// The address, with the full prefix length unless it is a range.
    pub range: IpNet,
}

/// One port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Port of the service.
    pub service_port: u16,
    /// Port of the endpoints; 0 = each endpoint says.
    pub target_port: u16,
    /// What is spoken on it, as far as the control plane knows.
    pub app_protocol: AppProtocol,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum AppProtocol {
    /// Not known.
    #[default]
    Unknown,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Any TCP.
    Tcp,
    /// TLS from the application.
    Tls,
}

/// A waypoint with its share of the connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub destination: Arc<GatewayAddress>,
    /// Share, relative to the sum of all.
    pub weight: u32,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct LoadBalancing {
    /// What must or should be equal between caller and endpoint, most important first.
    pub scopes: Box<[Scope]>,
    /// What the scopes mean.
    pub mode: Mode,
    /// Unhealthy endpoints are used as well.
    pub allow_unhealthy: bool,
}

/// Something that caller and endpoint may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Same region.
    Region,
    /// Same zone.
    Zone,
    /// Same subzone.
    Subzone,
    /// Same node.
    Node,
    /// Same cluster.
    Cluster,
    /// Same network.
    Network,
}

/// What the scopes of a [`LoadBalancing`] mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Mode {
    /// Scopes are ignored.
    #[default]
    Unspecified,
    /// Only endpoints that share all scopes.
    Strict,
    /// Those endpoints that share most scopes, counted from the first until one differs.
    Failover,
    /// No choice: the original destination is called.
    Passthrough,
}

/// Address families of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum IpFamilies {
    /// As the caller came.
    #[default]
    Automatic,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// Both; as the caller came, if possible.
    Dual,
}

/// Who may see a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Visibility {
    /// Everybody.
    #[default]
    Public,
    /// Its own namespace.
    Namespace,
}

impl Service {
    /// The port with that number; of two (UDP and TCP) the last, as upstream.
    #[must_use]
    pub fn port(&self, service_port: u16) -> Option<&ServicePort> {
        self.ports
            .iter()
            .rev()
            .find(|port| port.service_port == service_port)
    }

    /// Whether callers of `namespace` may see it.
    #[must_use]
    pub fn visible_to(&self, namespace: &str) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => *self.key.namespace == *namespace,
        }
    }
}

impl Vip {
    /// A single address.
    #[must_use]
    pub fn address(network: impl Into<Arc<str>>, address: std::net::IpAddr) -> Self {
        Self {
            network: network.into(),
            range: address.into(),
        }
    }

    /// Whether it is one address rather than a range.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.range.prefix_len() == self.range.max_prefix_len()
    }
}
