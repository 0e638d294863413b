//! A whole path in one process: client —HBONE→ waypoint —HBONE→ an endpoint's ztunnel → echo.
//! The waypoint runs on the captured configuration, with changes that a test makes to the echo service.
//! Long because it is both ends of a path, and what lies between.

use crate::admission::{Admission, Limits};
use crate::config::Config;
use crate::envoy::tests::capture;
use crate::proxy::{Proxy, Times};
use crate::report::{Metrics, Reporter};
use crate::upstream::Upstream;
use crate::upstream::dial::Dialer;
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use hbone::headers::{ConnectRequest, ConnectResponse};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Certificate, Identity};
use prost::{Message, Name};
use runtime::Shutdown;
use runtime::access::Writer;
use runtime::metrics::Registry;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testkit::ca::TestCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use xds::ResourceUpdate;

pub const ECHO: &str = "inbound-vip|80|http|echo.app.svc.cluster.local";
pub const ECHO_TCP: &str = "inbound-vip|90|tcp|echo.app.svc.cluster.local";
const SET: &str = "istio-master-20260827";
const HOUR: Duration = Duration::from_secs(3600);

/// What the echo saw, newest last: method, path, headers; `end` with its body, of a request that was answered before.
pub type Seen = Arc<Mutex<Vec<(String, String, http::HeaderMap)>>>;

pub struct World {
    pub ca: TestCa,
    pub proxy: Arc<Proxy>,
    pub config: Config,
    pub address: SocketAddr,
    pub seen: Seen,
    pub lines: Lines,
    pub registry: Registry,
}

/// Lines of the access log.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a test changes.
#[derive(Default)]
pub struct Changes {
    pub chain: Option<fn(&mut HttpConnectionManager)>,
    pub listener: Option<fn(&mut Listener)>,
    pub cluster: Option<fn(&mut Cluster)>,
    /// Endpoints of the echo, as `ip:port` behind HBONE.
    pub endpoints: Option<Vec<&'static str>>,
    /// What peers may hold.
    pub limits: Option<Limits>,
    /// How long a drain lingers.
    pub linger: Duration,
}

impl World {
    pub async fn new(changes: Changes) -> Self {
        let ca = TestCa::new("cluster.local");
        let seen = Seen::default();
        let ztunnel = ztunnel(ca.issue(&ca.identity("app", "echo"), HOUR), seen.clone()).await;
        let config = Config::default();
        apply(&config, &changes);
        let snapshot = config.snapshot();
        let own = ca.issue(&ca.identity("app", "wp"), HOUR);
        let certificates: crate::upstream::dial::Certificates = Arc::new(move || Some(own.clone()));
        let shutdown = Shutdown::new();
        let peers = {
            let snapshot = snapshot.clone();
            Arc::new(move || snapshot.load().tunnel_peers().map(<[_]>::to_vec))
        };
        let dialer = Dialer::new(
            certificates.clone(),
            peers,
            ztunnel.port(),
            shutdown.clone(),
        );
        let (lines, registry) = (Lines::default(), Registry::new());
        let reporter = Reporter {
            metrics: Metrics::register(&registry),
            lines: Writer::start(lines.clone()).unwrap(),
            told: Arc::default(),
        };
        let times = Times {
            sniff: Duration::from_millis(100),
            report: Duration::from_millis(20),
            linger: changes.linger,
            ..Times::default()
        };
        let upstream = Upstream::new(dialer, shutdown.clone());
        let proxy = Arc::new(Proxy {
            snapshot,
            changes: config.changes(),
            upstream,
            reporter,
            shutdown,
            times,
            admission: Admission::new(changes.limits.unwrap_or_default()),
            started: Instant::now(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(
            proxy
                .shutdown
                .spawn(super::super::run(proxy.clone(), listener, certificates)),
        );
        Self {
            ca,
            proxy,
            config,
            address,
            seen,
            lines,
            registry,
        }
    }

    /// A push on top of what is there.
    pub fn push(&self, changes: &Changes) {
        apply(&self.config, changes);
    }

    /// An HBONE connection of this client.
    pub async fn carrier(&self, who: &Certificate) -> Result<hbone::tokio::client::Handle, String> {
        let tls = self.connect(who).await.map_err(|e| e.to_string())?;
        let (handle, driver) = hbone::tokio::client::connect(tls, hbone::proto::Config::client());
        drop(self.proxy.shutdown.spawn_aside(driver));
        Ok(handle)
    }

    /// The bytes of one.
    pub async fn raw_carrier(&self, who: &Certificate) -> TlsStream<TcpStream> {
        self.connect(who).await.unwrap()
    }

    async fn connect(&self, who: &Certificate) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = rustls::pki_types::ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(who.client_config())
            .connect(name, tcp)
            .await
    }

    pub fn client(&self) -> Arc<Certificate> {
        self.issue(&self.ca.identity("app", "client"))
    }

    pub fn issue(&self, identity: &Identity) -> Arc<Certificate> {
        self.ca.issue(identity, HOUR)
    }

    /// One tunnel of the usual client.
    pub async fn tunnel(&self, authority: &str) -> hbone::tokio::Stream {
        self.tunnel_as(&self.client(), authority).await.unwrap()
    }

    pub async fn tunnel_as(
        &self,
        who: &Certificate,
        authority: &str,
    ) -> Result<hbone::tokio::Stream, String> {
        let request = ConnectRequest::new(authority.parse().unwrap());
        let carrier = self.carrier(who).await?;
        carrier
            .open(&request)
            .await
            .map(|(stream, _)| stream)
            .map_err(|error| error.to_string())
    }

    /// One request over HTTP/1.1 to the echo service.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.send_as(&self.client(), request).await
    }

    pub async fn send_as(&self, who: &Certificate, request: Request<Full<Bytes>>) -> Answer {
        let stream = self.tunnel_as(who, ECHO_VIP).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        drop(self.proxy.shutdown.spawn_aside(connection));
        answer(sender.send_request(request).await.unwrap()).await
    }

    /// The access log so far.
    pub fn log(&self) -> String {
        self.proxy.reporter.lines.flush(Duration::from_secs(5));
        String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap()
    }

    pub fn metrics(&self) -> String {
        self.registry.encode(None).1
    }
}

pub const ECHO_VIP: &str = "10.96.105.179:80";
pub const TCP_VIP: &str = "10.96.105.179:90";

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
    pub trailers: Option<http::HeaderMap>,
}

