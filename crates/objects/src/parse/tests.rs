//! Tables of texts: what is read, what is refused and in which words.
//! Long because it is tables of manifests with what is said of each.

use proptest::prelude::*;

use super::*;
use crate::{PolicyAction, Severity};

fn only(text: &str) -> Result<Object, Fault> {
    let mut parsed = parse(text);
    assert_eq!(parsed.results.len(), 1, "{parsed:?}");
    parsed.results.remove(0)
}

fn refusal(text: &str) -> String {
    only(text).expect_err("must be refused").to_string()
}

#[test]
fn several_documents_and_lists_are_taken_apart() {
    let text = "\
# comment
---
apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {istio.io/dataplane-mode: ambient}}
--- # second
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p}, status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
---
";
    let parsed = parse(text);
    let keys: Vec<_> = parsed
        .results
        .iter()
        .map(|r| r.as_ref().unwrap().key().to_string())
        .collect();
    assert_eq!(keys, ["Namespace a", "Pod default/p"]);
    let Ok(Object::Pod(pod)) = &parsed.results[1] else {
        panic!("a pod")
    };
    assert_eq!(pod.addresses().len(), 2);
    assert_eq!(pod.service_account(), "default");
    assert!(parsed.warnings.is_empty());
}

#[test]
fn json_is_read_as_well() {
    let text = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s","namespace":"n"},
        "spec":{"clusterIP":"None","ports":[{"port":80,"targetPort":"web"},{"port":81,"targetPort":8081}]}}"#;
    let Ok(Object::Service(service)) = only(text) else {
        panic!("a service")
    };
    assert!(service.spec.addresses().is_empty());
    assert_eq!(
        service.spec.ports[0].target_port,
        Some(crate::IntOrString::String("web".into()))
    );
    assert_eq!(
        service.spec.ports[1].target_port,
        Some(crate::IntOrString::Int(8081))
    );
}

#[test]
fn yaml_may_begin_with_a_brace() {
    let text = "{apiVersion: v1, kind: Node, metadata: {name: n}}";
    assert!(only(text).is_ok());
}

#[test]
fn null_reads_as_absent() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: null, creationTimestamp: null}\nspec:\n";
    assert!(only(text).is_ok());
}

#[test]
fn a_bad_document_spoils_no_other() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\nkind: [\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n}\n";
    let parsed = parse(text);
    assert!(
        parsed.results[0].is_ok() && parsed.results[2].is_ok(),
        "{parsed:?}"
    );
    let fault = parsed.results[1].as_ref().unwrap_err();
    assert!(fault.key.is_none());
    assert!(
        fault.to_string().starts_with("not valid YAML near line "),
        "{fault}"
    );
}

