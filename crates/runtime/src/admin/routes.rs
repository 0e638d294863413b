//! The routes that every binary has, added to its own by `Common`.
use std::sync::Arc;

use http::{StatusCode, header};
use tokio::sync::Semaphore;

use super::{Request, Response, Router, query, require_post, response, text_response};
use crate::logs::Logs;
use crate::metrics::Registry;
use crate::{Readiness, Shutdown};

/// Adds the common routes to a router.
impl Router {
    /// `/healthz/ready`: 200 "ready" or 500 with what is pending.
    #[must_use]
    pub fn readiness(self, readiness: &Readiness) -> Self {
        let readiness = readiness.clone();
        self.route("/healthz/ready", move |_| {
            let (ready, text) = readiness.report();
            let status = if ready {
                StatusCode::OK
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            };
            std::future::ready(text_response(status, text))
        })
    }

    /// `/metrics` and `/stats/prometheus`.
    #[must_use]
    pub fn metrics(self, registry: &Registry) -> Self {
        self.metrics_after(registry, || {})
    }

    /// As [`Router::metrics`]; `before` brings the counters up to now.
    #[must_use]
    pub fn metrics_after(
        self,
        registry: &Registry,
        before: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Self {
        let (turn, registry) = (Arc::new(Semaphore::new(1)), registry.clone());
        let scraped = move |request: Request| {
            let asked = (registry.clone(), accepted(&request));
            scrape(turn.clone(), before.clone(), asked)
        };
        self.route("/metrics", scraped.clone())
            .route("/stats/prometheus", scraped)
    }

    /// `/logging`: GET shows the filter, POST `?level=…` changes it, POST `?reset` undoes that.
    #[must_use]
    pub fn logging(self, logs: &Logs) -> Self {
        let logs = logs.clone();
        self.route("/logging", move |request| {
            std::future::ready(logging(&logs, &request))
        })
    }

    /// `/quitquitquit`: POST starts a drain.
    #[must_use]
    pub fn quit(self, shutdown: &Shutdown) -> Self {
        let shutdown = shutdown.clone();
        self.route("/quitquitquit", move |request| {
            let refused = require_post(&request);
            if refused.is_none() {
                shutdown.drain();
            }
            let done = || text_response(StatusCode::OK, "shutdown now\n");
            std::future::ready(refused.unwrap_or_else(done))
        })
    }

    /// All the common routes.
    #[must_use]
    pub fn common(self, common: &Common) -> Self {
        let router = self.readiness(&common.readiness).metrics(&common.metrics);
        router.logging(&common.logs).quit(&common.shutdown)
    }
}

/// What the common routes show and change.
#[derive(Clone, Debug)]
pub struct Common {
    /// For `/healthz/ready`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Registry,
    /// For `/logging`.
    pub logs: Logs,
    /// For `/quitquitquit`.
    pub shutdown: Shutdown,
}

fn accepted(request: &Request) -> Option<String> {
    let accept = request.headers().get(header::ACCEPT)?;
    accept.to_str().ok().map(str::to_owned)
}

/// Writes the metrics, one scrape at a time and away from the tasks that carry configuration: it counts descriptors, and
/// with many label sets it takes a while.
async fn scrape(
    turn: Arc<Semaphore>,
    before: impl Fn() + Send + 'static,
    (registry, accept): (Registry, Option<String>),
) -> Response {
    let Ok(permit) = turn.acquire_owned().await else {
        return text_response(StatusCode::SERVICE_UNAVAILABLE, "no scrape any more\n");
    };
    let written = tokio::task::spawn_blocking(move || {
        before();
        let written = registry.encode(accept.as_deref());
        drop(permit);
        written
    });
    match written.await {
        Ok((kind, body)) => response(StatusCode::OK, kind, body),
        Err(_) => text_response(StatusCode::INTERNAL_SERVER_ERROR, "the scrape failed\n"),
    }
}

fn logging(logs: &Logs, request: &Request) -> Response {
    let asked = query(request, "level");
    let reset = request
        .uri()
        .query()
        .is_some_and(|q| q.split('&').any(|part| part == "reset"));
    if asked.is_none() && !reset {
        return text_response(
            StatusCode::OK,
            format!("current log level is {}\n", logs.current()),
        );
    }
    if let Some(refused) = require_post(request) {
        return refused;
    }
    let level = asked.map(|text| text.replace("%2C", ",").replace("%3D", "="));
    // istioctl says them as Envoy does.
    let level = level.map(|text| match text.as_str() {
        "warning" => "warn".to_owned(),
        "critical" => "error".to_owned(),
        _ => text,
    });
    let done = if reset || level.as_deref() == Some("reset") {
        logs.reset()
    } else {
        logs.reload(level.as_deref().unwrap_or_default())
    };
    match done {
        Ok(()) => {
            let text = format!("current log level is {}\n", logs.current());
            text_response(StatusCode::OK, text)
        }
        Err(error) => text_response(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
