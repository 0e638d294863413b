//! The metric families. Names and labels are upstream's (istio.io, standard metrics).

use crate::cluster::{Host, Live};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use runtime::metrics::Registry;
use std::sync::{Arc, Mutex, PoisonError};

/// One set of labels, in a fixed order.
pub type Labels = Vec<(&'static str, String)>;

/// Bounds of durations in milliseconds and of sizes in bytes: Istio's.
const DURATIONS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];
const SIZES: [f64; 9] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

/// Makes histograms with given bounds.
#[derive(Clone)]
pub struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// All families.
#[derive(Clone)]
pub struct Metrics {
    /// `istio_requests_total`.
    pub requests: Family<Labels, Counter>,
    /// `istio_request_duration_milliseconds`.
    pub duration: Family<Labels, Histogram, Bounds>,
    /// `istio_request_bytes`.
    pub request_bytes: Family<Labels, Histogram, Bounds>,
    /// `istio_response_bytes`.
    pub response_bytes: Family<Labels, Histogram, Bounds>,
    /// `istio_tcp_connections_opened_total`.
    pub opened: Family<Labels, Counter>,
    /// `istio_tcp_connections_closed_total`.
    pub closed: Family<Labels, Counter>,
    /// `istio_tcp_received_bytes_total`.
    pub received: Family<Labels, Counter>,
    /// `istio_tcp_sent_bytes_total`.
    pub sent: Family<Labels, Counter>,
    /// `waypoint_mirrors_lost_total`, ours: by service and reason.
    pub mirrors_lost: Family<Labels, Counter>,
}

impl Metrics {
    /// Registers all families.
    pub fn register(registry: &Registry) -> Self {
        let histogram = |name: &str, help: &str, bounds: &'static [f64]| {
            registry.register(name, help, Family::new_with_constructor(Bounds(bounds)))
        };
        let counter = |name: &str, help: &str| registry.register(name, help, Family::default());
        Self {
            requests: counter("istio_requests", "Requests"),
            duration: histogram(
                "istio_request_duration_milliseconds",
                "Duration of requests",
                &DURATIONS,
            ),
            request_bytes: histogram("istio_request_bytes", "Sizes of request bodies", &SIZES),
            response_bytes: histogram("istio_response_bytes", "Sizes of response bodies", &SIZES),
            opened: counter("istio_tcp_connections_opened", "TCP connections opened"),
            closed: counter("istio_tcp_connections_closed", "TCP connections closed"),
            received: counter("istio_tcp_received_bytes", "Bytes received from clients"),
            sent: counter("istio_tcp_sent_bytes", "Bytes sent to clients"),
            mirrors_lost: counter(
                "waypoint_mirrors_lost",
                "Copies of requests that a mirror did not get",
            ),
        }
    }
}

/// The series of requests that are alike.
pub struct Series {
    /// Requests.
    pub requests: Counter,
    /// Durations, milliseconds.
    pub duration: Histogram,
    /// Bytes of request bodies.
    pub request_bytes: Histogram,
    /// Bytes of response bodies.
    pub response_bytes: Histogram,
}

impl Metrics {
    /// Ends the series with these labels, of whatever family.
    pub fn forget(&self, labels: &Labels) {
        self.requests.remove(labels);
        for family in [&self.duration, &self.request_bytes, &self.response_bytes] {
            family.remove(labels);
        }
        for family in [&self.opened, &self.closed, &self.received, &self.sent] {
            family.remove(labels);
        }
    }

    /// The series with these labels.
    pub fn series(&self, labels: &Labels) -> Series {
        Series {
            requests: self.requests.get_or_create_owned(labels),
            duration: self.duration.get_or_create_owned(labels),
            request_bytes: self.request_bytes.get_or_create_owned(labels),
            response_bytes: self.response_bytes.get_or_create_owned(labels),
        }
    }
}

/// What tells requests of one tunnel apart in the metrics.
#[derive(Clone)]
pub struct Alike {
    /// Where it went; compared by identity, since a push makes new ones.
    pub live: Option<Arc<Live>>,
    /// The endpoint, likewise.
    pub host: Option<Arc<Host>>,
    /// Status, gRPC or not, gRPC status, flags.
    pub answer: (u16, bool, Option<u32>, &'static str),
}

impl PartialEq for Alike {
    fn eq(&self, other: &Self) -> bool {
        let same_live = self.live.as_ref().map(Arc::as_ptr) == other.live.as_ref().map(Arc::as_ptr);
        let same_host = self.host.as_ref().map(Arc::as_ptr) == other.host.as_ref().map(Arc::as_ptr);
        same_live && same_host && self.answer == other.answer
    }
}

/// The series that requests of one tunnel used last, so that labels are not written out for each request.
#[derive(Default)]
pub struct Cache(Mutex<Vec<(Alike, Arc<Series>)>>);

/// Kinds of requests remembered per tunnel.
const REMEMBERED: usize = 16;

impl Cache {
    /// The series of requests like this, made by `make` if it is the first.
    pub fn series(&self, alike: Alike, make: impl FnOnce() -> Series) -> Arc<Series> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, series)) = known.iter().find(|(one, _)| *one == alike) {
            return series.clone();
        }
        if known.len() >= REMEMBERED {
            known.remove(0);
        }
        let series = Arc::new(make());
        known.push((alike, series.clone()));
        series
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}