#[test]
fn refusals_name_object_field_and_reason() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, namespace: app}}\nspec: {spec}\n"
        )
    };
    let route = |spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: app}}\nspec: {spec}\n"
        )
    };
    let table = [
        ("kind: Pod\nmetadata: {name: p}".to_owned(), "a Pod without `apiVersion`"),
        ("apiVersion: v1\nmetadata: {name: p}".to_owned(), "an object without `kind`"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: p-}".to_owned(), "metadata.name: a Pod: must be lower case letters, digits, `-` and `.`"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a/b}".to_owned(), "metadata.namespace: Pod p: must be lower case letters, digits and `-`"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: 5}".to_owned(), "Pod default/p: spec.hostNetwork: invalid type: integer `5`, expected a boolean"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {serviceAccountName: a/b}".to_owned(), "Pod default/p: spec.serviceAccountName: `a/b` must be lower case letters, digits, `-` and `.`"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nstatus: {podIP: 1.2.3}".to_owned(), "Pod default/p: status.podIP: `1.2.3` is no IP address"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}, {port: 70000}]}".to_owned(), "Service default/s: spec.ports[1].port: invalid value: integer `70000`, expected u16"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}, {port: 80}]}".to_owned(), "Service default/s: spec.ports[1].port: port 80 is there twice"),
        (policy("{action: MAYBE}"), "AuthorizationPolicy app/x: spec.action: unknown variant `MAYBE`, expected one of `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`"),
        (policy("{rules: [{from: [{source: {}}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].from[0].source: must set at least one field; left empty it would match nothing or everything"),
        (policy("{rules: [{to: [{operation: {ports: ['http']}}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].to[0].operation.ports[0]: `http` must be a port number, 1 to 65535"),
        (policy("{rules: [{from: [{source: {ipBlocks: ['10.0.0.0/33']}}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].from[0].source.ipBlocks[0]: `10.0.0.0/33`: the prefix length must be 0 to 32"),
        (policy("{rules: [{from: [{source: {namespaces: [a], principlas: [b]}}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].from[0].source.principlas: unknown field; a policy is taken whole or not at all"),
        (policy("{rules: [{when: [{key: request.color, values: [red]}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].when[0].key: `request.color` is no known attribute"),
        (policy("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}"), "AuthorizationPolicy app/x: spec.selector: must not be set together with targetRefs"),
        (policy("{targetRefs: [{kind: Pod, name: s}]}"), "AuthorizationPolicy app/x: spec.targetRefs[0].kind: `/Pod` must be Gateway, GatewayClass, Service or ServiceEntry"),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, labels: {istio.io/waypoint-for: services}}\nspec: {gatewayClassName: causeway-waypoint}".to_owned(), "Gateway default/wp: metadata.labels[istio.io/waypoint-for]: `services` must be service, workload, all or none"),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp}\nspec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, protocol: HBONE}]}".to_owned(), "Gateway default/wp: spec.listeners[0].port: must be 1 to 65535"),
        (route("{rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]}"), "HTTPRoute app/r: spec.rules[0].matches[0].path.value: `(` is no regular expression: error: unclosed group"),
        (route("{rules: [{matches: [{path: {type: RegularExpression, value: '/u/(\\w{1,100}){9}'}}]}]}"), "HTTPRoute app/r: spec.rules[0].matches[0].path.value: `/u/(\\w{1,100}){9}` is no regular expression: Compiled regex exceeds size limit of 1048576 bytes."),
        (route("{rules: [{matches: [{path: {type: Exact, value: /é}}]}]}"), "HTTPRoute app/r: spec.rules[0].matches[0].path.value: `/é` holds a character that no path of a request has"),
        (route("{rules: [{filters: [{type: RequestRedirect}]}]}"), "HTTPRoute app/r: spec.rules[0].filters[0].requestRedirect: is missing for type RequestRedirect"),
        (route("{rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: 'a b'}}]}]}"), "HTTPRoute app/r: spec.rules[0].filters[0].urlRewrite.hostname: `a b` must be lower case letters, digits, `-` and `.`"),
        (route("{rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}, urlRewrite: {}}]}]}"), "HTTPRoute app/r: spec.rules[0].filters[0].urlRewrite: must not be set for type `RequestMirror`"),
        (route("{rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: é}]}}]}]}"), "HTTPRoute app/r: spec.rules[0].filters[0].requestHeaderModifier: a header value may hold only visible ASCII characters, and must not be too long"),
        (policy("{rules: [{to: [{operation: {paths: ['{**}']}}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].to[0].operation.paths[0]: `{**}` must begin with `/`"),
        (policy("{rules: [{to: [{operation: {paths: ['/{**}/a/{*}']}}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].to[0].operation.paths[0]: nothing but text may follow `{**}`"),
        (policy("{rules: [{when: [{key: 'request.headers[x y]', values: [a]}]}]}"), "AuthorizationPolicy app/x: spec.rules[0].when[0].key: `request.headers[x y]` is no known attribute"),
        (route("{rules: [{timeouts: {request: 5}}]}"), "HTTPRoute app/r: spec.rules[0].timeouts.request: invalid type: integer `5`, expected a string"),
        (route("{rules: [{timeouts: {request: 5 s}}]}"), "HTTPRoute app/r: spec.rules[0].timeouts.request: `5 s` is no duration such as `5s` or `1m30s`"),
        (route("{rules: [{backendRefs: [{name: a}]}]}"), "HTTPRoute app/r: spec.rules[0].backendRefs[0].port: is required for a Service"),
        (route("{rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}]}"), "HTTPRoute app/r: spec.rules[0].filters[0].requestRedirect.statusCode: 200 must be 301, 302, 303, 307 or 308"),
    ];
    for (text, message) in table {
        assert_eq!(refusal(&text), message, "{text}");
    }
}

#[test]
fn a_refused_policy_brings_a_stand_in_with_the_scope_that_could_be_read() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: app}\nspec: {selector: {matchLabels: {app: a}}, action: MAYBE}\n";
    let fault = only(text).unwrap_err();
    let Some(Object::AuthorizationPolicy(policy)) = fault.stand_in else {
        panic!("a stand-in")
    };
    assert!(policy.invalid.is_some());
    assert_eq!(
        policy.spec.selector.as_ref().unwrap().match_labels["app"],
        "a"
    );
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, namespace: app}\nspec: {mtls: {mode: OFTEN}}\n";
    let Some(Object::PeerAuthentication(policy)) = only(text).unwrap_err().stand_in else {
        panic!("a stand-in")
    };
    assert_eq!(policy.spec.mode(), MtlsMode::Strict);
}

