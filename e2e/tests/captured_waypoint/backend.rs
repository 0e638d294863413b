//! The applications behind the waypoint, reached through HBONE or as plain sockets: HTTP/1.1 and HTTP/2, each answer tells
//! what came in. Used by `world.rs`.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use hbone::headers::ConnectResponse;
use hbone::proto::Config;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use identity::{Certificate, handshake};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests to this path are never answered.
pub const SILENT: &str = "/slow";

/// The paths of all requests so far, in the order of their coming.
pub type Seen = Arc<Mutex<Vec<String>>>;

/// All applications on one thread; they end on drop.
pub struct Backend {
    pub seen: Seen,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Backend {
    /// Serves HBONE as `certificate` on `tunnels` and plain HTTP on `plain`.
    ///
    /// # Errors
    /// When a listener cannot be made asynchronous, or no runtime be made.
    pub fn start(
        certificate: &Arc<Certificate>,
        tunnels: Vec<TcpListener>,
        plain: Vec<TcpListener>,
    ) -> Result<Self> {
        for listener in tunnels.iter().chain(&plain) {
            listener.set_nonblocking(true)?;
        }
        let seen = Seen::default();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (certificate, log) = (certificate.clone(), seen.clone());
        let thread = thread::spawn(move || {
            LocalSet::new().block_on(&runtime, async move {
                for listener in tunnels {
                    spawn_local(terminate(listener, certificate.clone(), log.clone()));
                }
                for listener in plain {
                    spawn_local(accept(listener, log.clone()));
                }
                let _dropped = stopped.await;
            });
        });
        Ok(Self {
            seen,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Number of requests so far whose path is `path`.
    pub fn count(&self, path: &str) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|one| *one == path).count()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _its_panic_was_printed = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, seen: Seen) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let pod = stream.local_addr()?.to_string();
        spawn_local(application(stream, pod, seen.clone()));
    }
}

async fn terminate(listener: TcpListener, certificate: Arc<Certificate>, seen: Seen) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        spawn_local(carry(stream, certificate.clone(), seen.clone()));
    }
}

async fn carry(stream: TcpStream, certificate: Arc<Certificate>, seen: Seen) -> Result<()> {
    let (stream, _) = handshake::accept(stream, &certificate, HANDSHAKE).await?;
    let (mut incoming, driver) = hbone::tokio::server::accept(stream, Config::server());
    spawn_local(driver);
    while let Some((request, responder)) = incoming.next().await {
        let stream = responder.accept(&ConnectResponse::ok());
        spawn_local(application(
            stream,
            request.authority.to_string(),
            seen.clone(),
        ));
    }
    Ok(())
}

async fn application<Io>(io: Io, pod: String, seen: Seen)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, pod.clone(), seen.clone()));
    let server = auto::Builder::new(TokioExecutor::new());
    let _callers_may_leave = server.serve_connection(TokioIo::new(io), service).await;
}

async fn answer(
    request: Request<Incoming>,
    pod: String,
    seen: Seen,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(path.to_owned());
    if path.starts_with(SILENT) {
        std::future::pending::<()>().await;
    }
    let length = body.collect().await?.to_bytes().len();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    // Several values of one header are told as one, with commas.
    let mut joined = std::collections::BTreeMap::<String, String>::new();
    for (name, value) in &head.headers {
        let all = joined.entry(name.to_string());
        all.and_modify(|all| *all = format!("{all},{}", text(value)))
            .or_insert_with(|| text(value));
    }
    let mut headers: serde_json::Map<String, serde_json::Value> = joined
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    if let Some(authority) = head.uri.authority() {
        headers.insert("host".into(), authority.as_str().into());
    }
    let told = serde_json::json!({
        "pod": pod, "method": head.method.as_str(), "path": path, "proto": format!("{:?}", head.version),
        "body": length, "headers": headers,
    });
    let body = Full::new(Bytes::from(told.to_string()));
    let response = Response::builder().header("content-type", "application/json");
    let grpc = head.headers.get("content-type");
    let response = if grpc.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
        response.body(body.boxed_unsync())
    } else {
        response.body(body.boxed_unsync())
    };
    Ok(response.expect("a response of constant parts"))
}
