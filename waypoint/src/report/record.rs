//! The record of one request or TCP connection while it runs; dropping it reports it, so that none is lost.

use super::Reporter;
use super::metrics::{Alike, Labels};
use crate::cluster::{Host, Live};
use crate::format::{Facts, Name, Operator, State, iso_time};
use crate::model::cluster::Target;
use crate::model::listener::{Chain, ChainKind};
use crate::reason::Reason;
use crate::tunnel::Tunnel;
use crate::upload::Upload;
use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is known of where a request or connection went.
#[derive(Default, Clone)]
pub struct Went {
    /// The cluster.
    pub live: Option<Arc<Live>>,
    /// The endpoint.
    pub host: Option<Arc<Host>>,
    /// Its address as logs show it.
    pub address: Option<String>,
}

/// One request.
pub struct Record {
    reporter: Reporter,
    chain: Arc<Chain>,
    /// The tunnel it came through.
    pub tunnel: Arc<Tunnel>,
    started: Instant,
    wall: u64,
    /// `GET` and so on.
    pub method: http::Method,
    /// As it came, with the query.
    pub path: String,
    /// As it came.
    pub authority: String,
    /// `HTTP/1.1`.
    pub protocol: &'static str,
    /// As they went up.
    pub request: HeaderMap,
    /// As they went down.
    pub response: HeaderMap,
    /// Of the answer.
    pub status: u16,
    /// Envoy's flags.
    pub flags: &'static str,
    /// Envoy's details.
    pub details: String,
    /// What the transport said.
    pub transport: Option<String>,
    /// Of the chosen route.
    pub route: Arc<str>,
    /// Where it went.
    pub went: Went,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Is it a gRPC call?
    pub grpc: bool,
    /// The call's status, from head or trailers.
    pub grpc_status: Option<u32>,
    /// The request's body.
    pub upload: Option<Upload>,
    silent: bool,
}

impl Record {
    /// A record that begins now.
    pub fn begin(
        reporter: Reporter,
        chain: Arc<Chain>,
        tunnel: Arc<Tunnel>,
        head: &http::request::Parts,
    ) -> Self {
        let protocol = match head.version {
            http::Version::HTTP_10 => "HTTP/1.0",
            http::Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        };
        Self {
            reporter,
            chain,
            tunnel,
            started: Instant::now(),
            wall: wall_millis(),
            method: head.method.clone(),
            path: String::new(),
            authority: String::new(),
            protocol,
            request: HeaderMap::new(),
            response: HeaderMap::new(),
            status: 0,
            // Until there is an answer: a client that leaves before has left.
            flags: "DC",
            details: "downstream_remote_disconnect".into(),
            transport: None,
            route: "".into(),
            went: Went::default(),
            sent: 0,
            grpc: crate::route::is_grpc(&head.headers),
            grpc_status: None,
            upload: None,
            silent: false,
        }
    }

    /// Notes that we answer ourselves, and why.
    pub fn local(&mut self, reason: &Reason) {
        self.status = reason.status().as_u16();
        self.flags = reason.flag();
        self.details = reason.details();
        self.transport = reason.transport().map(str::to_owned);
    }

    /// This record is not reported: another one tells of the same request.
    pub fn silence(&mut self) {
        self.silent = true;
    }

