//! AuthorizationPolicies at waypoints.

use envoy_types::pb::envoy::config::rbac::v3::rbac::Action;

use super::*;

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n---\n"
    )
}

const TO_SERVICE: &str = "targetRefs: [{kind: Service, name: s}]";
const TO_GATEWAY: &str =
    "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]";
const TO_CLASS: &str =
    "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]";

/// Action and number of rules of each filter of a chain.
fn filters(more: &str, chain: &str) -> Vec<(Action, usize)> {
    waypoint(more)
        .rbac(chain)
        .iter()
        .map(|rules| (rules.action(), rules.policies.len()))
        .collect()
}

#[test]
fn only_what_is_targeted_applies() {
    let one = vec![(Action::Allow, 1)];
    let other_service = "targetRefs: [{kind: Service, name: other}]";
    let other_class =
        "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: other}]";
    for (namespace, targets, at_service, at_workloads) in [
        ("app", TO_SERVICE, true, false),
        ("other", TO_SERVICE, false, false),
        ("app", other_service, false, false),
        ("app", TO_GATEWAY, true, true),
        ("other", TO_GATEWAY, false, false),
        ("istio-system", TO_CLASS, true, true),
        ("app", TO_CLASS, false, false),
        ("istio-system", other_class, false, false),
        ("app", "selector: {matchLabels: {app: a}}", false, false),
        ("app", "action: ALLOW", false, false),
    ] {
        let text = policy("x", namespace, &format!("{targets}, rules: [{{}}]"));
        let expected = |applies: bool| if applies { one.clone() } else { Vec::new() };
        for chain in [S80, S90] {
            assert_eq!(
                filters(&text, chain),
                expected(at_service),
                "{chain}: {text}"
            );
        }
        for chain in ["direct-http", "direct-tcp"] {
            assert_eq!(
                filters(&text, chain),
                expected(at_workloads),
                "{chain}: {text}"
            );
        }
    }
}

#[test]
fn filters_are_asked_in_the_order_log_deny_allow() {
    let text = policy("a", "app", &format!("{TO_SERVICE}, rules: [{{}}]"))
        + &policy(
            "b",
            "app",
            &format!("{TO_SERVICE}, action: DENY, rules: [{{}}]"),
        )
        + &policy(
            "c",
            "app",
            &format!("{TO_SERVICE}, action: AUDIT, rules: [{{}}]"),
        )
        + &policy(
            "d",
            "app",
            &format!("{TO_SERVICE}, action: CUSTOM, provider: {{name: x}}, rules: [{{}}]"),
        );
    assert_eq!(
        filters(&text, S80),
        [(Action::Log, 1), (Action::Deny, 2), (Action::Allow, 1)]
    );
    let faults = waypoint(&text).faults;
    assert_eq!(
        faults,
        [
            "AuthorizationPolicy app/d: spec.action: CUSTOM cannot be asked yet: what the rules match is denied"
        ]
    );
}

#[test]
fn an_allow_without_rules_allows_nothing_and_a_deny_without_rules_denies_nothing() {
    assert_eq!(
        filters(&policy("x", "app", TO_SERVICE), S80),
        [(Action::Allow, 0)]
    );
    assert_eq!(
        filters(
            &policy("x", "app", &format!("{TO_SERVICE}, action: DENY")),
            S80
        ),
        []
    );
}

#[test]
fn on_byte_streams_http_parts_never_widen() {
    let get = "{to: [{operation: {methods: [GET]}}]}";
    let port = "{to: [{operation: {ports: ['90']}}]}";
    let jwt = "{from: [{source: {requestPrincipals: ['*']}}]}";
    let header = "{when: [{key: 'request.headers[x]', values: [y]}]}";
    for rule in [get, jwt, header] {
        let allow = policy(
            "x",
            "app",
            &format!("{TO_SERVICE}, rules: [{rule}, {port}]"),
        );
        assert_eq!(
            filters(&allow, S90),
            [(Action::Allow, 1)],
            "the rule allows nothing: {rule}"
        );
        assert_eq!(filters(&allow, S80), [(Action::Allow, 2)], "{rule}");
        let deny = policy(
            "x",
            "app",
            &format!("{TO_SERVICE}, action: DENY, rules: [{rule}]"),
        );
        let rules = waypoint(&deny).rbac(S90);
        let text = format!("{:?}", rules[0].policies["ns[app]-policy[x]-rule[0]"]);
        assert_eq!(
            text.matches("Any(true)").count(),
            2,
            "the rule denies whatever comes: {text}"
        );
    }
}

