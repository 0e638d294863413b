//! The record of every connection: metrics and access log. Fed with the workers' notices by `app`, asked by the admin
//! server before a scrape and for dumps.

pub mod dry_run;
pub mod labels;
pub mod line;
mod metrics;
mod parts;
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

/// The access log lines of a batch of notices.
#[derive(Debug, Default)]
pub struct Lines {
    text: String,
    count: u64,
}

impl Lines {
    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.count += 1;
    }
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
    pub fn opened(&self, connection: &Arc<Connection>, lines: &mut Lines) {
        let labels = self.lock().opened(connection);
        if tracing::enabled!(target: "access", Level::DEBUG) {
            let now = SystemTime::now();
            lines.push(&line::opened(self.format, now, connection, &labels));
        }
    }

    /// An opened connection ended.
    pub fn closed(&self, closed: &Closed, lines: &mut Lines) {
        let flag = reason::flag(closed.reason, line::target(&closed.connection));
        let outcome = reason::outcome(closed.reason);
        let labels = self.lock().closed(&closed.connection, flag, outcome);
        let shown = match outcome {
            reason::Outcome::Complete => tracing::enabled!(target: "access", Level::INFO),
            _ => tracing::enabled!(target: "access", Level::ERROR),
        };
        if shown {
            let now = SystemTime::now();
            lines.push(&line::closed(self.format, now, closed, &labels));
        }
    }

    /// A connection ended before its facts were known: a line, no metric.
    pub fn refused(&self, refused: &Refused, lines: &mut Lines) {
        if tracing::enabled!(target: "access", Level::WARN) {
            lines.push(&line::refused(self.format, SystemTime::now(), refused));
        }
    }

    /// Writes the lines of a batch.
    pub fn write(&self, lines: Lines) {
        if lines.count > 0 {
            self.log.write_lines(lines.text, lines.count);
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
