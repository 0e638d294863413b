//! Manifests in, conditions out as text.

use objects::Change;

use super::*;
use crate::{store::Store, translate::Mesh};

mod statuses;

/// A waypoint `wp` that had a ready pod, its Service and a Service `web` that is bound to it.
const WORLD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: causeway-waypoint},
 spec: {controllerName: causeway.dev/waypoint-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app},
 spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]},
 status: {addresses: [{type: Hostname, value: wp.app.svc.cluster.local}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: young, namespace: app},
 spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: app},
 spec: {gatewayClassName: somebody-elses, listeners: [{name: web, port: 80, protocol: HTTP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app, labels: {gateway.networking.k8s.io/gateway-name: wp}},
 spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: app, labels: {istio.io/use-waypoint: wp}},
 spec: {clusterIP: 10.1.0.1, ports: [{port: 80, name: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bare, namespace: app}, spec: {clusterIP: 10.1.0.2, ports: [{port: 80, name: http}]}}
---
";

fn verdicts(more: &str) -> Verdicts {
    let (mut store, mut faults) = (Store::default(), Vec::new());
    let parsed = objects::parse(&format!("{WORLD}{more}"));
    for result in parsed.results {
        match result {
            Ok(object) => store.apply(Change::Upsert(object)),
            Err(fault) => {
                if let Some(object) = fault.stand_in.clone() {
                    store.apply(Change::Upsert(object));
                }
                faults.push(fault);
            }
        }
    }
    let mesh = Mesh::default();
    let index = mesh.index(&store);
    let translation = crate::translate::translate(&index);
    faults.extend(parsed.warnings);
    faults.extend(translation.faults.iter().cloned());
    judge(&index, &translation, &faults)
}

fn line(condition: &Condition) -> String {
    let status = if condition.holds { "True" } else { "False" };
    format!(
        "{}={status}/{}: {}",
        condition.kind, condition.reason, condition.message
    )
}

/// The conditions of one object as lines.
fn lines(more: &str, key: &str) -> Vec<String> {
    let verdicts = verdicts(more);
    let found = verdicts
        .by_object
        .iter()
        .find(|(other, _)| other.to_string() == key);
    match found.map(|(_, verdict)| &verdict.wanted) {
        None => Vec::new(),
        Some(Wanted::Refused(why)) => vec![format!("refused: {why}")],
        Some(Wanted::Conditions(conditions)) => conditions.iter().map(line).collect(),
        Some(Wanted::Parents(parents)) => parents
            .iter()
            .flat_map(|parent| parent.conditions.iter().map(line))
            .collect(),
    }
}

fn service(name: &str, labels: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: app, labels: {{{labels}}}}}, spec: {{clusterIP: 10.1.0.3, \
         ports: [{{port: 80}}]}}}}\n---\n"
    )
}

#[test]
fn a_service_says_whether_its_waypoint_serves_it() {
    let of = |labels: &str| lines(&service("s", labels), "Service app/s");
    assert!(of("").is_empty());
    assert_eq!(
        of("istio.io/use-waypoint: wp"),
        ["istio.io/WaypointBound=True/WaypointAccepted: Successfully attached to waypoint app/wp"]
    );
    assert_eq!(
        of("istio.io/use-waypoint: nowhere"),
        [
            "istio.io/WaypointBound=False/WaypointIsNotReady: waypoint app/nowhere is not there; traffic through it is refused until it is"
        ]
    );
    assert_eq!(
        of("istio.io/use-waypoint: young"),
        [
            "istio.io/WaypointBound=False/WaypointIsNotReady: waypoint app/young had no ready pod yet; traffic through it is refused until \
          it has one"
        ]
    );
    let elsewhere = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: other, labels: {istio.io/use-waypoint: wp, \
                     istio.io/use-waypoint-namespace: app}}, spec: {clusterIP: 10.1.0.4, ports: [{port: 80}]}}";
    assert_eq!(
        lines(elsewhere, "Service other/s"),
        [
            "istio.io/WaypointBound=False/AttachmentDenied: waypoint app/wp does not admit namespace other; traffic through it is \
             refused"
        ]
    );
}

#[test]
fn a_service_whose_waypoint_takes_no_services_says_so() {
    let gateway = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: w, namespace: app, labels: \
                   {istio.io/waypoint-for: workload}}, spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, \
                   protocol: HBONE}]}}\n---\n";
    assert_eq!(
        lines(
            &format!("{gateway}{}", service("s", "istio.io/use-waypoint: w")),
            "Service app/s"
        ),
        [
            "istio.io/WaypointBound=False/UnsupportedTrafficType: waypoint app/w takes no traffic to services; it is not used"
        ]
    );
}

fn route(namespace: &str, parents: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: {namespace}, generation: 3}}, spec: \
         {{parentRefs: [{parents}], rules: [{rules}]}}}}\n---\n"
    )
}

const WEB: &str = "{group: '', kind: Service, name: web}";
const GOOD: &str = "{backendRefs: [{name: web, port: 80}]}";
const ACCEPTED: &str = "Accepted=True/Accepted: Route was valid";
const WAYPOINTS: &str = "ResolvedWaypoints=True/ResolvedWaypoints: All waypoints resolved";
const RESOLVED: &str = "ResolvedRefs=True/ResolvedRefs: All references resolved";