#[test]
fn a_stand_in_whose_target_could_not_be_read_guards_its_namespace() {
    let targets = |list: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, namespace: app}}\nspec: {{targetRefs: [{list}], action: MAYBE}}\n"
        );
        match only(&text).unwrap_err().stand_in {
            Some(Object::AuthorizationPolicy(policy)) => policy.spec.targets().count(),
            other => panic!("a stand-in: {other:?}"),
        }
    };
    assert_eq!(targets("{kind: Service, name: a}"), 1);
    assert_eq!(targets("{kind: Servcie, name: a}"), 0);
    assert_eq!(
        targets("{kind: Service, name: a}, {kind: Servcie, name: b}"),
        0
    );
    assert_eq!(targets("{kind: Service}"), 0);
}

#[test]
fn a_guard_with_an_unknown_part_beside_its_spec_is_refused() {
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, namespace: app}\nspce: {mtls: {mode: STRICT}}\nstatus: {conditions: []}\n";
    assert_eq!(
        refusal(text),
        "PeerAuthentication app/x: spce: unknown field; a policy is taken whole or not at all"
    );
    assert!(only(&text.replace("spce", "spec")).is_ok());
}

#[test]
fn unknown_fields_of_routes_and_unknown_mesh_kinds_are_warned_of() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {rules: [{sessionPersistence: {type: Cookie}}]}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\n";
    let parsed = parse(text);
    assert!(parsed.results[0].is_ok());
    let texts: Vec<_> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "HTTPRoute default/r: spec.rules[0].sessionPersistence: this field is not supported and has no effect",
            "DestinationRule d: this kind is not supported and has no effect",
        ]
    );
    assert!(
        parsed
            .warnings
            .iter()
            .all(|fault| fault.severity == Severity::Warning)
    );
}

#[test]
fn a_slip_in_kind_or_group_is_refused_and_what_exists_is_let_alone() {
    let text = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: app}}\n")
    };
    for (version, kind, group) in [
        (
            "security.istio.io/v1",
            "AuthorizationPolcy",
            "API group `security.istio.io`",
        ),
        (
            "security.istio.i/v1",
            "AuthorizationPolicy",
            "API group `security.istio.i`",
        ),
        (
            "security.istio.io",
            "AuthorizationPolicy",
            "the core API group",
        ),
        ("v1", "Namespce", "the core API group"),
        (
            "gateway.networking.k8s.io/v1",
            "Gatway",
            "API group `gateway.networking.k8s.io`",
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlices",
            "API group `discovery.k8s.io`",
        ),
        ("apps/v1", "Pod", "API group `apps`"),
    ] {
        let expected = format!("{kind} app/x: there is no such kind in {group}");
        assert_eq!(refusal(&text(version, kind)), expected);
    }
    for (version, kind, warnings) in [
        ("v1", "ConfigMap", 0),
        ("v1", "Secret", 0),
        ("v1", "Endpoints", 0),
        ("apps/v1", "Deployment", 0),
        ("serving.knative.dev/v1", "Service", 0),
        ("rbac.authorization.k8s.io/v1", "Role", 0),
        ("v1", "Config", 0),
        ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy", 0),
        ("policy.linkerd.io/v1beta3", "HTTPRoute", 0),
        ("crd.projectcalico.org/v1", "Node", 0),
        ("networking.istio.io/v1", "Gateway", 1),
        ("security.istio.io/v1", "RequestAuthentication", 1),
        ("gateway.networking.k8s.io/v1", "TCPRoute", 1),
    ] {
        let parsed = parse(&text(version, kind));
        assert!(parsed.results.is_empty(), "{version} {kind}: {parsed:?}");
        assert_eq!(parsed.warnings.len(), warnings, "{version} {kind}");
    }
}