    /// Since the request's head came.
    pub fn elapsed(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    fn logs(&self) -> &[crate::model::access::AccessLog] {
        match &self.chain.kind {
            ChainKind::Http(chain) => &chain.access,
            ChainKind::Tcp(chain) => &chain.access,
        }
    }

    fn labels(&self) -> Labels {
        let mut labels = peer_labels(&self.tunnel, &self.went);
        labels.push((
            "request_protocol",
            if self.grpc { "grpc" } else { "http" }.into(),
        ));
        labels.push(("response_code", self.status.to_string()));
        // Codes end at 16; anything else would be a series for each number that an application makes up.
        let grpc = self.grpc_status.map(|code| match code {
            0..=16 => code.to_string(),
            _ => "unknown".to_owned(),
        });
        labels.push(("grpc_response_status", grpc.unwrap_or_default()));
        labels.push(("response_flags", dash(self.flags)));
        labels.push(("connection_security_policy", "mutual_tls".into()));
        labels
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.silent {
            return;
        }
        let counted = matches!(&self.chain.kind, ChainKind::Http(chain) if chain.metrics);
        if counted {
            let answer = (self.status, self.grpc, self.grpc_status, self.flags);
            let (live, host) = (self.went.live.clone(), self.went.host.clone());
            let make = || {
                let labels = self.labels();
                self.tunnel.note(&labels);
                self.reporter.metrics.series(&labels)
            };
            let series = self
                .tunnel
                .series
                .series(Alike { live, host, answer }, make);
            series.requests.inc();
            series.duration.observe(self.elapsed().as_secs_f64() * 1e3);
            let received = self.upload.as_ref().map_or(0, Upload::bytes);
            series.request_bytes.observe(received as f64);
            series.response_bytes.observe(self.sent as f64);
        }
        self.reporter
            .log(self.logs(), self.status, self.flags, self);
    }
}

impl Facts for Record {
    fn fact(&self, operator: &Operator) -> Option<Cow<'_, str>> {
        let text = |text: String| Some(Cow::Owned(text));
        match operator {
            Operator::StartTime => text(iso_time(self.wall)),
            Operator::Protocol => Some(self.protocol.into()),
            Operator::ResponseCode => text(self.status.to_string()),
            Operator::ResponseFlags => Some(self.flags.into()),
            Operator::ResponseCodeDetails => Some(self.details.as_str().into()),
            Operator::UpstreamFailure => self.transport.as_deref().map(Cow::Borrowed),
            Operator::BytesReceived => {
                text(self.upload.as_ref().map_or(0, Upload::bytes).to_string())
            }
            Operator::BytesSent => text(self.sent.to_string()),
            Operator::Duration => text(self.elapsed().as_millis().to_string()),
            Operator::RouteName => Some((*self.route).into()),
            other => place(&self.tunnel, &self.went, other),
        }
    }

    fn pseudo(&self, name: &Name) -> Option<Cow<'_, str>> {
        match name {
            Name::Method => Some(self.method.as_str().into()),
            Name::Path => Some(self.path.as_str().into()),
            Name::Authority => Some(self.authority.as_str().into()),
            Name::Scheme => Some("http".into()),
            Name::Status => Some(self.status.to_string().into()),
            Name::Header(_) => None,
        }
    }

    fn request(&self) -> Option<&HeaderMap> {
        Some(&self.request)
    }

    fn response(&self) -> Option<&HeaderMap> {
        Some(&self.response)
    }
}

/// One TCP connection.
pub struct TcpRecord {
    reporter: Reporter,
    chain: Arc<Chain>,
    /// The tunnel it came through.
    pub tunnel: Arc<Tunnel>,
    started: Instant,
    wall: u64,
    /// Where it went.
    pub went: Went,
    /// Bytes both ways, seen from the client's side.
    pub count: Arc<crate::io::Count>,
    /// Envoy's flags.
    pub flags: &'static str,
    /// Why it was closed, where that is our doing.
    pub termination: Option<String>,
    /// What the transport said.
    pub transport: Option<String>,
    meter: Option<Arc<Meter>>,
}

impl TcpRecord {
    /// A record that begins now.
    pub fn begin(reporter: Reporter, chain: Arc<Chain>, tunnel: Arc<Tunnel>) -> Self {
        Self {
            reporter,
            chain,
            tunnel,
            started: Instant::now(),
            wall: wall_millis(),
            went: Went::default(),
            count: Arc::default(),
            flags: "",
            termination: None,
            transport: None,
            meter: None,
        }
    }

