//! What `objects` accepts our own waypoint takes. All services of a waypoint share one listener, so one manifest that
//! passes here and is refused there would hold back every later change, DENYs included.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the failure report"
)]

use control_plane::store::Store;
use control_plane::translate::{Mesh, envoy, translate};
use objects::{Change, Object};
use waypoint::state::State;

/// A waypoint of ours, a service and its pod, and policies and a route that each case replaces.
const BASE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app, labels: {istio.io/waypoint-for: all}},
 spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app}, spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: app},
 spec: {clusterIP: 10.1.0.1, selector: {app: a}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: app, labels: {app: a}}, spec: {nodeName: n, serviceAccountName: sa}, status: {podIPs: [{ip: 10.0.0.1}]}}
---
";

/// Texts that are odd in one way or another, quoted for YAML.
fn odd_texts() -> Vec<String> {
    let plain = [
        "a",
        "*",
        "a*",
        "*a",
        "a*b",
        "**",
        "/",
        "//",
        "/a",
        "a/b",
        "/a b",
        "/é",
        "é",
        "{*}",
        "{**}",
        "/{*}",
        "/{**}",
        "/{**}/{*}",
        "/{*}/a/{**}",
        "/{**}.mp4",
        "/{a}",
        "/a{*}",
        "/{*}{*}",
        "/a?b=c",
        "/%2e",
        "%",
        "%REQ(a)%",
        "a|b",
        "a)|(?:b",
        "(?x)a # b",
        "[",
        "\\",
        "$1",
        "\\1",
        "/u/\\w{1,100}",
        "(\\w{1,100}){20}",
        "\\pL{1000}",
        "x y",
        "x:y",
        "Host",
        "host",
        ":authority",
        ":path",
        ":status",
        ":",
        "Connection",
        "\u{1}",
        "a\tb",
        "a\nb",
        "10.0.0.1",
        "10.0.0.0/8",
        "fd00::/8",
        "::ffff:10.0.0.1/100",
        "0",
        "80",
        "65536",
        "-1",
        "+80",
        "a..b",
        "td/ns/a/sa/b",
        "1s",
        "0s",
        "99999h",
        "1ms",
        "GET",
        "G T",
    ];
    let long = ["a", "*", "/a", "{*}/"];
    let long = long
        .iter()
        .flat_map(|piece| [100, 300, 5000].map(|n| piece.repeat(n)));
    plain
        .into_iter()
        .map(str::to_owned)
        .chain(long)
        .map(|text| serde_json::to_string(&text).unwrap())
        .collect()
}

/// Places in a policy for a text, `@`. A policy for the Gateway is in all chains: HTTP and TCP, of services and of
/// workloads. What a DENY has, an ALLOW has at most.
fn policies() -> Vec<String> {
    let source = [
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "namespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "remoteIpBlocks",
    ];
    let source = source.map(|name| format!("{{from: [{{source: {{{name}: [@]}}}}]}}"));
    let operation = ["hosts", "notHosts", "ports", "methods", "paths", "notPaths"];
    let operation = operation.map(|name| format!("{{to: [{{operation: {{{name}: [@]}}}}]}}"));
    let keys = [
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.serviceAccount",
        "source.principal",
        "request.auth.principal",
        "destination.ip",
        "destination.port",
        "connection.sni",
        "'request.headers[x-a]'",
        "'request.headers[:path]'",
    ];
    let keys = keys.map(|key| format!("{{when: [{{key: {key}, values: [@]}}]}}"));
    let key = "{when: [{key: @, values: [a]}]}".to_owned();
    let rules = source.into_iter().chain(operation).chain(keys).chain([key]);
    let policy = |rule| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: odd, namespace: app}}, spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: wp}}], action: DENY, rules: [{rule}]}}}}"
        )
    };
    rules.map(policy).collect()
}

