//! What the parts of the data path share: the configuration in force, upstream connections, reports.
//! Made by `app`, passed by reference to `listener`, `request` and `tcp`.

use crate::admission::Admission;
use crate::cluster::Live;
use crate::report::Reporter;
use crate::state::Snapshot;
use crate::upstream::Upstream;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Times of the data path; constants but in tests, and but for `linger`.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long the first bytes of a connection may keep us waiting before it is taken for TCP.
    pub sniff: Duration,
    /// Deadline of a TLS handshake.
    pub handshake: Duration,
    /// Deadline of the first bytes where nothing but HTTP may be spoken, and of the head of each HTTP/1 request.
    pub head: Duration,
    /// How long a connection may be without a request where the configuration does not say; Envoy's hour.
    pub idle: Duration,
    /// So long after the begin of a drain new connections are still taken and idle ones kept: the setting.
    pub linger: Duration,
    /// How often the bytes of live TCP connections are added to the metrics.
    pub report: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            // Long enough for a client that speaks first on a busy machine; a server-first protocol pays it once.
            sniff: Duration::from_millis(250),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(60),
            idle: Duration::from_secs(3600),
            linger: Duration::ZERO,
            report: Duration::from_secs(5),
        }
    }
}

/// The data path's shared parts.
pub struct Proxy {
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Tells when `snapshot` has changed.
    pub changes: watch::Receiver<u64>,
    /// Connections to endpoints.
    pub upstream: Upstream,
    /// Metrics and access log.
    pub reporter: Reporter,
    /// Drain and force.
    pub shutdown: runtime::Shutdown,
    /// Deadlines.
    pub times: Times,
    /// Who may connect.
    pub admission: Arc<Admission>,
    /// The clock's origin for ejection times.
    pub started: Instant,
}

impl Proxy {
    /// Ends when a drain has gone on for so long that nobody is expected to come any more.
    pub async fn lingered(&self) {
        self.shutdown.draining().await;
        tokio::time::sleep(self.times.linger).await;
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The cluster once its first endpoints are there: routes to it may come before them. Not for longer than a
    /// connection to it may take.
    pub async fn warmed(&self, live: Arc<Live>) -> Arc<Live> {
        if !live.warming {
            return live;
        }
        let mut changes = self.changes.clone();
        let wait = async {
            loop {
                let now = self.snapshot.load().cluster(&live.config.name).cloned()?;
                if !now.warming {
                    return Some(now);
                }
                changes.changed().await.ok()?;
            }
        };
        let warm = tokio::time::timeout(live.config.connect_timeout, wait).await;
        warm.ok().flatten().unwrap_or(live)
    }
}