    /// The connection to the endpoint is there: it is counted as opened. Yields what its bytes are told with while it
    /// lives, if they are to be counted.
    pub fn opened(&mut self) -> Option<Arc<Meter>> {
        self.chain_metrics()?;
        let labels = self.labels("");
        self.tunnel.note(&labels);
        let metrics = &self.reporter.metrics;
        metrics.opened.get_or_create(&labels).inc();
        let meter = Arc::new(Meter {
            count: self.count.clone(),
            received: Told(metrics.received.get_or_create_owned(&labels), 0.into()),
            sent: Told(metrics.sent.get_or_create_owned(&labels), 0.into()),
        });
        self.meter = Some(meter.clone());
        Some(meter)
    }

    /// Is it to be counted?
    fn chain_metrics(&self) -> Option<()> {
        match &self.chain.kind {
            ChainKind::Tcp(chain) if chain.metrics => Some(()),
            _ => None,
        }
    }

    fn labels(&self, flags: &str) -> Labels {
        let mut labels = peer_labels(&self.tunnel, &self.went);
        labels.push(("request_protocol", "tcp".into()));
        labels.push(("response_flags", dash(flags)));
        labels.push(("connection_security_policy", "mutual_tls".into()));
        labels
    }
}

/// A counter, and how much of what it counts it was told.
struct Told(Counter, AtomicU64);

impl Told {
    fn up_to(&self, now: u64) {
        let before = self.1.swap(now, Relaxed);
        self.0.inc_by(now.saturating_sub(before));
    }
}

/// The bytes of a live connection on their way into the metrics.
pub struct Meter {
    count: Arc<crate::io::Count>,
    received: Told,
    sent: Told,
}

impl Meter {
    /// Adds what has flowed since the last time.
    pub fn tell(&self) {
        self.received.up_to(self.count.read.load(Relaxed));
        self.sent.up_to(self.count.written.load(Relaxed));
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        let ChainKind::Tcp(chain) = &self.chain.kind else {
            return;
        };
        if chain.metrics {
            let labels = self.labels(self.flags);
            self.tunnel.note(&labels);
            let metrics = &self.reporter.metrics;
            match &self.meter {
                Some(meter) => meter.tell(),
                None => drop(metrics.opened.get_or_create(&labels).inc()),
            }
            metrics.closed.get_or_create(&labels).inc();
        }
        self.reporter.log(&chain.access, 0, self.flags, self);
    }
}

impl Facts for TcpRecord {
    fn fact(&self, operator: &Operator) -> Option<Cow<'_, str>> {
        let text = |text: String| Some(Cow::Owned(text));
        match operator {
            Operator::StartTime => text(iso_time(self.wall)),
            Operator::ResponseCode => Some("0".into()),
            Operator::ResponseFlags => Some(self.flags.into()),
            Operator::ConnectionTermination => self.termination.as_deref().map(Cow::Borrowed),
            Operator::UpstreamFailure => self.transport.as_deref().map(Cow::Borrowed),
            Operator::BytesReceived => text(self.count.read.load(Relaxed).to_string()),
            Operator::BytesSent => text(self.count.written.load(Relaxed).to_string()),
            Operator::Duration => text(self.started.elapsed().as_millis().to_string()),
            other => place(&self.tunnel, &self.went, other),
        }
    }

    fn pseudo(&self, _: &Name) -> Option<Cow<'_, str>> {
        None
    }

    fn request(&self) -> Option<&HeaderMap> {
        None
    }

    fn response(&self) -> Option<&HeaderMap> {
        None
    }
}