/// Places in a route for a text, `@`.
fn routes() -> Vec<String> {
    const TO: &str = "backendRefs: [{name: s, port: 80}]";
    const REWRITE: &str =
        "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}";
    let filters = [
        "{type: @}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: @, value: v}]}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: n, value: @}]}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: @}]}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: @, value: @}]}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [@]}}",
        "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: @, value: @}]}}",
        "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [@]}}",
        "{type: RequestMirror, requestMirror: {backendRef: {name: @, port: 80}}}",
        "{type: RequestRedirect, requestRedirect: {hostname: @}}",
        "{type: RequestRedirect, requestRedirect: {scheme: @}}",
        "{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: @}}}",
        "{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: @}}}",
        "{type: URLRewrite, urlRewrite: {hostname: @}}",
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: @}}}",
        "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: @}}}",
        "{type: CORS, cors: {allowOrigins: [@], allowMethods: [GET]}}",
        "{type: CORS, cors: {allowOrigins: ['*'], allowMethods: [@], allowHeaders: [@], exposeHeaders: [@]}}",
    ];
    let of_rule = filters.map(|filter| format!("{{filters: [{filter}], {TO}}}"));
    let changes = filters[..8].iter().chain(&filters[13..14]);
    let of_backend = changes
        .map(|filter| format!("{{backendRefs: [{{name: s, port: 80, filters: [{filter}]}}]}}"));
    let matches = [
        "path: {value: @}",
        "path: {type: Exact, value: @}",
        "path: {type: RegularExpression, value: @}",
        "method: @",
        "headers: [{name: @, value: v}]",
        "headers: [{name: n, value: @}]",
        "headers: [{type: RegularExpression, name: n, value: @}]",
        "queryParams: [{name: @, value: v}]",
        "queryParams: [{type: RegularExpression, name: n, value: @}]",
    ];
    let matches =
        matches.map(|wanted| format!("{{matches: [{{{wanted}}}], filters: [{REWRITE}], {TO}}}"));
    let others = [
        "timeouts: {request: @}",
        "timeouts: {backendRequest: @}",
        "retry: {backoff: @, codes: [500]}",
        "name: @",
    ];
    let others = others.map(|other| format!("{{{other}, {TO}}}"));
    let rules = of_rule
        .into_iter()
        .chain(of_backend)
        .chain(matches)
        .chain(others);
    let route = |rule| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: odd, namespace: app}}, spec: {{parentRefs: [{{group: '', kind: Service, name: s}}], rules: [{rule}]}}}}"
        )
    };
    rules.map(route).chain(grpc_routes()).collect()
}

/// The same in a GRPCRoute.
fn grpc_routes() -> impl Iterator<Item = String> {
    let rules = [
        "{matches: [{method: {service: @, method: @}}], backendRefs: [{name: s, port: 80}]}",
        "{matches: [{method: {service: @}}], backendRefs: [{name: s, port: 80}]}",
        "{matches: [{method: {type: RegularExpression, service: @, method: @}}], backendRefs: [{name: s, port: 80}]}",
        "{matches: [{method: {type: RegularExpression, method: @}}], backendRefs: [{name: s, port: 80}]}",
        "{matches: [{headers: [{name: @, value: @}]}], backendRefs: [{name: s, port: 80}]}",
        "{name: @, backendRefs: [{name: @, port: 80}]}",
    ];
    rules.into_iter().map(|rule| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: odd, namespace: app}}, spec: {{parentRefs: [{{group: '', kind: Service, name: s}}], rules: [{rule}]}}}}"
        )
    })
}

fn good(text: &str) -> Option<Vec<Object>> {
    objects::parse(text)
        .results
        .into_iter()
        .map(Result::ok)
        .collect()
}

/// What the waypoint says against any of its resources.
fn refusals(base: &[Object], more: Vec<Object>) -> Vec<String> {
    let (mut store, mesh) = (Store::default(), Mesh::default());
    let all = base.iter().cloned().chain(more);
    all.for_each(|object| store.apply(Change::Upsert(object)));
    let index = mesh.index(&store);
    let translation = translate(&index);
    let waypoint = index.waypoints().next().unwrap();
    let resources = envoy::translate(&index, &translation, waypoint, &mut Vec::new());
    let mut state = State::default();
    let types = [
        (proto::type_url::CLUSTER, resources.clusters),
        (proto::type_url::ENDPOINT, resources.endpoints),
        (proto::type_url::LISTENER, resources.listeners),
    ];
    let mut refusals = Vec::new();
    for (url, bodies) in types {
        assert!(!bodies.is_empty(), "{url}");
        let refused = bodies
            .iter()
            .filter_map(|(name, body)| state.upsert(url, name, body).err());
        refusals.extend(refused);
    }
    refusals
}

/// Manifests that are compiled together; one that is refused is then looked for by itself.
const TOGETHER: usize = 250;

#[test]
fn what_is_accepted_of_manifests_the_waypoint_takes() {
    let base = good(BASE).unwrap();
    assert_eq!(refusals(&base, Vec::new()), [""; 0]);
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for place in policies().into_iter().chain(routes()) {
        for text in odd_texts() {
            let manifest = place.replace('@', &text);
            let name = format!("name: odd{}, namespace", accepted.len());
            match good(&manifest.replace("name: odd, namespace", &name)) {
                Some(objects) => accepted.push((manifest, objects)),
                None => refused += 1,
            }
        }
    }
    println!("{} manifests accepted, {refused} refused", accepted.len());
    assert!(accepted.len() > 1000 && refused > 1000);
    for some in accepted.chunks(TOGETHER) {
        let together = some.iter().flat_map(|(_, objects)| objects.clone());
        if refusals(&base, together.collect()).is_empty() {
            continue;
        }
        for (manifest, objects) in some {
            let faults = refusals(&base, objects.clone());
            assert_eq!(faults, [""; 0], "{manifest:.900}");
        }
        panic!("refused together, but none alone");
    }
}
