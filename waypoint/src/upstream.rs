//! Connections to endpoints: through pooled HBONE tunnels or plain TCP, and HTTP connections over them that
//! are kept for the next request. Called by `forward` and `tcp`.

pub mod dial;
#[cfg(test)]
mod tests;

pub use dial::{DialError, Dialer};

use crate::cluster::{Guard, Live};
use crate::model::cluster::Target;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Errors of bodies.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A body that goes up.
pub type UpBody = UnsyncBoxBody<Bytes, BodyError>;

/// HTTP connections kept per endpoint.
const IDLE_PER_ENDPOINT: usize = 64;
/// Requests at once on one HTTP/2 connection: no server may allow less without saying so, and one that is full must
/// not hold up the next client.
const STREAMS_PER_CONNECTION: usize = 100;
/// How long one is kept without use when the cluster says nothing; Envoy keeps them an hour.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a connection is kept under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Cluster name.
    pub cluster: Arc<str>,
    /// The endpoint.
    pub target: Target,
    /// Where the client wanted to go, if that decides.
    pub original: Option<SocketAddr>,
    /// HTTP/2 or HTTP/1.1.
    pub http2: bool,
}

/// A connection that can take one request now.
pub struct Connection {
    sender: Sender,
    key: Key,
    open: Arc<Open>,
    /// It was used before, so that it may have been closed under us.
    pub reused: bool,
}

/// Counted while the connection is open.
struct Open {
    _counted: Guard<crate::cluster::Counters>,
    requests: AtomicU32,
    used: Mutex<Instant>,
}

impl Open {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }
}

enum Sender {
    Http1(http1::SendRequest<UpBody>),
    Http2(http2::SendRequest<UpBody>),
}

struct Idle {
    sender: http1::SendRequest<UpBody>,
    open: Arc<Open>,
    since: Instant,
}

#[derive(Default)]
struct Kept {
    http1: HashMap<Key, Vec<Idle>>,
    http2: HashMap<Key, Vec<Shared>>,
}

/// An HTTP/2 connection. Whoever uses it holds `Open` too, so that its count tells how full it is.
type Shared = (http2::SendRequest<UpBody>, Arc<Open>);

/// All upstream connections of this process.
pub struct Upstream {
    /// Makes byte streams.
    pub dialer: Dialer,
    kept: Arc<Mutex<Kept>>,
    shutdown: runtime::Shutdown,
}

/// Runs hyper's own tasks under our shutdown.
#[derive(Clone)]
pub struct Spawner(pub runtime::Shutdown);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        drop(self.0.spawn(work));
    }
}

impl Upstream {
    /// No connections yet.
    pub fn new(dialer: Dialer, shutdown: runtime::Shutdown) -> Self {
        Self {
            dialer,
            kept: Arc::default(),
            shutdown,
        }
    }

    /// A connection to an endpoint of `live` that can take a request: a kept one or a new one.
    pub async fn connection(&self, live: &Live, key: Key) -> Result<Connection, DialError> {
        if let Some(kept) = self.take(&key, live).await {
            return Ok(kept);
        }
        let limit = live.config.limits.connections;
        let counted = Guard::within(&live.counters, |counters| &counters.connections, limit)
            .ok_or(DialError::Overflow)?;
        let pending = live.config.limits.pending;
        let _waiting = Guard::within(&live.counters, |counters| &counters.pending, pending)
            .ok_or(DialError::Overflow)?;
        let io = self.dialer.dial(live, &key.target, key.original).await?;
        let open = Arc::new(Open {
            _counted: counted,
            requests: AtomicU32::new(0),
            used: Mutex::new(Instant::now()),
        });
        let io = TokioIo::new(io);
        let sender = if key.http2 {
            let (sender, connection) = http2::Builder::new(Spawner(self.shutdown.clone()))
                .timer(TokioTimer::new())
                .handshake(io)
                .await
                .map_err(|error| DialError::Handshake(error.to_string().into()))?;
            self.drive(connection);
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if live.config.max_requests_per_connection.is_none() {
                let list = kept.http2.entry(key.clone()).or_default();
                list.push((sender.clone(), open.clone()));
            }
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::Builder::new()
                .handshake(io)
                .await
                .map_err(|error| DialError::Handshake(error.to_string().into()))?;
            self.drive(connection.with_upgrades());
            Sender::Http1(sender)
        };
        Ok(Connection {
            sender,
            key,
            open,
            reused: false,
        })
    }

