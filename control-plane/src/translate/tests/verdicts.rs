//! What authors read in the status of their objects.

use super::*;
use crate::translate::verdict::{Condition, of_routes, of_service};

const WAYPOINT: &str = "\
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app}, spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app}, spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}}
---
";
const USES: &str = "istio.io/use-waypoint: wp";

fn route(kind: &str, name: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: app}}, spec: {{{rest}}}}}\n---\n"
    )
}

fn text(condition: &Condition) -> String {
    format!(
        "{}={} {}: {}",
        condition.r#type, condition.status, condition.reason, condition.message
    )
}

/// The conditions of the first parent of the route `r`, those that are good by their type only.
fn told(more: &str) -> Vec<String> {
    let (store, mesh) = (
        store(&format!("{}{WAYPOINT}{SERVICE}{more}", namespace(USES))),
        Mesh::default(),
    );
    let index = mesh.index(&store);
    let verdicts = of_routes(&index, &translate(&index));
    let verdict = verdicts.iter().find(|verdict| &*verdict.route.name == "r");
    let parents = &verdict.expect("the route `r`").parents;
    let conditions = parents[0].conditions.iter();
    conditions
        .map(|condition| match (condition.status, condition.r#type) {
            (true, r#type @ ("Accepted" | "ResolvedRefs" | "ResolvedWaypoints")) => r#type.into(),
            _ => text(condition),
        })
        .collect()
}

const GOOD: [&str; 3] = ["Accepted", "ResolvedRefs", "ResolvedWaypoints"];
const TO_S: &str = "rules: [{backendRefs: [{name: s, port: 80}]}]";

#[test]
fn a_route_says_whether_it_is_attached() {
    let at = |parent: &str| {
        let parents = format!("parentRefs: [{{group: '', kind: Service, {parent}}}], {TO_S}");
        told(&route("HTTPRoute", "r", &parents))
    };
    assert_eq!(at("name: s"), GOOD);
    assert_eq!(at("name: s, port: 80"), GOOD);
    let refused = |parent: &str| at(parent).remove(0);
    for (parent, why) in [
        (
            "name: gone",
            "NoMatchingParent: there is no Service app/gone",
        ),
        (
            "name: s, port: 81",
            "NoMatchingParent: Service app/s has no port 81",
        ),
        (
            "name: s, sectionName: http",
            "NoMatchingParent: Service app/s has no port that is called http",
        ),
    ] {
        assert_eq!(refused(parent), format!("Accepted=false {why}"));
    }
    let other = "{apiVersion: v1, kind: Service, metadata: {name: o, namespace: other}, spec: {clusterIP: 10.1.0.3, ports: [{port: 80}]}}\n---\n";
    let parents =
        format!("parentRefs: [{{group: '', kind: Service, name: o, namespace: other}}], {TO_S}");
    let consumer = told(&(other.to_owned() + &route("HTTPRoute", "r", &parents)));
    assert_eq!(
        consumer,
        [
            "Accepted=false NotAllowedByListeners: Service other/o is in another namespace, and routes for the clients of one namespace only are not supported: all clients share the waypoint; put the route into namespace other",
            "ResolvedRefs",
            "ResolvedWaypoints=false MissingUseWaypointLabel: no waypoint serves Service other/o: the route has no effect until the Service, its service account or its namespace names one (label istio.io/use-waypoint)",
        ]
    );
    let headless = SERVICE
        .replace("10.1.0.1", "None")
        .replace("name: s", "name: h");
    let parents = format!("parentRefs: [{{group: '', kind: Service, name: h}}], {TO_S}");
    assert_eq!(
        told(&(headless + &route("HTTPRoute", "r", &parents)))[0],
        "Accepted=false NoMatchingParent: Service app/h has no address of its own by which its traffic could be told"
    );
}

#[test]
fn a_gateway_as_parent_is_nobody_here() {
    let (store, mesh) = (
        store(&route(
            "HTTPRoute",
            "r",
            "parentRefs: [{name: s}], rules: [{}]",
        )),
        Mesh::default(),
    );
    let index = mesh.index(&store);
    assert_eq!(of_routes(&index, &translate(&index)), []);
}

#[test]
fn an_http_route_beside_a_grpc_route_is_in_conflict() {
    let rest = format!("parentRefs: [{{group: '', kind: Service, name: s}}], {TO_S}");
    let both = route("HTTPRoute", "r", &rest) + &route("GRPCRoute", "g", &rest);
    assert_eq!(
        told(&both)[0],
        "Accepted=false Conflicted: a GRPCRoute is attached to Service app/s, and goes before HTTPRoutes"
    );
    assert_eq!(told(&route("GRPCRoute", "r", &rest)), GOOD);
}

#[test]
fn references_that_lead_nowhere_are_told_with_their_reason() {
    let references = |rules: &str| {
        let rest = format!("parentRefs: [{{group: '', kind: Service, name: s}}], rules: [{rules}]");
        told(&route("HTTPRoute", "r", &rest)).remove(1)
    };
    for (rules, why) in [
        (
            "{backendRefs: [{name: gone, port: 80}]}",
            "BackendNotFound: spec.rules[0]: backend gone: there is no such Service",
        ),
        (
            "{}, {backendRefs: [{name: s, namespace: other, port: 80}]}",
            "RefNotPermitted: spec.rules[1]: backend s: no ReferenceGrant in namespace other allows this reference",
        ),
        (
            "{backendRefs: [{name: s, kind: Bucket}, {name: s, port: 81}]}",
            "InvalidKind: spec.rules[0]: backend s: kind Bucket is not supported; spec.rules[0]: backend s: it has no port 81",
        ),
        (
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}}}], backendRefs: [{name: s, port: 80}]}",
            "BackendNotFound: spec.rules[0]: backend m: there is no such Service",
        ),
    ] {
        assert_eq!(references(rules), format!("ResolvedRefs=false {why}"));
    }
    assert_eq!(
        references("{backendRefs: [{name: s, port: 80}, {name: gone, port: 80, weight: 0}]}"),
        "ResolvedRefs"
    );
}

