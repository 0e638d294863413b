//! A small HTTP/1.1 server for operators: readiness, metrics, log level, dumps. Each binary opens
//! one to three of them. It serves through a drain and ends at force.
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::Shutdown;
use crate::accept::{Advice, advice};

mod routes;

pub use routes::Common;

/// A request whose body has been read (at most 64 KiB).
pub type Request = http::Request<Bytes>;
/// A response.
pub type Response = http::Response<Full<Bytes>>;

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// A body is a few bytes. Without an end to waiting for it, a few hundred peers could hold all connections.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_BUFFER: usize = 8 << 10;
const MAX_BODY: usize = 64 << 10;
/// A connection ends after this time, whatever it is about: a scrape or a dump needs far less, and a peer that asks and
/// does not read, or never stops asking, would keep its place for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections served at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 256;
/// Of those, for one address; more are closed.
const MAX_OF_ADDRESS: usize = 32;

/// Which path is answered by what.
#[derive(Clone, Default)]
pub struct Router {
    routes: BTreeMap<String, Handler>,
}

impl Router {
    /// No routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `path` (exactly, any method) with `handler`; a later route of the same path wins.
    #[must_use]
    pub fn route<F, A>(mut self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        self.routes.insert(
            path.into(),
            Arc::new(move |request| Box::pin(handler(request))),
        );
        self
    }

    /// All paths, sorted: for the index page.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.routes.keys().map(String::as_str)
    }

    async fn answer(&self, request: http::Request<Incoming>) -> Response {
        let Some(handler) = self.routes.get(request.uri().path()) else {
            let paths: Vec<&str> = self.paths().collect();
            let text = format!("not found; there is: {}\n", paths.join(" "));
            return text_response(StatusCode::NOT_FOUND, text);
        };
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY).collect();
        match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => handler(Request::from_parts(parts, body.to_bytes())).await,
            Ok(Err(_)) => text_response(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
            Err(_) => text_response(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
        }
    }
}

/// A bound server, not serving yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds; port 0 takes a free port, see [`Server::address`].
    ///
    /// # Errors
    /// When the address is taken; the text names it.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = crate::accept::listen(address, false)?;
        Ok(Self { listener })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// Never for a bound socket, in practice.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves in the background until force.
    pub fn serve(self, router: Router, shutdown: &Shutdown) {
        let part = shutdown.clone();
        shutdown.spawn_aside(accept_loop(self.listener, Arc::new(router), part));
    }
}

async fn accept_loop(listener: TcpListener, router: Arc<Router>, shutdown: Shutdown) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let guests = Guests::default();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(guest) = guests.admit(peer.ip()) else {
                    continue;
                };
                let router = Arc::clone(&router);
                shutdown.spawn_aside(async move {
                    serve_connection(stream, router).await;
                    drop((guest, permit));
                });
            }
            Err(error) => match advice(&error) {
                Advice::Next => {}
                Advice::Pause(time) => tokio::time::sleep(time).await,
                Advice::Stop => return tracing::error!(%error, "admin listener is unusable"),
            },
        }
    }
}

/// Who is served at the moment, by address.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place; free again when dropped.
struct Guest {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    /// A place for one more of `address`, unless it has its share.
    fn admit(&self, address: IpAddr) -> Option<Guest> {
        let address = address.to_canonical();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        (*count < MAX_OF_ADDRESS).then(|| {
            *count += 1;
            let guests = self.clone();
            Guest { guests, address }
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Arc<Router>) {
    let service = service_fn(|request| {
        let router = Arc::clone(&router);
        async move { Ok::<_, Infallible>(router.answer(request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER);
    let served = http.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended early"),
        Err(_) => tracing::debug!("admin connection took too long"),
    }
}

/// A plain-text response.
#[must_use]
pub fn text_response(status: StatusCode, body: impl Into<Bytes>) -> Response {
    response(status, "text/plain; charset=utf-8", body)
}

/// A JSON response (status 200) from text that is JSON already.
#[must_use]
pub fn json_response(body: impl Into<Bytes>) -> Response {
    response(StatusCode::OK, "application/json", body)
}

/// A response of any content type.
#[must_use]
pub fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Refuses a request that is not a POST; `None` when it is one. For routes that change something.
#[must_use]
pub fn require_post(request: &Request) -> Option<Response> {
    let text = "this changes something: use POST\n";
    (request.method() != Method::POST).then(|| text_response(StatusCode::METHOD_NOT_ALLOWED, text))
}

/// The value of `name` in the query string, percent-decoding left to the caller.
#[must_use]
pub fn query<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let mut pairs = request.uri().query()?.split('&');
    pairs.find_map(|pair| {
        pair.split_once('=')
            .filter(|(key, _)| *key == name)
            .map(|(_, v)| v)
    })
}

#[cfg(test)]
mod tests;