#[test]
fn a_route_of_either_kind_is_accepted_at_its_generation() {
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let text = route("app", WEB, GOOD).replace("HTTPRoute", kind);
        assert_eq!(
            lines(&text, &format!("{kind} app/r")),
            [ACCEPTED, RESOLVED, WAYPOINTS]
        );
        let verdicts = verdicts(&text);
        let mut all = verdicts.by_object.values();
        let verdict = all.find(|verdict| matches!(verdict.wanted, Wanted::Parents(_)));
        assert_eq!(verdict.and_then(|verdict| verdict.generation), Some(3));
    }
}

#[test]
fn each_parent_that_is_ours_has_its_verdict_in_the_words_of_the_translation() {
    let of = |parents: &str| lines(&route("app", parents, GOOD), "HTTPRoute app/r");
    let gateway = "Accepted=False/NotAllowedByListeners: a waypoint's listener takes no routes; name the Service as parent instead";
    assert_eq!(of("{name: wp}"), [gateway]);
    // Another controller's, and one that is not there.
    assert!(of("{name: front}, {name: nobody}").is_empty());
    let both = of(&format!("{WEB}, {{name: wp}}"));
    assert_eq!(both, [ACCEPTED, RESOLVED, WAYPOINTS, gateway]);
    let lost = of("{group: '', kind: Service, name: lost}");
    assert_eq!(
        lost[0],
        "Accepted=False/NoMatchingParent: there is no Service app/lost"
    );
}

#[test]
fn a_route_waits_for_the_first_pod_of_its_waypoint() {
    let parent = "{group: '', kind: Service, name: s}";
    let text = service("s", "istio.io/use-waypoint: young") + &route("app", parent, GOOD);
    assert_eq!(
        lines(&text, "HTTPRoute app/r")[2],
        "ResolvedWaypoints=False/WaypointIsNotReady: waypoint app/young had no ready pod yet"
    );
}

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn a_policy_for_ztunnels_says_what_they_make_of_it() {
    let of = |spec: &str| lines(&policy("app", spec), "AuthorizationPolicy app/p");
    assert_eq!(
        of("rules: [{to: [{operation: {ports: ['80']}}]}]"),
        ["ZtunnelAccepted=True/Accepted: attached to ztunnel"]
    );
    assert_eq!(
        of("rules: [{to: [{operation: {methods: [GET]}}]}]"),
        [
            "ZtunnelAccepted=True/UnsupportedValue: spec.rules[0].to: needs layer 7: without a waypoint this rule allows nothing"
        ]
    );
    assert_eq!(
        of("action: AUDIT, rules: [{}]"),
        ["ZtunnelAccepted=False/UnsupportedValue: spec.action: AUDIT has no effect"]
    );
}

#[test]
fn a_policy_for_waypoints_says_where_it_is_bound() {
    let of = |namespace: &str, targets: &str| {
        let text = policy(
            namespace,
            &format!("action: DENY, rules: [{{}}], targetRefs: [{targets}]"),
        );
        lines(&text, &format!("AuthorizationPolicy {namespace}/p")).join("\n")
    };
    let (service, gateway) = (
        |name: &str| format!("{{group: '', kind: Service, name: {name}}}"),
        |name: &str| format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}"),
    );
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: causeway-waypoint}"
        .to_owned();
    let table = [
        ("app", service("web"), "True/Accepted: bound to app/wp"),
        (
            "app",
            service("bare"),
            "False/AncestorNotBound: Service app/bare is not bound to a waypoint",
        ),
        (
            "app",
            service("lost"),
            "False/TargetNotFound: Service app/lost was not found",
        ),
        ("app", gateway("wp"), "True/Accepted: bound to app/wp"),
        (
            "app",
            gateway("lost"),
            "False/TargetNotFound: Gateway app/lost was not found",
        ),
        (
            "app",
            gateway("front"),
            "False/Invalid: Gateway app/front is no waypoint",
        ),
        (
            "istio-system",
            class.clone(),
            "True/Accepted: bound to causeway-waypoint",
        ),
        (
            "app",
            class,
            "False/Invalid: AuthorizationPolicy must be in the root namespace `istio-system` when referencing a GatewayClass",
        ),
        (
            "app",
            format!("{}, {}", service("web"), service("lost")),
            "True/PartiallyInvalid: Invalid targetRefs: Service.core:app/lost: Service app/lost was not found",
        ),
    ];
    for (namespace, targets, expected) in table {
        assert_eq!(
            of(namespace, &targets),
            format!("WaypointAccepted={expected}"),
            "{targets}"
        );
    }
}

#[test]
fn what_is_refused_says_so_and_hides_nothing_else() {
    let bad = route("app", WEB, "{matches: [{path: {type: Exact, value: no}}]}");
    let good = service("s", "istio.io/use-waypoint: wp");
    let text = format!(
        "{bad}{good}---\n{}",
        policy(
            "app",
            "rules: [{to: [{operation: {ports: ['80'], prots: ['80']}}]}]"
        )
    );
    let why = "spec.rules[0].matches[0].path.value: `no` must begin with `/`";
    assert_eq!(lines(&text, "HTTPRoute app/r"), [format!("refused: {why}")]);
    let refused = lines(&text, "AuthorizationPolicy app/p");
    assert_eq!(
        refused,
        [
            "refused: spec.rules[0].to[0].operation.prots: unknown field; a policy is taken whole or not at all"
        ]
    );
    assert_eq!(lines(&text, "Service app/s").len(), 1);
    let events = verdicts(&text).refused;
    let events: Vec<String> = events
        .into_iter()
        .map(|(key, why)| format!("{key}: {why}"))
        .collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events.contains(&format!("HTTPRoute app/r: {why}")));
}
