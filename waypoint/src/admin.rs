//! What operators and `istioctl proxy-config` ask on the admin port, in Envoy's shapes: `/config_dump`, `/clusters`,
//! `/listeners`, `/server_info`, `/ready`; and `/compiled`, what the data path works by. Keys stand nowhere.

mod clusters;
pub mod compiled;
mod config_dump;
mod message;

use crate::config::Config;
use crate::proxy::Proxy;
use crate::upstream::dial::Certificates;
use http::StatusCode;
use runtime::Readiness;
use runtime::admin::{Request, Response, Router, json_response, query, text_response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::Semaphore;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// The data path, and the snapshot that it works by.
    pub proxy: Arc<Proxy>,
    /// The resources as they were sent.
    pub config: Config,
    /// Our certificate.
    pub certificates: Certificates,
    /// Whether we are ready.
    pub readiness: Readiness,
    /// Who we told the control plane that we are, as JSON.
    pub node: Arc<Value>,
    /// When we started.
    pub started: SystemTime,
}

type Page = fn(&Pages, &Request) -> Response;

/// Adds the pages.
pub fn routes(router: Router, pages: &Pages) -> Router {
    // A dump of a large mesh takes memory: one at a time, and away from the tasks that carry requests.
    let turn = Arc::new(Semaphore::new(1));
    let page = |router: Router, path: &str, write: Page| {
        let (pages, turn) = (pages.clone(), turn.clone());
        router.route(path, move |request| {
            let (pages, turn) = (pages.clone(), turn.clone());
            async move {
                let Ok(permit) = turn.acquire_owned().await else {
                    return text_response(StatusCode::SERVICE_UNAVAILABLE, "no dump any more\n");
                };
                let written = tokio::task::spawn_blocking(move || {
                    let written = write(&pages, &request);
                    drop(permit);
                    written
                });
                let failed =
                    |_| text_response(StatusCode::INTERNAL_SERVER_ERROR, "the dump failed\n");
                written.await.unwrap_or_else(failed)
            }
        })
    };
    let pages: [(&str, Page); 6] = [
        ("/config_dump", |pages, request| {
            shown(&config_dump::write(pages, request))
        }),
        ("/clusters", clusters::clusters),
        ("/listeners", clusters::listeners),
        ("/server_info", |pages, _| shown(&server_info(pages))),
        ("/ready", |pages, _| ready(pages)),
        ("/compiled", |pages, _| shown(&compiled(pages))),
    ];
    pages
        .into_iter()
        .fold(router, |router, (path, write)| page(router, path, write))
}

fn shown(value: &Value) -> Response {
    json_response(format!("{value:#}\n"))
}

/// Does the request ask for JSON where text is the rule?
fn wants_json(request: &Request) -> bool {
    query(request, "format") == Some("json")
}

fn compiled(pages: &Pages) -> Value {
    let certificate = (pages.certificates)();
    compiled::dump(
        &pages.proxy.snapshot.load(),
        certificate.as_deref(),
        pages.proxy.now(),
    )
}

/// Envoy's words for where in its life a process is.
fn state(pages: &Pages) -> &'static str {
    match (
        pages.proxy.shutdown.is_draining(),
        pages.readiness.is_ready(),
    ) {
        (true, _) => "DRAINING",
        (false, true) => "LIVE",
        (false, false) => "INITIALIZING",
    }
}

fn ready(pages: &Pages) -> Response {
    let status = match state(pages) {
        "LIVE" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    text_response(status, format!("{}\n", state(pages)))
}

fn server_info(pages: &Pages) -> Value {
    let uptime = format!("{}s", pages.proxy.now().as_secs());
    json!({
        "version": concat!("causeway-waypoint/", env!("CARGO_PKG_VERSION")),
        "state": state(pages),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "node": &*pages.node,
    })
}
