//! The `services` of a dump, with the endpoints of each.

use mesh::service::{IpFamilies, LoadBalancing, Mode, Scope, Service, Visibility};
use mesh::state::Snapshot;
use mesh::workload::NamespacedHostname;
use serde_json::{Map, Value, json};

use super::{gateway, put};

/// All services, by key.
pub(super) fn all(snapshot: &Snapshot) -> Vec<Value> {
    let mut services: Vec<_> = snapshot.services().collect();
    services.sort_by(|a, b| a.key.cmp(&b.key));
    services
        .into_iter()
        .map(|service| one(snapshot, service))
        .collect()
}

/// The endpoints of a service by uid, with their port maps.
pub(super) fn endpoints(
    snapshot: &Snapshot,
    name: &NamespacedHostname,
    service: Option<&Service>,
) -> Value {
    let endpoint = |workload: &mesh::workload::Workload| {
        let ports = workload
            .ports_of(name)
            .map(|ports| &*ports.ports)
            .unwrap_or_default();
        let target = |port: u16| {
            service
                .and_then(|service| service.port(port))
                .map_or(0, |port| port.target_port)
        };
        let ports = ports.iter().map(|pair| {
            let target = if pair.target_port == 0 {
                target(pair.service_port)
            } else {
                pair.target_port
            };
            (pair.service_port.to_string(), target.into())
        });
        json!({
            "workloadUid": &*workload.uid,
            "status": if workload.healthy { "Healthy" } else { "Unhealthy" },
            "port": ports.collect::<Map<_, _>>(),
        })
    };
    let all = snapshot
        .endpoints(name)
        .map(|workload| (workload.uid.to_string(), endpoint(workload)));
    all.collect::<Map<_, _>>().into()
}

fn one(snapshot: &Snapshot, service: &Service) -> Value {
    let vips = service.vips.iter().map(|vip| {
        let address = if vip.is_single() {
            vip.range.addr().to_string()
        } else {
            vip.range.to_string()
        };
        format!("{}/{address}", vip.network)
    });
    let ports = service
        .ports
        .iter()
        .map(|port| (port.service_port.to_string(), port.target_port.into()));
    let sans: Vec<&str> = service
        .subject_alt_names
        .iter()
        .map(|name| &**name)
        .collect();
    let mut object = Map::new();
    object.insert("name".to_owned(), (*service.name).into());
    object.insert("namespace".to_owned(), (*service.key.namespace).into());
    object.insert("hostname".to_owned(), (*service.key.hostname).into());
    object.insert("vips".to_owned(), vips.collect::<Vec<_>>().into());
    object.insert("ports".to_owned(), ports.collect::<Map<_, _>>().into());
    object.insert(
        "endpoints".to_owned(),
        endpoints(snapshot, &service.key, Some(service)),
    );
    object.insert("subjectAltNames".to_owned(), sans.into());
    object.insert("canonical".to_owned(), service.canonical.into());
    object.insert(
        "visibility".to_owned(),
        visibility(service.visibility).into(),
    );
    put(&mut object, "ipFamilies", families(service.ip_families));
    put(
        &mut object,
        "waypoint",
        service.waypoint.as_deref().map(gateway),
    );
    let weighted = service.weighted_waypoints.iter().map(|waypoint| {
        json!({ "destination": gateway(&waypoint.destination), "weight": waypoint.weight })
    });
    put(
        &mut object,
        "weightedWaypoints",
        weighted.collect::<Vec<_>>(),
    );
    if service.load_balancing != LoadBalancing::default() {
        object.insert(
            "loadBalancer".to_owned(),
            load_balancer(&service.load_balancing),
        );
    }
    object.into()
}

fn load_balancer(balancing: &LoadBalancing) -> Value {
    let scopes: Vec<&str> = balancing
        .scopes
        .iter()
        .map(|scope| self::scope(*scope))
        .collect();
    json!({
        "routingPreferences": scopes,
        "mode": mode(balancing.mode),
        "healthPolicy": if balancing.allow_unhealthy { "AllowAll" } else { "OnlyHealthy" },
    })
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Unspecified => "Standard",
        Mode::Strict => "Strict",
        Mode::Failover => "Failover",
        Mode::Passthrough => "Passthrough",
    }
}

fn families(families: IpFamilies) -> Option<&'static str> {
    match families {
        IpFamilies::Automatic => None,
        IpFamilies::V4Only => Some("IPv4"),
        IpFamilies::V6Only => Some("IPv6"),
        IpFamilies::Dual => Some("Dual"),
    }
}

fn visibility(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Public => "Public",
        Visibility::Namespace => "Namespace",
    }
}