    fn drive<E: std::fmt::Display>(
        &self,
        connection: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        // Not spawned as a part of the work that a drain waits for: it ends with its last request.
        drop(self.shutdown.spawn_aside(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        }));
    }

    async fn take(&self, key: &Key, live: &Live) -> Option<Connection> {
        if key.http2 {
            let (mut sender, open) = self.with_room(key)?;
            sender.ready().await.ok()?;
            return Some(Connection {
                sender: Sender::Http2(sender),
                key: key.clone(),
                open,
                reused: true,
            });
        }
        let idle = live.config.idle_timeout.unwrap_or(IDLE_TIMEOUT);
        let mut kept = self.lock();
        let list = kept.http1.get_mut(key)?;
        list.retain(|kept| kept.since.elapsed() < idle && !kept.sender.is_closed());
        // One that was answered early may still send its last request, at the speed of that request's client.
        let at = list.iter().rposition(|kept| kept.sender.is_ready())?;
        let Idle { sender, open, .. } = list.remove(at);
        Some(Connection {
            sender: Sender::Http1(sender),
            key: key.clone(),
            open,
            reused: true,
        })
    }

    /// An HTTP/2 connection that can take one more request.
    fn with_room(&self, key: &Key) -> Option<Shared> {
        let mut kept = self.lock();
        let list = kept.http2.get_mut(key)?;
        list.retain(|(sender, _)| !sender.is_closed());
        // The list holds one count itself.
        let room = |(_, open): &&Shared| Arc::strong_count(open) <= STREAMS_PER_CONNECTION;
        list.iter().find(room).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of connections that were not used for long. To be called now and then.
    pub fn sweep(&self) {
        let mut kept = self.lock();
        kept.http1.retain(|_, list| {
            list.retain(|idle| idle.since.elapsed() < IDLE_TIMEOUT && !idle.sender.is_closed());
            !list.is_empty()
        });
        // A request under way holds the connection too.
        kept.http2.retain(|_, list| {
            list.retain(|(sender, open)| {
                !sender.is_closed() && (Arc::strong_count(open) > 1 || open.idle() < IDLE_TIMEOUT)
            });
            !list.is_empty()
        });
        drop(kept);
        self.dialer.sweep();
    }
}

/// Gives an HTTP/1.1 connection back once its response has been read to the end.
pub struct Return {
    sender: Option<http1::SendRequest<UpBody>>,
    key: Key,
    open: Arc<Open>,
    kept: Arc<Mutex<Kept>>,
    limit: Option<u32>,
}

impl Return {
    /// The response has ended well: keep the connection.
    pub fn keep(mut self) {
        let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) else {
            return;
        };
        let used = self.open.requests.load(Relaxed);
        if self.limit.is_some_and(|limit| used >= limit) {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = kept.http1.entry(self.key).or_default();
        if list.len() < IDLE_PER_ENDPOINT {
            list.push(Idle {
                sender,
                open: self.open,
                since: Instant::now(),
            });
        }
    }
}

impl Connection {
    /// Sends a request. What comes with the answer gives the connection back.
    pub async fn send(
        self,
        upstream: &Upstream,
        live: &Live,
        request: Request<UpBody>,
    ) -> Result<(Response<Incoming>, Return), hyper::Error> {
        self.open.requests.fetch_add(1, Relaxed);
        self.open.touch();
        let kept = upstream.kept.clone();
        let limit = live.config.max_requests_per_connection;
        let (response, sender) = match self.sender {
            Sender::Http1(mut sender) => (sender.send_request(request).await?, Some(sender)),
            Sender::Http2(mut sender) => (sender.send_request(request).await?, None),
        };
        Ok((
            response,
            Return {
                sender,
                key: self.key,
                open: self.open,
                kept,
                limit,
            },
        ))
    }
}