pub async fn answer(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers,
    }
}

pub fn get(path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    request("GET", path, headers, "")
}

pub fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Request<Full<Bytes>> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "echo.app");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

fn apply(config: &Config, changes: &Changes) {
    for (url, name, body) in resources(changes) {
        let update = ResourceUpdate::Upsert {
            name,
            version: String::new(),
            body,
        };
        assert_eq!(config.apply(&url, vec![update]), vec![]);
    }
}

/// Type URL, name and bytes of all resources, with the changes made.
pub fn resources(changes: &Changes) -> Vec<(String, String, Vec<u8>)> {
    let mut all = Vec::new();
    for (url, name, bytes) in capture(SET, "00-Cluster") {
        let bytes = match changes.cluster {
            Some(change) if name == ECHO || name == ECHO_TCP => changed(&bytes, change),
            _ => bytes,
        };
        all.push((url, name, bytes));
    }
    for (url, name, bytes) in capture(SET, "05-ClusterLoadAssignment") {
        let usual = || vec!["127.0.0.1:8080", "127.0.0.2:8080"];
        let endpoints = changes.endpoints.clone().unwrap_or_else(usual);
        let change = |set: &mut ClusterLoadAssignment| through_tunnels(set, &endpoints);
        all.push((url, name, changed(&bytes, change)));
    }
    for (url, name, bytes) in capture(SET, "01-Listener") {
        let bytes = match name.as_str() {
            "main_internal" => changed(&bytes, |listener| change_listener(listener, changes)),
            _ => bytes,
        };
        all.push((url, name, bytes));
    }
    all
}

fn change_listener(listener: &mut Listener, changes: &Changes) {
    if let Some(change) = changes.listener {
        change(listener);
    }
    let chain = listener
        .filter_chains
        .iter_mut()
        .find(|chain| chain.name == ECHO)
        .unwrap();
    let Some(filter::ConfigType::TypedConfig(config)) = &mut chain.filters[0].config_type else {
        panic!()
    };
    if let Some(change) = changes.chain {
        let value = changed(&config.value, change);
        let type_url = format!("type.googleapis.com/{}", HttpConnectionManager::full_name());
        *config = Any { type_url, value };
    }
}

fn changed<M: Message + Default>(bytes: &[u8], change: impl FnOnce(&mut M)) -> Vec<u8> {
    let mut message = M::decode(bytes).unwrap();
    change(&mut message);
    message.encode_to_vec()
}

/// Endpoints as istiod writes those that are in the mesh.
fn through_tunnels(set: &mut ClusterLoadAssignment, addresses: &[&str]) {
    let template = set.endpoints[0].lb_endpoints[0].clone();
    set.endpoints[0].lb_endpoints = addresses
        .iter()
        .map(|address| {
            let mut one = template.clone();
            let internal = core::EnvoyInternalAddress {
                endpoint_id: (*address).to_owned(),
                address_name_specifier: Some(
                    core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                        "connect_originate".into(),
                    ),
                ),
            };
            let address_ = core::Address {
                address: Some(core::address::Address::EnvoyInternalAddress(internal)),
            };
            let Some(HostIdentifier::Endpoint(endpoint)) = &mut one.host_identifier else {
                panic!()
            };
            endpoint.address = Some(address_);
            let local = Value {
                kind: Some(Kind::StringValue((*address).to_owned())),
            };
            let fields: HashMap<String, Value> = [("local".to_owned(), local)].into();
            let metadata = one.metadata.get_or_insert_default();
            metadata.filter_metadata.insert(
                "envoy.filters.listener.original_dst".into(),
                Struct {
                    fields: fields.into_iter().collect(),
                },
            );
            one
        })
        .collect();
}

