//! Istio's metrics with reporter `waypoint`, and access log lines. One `Record` per request and one per TCP
//! connection; finishing it writes both. A CONNECT that gets no tunnel is a line of its own.

pub mod metrics;
pub mod record;
pub mod refused;
pub mod told;

pub use metrics::Metrics;
pub use record::{Record, TcpRecord};
pub use refused::Refused;

use crate::model::access::AccessLog;
use hbone::headers::Baggage;
use identity::Identity;
use runtime::access::Writer;
use std::sync::Arc;
use told::{Told, Use};

/// Where reports go.
#[derive(Clone)]
pub struct Reporter {
    /// Counters.
    pub metrics: Metrics,
    /// Lines.
    pub lines: Writer,
    /// What peers told of themselves so far.
    pub told: Arc<Told>,
}

impl Reporter {
    /// What counts of a peer's baggage ([`Told::admit`]); the series that make room for it end.
    pub fn admit(&self, peer: &Identity, baggage: Option<Baggage>) -> Option<(Baggage, Use)> {
        let forget = |labels: &_| self.metrics.forget(labels);
        self.told.admit(peer, baggage, forget)
    }

    fn log(&self, logs: &[AccessLog], status: u16, flags: &str, facts: &dyn crate::format::Facts) {
        for log in logs.iter().filter(|log| log.filter.admits(status, flags)) {
            self.lines.write(log.format.write(facts, "-"));
        }
    }
}
