//! `/clusters` and `/listeners`: what is in use at this moment, as text or, with `?format=json`, as Envoy's
//! `envoy.admin.v3.Clusters` and `.Listeners`.

use super::{Pages, shown, wants_json};
use crate::cluster::Live;
use crate::model::cluster::{Health, Target};
use http::StatusCode;
use runtime::admin::{Request, Response, text_response};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// Endpoints of all clusters, and how they fare.
pub fn clusters(pages: &Pages, request: &Request) -> Response {
    let (snapshot, now) = (pages.proxy.snapshot.load(), pages.proxy.now());
    let mut all: Vec<&Live> = snapshot.clusters.values().map(|live| &**live).collect();
    all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    if !wants_json(request) {
        return text_response(StatusCode::OK, text(&all, now));
    }
    let statuses: Vec<Value> = all.into_iter().map(|live| status(live, now)).collect();
    shown(&json!({ "cluster_statuses": statuses }))
}

fn status(live: &Live, now: Duration) -> Value {
    let hosts = live.hosts.iter().map(|host| {
        json!({
            "address": address(&host.endpoint.target),
            "health_status": {
                "eds_health_status": health(host.endpoint.health),
                "failed_outlier_check": host.is_ejected(now),
            },
            "weight": host.endpoint.weight,
            "priority": host.endpoint.priority,
        })
    });
    json!({
        "name": &*live.config.name,
        "added_via_api": true,
        "host_statuses": hosts.collect::<Vec<_>>(),
    })
}

fn text(all: &[&Live], now: Duration) -> String {
    let mut text = String::new();
    for live in all {
        let name = &live.config.name;
        let _ = writeln!(text, "{name}::added_via_api::true");
        for host in live.hosts.iter() {
            let flags = match (host.endpoint.health, host.is_ejected(now)) {
                (_, true) => "/failed_outlier_check",
                (Health::Healthy, false) => "healthy",
                (Health::Degraded, false) => "/degraded",
                (Health::Unhealthy, false) => "/failed_eds_health",
            };
            let (to, weight) = (place(&host.endpoint.target), host.endpoint.weight);
            let _ = writeln!(text, "{name}::{to}::health_flags::{flags}");
            let _ = writeln!(text, "{name}::{to}::weight::{weight}");
        }
    }
    text
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
    }
}

/// As istiod names them: what is in the mesh is reached through an internal listener.
fn address(target: &Target) -> Value {
    let internal = |listener: &str, to: &str| json!({ "envoy_internal_address": { "server_listener_name": listener, "endpoint_id": to } });
    match target {
        Target::Plain(at) => socket(*at),
        Target::Tunnel { address, .. } => internal("connect_originate", &address.to_string()),
        Target::Double(to, _) => internal("inner_connect_originate", to),
        Target::Original => internal("connect_originate", ""),
    }
}

fn place(target: &Target) -> String {
    match target {
        Target::Plain(at) => at.to_string(),
        Target::Tunnel { address, .. } => format!("envoy://connect_originate/{address}"),
        Target::Double(to, _) => format!("envoy://inner_connect_originate/{to}"),
        Target::Original => "envoy://connect_originate/".to_owned(),
    }
}

fn socket(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

/// Where HBONE comes in, and what is inside it.
pub fn listeners(pages: &Pages, request: &Request) -> Response {
    let snapshot = pages.proxy.snapshot.load();
    let addresses = snapshot.terminate.iter().flat_map(|one| &one.addresses);
    let all: Vec<(&str, SocketAddr)> = addresses.map(|at| ("connect_terminate", *at)).collect();
    if !wants_json(request) {
        let lines = all.iter().map(|(name, at)| format!("{name}::{at}\n"));
        return text_response(StatusCode::OK, lines.collect::<String>());
    }
    let all = all
        .iter()
        .map(|(name, at)| json!({ "name": name, "local_address": socket(*at) }));
    shown(&json!({ "listener_statuses": all.collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_istiod_wrote_it() {
        let at: SocketAddr = "10.0.0.1:8080".parse().unwrap();
        let tunnel = Target::Tunnel {
            address: at,
            via: None,
        };
        assert_eq!(
            address(&tunnel)["envoy_internal_address"]["endpoint_id"],
            "10.0.0.1:8080"
        );
        assert_eq!(
            address(&Target::Plain(at))["socket_address"]["port_value"],
            8080
        );
        assert_eq!(place(&tunnel), "envoy://connect_originate/10.0.0.1:8080");
    }
}