#[test]
fn a_policy_takes_texts_as_long_as_what_they_name_can_be() {
    let account = format!("{}/{}", "n".repeat(63), "a".repeat(253));
    let source = |field: &str, value: &str| format!("from: [{{source: {{{field}: ['{value}']}}}}]");
    let when = |key: &str, value: &str| format!("when: [{{key: {key}, values: ['{value}']}}]");
    for (rule, refused) in [
        (source("serviceAccounts", &account), None),
        (source("notServiceAccounts", &account), None),
        (when("source.serviceAccount", &account), None),
        (
            when("source.serviceAccount", &"a".repeat(321)),
            Some("is longer than 320 bytes"),
        ),
        (source("requestPrincipals", &"a".repeat(4096)), None),
        (
            source("notRequestPrincipals", &"a".repeat(4097)),
            Some("is longer than 4096 bytes"),
        ),
        (
            source("namespaces", &"a".repeat(257)),
            Some("is longer than 256 bytes"),
        ),
    ] {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, namespace: app}}\nspec: {{rules: [{{{rule}}}]}}\n"
        );
        let got = only(&text).err().map(|fault| fault.why);
        assert_eq!(got.as_deref(), refused, "{rule:.60}");
    }
}

/// An object `app/x` of the Gateway API.
fn gateway_object(version: &str, kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: x, namespace: app}}\nspec: {spec}\n"
    )
}

fn grpc(rule: &str) -> String {
    gateway_object("v1", "GRPCRoute", &format!("{{rules: [{{{rule}}}]}}"))
}

fn method(method: &str) -> String {
    grpc(&format!("matches: [{{method: {{{method}}}}}]"))
}

fn cors(cors: &str) -> String {
    let filter = format!("{{rules: [{{filters: [{{type: CORS, cors: {{{cors}}}}}]}}]}}");
    gateway_object("v1", "HTTPRoute", &filter)
}

/// A redirect to another path.
fn replaced(path: &str) -> String {
    let filter = format!(
        "{{rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{path: {{{path}}}}}}}]}}]}}"
    );
    gateway_object("v1", "HTTPRoute", &filter)
}

fn grant(spec: &str) -> String {
    gateway_object("v1beta1", "ReferenceGrant", spec)
}

#[test]
fn good_routes_and_grants_are_taken() {
    for good in [
        grpc("backendRefs: [{name: a, port: 1, weight: 0}]"),
        method("service: a.b_c.D, method: E"),
        method("method: E1"),
        method("type: RegularExpression, service: 'a|b'"),
        method("type: RegularExpression, service: '\\w{1,20}'"),
        replaced("type: ReplaceFullPath, replaceFullPath: /a/b"),
        replaced("type: ReplacePrefixMatch, replacePrefixMatch: ''"),
        cors("allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*']"),
        cors("allowOrigins: ['https://*.a.example:8443', 'http://a', 'https://*']"),
        grant(
            "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], to: [{group: '', kind: Service}]}",
        ),
    ] {
        assert!(only(&good).is_ok(), "{good}: {:?}", only(&good));
    }
}