#[test]
fn a_policy_that_cannot_be_read_denies_what_it_targets() {
    let text = policy("x", "app", &format!("{TO_SERVICE}, action: MAYBE"));
    for chain in [S80, S90] {
        assert_eq!(filters(&text, chain), [(Action::Deny, 1)], "{chain}");
    }
    assert_eq!(filters(&text, "direct-http"), []);
}

#[test]
fn a_dry_run_has_no_effect() {
    let text = policy("x", "app", &format!("{TO_SERVICE}, rules: [{{}}]")).replace(
        "namespace: app}",
        "namespace: app, annotations: {istio.io/dry-run: 'true'}}",
    );
    assert_eq!(filters(&text, S80), []);
}

#[test]
fn strings_become_matchers() {
    let source = |source: &str| {
        let text = policy(
            "x",
            "app",
            &format!("{TO_SERVICE}, rules: [{{from: [{{source: {{{source}}}}}]}}]"),
        );
        format!(
            "{:?}",
            waypoint(&text).rbac(S80)[0].policies["ns[app]-policy[x]-rule[0]"].principals
        )
    };
    for (wanted, matcher) in [
        (
            "principals: [td/ns/a/sa/b]",
            r#"Exact("spiffe://td/ns/a/sa/b")"#,
        ),
        ("principals: [td/ns/a/*]", r#"Prefix("spiffe://td/ns/a/")"#),
        ("principals: ['*/sa/b']", r#"Suffix("/sa/b")"#),
        ("principals: ['*']", r#"regex: ".+""#),
        ("namespaces: [a]", r#"regex: ".*/ns/a/.*""#),
        ("namespaces: ['a*']", r#"regex: ".*/ns/a.*/.*""#),
        (
            "serviceAccounts: [b.c]",
            r#"regex: "spiffe://.+/ns/app/sa/b\\.c""#,
        ),
        (
            "serviceAccounts: [n/b]",
            r#"regex: "spiffe://.+/ns/n/sa/b""#,
        ),
        (
            "ipBlocks: [10.0.0.0/8]",
            r#"DirectRemoteIp(CidrRange { address_prefix: "10.0.0.0", prefix_len: Some(UInt32Value { value: 8 }) })"#,
        ),
        (
            "remoteIpBlocks: ['fd00::1']",
            r#"RemoteIp(CidrRange { address_prefix: "fd00::1", prefix_len: Some(UInt32Value { value: 128 }) })"#,
        ),
        ("notNamespaces: [a]", "NotId"),
    ] {
        let text = source(wanted);
        assert!(text.contains(matcher), "{wanted}: {text}");
    }
    let operation = |operation: &str| {
        let text = policy(
            "x",
            "app",
            &format!("{TO_SERVICE}, rules: [{{to: [{{operation: {{{operation}}}}}]}}]"),
        );
        format!(
            "{:?}",
            waypoint(&text).rbac(S80)[0].policies["ns[app]-policy[x]-rule[0]"].permissions
        )
    };
    for (wanted, matcher) in [
        ("paths: [/a]", r#"Exact("/a")"#),
        ("paths: ['/a/*']", r#"Prefix("/a/")"#),
        ("paths: ['/a/{*}/b']", "UriTemplate"),
        ("hosts: [A.example]", "ignore_case: true"),
        ("ports: ['80']", "DestinationPort(80)"),
        ("notMethods: [PUT]", "NotRule"),
    ] {
        let text = operation(wanted);
        assert!(text.contains(matcher), "{wanted}: {text}");
    }
}

#[test]
fn policies_by_remote_address_are_remarked_upon_since_callers_can_claim_any() {
    let source = |field: &str| format!("from: [{{source: {{{field}: [10.0.0.0/8]}}}}]");
    let when = |key: &str| format!("when: [{{key: {key}, values: [10.0.0.0/8]}}]");
    for (rule, remarks) in [
        (source("remoteIpBlocks"), 1),
        (source("notRemoteIpBlocks"), 1),
        (when("remote.ip"), 1),
        (source("ipBlocks"), 0),
        (when("source.ip"), 0),
    ] {
        let text = policy("x", "app", &format!("{TO_SERVICE}, rules: [{{{rule}}}]"));
        let faults = waypoint(&text).faults;
        assert_eq!(faults.len(), remarks, "{rule}: {faults:?}");
        let told = "AuthorizationPolicy app/x: spec.rules[0]: a waypoint takes the remote address from the last entry \
                    of X-Forwarded-For, which any caller in the mesh can set: only behind a gateway that writes it can \
                    callers be told apart by it";
        assert!(faults.iter().all(|fault| fault == told), "{faults:?}");
    }
}

#[test]
fn conditions_on_tokens_hold_for_no_request_and_are_reported() {
    let text = policy(
        "x",
        "app",
        &format!(
            "{TO_SERVICE}, rules: [{{when: [{{key: 'request.auth.claims[a]', values: [b]}}]}}]"
        ),
    );
    let result = waypoint(&text);
    let rule = format!(
        "{:?}",
        result.rbac(S80)[0].policies["ns[app]-policy[x]-rule[0]"].principals
    );
    assert!(
        rule.contains("NotId(Principal { identifier: Some(Any(true)) })"),
        "{rule}"
    );
    assert_eq!(
        result.faults,
        [
            "AuthorizationPolicy app/x: spec.rules[0]: no request carries a verified JWT here, so this part never matches"
        ]
    );
}

#[test]
fn our_own_waypoint_never_sees_a_server_name() {
    let own = BASE[BASE.find("{apiVersion: gateway").unwrap()..]
        .split("---")
        .next()
        .unwrap()
        .replace("istio-waypoint", "causeway-waypoint");
    let sni = "rules: [{when: [{key: connection.sni, values: [a]}]}, {}]";
    let allow = policy("x", "app", &format!("{TO_SERVICE}, {sni}"));
    let deny = policy("y", "app", &format!("{TO_SERVICE}, action: DENY, {sni}"));
    let result = waypoint(&format!("{own}---\n{allow}{deny}"));
    let text = format!("{:?}", result.listener("main_internal"));
    assert!(!text.contains("RequestedServerName") && !text.contains("tls_inspector"));
    for chain in [S80, S90] {
        let [deny, allow] = &result.rbac(chain)[..] else {
            panic!("two filters")
        };
        assert_eq!(deny.policies.len(), 2, "denies more");
        let names: Vec<_> = allow.policies.keys().collect();
        assert_eq!(names, ["ns[app]-policy[x]-rule[1]"], "allows less");
    }
    assert_eq!(
        result.faults,
        ["x", "y"].map(|name| format!(
            "AuthorizationPolicy app/{name}: spec.rules[0].when: this waypoint does not look into TLS: with ALLOW the \
             rule allows nothing, else it holds for every server name"
        ))
    );
}

#[test]
fn targets_that_lead_nowhere_are_told() {
    let told = |namespace: &str, target: &str| {
        let text = format!(
            "{BASE}{}",
            policy("x", namespace, &format!("targetRefs: [{target}]"))
        );
        let (store, mesh) = (store(&text), Mesh::default());
        let index = mesh.index(&store);
        let faults = astray(&index, &translate_wds(&index));
        assert!(faults.len() < 2, "{faults:?}");
        faults.first().map(ToString::to_string)
    };
    let class = "group: gateway.networking.k8s.io, kind: GatewayClass";
    let gateway = "group: gateway.networking.k8s.io, kind: Gateway";
    for (namespace, target, why) in [
        (
            "app",
            "{kind: Service, name: gone}".to_owned(),
            "there is no Service `gone` here",
        ),
        (
            "app",
            "{kind: Service, name: wp}".to_owned(),
            "no waypoint serves Service `wp`",
        ),
        (
            "app",
            format!("{{{gateway}, name: gone}}"),
            "no Gateway `gone` here is a waypoint",
        ),
        (
            "other",
            format!("{{{gateway}, name: wp}}"),
            "no Gateway `wp` here is a waypoint",
        ),
        (
            "app",
            format!("{{{class}, name: istio-waypoint}}"),
            "only policies of namespace istio-system may target a class",
        ),
        (
            "istio-system",
            format!("{{{class}, name: other}}"),
            "no waypoint is of class `other`",
        ),
        (
            "app",
            "{group: networking.istio.io, kind: ServiceEntry, name: e}".to_owned(),
            "ServiceEntry is not supported",
        ),
    ] {
        let expected = format!(
            "AuthorizationPolicy {namespace}/x: spec.targetRefs[0]: {why}: the policy has no effect there"
        );
        assert_eq!(told(namespace, &target), Some(expected));
    }
    assert_eq!(told("app", "{kind: Service, name: s}"), None);
    assert_eq!(told("app", &format!("{{{gateway}, name: wp}}")), None);
    let own_class = format!("{{{class}, name: istio-waypoint}}");
    assert_eq!(told("istio-system", &own_class), None);
}
