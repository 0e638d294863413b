//! The record of every connection: metrics and access log. Fed with the workers' notices by `app`, asked by the admin
//! server before a scrape and for dumps.

pub mod labels;
pub mod line;
mod metrics;
pub mod reason;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use runtime::access::Writer;
use runtime::logs::Format;
use runtime::metrics::Registry;
use tracing::Level;

use self::metrics::Metrics;
use crate::worker::api::{Closed, Connection, Refused};

/// Where finished and living connections are recorded. Clones share it.
#[derive(Clone, Debug)]
pub struct Report {
    metrics: Arc<Mutex<Metrics>>,
    log: Writer,
    format: Format,
}

impl Report {
    /// Registers the metrics; lines go to `log`.
    pub fn new(registry: &Registry, log: Writer, format: Format) -> Self {
        Self {
            metrics: Arc::new(Mutex::new(Metrics::new(registry))),
            log,
            format,
        }
    }

    /// A connection is being set up.
    pub fn opened(&self, connection: &Arc<Connection>) {
        let labels = self.lock().opened(connection);
        if tracing::enabled!(target: "access", Level::DEBUG) {
            self.log.write(line::opened(
                self.format,
                SystemTime::now(),
                connection,
                &labels,
            ));
        }
    }

    /// An opened connection ended.
    pub fn closed(&self, closed: &Closed) {
        let flag = reason::flag(closed.reason, line::target(&closed.connection));
        let outcome = reason::outcome(closed.reason);
        let labels = self.lock().closed(&closed.connection, flag, outcome);
        let shown = match outcome {
            reason::Outcome::Complete => tracing::enabled!(target: "access", Level::INFO),
            _ => tracing::enabled!(target: "access", Level::ERROR),
        };
        if shown {
            self.log.write(line::closed(
                self.format,
                SystemTime::now(),
                closed,
                &labels,
            ));
        }
    }

    /// A connection ended before its facts were known: a line, no metric.
    pub fn refused(&self, refused: &Refused) {
        if tracing::enabled!(target: "access", Level::WARN) {
            self.log
                .write(line::refused(self.format, SystemTime::now(), refused));
        }
    }

    /// Brings byte counters up to now; called before the metrics are written.
    pub fn count_live(&self) {
        self.lock().count_live();
    }

    /// The open connections, for dumps.
    pub fn live(&self) -> Vec<Arc<Connection>> {
        self.lock().live().cloned().collect()
    }

    /// Counters stay consistent one by one, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
