//! The routes that every binary has, added to its own by `Common`.
use http::{StatusCode, header};

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
        let scrape = |registry: Registry| {
            move |request: Request| {
                let accept = request.headers().get(header::ACCEPT);
                let (kind, body) = registry.encode(accept.and_then(|value| value.to_str().ok()));
                std::future::ready(response(StatusCode::OK, kind, body))
            }
        };
        self.route("/metrics", scrape(registry.clone()))
            .route("/stats/prometheus", scrape(registry.clone()))
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
