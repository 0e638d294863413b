//! Listeners: the tunnel's end, the choice of a chain, and the chains.

use super::access::AccessLog;
use super::{Rbac, RouteTable};
use http::header::HeaderValue;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// `connect_terminate`: where HBONE comes in.
#[derive(Debug, Clone)]
pub struct Terminate {
    /// Addresses to listen on.
    pub addresses: Vec<SocketAddr>,
    /// SPIFFE prefixes of which a client must have one; empty means any that chains to the roots.
    pub peers: Vec<super::cluster::PeerPrefix>,
    /// Streams per connection.
    pub max_streams: u32,
    /// Longest head of a CONNECT in bytes; `None` is hbone's own limit, and no more than that in any case.
    pub max_head: Option<u32>,
    /// Ping after this long without traffic, and the patience for its answer.
    pub keepalive: Option<(Duration, Duration)>,
    /// Filters that judge the CONNECT itself.
    pub rbac: Vec<Rbac>,
    /// Lines about CONNECTs that get no tunnel.
    pub access: Vec<AccessLog>,
}

/// `main_internal`: what happens inside the tunnel.
#[derive(Debug, Clone, Default)]
pub struct Inbound {
    /// Matcher over `host:port` authorities.
    pub authorities: HashMap<String, PortMatch>,
    /// Matcher over destination addresses.
    pub addresses: Vec<(IpNet, PortMatch)>,
    /// Chains by name.
    pub chains: HashMap<Arc<str>, Arc<Chain>>,
}

/// What is asked after the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortMatch {
    /// By port.
    pub ports: HashMap<u16, Protocols>,
    /// Any other port.
    pub other: Option<Protocols>,
}

/// Chains by application protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protocols {
    /// For HTTP/1.
    pub http1: Option<Arc<str>>,
    /// For HTTP/2 with prior knowledge.
    pub http2: Option<Arc<str>>,
    /// For anything else.
    pub other: Option<Arc<str>>,
}

impl Protocols {
    /// The same chain whatever is spoken.
    pub fn always(chain: Arc<str>) -> Self {
        Self {
            http1: Some(chain.clone()),
            http2: Some(chain.clone()),
            other: Some(chain),
        }
    }

    /// The chain, if the bytes need not be looked at.
    pub fn fixed(&self) -> Option<&Arc<str>> {
        let chain = self.other.as_ref()?;
        (self.http1.as_ref() == Some(chain) && self.http2.as_ref() == Some(chain)).then_some(chain)
    }
}

impl Inbound {
    /// The chains for a CONNECT authority, or for the address it names.
    pub fn choose(&self, authority: &str, ip: Option<IpAddr>, port: u16) -> Option<&Protocols> {
        let found = match self.authorities.get(authority) {
            Some(found) => Some(found),
            None => self.by_address(ip?),
        }?;
        found.ports.get(&port).or(found.other.as_ref())
    }

    /// Longest prefix first; the first of equals.
    fn by_address(&self, ip: IpAddr) -> Option<&PortMatch> {
        let mut best: Option<&(IpNet, PortMatch)> = None;
        for entry in &self.addresses {
            let longer = best.is_none_or(|(net, _)| entry.0.prefix_len() > net.prefix_len());
            if longer && entry.0.contains(&ip) {
                best = Some(entry);
            }
        }
        best.map(|(_, ports)| ports)
    }
}

/// One filter chain.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Its name.
    pub name: Arc<str>,
    /// Hash of the bytes it was compiled from: equal means unchanged.
    pub hash: u64,
    /// What it does.
    pub kind: ChainKind,
}

/// HTTP or TCP.
#[derive(Debug, Clone)]
pub enum ChainKind {
    /// Requests.
    Http(Box<HttpChain>),
    /// Bytes.
    Tcp(TcpChain),
}

/// A chain of bytes.
#[derive(Debug, Clone)]
pub struct TcpChain {
    /// Judged once, in order, before any byte is sent.
    pub rbac: Vec<Rbac>,
    /// Clusters and weights.
    pub targets: Vec<(Arc<str>, u32)>,
    /// Close after this long without a byte; `None` never.
    pub idle_timeout: Option<Duration>,
    /// Close after this long in any case.
    pub max_duration: Option<Duration>,
    /// Lines at the end.
    pub access: Vec<AccessLog>,
    /// Count it in Istio's metrics.
    pub metrics: bool,
}

/// A chain of requests.
#[derive(Debug, Clone)]
pub struct HttpChain {
    /// The route table, or its RDS name.
    pub routes: RouteSource,
    /// In order; the router is the end and not in the list.
    pub filters: Vec<HttpFilter>,
    /// Collapse `.` and `..` and normalise escapes.
    pub normalize_path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What `%2F` and `%5C` mean.
    pub escaped_slashes: EscapedSlashes,
    /// Value of `server`.
    pub server: HeaderValue,
    /// When it is set.
    pub server_mode: ServerMode,
    /// Allow websocket.
    pub websocket: bool,
    /// Longest request head in bytes (60 KiB).
    pub max_head: usize,
    /// Close a connection after this long without a request.
    pub idle_timeout: Option<Duration>,
    /// End a stream that made no progress for this long.
    pub stream_idle_timeout: Option<Duration>,
    /// Take HTTP/1.0 requests.
    pub http10: bool,
    /// Lines at the end of each request.
    pub access: Vec<AccessLog>,
    /// Count in Istio's metrics.
    pub metrics: bool,
    /// Keep `x-envoy-*` answers to the client (the router's `suppress_envoy_headers` is off).
    pub envoy_headers: bool,
}

/// Inline routes, or routes from RDS.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// In the listener.
    Inline(Arc<RouteTable>),
    /// From RDS.
    Named(Arc<str>),
}

/// One HTTP filter before the router.
#[derive(Debug, Clone)]
pub enum HttpFilter {
    /// Authorization.
    Rbac(Arc<Rbac>),
    /// Fault injection, set per route.
    Fault,
    /// Cross-origin rules, set per route.
    Cors,
}

/// `path_with_escaped_slashes_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left as they are.
    Keep,
    /// The request is refused.
    Reject,
    /// Unescaped, then redirected.
    Redirect,
    /// Unescaped, then forwarded.
    Forward,
}

/// `server_header_transformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMode {
    /// Always ours.
    Overwrite,
    /// Ours if the upstream named none.
    IfAbsent,
    /// Never ours.
    PassThrough,
}
