//! The configuration as compiled, as JSON: what the data path works by. Certificates appear as facts, never as keys.
//! Called by `admin`.

use crate::model::cluster::Discovery;
use crate::model::listener::{ChainKind, HttpFilter, RouteSource};
use crate::model::route::{RouteAction, RouteTable};
use crate::state::Snapshot;
use identity::Certificate;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// The configuration in force.
pub fn dump(snapshot: &Snapshot, certificate: Option<&Certificate>, now: Duration) -> Value {
    let mut chains: Vec<_> = snapshot.inbound.chains.values().collect();
    chains.sort_by(|a, b| a.name.cmp(&b.name));
    let chains: Vec<Value> = chains
        .into_iter()
        .map(|chain| match &chain.kind {
            ChainKind::Http(http) => json!({
                "name": &*chain.name,
                "protocol": "http",
                "filters": http.filters.iter().map(filter).collect::<Vec<_>>(),
                "routes": match &http.routes {
                    RouteSource::Inline(table) => routes(table),
                    RouteSource::Named(name) => json!({ "rds": &**name }),
                },
            }),
            ChainKind::Tcp(tcp) => json!({
                "name": &*chain.name,
                "protocol": "tcp",
                "policies": tcp.rbac.iter().filter_map(|filter| filter.rules.as_ref()).map(policies).collect::<Vec<_>>(),
                "clusters": tcp.targets.iter().map(|(name, weight)| json!({"name": &**name, "weight": weight})).collect::<Vec<_>>(),
            }),
        })
        .collect();
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    let clusters: Vec<Value> = clusters
        .into_iter()
        .map(|live| {
            let hosts = live.hosts.iter().map(|host| {
                json!({
                    "target": format!("{:?}", host.endpoint.target),
                    "health": format!("{:?}", host.endpoint.health),
                    "weight": host.endpoint.weight,
                    "priority": host.endpoint.priority,
                    "ejected": host.is_ejected(now),
                    "workload": &*host.endpoint.workload.name,
                })
            });
            json!({
                "name": &*live.config.name,
                "balance": format!("{:?}", live.config.balance),
                "discovery": match &live.config.discovery {
                    Discovery::Eds(name) => format!("EDS {name}"),
                    Discovery::Static(_) => "static".into(),
                    Discovery::Passthrough => "passthrough".into(),
                    Discovery::Fixed => "fixed".into(),
                },
                "endpoints": hosts.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "generation": snapshot.generation,
        "listening": snapshot.terminate.as_ref().map(|terminate| terminate.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "chains": chains,
        "clusters": clusters,
        "certificate": certificate.map(certificate_facts),
    })
}

fn filter(filter: &HttpFilter) -> Value {
    match filter {
        HttpFilter::Rbac(rbac) => json!({
            "rbac": rbac.rules.as_ref().map(policies),
            "dry_run": rbac.shadow.as_ref().map(policies),
        }),
        HttpFilter::Fault => json!("fault"),
        HttpFilter::Cors => json!("cors"),
    }
}

fn policies(rules: &crate::model::Policies) -> Value {
    let names: Vec<&str> = rules.policies.iter().map(|policy| &*policy.name).collect();
    json!({ "action": format!("{:?}", rules.action), "policies": names })
}

fn routes(table: &RouteTable) -> Value {
    let hosts = table.hosts.iter().map(|host| {
        let routes = host.routes.iter().map(|route| {
            let action = match &route.action {
                RouteAction::Forward(forward) => {
                    let targets = forward.targets.iter();
                    json!(targets.map(|t| json!({"cluster": &*t.cluster, "weight": t.weight})).collect::<Vec<_>>())
                }
                RouteAction::Redirect(redirect) => json!({ "redirect": redirect.status.as_u16() }),
                RouteAction::Direct { status, .. } => json!({ "direct_response": status.as_u16() }),
            };
            json!({ "name": &*route.name, "path": format!("{:?}", route.matches.path), "action": action })
        });
        json!({ "domains": host.domains, "routes": routes.collect::<Vec<_>>() })
    });
    json!({ "name": &*table.name, "hosts": hosts.collect::<Vec<_>>() })
}

fn certificate_facts(certificate: &Certificate) -> Value {
    let seconds = |time: std::time::SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    };
    json!({
        "identity": certificate.identity().uri(),
        "serial": certificate.serial(),
        "not_before": seconds(certificate.not_before()),
        "not_after": seconds(certificate.not_after()),
    })
}