/// Facts about both ends that requests and connections share.
pub(super) fn place<'a>(
    tunnel: &'a Tunnel,
    went: &'a Went,
    operator: &Operator,
) -> Option<Cow<'a, str>> {
    let without = |address: std::net::SocketAddr, bare: bool| match bare {
        true => address.ip().to_string(),
        false => address.to_string(),
    };
    match operator {
        Operator::UpstreamHost => went.address.as_deref().map(Cow::Borrowed),
        Operator::UpstreamCluster => went
            .live
            .as_ref()
            .map(|live| Cow::Borrowed(&*live.config.name)),
        Operator::DownstreamLocal(bare) => match tunnel.destination() {
            Some(address) => Some(without(address, *bare).into()),
            None => Some(tunnel.destination_text().into()),
        },
        Operator::DownstreamRemote(bare) => Some(without(tunnel.remote, *bare).into()),
        Operator::PeerUri | Operator::State(State::PeerPrincipal) => Some(tunnel.peer.uri().into()),
        Operator::LocalUri | Operator::State(State::LocalPrincipal) => {
            Some(tunnel.local.uri().into())
        }
        Operator::State(State::ConnectAuthority) => Some(tunnel.authority_text.as_str().into()),
        _ => None,
    }
}

/// An endpoint as Envoy's logs show it.
pub fn upstream_host(target: &Target, original: Option<std::net::SocketAddr>) -> String {
    match target {
        Target::Plain(address) => address.to_string(),
        Target::Tunnel { address, .. } => format!("envoy://connect_originate/{address}"),
        Target::Double(inner, _) => format!("envoy://inner_connect_originate/{inner}"),
        Target::Original => match original {
            Some(address) => format!("envoy://connect_originate/{address}"),
            None => "envoy://connect_originate/".into(),
        },
    }
}

/// Labels of source and destination, in upstream's names.
fn peer_labels(tunnel: &Tunnel, went: &Went) -> Labels {
    let known = |text: &str| {
        if text.is_empty() {
            "unknown".to_owned()
        } else {
            text.to_owned()
        }
    };
    let baggage = tunnel.baggage.as_ref();
    let told = |pick: fn(&hbone::headers::Baggage) -> Option<&str>| {
        known(baggage.and_then(pick).unwrap_or_default())
    };
    let endpoint = went.host.as_ref().map(|host| &host.endpoint.workload);
    let at = |pick: fn(&crate::model::cluster::WorkloadName) -> &str| {
        known(endpoint.map(pick).unwrap_or_default())
    };
    let service = went.live.as_ref().map(|live| &live.config.service);
    let of = |pick: fn(&crate::model::cluster::ServiceName) -> &str| {
        known(service.map(pick).unwrap_or_default())
    };
    vec![
        ("reporter", "waypoint".into()),
        ("source_workload", told(|b| b.workload.as_deref())),
        ("source_canonical_service", told(|b| b.service.as_deref())),
        ("source_canonical_revision", told(|b| b.version.as_deref())),
        // The certificate says so, not the client's proxy.
        ("source_workload_namespace", known(tunnel.peer.namespace())),
        ("source_principal", tunnel.peer.uri().to_owned()),
        ("source_app", told(|b| b.service.as_deref())),
        ("source_version", told(|b| b.version.as_deref())),
        ("source_cluster", told(|b| b.cluster.as_deref())),
        ("destination_workload", at(|w| &w.name)),
        ("destination_workload_namespace", at(|w| &w.namespace)),
        ("destination_principal", "unknown".into()),
        ("destination_app", at(|w| &w.canonical)),
        ("destination_version", at(|w| &w.revision)),
        ("destination_canonical_service", at(|w| &w.canonical)),
        ("destination_canonical_revision", at(|w| &w.revision)),
        ("destination_cluster", at(|w| &w.cluster)),
        ("destination_service", of(|s| &s.host)),
        ("destination_service_name", of(|s| &s.name)),
        ("destination_service_namespace", of(|s| &s.namespace)),
    ]
}

fn dash(flags: &str) -> String {
    if flags.is_empty() {
        "-".into()
    } else {
        flags.into()
    }
}

pub(super) fn wall_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
