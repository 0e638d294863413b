//! The metrics of the process: a registry that parts add to, and its text in the format that the
//! scraper asks for. Served at `/metrics` and `/stats/prometheus`.
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::registry::Metric;

mod process;
mod text;

/// Content type of OpenMetrics.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the older Prometheus text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<RwLock<prometheus_client::registry::Registry>>,
}

impl Registry {
    /// A registry with the metrics of the process itself (`process_open_fds`, `process_max_fds`).
    #[must_use]
    pub fn new() -> Self {
        let registry = Self::default();
        registry.with(|r| r.register_collector(Box::new(process::Process)));
        registry
    }

    /// Adds a metric and returns it, to be kept by whoever counts. `name` comes with its prefix
    /// and without `_total`, which counters get when written; `help` without the final full stop.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.with(|r| r.register(name, help, metric.clone()));
        metric
    }

    /// Access to prometheus-client's registry: collectors, units, constant labels.
    pub fn with<T>(
        &self,
        change: impl FnOnce(&mut prometheus_client::registry::Registry) -> T,
    ) -> T {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Content type and body for a scraper that sent this `Accept` header.
    #[must_use]
    pub fn encode(&self, accept: Option<&str>) -> (&'static str, String) {
        let mut body = String::new();
        let registry = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut body, &registry)
            .expect("writing to a String does not fail");
        if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            return (OPENMETRICS, body);
        }
        (TEXT, text::from_openmetrics(&body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn the_format_follows_the_accept_header() {
        let registry = Registry::new();
        let opened: Counter = registry.register("istio_opened", "Opened", Counter::default());
        opened.inc();
        let (kind, body) = registry.encode(Some("application/openmetrics-text;version=1.0.0"));
        assert_eq!(kind, OPENMETRICS);
        assert!(
            body.contains("# TYPE istio_opened counter\nistio_opened_total 1\n"),
            "{body}"
        );
        assert!(body.ends_with("# EOF\n"));
        let (kind, body) = registry.encode(None);
        assert_eq!(kind, TEXT);
        assert!(body.contains("# TYPE istio_opened_total counter\nistio_opened_total 1\n"));
        assert!(!body.contains("# EOF"));
        assert!(body.contains("process_open_fds "), "{body}");
    }
}
