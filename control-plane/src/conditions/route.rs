//! `Accepted`, `ResolvedRefs`, `ResolvedWaypoints` and `PartiallyInvalid` of the parents of HTTPRoutes, in the
//! reasons of the Gateway API. A parent that is not ours (a Gateway of another controller) has no entry of ours.

use objects::{BackendRef, HttpRoute, Key, Kind, ParentRef, RouteRule, Service};
use serde_json::{Value, json};

use super::{ByKey, Condition, Parent, Verdict, Wanted, binding::Binding};
use crate::translate::{Index, Translation};

const ACCEPTED: &str = "Accepted";
const RESOLVED: &str = "ResolvedRefs";
const WAYPOINTS: &str = "ResolvedWaypoints";
const PARTLY: &str = "PartiallyInvalid";

pub(super) fn judge<'a>(
    index: &'a Index<'_>,
    translation: &'a Translation,
    faults: &'a ByKey<'_>,
) -> impl Iterator<Item = (Key, Verdict)> + 'a {
    index.store.http_routes.all().map(move |route| {
        let meta = &route.metadata;
        let key = Key::new(Kind::HttpRoute, &meta.namespace, &meta.name);
        let resolved = resolved(index, route);
        // What is said about backends stands in ResolvedRefs already.
        let remarks = faults.remarks(&key, |fault| !fault.why.starts_with("backend "));
        let parents = route.spec.parent_refs.iter();
        let parents = parents.filter_map(|parent| {
            let mut conditions = conditions(index, translation, route, parent)?;
            conditions.push(resolved.clone());
            conditions.extend(
                remarks
                    .clone()
                    .map(|why| Condition::yes(PARTLY, "UnsupportedValue", why)),
            );
            Some(Parent {
                reference: reference(parent),
                conditions,
            })
        });
        let verdict = Verdict {
            generation: meta.generation,
            wanted: Wanted::Parents(parents.collect()),
        };
        (key, verdict)
    })
}

/// `Accepted` and `ResolvedWaypoints`; none for a parent that is not ours to speak of.
fn conditions(
    index: &Index<'_>,
    translation: &Translation,
    route: &HttpRoute,
    parent: &ParentRef,
) -> Option<Vec<Condition>> {
    let namespace = parent
        .namespace
        .as_deref()
        .unwrap_or(&route.metadata.namespace);
    let name = parent.name.as_str();
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let core = matches!(parent.group.as_deref(), Some("" | "core"));
    match kind {
        "Service" if core => {}
        "Gateway" if !core => {
            index
                .waypoints()
                .find(|w| w.namespace == namespace && w.name == name && w.ours)?;
            let why = "a waypoint's listener takes no routes; name the Service as parent instead";
            return Some(vec![Condition::no(ACCEPTED, "NotAllowedByListeners", why)]);
        }
        _ => return None,
    }
    let Some(service) = index.store.services.find(namespace, name) else {
        let why = format!("Service {namespace}/{name} is not there");
        return Some(vec![Condition::no(ACCEPTED, "NoMatchingParent", why)]);
    };
    if let Some(port) = parent.port.filter(|port| !has_port(service, *port)) {
        let why = format!("Service {namespace}/{name} has no TCP port {port}");
        return Some(vec![Condition::no(ACCEPTED, "NoMatchingParent", why)]);
    }
    if let Some(section) = &parent.section_name {
        let why = format!("a Service has no section `{section}`; name the port instead");
        return Some(vec![Condition::no(ACCEPTED, "NoMatchingParent", why)]);
    }
    let binding = Binding::of(index, translation, service);
    Some(vec![
        accepted(&binding, route, namespace),
        waypoints(&binding, service),
    ])
}