/// The destination's side: HBONE server; `*.3` has no application, any other address is the echo.
async fn ztunnel(certificate: Arc<Certificate>, seen: Seen) -> SocketAddr {
    // All of 127/8 reaches a listener on any address.
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let tasks = shutdown.clone();
    drop(shutdown.spawn_aside(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = TlsAcceptor::from(certificate.server_config())
                .accept(tcp)
                .await;
            let Ok(tls) = tls else { continue };
            let (mut incoming, driver) =
                hbone::tokio::server::accept(tls, hbone::proto::Config::server());
            drop(tasks.spawn_aside(driver));
            let (seen, tasks_) = (seen.clone(), tasks.clone());
            drop(tasks.spawn_aside(async move {
                while let Some((request, responder)) = incoming.next().await {
                    let to = request.authority.socket_addr().unwrap();
                    if to.ip().to_string().ends_with(".3") {
                        responder.refuse(&ConnectResponse::status(503));
                        continue;
                    }
                    let stream = responder.accept(&ConnectResponse::ok());
                    drop(tasks_.spawn_aside(application(stream, to, seen.clone())));
                }
            }));
        }
    }));
    address
}

/// HTTP (h1 or h2) on port 8080, bytes echoed elsewhere; `/tcp` tells them apart by the first byte.
async fn application(mut stream: hbone::tokio::Stream, to: SocketAddr, seen: Seen) {
    if to.port() == 9090 {
        let mut all = Vec::new();
        while let Ok(n) = stream.read_buf(&mut all).await {
            if n == 0 || stream.write_all(&std::mem::take(&mut all)).await.is_err() {
                break;
            }
        }
        let _ = stream.shutdown().await;
        return;
    }
    let service = service_fn(move |request| echo(request, to, seen.clone()));
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = server
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

type Reply = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>>;

/// A websocket that sends back what it gets.
fn switched(request: Request<Incoming>) -> Reply {
    let upgrade = hyper::upgrade::on(request);
    drop(Shutdown::new().spawn_aside(async move {
        let mut joined = TokioIo::new(upgrade.await.unwrap());
        let mut all = Vec::new();
        while let Ok(n) = joined.read_buf(&mut all).await {
            if n == 0 || joined.write_all(&std::mem::take(&mut all)).await.is_err() {
                break;
            }
        }
    }));
    let response = Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let nothing = Full::new(Bytes::new()).boxed_unsync();
    response.body(nothing).unwrap()
}

/// A head and a first piece, and no end.
fn endless() -> Reply {
    let body = Full::new(Bytes::from_static(b"first"));
    let body = body.with_trailers(std::future::pending()).boxed_unsync();
    let response = Response::builder().header("transfer-encoding", "chunked");
    response.body(body).unwrap()
}

async fn echo(
    request: Request<Incoming>,
    to: SocketAddr,
    seen: Seen,
) -> Result<Reply, std::io::Error> {
    if request.uri().path() == "/ws" {
        return Ok(switched(request));
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().to_string();
    // Before the request's body: an early answer.
    let early = path.starts_with("/early");
    let mut headers = head.headers.clone();
    if let Some(authority) = head.uri.authority() {
        headers.insert("host", authority.as_str().parse().unwrap());
    }
    seen.lock()
        .unwrap()
        .push((head.method.to_string(), path.clone(), headers));
    let calls = seen.lock().unwrap().len();
    if early || path.starts_with("/stream") {
        if early {
            drop(Shutdown::new().spawn_aside(async move {
                let body = body.collect().await.unwrap().to_bytes();
                let text = String::from_utf8_lossy(&body).into_owned();
                let end = ("end".to_owned(), text, http::HeaderMap::new());
                seen.lock().unwrap().push(end);
            }));
        }
        return Ok(endless());
    }
    let collected = body.collect().await.map_err(std::io::Error::other)?;
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    let mut response = Response::builder().header("x-backend", to.ip().to_string());
    if path.starts_with("/fail-once") && calls == 1 {
        response = response.status(503);
    }
    if path.starts_with("/never") {
        std::future::pending::<()>().await;
    }
    if path.starts_with("/reset") {
        return Err(std::io::Error::other("reset"));
    }
    if let Some(status) = path.strip_prefix("/status/") {
        response = response.status(status.parse::<u16>().unwrap());
    }
    let text = format!("{} {path} {}", head.method, String::from_utf8_lossy(&body));
    let reply = Full::new(Bytes::from(text));
    let reply = match trailers {
        Some(trailers) => reply
            .with_trailers(async move { Some(Ok(trailers)) })
            .boxed_unsync(),
        None => reply.boxed_unsync(),
    };
    Ok(response.body(reply).unwrap())
}
