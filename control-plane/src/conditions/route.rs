//! Conditions of the parents of HTTPRoutes and GRPCRoutes: what the translation says of each Service that a route names,
//! and a word where a route names a waypoint's Gateway. A Gateway of another controller is not ours to speak of.

use std::collections::BTreeMap;

use objects::{Key, Kind, Meta, ParentRef};
use serde_json::{Value, json};

use super::{Condition, Parent, Verdict, Wanted, binding};
use crate::translate::{
    Index, Translation,
    verdict::{self, ParentVerdict},
};

/// Every route, whether a parent of it is ours or not: what was ours once has to go.
pub(super) fn judge(
    index: &Index<'_>,
    translation: &Translation,
) -> impl Iterator<Item = (Key, Verdict)> {
    let told = verdict::of_routes(index, translation).into_iter();
    let mut told: BTreeMap<Key, Vec<ParentVerdict>> = told
        .map(|verdict| (verdict.route, verdict.parents))
        .collect();
    let http = index.store.http_routes.all().map(|route| {
        let parents = route.spec.parent_refs.as_slice();
        (Kind::HttpRoute, &route.metadata, parents)
    });
    let grpc = index.store.grpc_routes.all().map(|route| {
        let parents = route.spec.parent_refs.as_slice();
        (Kind::GrpcRoute, &route.metadata, parents)
    });
    let routes: Vec<(Kind, &Meta, &[ParentRef])> = http.chain(grpc).collect();
    let verdicts = routes.into_iter().map(|(kind, meta, parents)| {
        let key = Key::new(kind, &meta.namespace, &meta.name);
        let services = told.remove(&key).unwrap_or_default();
        let services = services.into_iter().map(|parent| {
            let conditions = parent.conditions.into_iter().map(Condition::from);
            let mut conditions: Vec<Condition> = conditions.collect();
            not_ready(index, translation, meta, &parent.parent, &mut conditions);
            Parent {
                reference: reference(&parent.parent),
                conditions,
            }
        });
        let gateways = parents
            .iter()
            .filter(|parent| is_our_gateway(index, meta, parent));
        let gateways = gateways.map(|parent| Parent {
            reference: reference(parent),
            conditions: vec![Condition::no(
                "Accepted",
                "NotAllowedByListeners",
                "a waypoint's listener takes no routes; name the Service as parent instead",
            )],
        });
        let verdict = Verdict {
            generation: meta.generation,
            wanted: Wanted::Parents(services.chain(gateways).collect()),
        };
        (key, verdict)
    });
    verdicts.collect::<Vec<_>>().into_iter()
}

/// A waypoint without pods carries nothing out yet.
fn not_ready(
    index: &Index<'_>,
    translation: &Translation,
    meta: &Meta,
    parent: &ParentRef,
    conditions: &mut [Condition],
) {
    let namespace = parent.namespace.as_deref().unwrap_or(&meta.namespace);
    let Some(service) = index.store.services.find(namespace, &parent.name) else {
        return;
    };
    let Some((waypoint, false)) = binding::of(index, translation, service) else {
        return;
    };
    let mut all = conditions.iter_mut();
    if let Some(one) = all.find(|one| one.kind == "ResolvedWaypoints" && one.holds) {
        let why = format!(
            "waypoint {}/{} had no ready pod yet",
            waypoint.namespace, waypoint.name
        );
        *one = Condition::no("ResolvedWaypoints", "WaypointIsNotReady", why);
    }
}

fn is_our_gateway(index: &Index<'_>, meta: &Meta, parent: &ParentRef) -> bool {
    let namespace = parent.namespace.as_deref().unwrap_or(&meta.namespace);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let group = parent
        .group
        .as_deref()
        .unwrap_or("gateway.networking.k8s.io");
    kind == "Gateway"
        && group == "gateway.networking.k8s.io"
        && index
            .waypoints()
            .any(|w| w.ours && w.namespace == namespace && w.name == parent.name)
}

/// As the route has it: the reader finds the entry by comparing.
fn reference(parent: &ParentRef) -> Value {
    let mut reference = json!({ "name": parent.name });
    let texts = [
        ("group", &parent.group),
        ("kind", &parent.kind),
        ("namespace", &parent.namespace),
        ("sectionName", &parent.section_name),
    ];
    for (field, value) in texts {
        if let Some(value) = value {
            reference[field] = json!(value);
        }
    }
    if let Some(port) = parent.port {
        reference["port"] = json!(port);
    }
    reference
}