#[test]
fn what_cannot_be_carried_out_is_told() {
    let rules = "{filters: [{type: ExtensionRef}]}, \
         {backendRefs: [{name: s, port: 80, filters: [{type: RequestRedirect, requestRedirect: {}}]}]}, \
         {matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: s, port: 80}]}";
    let of = |rules: &str| {
        let rest = format!("parentRefs: [{{group: '', kind: Service, name: s}}], rules: [{rules}]");
        told(&route("HTTPRoute", "r", &rest))
    };
    let why = "requests are answered with an error. \
         spec.rules[0]: filter ExtensionRef is not supported; \
         spec.rules[1]: backend s: filter RequestRedirect is not supported there; \
         spec.rules[2]: ReplacePrefixMatch needs a PathPrefix match";
    // A route of which nothing is left has not been accepted.
    assert_eq!(
        of(rules),
        [
            &format!("Accepted=false UnsupportedValue: {why}"),
            GOOD[1],
            GOOD[2]
        ]
    );
    for good in ["{backendRefs: [{name: s, port: 80}]}", "{}"] {
        let told = of(&format!("{rules}, {good}"));
        assert_eq!(told[..3], GOOD);
        assert_eq!(
            told[3],
            format!("PartiallyInvalid=true UnsupportedValue: Dropped Rule: {why}")
        );
    }
}

#[test]
fn a_service_says_whether_it_is_bound() {
    let bound = |text_: &str, labels: &str| {
        let service = SERVICE.replace(
            "namespace: app}",
            &format!("namespace: app, labels: {{{labels}}}}}"),
        );
        let (store, mesh) = (store(&format!("{text_}{service}")), Mesh::default());
        let index = mesh.index(&store);
        let service = store.services.find("app", "s").expect("the service");
        of_service(&index, service).as_ref().map(text)
    };
    let condition = |rest: &str| Some(format!("istio.io/WaypointBound={rest}"));
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa, namespace: app, labels: {istio.io/use-waypoint: wp}}}\n---\n";
    let pods = pod("app: a", "")
        + &pod("app: a", "")
            .replace("name: p", "name: q")
            .replace("serviceAccountName: sa", "serviceAccountName: x");
    let differ = "the service accounts of its endpoints do not all name the same waypoint: none of theirs is used for the service; label the Service itself";
    let good = "true WaypointAccepted: Successfully attached to waypoint app/wp";
    assert_eq!(bound(WAYPOINT, ""), None);
    assert_eq!(bound(WAYPOINT, USES), condition(good));
    assert_eq!(bound(&(namespace(USES) + WAYPOINT), ""), condition(good));
    assert_eq!(
        bound(&format!("{WAYPOINT}{account}{}", pod("app: a", "")), ""),
        condition(good)
    );
    assert_eq!(
        bound(&format!("{WAYPOINT}{account}{pods}"), ""),
        condition(&format!("false ServiceAccountsDiffer: {differ}"))
    );
    assert_eq!(
        bound(&format!("{}{WAYPOINT}{account}{pods}", namespace(USES)), ""),
        condition(&format!("{good}. {differ}"))
    );
    assert_eq!(
        bound("", USES),
        condition(
            "false WaypointIsNotReady: waypoint app/wp is not there; traffic through it is refused until it is"
        )
    );
    let workloads = WAYPOINT.replace(
        "name: wp, namespace: app}, spec: {gatewayClassName",
        "name: wp, namespace: app, labels: {istio.io/waypoint-for: workload}}, spec: {gatewayClassName",
    );
    assert_eq!(
        bound(&workloads, USES),
        condition(
            "false UnsupportedTrafficType: waypoint app/wp takes no traffic to services; it is not used"
        )
    );
    let elsewhere = WAYPOINT.replace("namespace: app", "namespace: infra");
    assert_eq!(
        bound(
            &elsewhere,
            "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra"
        ),
        condition(
            "false AttachmentDenied: waypoint infra/wp does not admit namespace app; traffic through it is refused"
        )
    );
}
