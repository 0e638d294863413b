//! What operators see and switch: dumps and levels on localhost:15000, metrics on 15020, readiness on 15021; paths and
//! shapes are upstream's. Started by `app`.

use std::time::SystemTime;

use runtime::admin::{self, Common, Response, Router, Server};
use serde_json::Value;

use super::ca::Certificates;
use super::dump::{Sources, config_dump};
use super::publish::Published;
use crate::config;
use crate::pods::Pods;
use crate::report::Report;

/// What the pages are made of.
#[derive(Clone)]
pub struct Pages {
    /// Readiness, metrics, logs, shutdown.
    pub common: Common,
    /// Connections.
    pub report: Report,
    /// The mesh.
    pub published: Published,
    /// Certificates.
    pub certificates: Certificates,
    /// Pods.
    pub pods: Pods,
    /// The settings as JSON.
    pub config: Value,
}

/// The three servers, bound.
pub struct Servers {
    admin: Server,
    stats: Server,
    readiness: Server,
}

impl Servers {
    /// Binds all three.
    ///
    /// # Errors
    /// When one of the addresses is taken; the text names it.
    pub async fn bind(addresses: &config::Admin) -> std::io::Result<Self> {
        Ok(Self {
            admin: Server::bind(addresses.admin).await?,
            stats: Server::bind(addresses.stats).await?,
            readiness: Server::bind(addresses.readiness).await?,
        })
    }

    /// Serves until force.
    pub fn serve(self, pages: &Pages) {
        let Common {
            readiness,
            logs,
            shutdown,
            ..
        } = &pages.common;
        let admin = metrics(Router::new(), pages)
            .readiness(readiness)
            .logging(logs)
            .quit(shutdown);
        let dump = pages.clone();
        let admin = admin.route("/config_dump", move |_| {
            let pages = dump.clone();
            async move { pages.dump().await }
        });
        let admin = admin.route("/", |_| async { index() });
        self.admin.serve(admin, shutdown);
        self.stats.serve(metrics(Router::new(), pages), shutdown);
        self.readiness
            .serve(Router::new().readiness(readiness), shutdown);
    }
}

/// As the common routes, with byte counters brought up to now first.
fn metrics(router: Router, pages: &Pages) -> Router {
    let report = pages.report.clone();
    router.metrics_after(&pages.common.metrics, move || report.count_live())
}

impl Pages {
    /// Builds the dump away from the tasks that carry configuration: with a large mesh it takes a while.
    async fn dump(self) -> Response {
        let shutdown = self.common.shutdown.clone();
        let built = shutdown.spawn_blocking(move || {
            let sources = Sources {
                snapshot: &self.published.current(),
                certificates: self.certificates.store().statuses(),
                pods: self.pods.states(),
                connections: self.report.live(),
                config: self.config.clone(),
                now: SystemTime::now(),
            };
            let mut text = serde_json::to_string_pretty(&config_dump(&sources)).unwrap_or_default();
            text.push('\n');
            text
        });
        match built.await {
            Ok(text) => admin::json_response(text),
            Err(_) => {
                admin::text_response(http::StatusCode::INTERNAL_SERVER_ERROR, "the dump failed\n")
            }
        }
    }
}

fn index() -> Response {
    let page = "<!doctype html><title>ztunnel</title><h1>ztunnel</h1><ul>\
        <li><a href=\"config_dump\">config_dump</a>: what this ztunnel knows\
        <li><a href=\"logging\">logging</a>: log level (POST ?level=)\
        <li><a href=\"metrics\">metrics</a>\
        <li><a href=\"healthz/ready\">healthz/ready</a>\
        <li>quitquitquit: drain and exit (POST)</ul>\n";
    admin::response(http::StatusCode::OK, "text/html; charset=utf-8", page)
}
