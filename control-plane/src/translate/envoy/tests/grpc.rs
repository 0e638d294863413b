//! GRPCRoutes.

use envoy_types::pb::envoy::config::route::v3::{
    route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier,
};

use super::*;

/// A service for gRPC, `g`, on port 70.
const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: g, namespace: app}, spec: {clusterIP: 10.1.0.2, selector: {app: a}, ports: [{name: grpc, port: 70}]}}\n---\n";
const G70: &str = "inbound-vip|70|http|g.app.svc.cluster.local";
const TO_G: &str = "backendRefs: [{name: g, port: 70}]";

fn route(kind: &str, name: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: app}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: g}}], rules: [{rules}]}}}}\n---\n"
    )
}

fn rules(rules: &str) -> Result {
    waypoint(&format!("{SERVICE}{}", route("GRPCRoute", "r", rules)))
}

#[test]
fn methods_become_paths() {
    let path = |method: &str| {
        let result = rules(&format!("{{matches: [{{method: {{{method}}}}}], {TO_G}}}"));
        let wanted = result.routes(G70).remove(0).r#match.expect("a match");
        match wanted.path_specifier.expect("a path") {
            PathSpecifier::Path(path) => format!("exact {path}"),
            PathSpecifier::PathSeparatedPrefix(path) => format!("under {path}"),
            PathSpecifier::SafeRegex(regex) => format!("regex {}", regex.regex),
            other => panic!("{other:?}"),
        }
    };
    let regex = "type: RegularExpression, ";
    for (method, expected) in [
        ("service: a.B, method: C", "exact /a.B/C"),
        ("service: a.B", "under /a.B"),
        ("method: C", "regex /[^/]+/C"),
        (
            &format!("{regex}service: 'a\\..*', method: 'C|D'"),
            r"regex /a\..*/(?:C|D)",
        ),
        (&format!("{regex}service: 'a|b'"), "regex /(?:a|b)/.+"),
        (&format!("{regex}method: 'C.*'"), "regex /[^/]+/C.*"),
    ] {
        assert_eq!(path(method), expected, "{method}");
    }
}

#[test]
fn the_longer_service_then_the_longer_method_then_more_headers_go_first() {
    let wants = [
        "headers: [{name: a, value: b}]",
        "method: {method: LongMethod}",
        "method: {service: a.B, method: C}",
        "method: {service: a.B}",
        "method: {service: a.B}, headers: [{name: a, value: b}]",
        "method: {service: a.Longer}",
    ];
    let list: Vec<String> = wants
        .iter()
        .map(|want| format!("{{matches: [{{{want}}}], {TO_G}}}"))
        .collect();
    let names: Vec<String> = rules(&format!("{{{TO_G}}}, {}", list.join(", ")))
        .routes(G70)
        .into_iter()
        .map(|route| route.name)
        .collect();
    let order = [6, 3, 5, 4, 2, 1, 0].map(|rule| format!("app.r.{rule}"));
    assert_eq!(names, order);
}

/// Where both are attached, the Gateway API lets only the more specific type of route count.
#[test]
fn grpc_routes_go_before_http_routes_of_the_same_port() {
    let http = route("HTTPRoute", "a", &format!("{{{TO_G}}}"));
    let grpc = route("GRPCRoute", "b", &format!("{{{TO_G}}}"));
    let names = |more: &str| -> Vec<String> {
        let result = waypoint(&format!("{SERVICE}{more}"));
        result
            .routes(G70)
            .into_iter()
            .map(|route| route.name)
            .collect()
    };
    assert_eq!(names(&http), ["app.a.0"]);
    assert_eq!(names(&format!("{http}{grpc}")), ["app.b.0"]);
}

#[test]
fn what_has_no_backend_is_unavailable() {
    let result = rules("{backendRefs: [{name: gone, port: 70}]}");
    match &result.routes(G70)[0].action {
        Some(Action::DirectResponse(response)) => assert_eq!(response.status, 503),
        other => panic!("an answer: {other:?}"),
    }
    assert_eq!(
        result.faults,
        [
            "GRPCRoute app/r: spec.rules[0]: backend gone: there is no such Service; its requests are answered with 503"
        ]
    );
    let result = rules(
        "{backendRefs: [{name: g, port: 70, weight: 7}, {name: gone, port: 70, weight: 3}, {name: never, port: 70, weight: 0}]}",
    );
    let Some(Action::Route(action)) = &result.routes(G70)[0].action else {
        panic!("forwarded")
    };
    assert_eq!(
        action.cluster_not_found_response_code, 0,
        "SERVICE_UNAVAILABLE"
    );
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else {
        panic!("weights")
    };
    let clusters: Vec<&str> = weighted
        .clusters
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(clusters, [G70, "UnknownService"]);
}

#[test]
fn filters_are_those_of_http_routes() {
    let result = rules(&format!(
        "{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: a, value: b}}]}}}}, {{type: RequestMirror, requestMirror: {{backendRef: {{name: s, port: 80}}}}}}], {TO_G}}}"
    ));
    let route = result.routes(G70).remove(0);
    assert_eq!(route.request_headers_to_add.len(), 1);
    let Some(Action::Route(action)) = route.action else {
        panic!("forwarded")
    };
    assert_eq!(action.request_mirror_policies[0].cluster, S80);
}

/// The upstream HTTP of a cluster, as Envoy calls it.
fn upstream(result: &Result, cluster: &str) -> &'static str {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
        HttpProtocolOptions, http_protocol_options::UpstreamProtocolOptions as Options,
    };
    let cluster = Cluster::decode(&result.resources.clusters[cluster][..]).expect("a cluster");
    let mut options = cluster.typed_extension_protocol_options.into_values();
    let options: Option<HttpProtocolOptions> = options.next().as_ref().map(unpack);
    match options.and_then(|options| options.upstream_protocol_options) {
        None => "http/1.1",
        Some(Options::ExplicitHttpConfig(_)) => "http/2",
        Some(Options::UseDownstreamProtocolConfig(_)) => "as the client",
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_port_of_unknown_protocol_is_spoken_to_as_its_client_speaks_and_in_http2_where_a_grpc_route_leads_to_it()
 {
    let unknown = "inbound-vip|70|http|s.app.svc.cluster.local";
    let result = waypoint(SERVICE);
    assert_eq!(upstream(&result, unknown), "as the client");
    assert_eq!(upstream(&result, S80), "http/1.1");
    assert_eq!(upstream(&result, S90), "http/1.1");
    assert_eq!(upstream(&result, G70), "http/2");
    let result = rules("{backendRefs: [{name: s, port: 70}, {name: s, port: 80}]}");
    assert_eq!(upstream(&result, unknown), "http/2");
    assert_eq!(
        upstream(&result, S80),
        "http/1.1",
        "its port says what it speaks"
    );
}