/// A route of another namespace is its consumers' own view, which a waypoint that all share cannot have.
fn accepted(binding: &Binding<'_>, route: &HttpRoute, namespace: &str) -> Condition {
    let home = match binding {
        Binding::Denied(waypoint) | Binding::NotReady(waypoint) | Binding::Bound(waypoint) => {
            waypoint.namespace.as_str()
        }
        Binding::None | Binding::Absent(_) => namespace,
    };
    let own = route.metadata.namespace.as_str();
    if own == namespace || own == home {
        Condition::yes(ACCEPTED, ACCEPTED, "Route was valid")
    } else {
        let why = format!(
            "a route of namespace {own} cannot change what a waypoint of namespace {home} does for everybody: move it to \
             namespace {namespace}"
        );
        Condition::no(ACCEPTED, "NotAllowedByListeners", why)
    }
}

fn waypoints(binding: &Binding<'_>, service: &Service) -> Condition {
    let name = format!("{}/{}", service.metadata.namespace, service.metadata.name);
    match binding {
        Binding::Bound(_) => Condition::yes(WAYPOINTS, WAYPOINTS, "All waypoints resolved"),
        Binding::None => Condition::no(
            WAYPOINTS,
            "MissingUseWaypointLabel",
            format!(
                "Service {name} has no waypoint, so that nothing carries this route out: put the label \
                 istio.io/use-waypoint on it or on its namespace"
            ),
        ),
        Binding::Absent(_) | Binding::Denied(_) | Binding::NotReady(_) => Condition::no(
            WAYPOINTS,
            "NoMatchingParent",
            format!(
                "the waypoint of Service {name} does not serve it; its condition istio.io/WaypointBound says why"
            ),
        ),
    }
}

/// The first reference that leads nowhere, and how many there are.
fn resolved(index: &Index<'_>, route: &HttpRoute) -> Condition {
    let rules = route.spec.rules.iter().enumerate();
    let mut wrong = rules.flat_map(|(i, rule)| {
        backends(rule).filter_map(move |backend| {
            let (reason, why) = unresolved(index, route, backend)?;
            Some((
                reason,
                format!(
                    "spec.rules[{i}]: backend {}: {why}; its requests are answered with 500",
                    backend.name
                ),
            ))
        })
    });
    let Some((reason, first)) = wrong.next() else {
        return Condition::yes(RESOLVED, RESOLVED, "All references resolved");
    };
    match wrong.count() {
        0 => Condition::no(RESOLVED, reason, first),
        more => Condition::no(RESOLVED, reason, format!("{first} (and {more} more)")),
    }
}

/// Backends and mirrors of a rule.
fn backends(rule: &RouteRule) -> impl Iterator<Item = &BackendRef> {
    let mirrors = rule
        .filters
        .iter()
        .filter_map(|filter| filter.request_mirror.as_ref());
    rule.backend_refs
        .iter()
        .chain(mirrors.map(|mirror| &mirror.backend_ref))
}

fn unresolved(
    index: &Index<'_>,
    route: &HttpRoute,
    backend: &BackendRef,
) -> Option<(&'static str, String)> {
    let kind = backend.kind.as_deref().unwrap_or("Service");
    let group = backend.group.as_deref().unwrap_or_default();
    if kind != "Service" || !matches!(group, "" | "core") {
        return Some(("InvalidKind", format!("kind {kind} is not supported")));
    }
    let own = &route.metadata.namespace;
    let namespace = backend.namespace.as_deref().unwrap_or(own);
    if namespace != own {
        let why = format!("namespace {namespace} would have to grant this reference");
        return Some(("RefNotPermitted", why));
    }
    let lost = |why: String| Some(("BackendNotFound", why));
    let Some(service) = index.store.services.find(namespace, &backend.name) else {
        return lost(format!("there is no Service {namespace}/{}", backend.name));
    };
    let port = backend.port.unwrap_or_default();
    if has_port(service, port) {
        None
    } else {
        lost(format!(
            "Service {namespace}/{} has no TCP port {port}",
            backend.name
        ))
    }
}

fn has_port(service: &Service, wanted: u16) -> bool {
    let tcp = |protocol: &str| matches!(protocol, "" | "TCP");
    service
        .spec
        .ports
        .iter()
        .any(|port| port.port == wanted && tcp(&port.protocol))
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