#[test]
fn a_replacement_is_a_path_of_a_request() {
    let at = |text: &str| format!("x: spec.rules[0].filters[0].requestRedirect.path.{text}");
    for (text, message) in [
        (
            replaced("type: ReplaceFullPath, replaceFullPath: foo"),
            at("replaceFullPath: `foo` must begin with `/`"),
        ),
        (
            replaced("type: ReplaceFullPath, replaceFullPath: ''"),
            at("replaceFullPath: `` must begin with `/`"),
        ),
        (
            replaced("type: ReplacePrefixMatch, replacePrefixMatch: //evil.example"),
            at("replacePrefixMatch: `//evil.example` must not begin with `//`, which names a host"),
        ),
        (
            replaced(r#"type: ReplacePrefixMatch, replacePrefixMatch: "/a\nb""#),
            at("replacePrefixMatch: `/a\nb` holds a character that no path of a request has"),
        ),
    ] {
        let refused = refusal(&text);
        assert!(refused.ends_with(&message), "{message}: {refused}");
    }
}

#[test]
fn the_kinds_and_filters_of_routes_are_checked() {
    let at = |text: &str| format!("x: spec.{text}");
    for (text, message) in [
        (
            method("type: Exact"),
            at("rules[0].matches[0].method: must name a service, a method, or both"),
        ),
        (
            method("service: a/b"),
            at("rules[0].matches[0].method.service: `a/b` is no service name"),
        ),
        (
            method("method: a.b"),
            at("rules[0].matches[0].method.method: `a.b` is no method name"),
        ),
        (
            method("type: RegularExpression, service: '\\w{1,20}', method: '\\w{1,20}'"),
            at(
                "rules[0].matches[0].method: `/\\w{1,20}/\\w{1,20}` is no regular expression: Compiled regex exceeds size limit of 1048576 bytes.",
            ),
        ),
        (
            method("type: Prefix, method: a"),
            at(
                "rules[0].matches[0].method.method.type: `Prefix` must be Exact or RegularExpression",
            ),
        ),
        (
            grpc("filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]"),
            at("rules[0].filters: a GRPCRoute has no filter URLRewrite"),
        ),
        (
            grpc("name: 'a b'"),
            at("rules[0].name: `a b` must be lower case letters, digits, `-` and `.`"),
        ),
        (
            grpc("backendRefs: [{name: a}]"),
            at("rules[0].backendRefs[0].port: is required for a Service"),
        ),
        (
            cors("allowOrigins: ['https://a/b']"),
            at("rules[0].filters[0].cors.allowOrigins[0]: `https://a/b` is not allowed here"),
        ),
        (
            cors("allowOrigins: [null.example]"),
            at("rules[0].filters[0].cors.allowOrigins[0]: `null.example` is not allowed here"),
        ),
        (
            cors("allowOrigins: ['*', 'https://a']"),
            at("rules[0].filters[0].cors.allowOrigins: `*` must stand alone"),
        ),
        (
            cors("maxAge: 0"),
            at("rules[0].filters[0].cors.maxAge: must be at least 1"),
        ),
        (
            grant("{from: [{kind: HTTPRoute}]}"),
            at("from[0].namespace: `` must be the name of a namespace"),
        ),
        (
            grant("{to: [{kind: Service, nam: a}]}"),
            at("to[0].nam: unknown field; a grant is taken whole or not at all"),
        ),
    ] {
        assert!(
            refusal(&text).ends_with(&message),
            "{message}: {}",
            refusal(&text)
        );
    }
    let twice = "{type: CORS, cors: {}}, {type: CORS, cors: {}}";
    let text = gateway_object(
        "v1",
        "HTTPRoute",
        &format!("{{rules: [{{filters: [{twice}]}}]}}"),
    );
    assert_eq!(
        refusal(&text),
        "HTTPRoute app/x: spec.rules[0].filters[1].type: CORS is there twice"
    );
}

#[test]
fn deep_nesting_and_anchor_bombs_are_refused() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let text = format!("a: {}1{}", open.repeat(100_000), close.repeat(100_000));
        assert!(refusal(&text).starts_with("not valid YAML"));
    }
    assert!(refusal(&"[".repeat(100_000)).starts_with("not valid YAML"));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(refusal(&bomb).starts_with("not valid YAML"));
}

#[test]
fn actions_default_to_allow() {
    let text = "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {}\n";
    let Ok(Object::AuthorizationPolicy(policy)) = only(text) else {
        panic!("a policy")
    };
    assert_eq!(policy.spec.action, PolicyAction::Allow);
}

/// Manifests out of shuffled building blocks: close enough to real ones to get past the envelope.
fn manifest_text() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("apiVersion: v1\n"),
        Just("apiVersion: security.istio.io/v1\n"),
        Just("kind: Pod\n"),
        Just("kind: AuthorizationPolicy\n"),
        Just("metadata: {name: a}\n"),
        Just("metadata:\n"),
        Just("spec:\n"),
        Just("  rules:\n"),
        Just("  - from: [{source: {principals: [x]}}]\n"),
        Just("---\n"),
        Just("- "),
        Just("  "),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(": "),
        Just("&a "),
        Just("*a "),
        Just("!!int "),
        Just("\""),
        Just("|\n"),
        Just("\n"),
        Just("é"),
        Just("\t"),
        Just("%YAML 1.1\n"),
        Just("<<: "),
        Just("null"),
        Just("0x"),
    ];
    proptest::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,400}") {
        let _ = parse(&text);
    }

    #[test]
    fn almost_manifests_never_panic(text in manifest_text()) {
        let _ = parse(&text);
    }

    #[test]
    fn cut_manifests_never_panic(cut in 0usize..600) {
        let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: app}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: echo, port: 80}]\n  rules:\n  - matches: [{path: {type: PathPrefix, value: /v1}, headers: [{name: x-user, value: alice}]}]\n    timeouts: {request: 5s}\n    backendRefs: [{name: echo, port: 80, weight: 90}]\n";
        let _ = parse(&text[..cut.min(text.len())]);
    }
}
