//! Clusters and endpoints: where requests can go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub balance: Balance,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Limits.
    pub limits: Limits,
    /// Ejection of endpoints that answer badly.
    pub outlier: Option<Outlier>,
    /// Below this share of healthy endpoints all are used; 0 never.
    pub panic_percent: u32,
    /// HTTP/1.1, HTTP/2, or as the client.
    pub http: UpstreamHttp,
    /// Close an idle upstream connection after this long.
    pub idle_timeout: Option<Duration>,
    /// Requests per upstream connection; `None` has no limit.
    pub max_requests_per_connection: Option<u32>,
    /// The service behind it, for telemetry.
    pub service: ServiceName,
    /// For the tunnel cluster: identities that the next hop may have.
    pub peers: Vec<PeerPrefix>,
    /// Endpoints that speak Istio's own TLS are to be reached so. We do not speak it: they are left out.
    pub mutual_tls: bool,
}

/// Host, name and namespace of the service behind a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceName {
    /// Host name.
    pub host: Arc<str>,
    /// Short name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// EDS, under this name.
    Eds(Arc<str>),
    /// Written in the cluster.
    Static(Arc<Endpoints>),
    /// The address that the client asked for, through a tunnel.
    Passthrough,
    /// One of the fixed parts of the pipeline, never a target of a route.
    Fixed,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The less busy of this many drawn at random.
    LeastRequest(u32),
    /// In turn, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
}

/// Protocol towards the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamHttp {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the client speaks.
    AsClient,
}

/// Circuit breakers (`u32::MAX` has no limit), counted over the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open upstream connections (TCP chains: streams).
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests under way.
    pub requests: u32,
    /// Retries under way.
    pub retries: u32,
    /// Retries under way as a percentage of requests, and a floor; replaces `retries`.
    pub budget: Option<(u32, u32)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending: 1024,
            requests: 1024,
            retries: 3,
            budget: None,
        }
    }
}

/// Ejection by consecutive failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// 5xx answers (or none) in a row that eject; `None` does not count them.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503, 504 (or none) in a row that eject.
    pub consecutive_gateway: Option<u32>,
    /// First ejection lasts this long, the n-th n times as long.
    pub base: Duration,
    /// Ceiling of an ejection.
    pub max: Duration,
    /// At most this share of endpoints is ejected (always at least one).
    pub max_percent: u32,
}

/// A prefix that a SPIFFE URI must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPrefix(pub String);

/// The endpoints of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// EDS name.
    pub name: Arc<str>,
    /// All of them; lower priority numbers are used first.
    pub endpoints: Vec<Endpoint>,
    /// Envoy's overprovisioning factor in percent (140).
    pub overprovisioning: u32,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How it is reached.
    pub target: Target,
    /// Its health as told.
    pub health: Health,
    /// Its weight, times that of its locality.
    pub weight: u32,
    /// 0 first.
    pub priority: u32,
    /// A sidecar behind which nothing but Istio's own TLS is sure to come in.
    pub mutual_tls: bool,
    /// Who it is, for telemetry: name, namespace, canonical name, revision, cluster.
    pub workload: WorkloadName,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A plain TCP connection.
    Plain(SocketAddr),
    /// Through HBONE to the node or waypoint that serves it.
    Tunnel {
        /// Authority of the CONNECT.
        address: SocketAddr,
        /// Where the tunnel goes, when not to `address`'s host.
        via: Option<SocketAddr>,
    },
    /// Through two tunnels, across networks; the inner authority.
    Double(Arc<str>, SocketAddr),
    /// To the address that the client asked for, through HBONE.
    Original,
}

/// Health of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Use it.
    Healthy,
    /// Use it only in panic or when all else is worse.
    Degraded,
    /// Do not use it.
    Unhealthy,
}

/// Telemetry name of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadName {
    /// Workload name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Canonical service.
    pub canonical: Arc<str>,
    /// Canonical revision.
    pub revision: Arc<str>,
    /// Cluster id.
    pub cluster: Arc<str>,
}
