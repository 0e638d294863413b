//! AuthorizationPolicy and PeerAuthentication.

use proptest::prelude::*;
use proto::security::{Action, Scope};

use super::*;

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: x, namespace: {namespace}}}, spec: {{{spec}}}}}\n---\n"
    )
}

#[test]
fn scopes_follow_selector_and_namespace() {
    let selector = "selector: {matchLabels: {app: a}}";
    for (namespace, spec, scope, named) in [
        ("app", "", Scope::Namespace, false),
        ("istio-system", "", Scope::Global, false),
        ("app", selector, Scope::WorkloadSelector, true),
        ("istio-system", selector, Scope::WorkloadSelector, true),
        ("other", selector, Scope::WorkloadSelector, false),
        (
            "app",
            "selector: {matchLabels: {}}",
            Scope::Namespace,
            false,
        ),
    ] {
        let translation = translated(&(policy(namespace, spec) + &pod("app: a", "")));
        let name = format!("{namespace}/x");
        assert_eq!(
            translation.authorizations[&name].scope(),
            scope,
            "{namespace} {spec}"
        );
        let names = workload(&translation, "p").authorization_policies;
        assert_eq!(names.contains(&name), named, "{namespace} {spec}");
    }
}

#[test]
fn what_layer_4_cannot_judge_never_widens() {
    let clauses = |spec: &str| {
        let translation = translated(&policy("app", spec));
        let rules = &translation.authorizations["app/x"].rules;
        (
            rules
                .iter()
                .map(|rule| rule.clauses.len())
                .collect::<Vec<_>>(),
            translation.faults.len(),
        )
    };
    let get = "to: [{operation: {methods: [GET]}}]";
    let port = "to: [{operation: {ports: ['80']}}]";
    let both = "to: [{operation: {methods: [GET], ports: ['80']}}]";
    let either = "to: [{operation: {methods: [GET]}}, {operation: {ports: ['80']}}]";
    let header = "when: [{key: 'request.headers[x]', values: [y]}]";
    // An ALLOW rule with an HTTP part allows nothing; without a rule left, the policy allows nothing at all.
    assert_eq!(clauses(&format!("rules: [{{{get}}}]")), (vec![], 1));
    assert_eq!(
        clauses(&format!("rules: [{{{both}}}, {{{port}}}]")),
        (vec![1], 1)
    );
    assert_eq!(clauses(&format!("rules: [{{{header}}}]")), (vec![], 1));
    // A DENY rule loses its HTTP part and so denies more. A rule without clauses matches everything.
    assert_eq!(
        clauses(&format!("action: DENY, rules: [{{{get}}}]")),
        (vec![0], 1)
    );
    assert_eq!(
        clauses(&format!("action: DENY, rules: [{{{both}}}]")),
        (vec![1], 1)
    );
    assert_eq!(
        clauses(&format!("action: DENY, rules: [{{{either}}}]")),
        (vec![0], 1)
    );
    assert_eq!(
        clauses(&format!(
            "action: DENY, rules: [{{{header}, from: [{{source: {{namespaces: [a]}}}}]}}]"
        )),
        (vec![1], 1)
    );
    assert_eq!(clauses("rules: [{}]"), (vec![0], 0));
    assert_eq!(clauses(""), (vec![], 0));
}

#[test]
fn a_policy_that_cannot_be_read_denies() {
    let translation = translated(
        &(policy("app", "action: MAYBE, selector: {matchLabels: {app: a}}") + &pod("app: a", "")),
    );
    let denied = &translation.authorizations["app/x"];
    assert_eq!(
        (denied.action(), denied.scope(), denied.rules.len()),
        (Action::Deny, Scope::WorkloadSelector, 1)
    );
    assert!(
        denied.rules[0].clauses.is_empty(),
        "a rule without clauses matches everything"
    );
    assert_eq!(
        workload(&translation, "p").authorization_policies,
        ["app/x"]
    );
}

#[test]
fn policies_that_are_not_for_ztunnels_are_left_out() {
    for spec in [
        "targetRefs: [{kind: Service, name: s}]",
        "action: AUDIT, rules: [{}]",
    ] {
        assert!(
            translated(&policy("app", spec)).authorizations.is_empty(),
            "{spec}"
        );
    }
    let custom = translated(&policy(
        "app",
        "action: CUSTOM, provider: {name: x}, rules: [{}]",
    ));
    assert_eq!(
        custom.authorizations["app/x"].action(),
        Action::Deny,
        "what cannot be asked is denied"
    );
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n---\n"
    )
}

#[test]
fn peer_authentication_is_inherited_and_converted() {
    let shared = "istio-system/istio_converted_static_strict";
    let own = "app/converted_peer_authentication_p";
    let strict = "mtls: {mode: STRICT}";
    let selected = "selector: {matchLabels: {app: a}}";
    let table = [
        (peer("istio-system", "m", strict), Some(shared)),
        (peer("app", "n", strict), Some(shared)),
        (peer("other", "n", strict), None),
        (
            peer("istio-system", "m", strict) + &peer("app", "n", "mtls: {mode: PERMISSIVE}"),
            None,
        ),
        (
            peer("istio-system", "m", strict) + &peer("app", "n", "mtls: {mode: UNSET}"),
            Some(shared),
        ),
        (
            peer("app", "p", &format!("{selected}, {strict}")),
            Some(shared),
        ),
        (
            peer("app", "n", strict)
                + &peer("app", "p", &format!("{selected}, mtls: {{mode: DISABLE}}")),
            None,
        ),
        (
            peer("app", "n", strict) + &peer("app", "p", selected),
            Some(shared),
        ),
        (
            peer(
                "app",
                "p",
                &format!("{selected}, {strict}, portLevelMtls: {{'80': {{mode: PERMISSIVE}}}}"),
            ),
            Some(own),
        ),
        (
            peer(
                "app",
                "p",
                &format!(
                    "{selected}, portLevelMtls: {{'80': {{mode: STRICT}}, '81': {{mode: STRICT}}}}"
                ),
            ),
            Some(own),
        ),
        (
            peer(
                "app",
                "p",
                &format!("{selected}, {strict}, portLevelMtls: {{'80': {{mode: STRICT}}}}"),
            ),
            Some(shared),
        ),
        (peer("app", "p", "mtls: {mode: OFTEN}"), Some(shared)),
    ];
    for (text, name) in table {
        let translation = translated(&(text.clone() + &pod("app: a", "")));
        let names = workload(&translation, "p").authorization_policies;
        assert_eq!(names, Vec::from_iter(name.map(str::to_owned)), "{text}");
        for name in names {
            assert!(
                translation.authorizations.contains_key(&name),
                "{name} is named but not sent: {text}"
            );
        }
    }
    let text = peer(
        "app",
        "p",
        &format!("{selected}, portLevelMtls: {{'80': {{mode: STRICT}}, '81': {{mode: STRICT}}}}"),
    );
    let translation = translated(&text);
    assert_eq!(
        translation.authorizations[own].rules.len(),
        2,
        "one rule for each strict port"
    );
}

/// Rules out of a few parts, L4 and L7 mixed.
fn rule() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("from: [{source: {namespaces: [app]}}]"),
        Just("from: [{source: {principals: ['*']}}, {source: {requestPrincipals: ['*']}}]"),
        Just("from: [{source: {notIpBlocks: [10.0.0.0/8]}}]"),
        Just("to: [{operation: {ports: ['80'], methods: [GET]}}]"),
        Just("to: [{operation: {paths: ['/x*']}}, {operation: {notPorts: ['22']}}]"),
        Just("when: [{key: destination.port, values: ['80']}]"),
        Just("when: [{key: 'request.headers[a]', notValues: [b]}]"),
    ];
    proptest::collection::vec(part, 0..3).prop_map(|parts| {
        let mut seen = std::collections::BTreeSet::new();
        let kept: Vec<_> = parts
            .into_iter()
            .filter(|part| seen.insert(&part[..4]))
            .collect();
        format!("{{{}}}", kept.join(", "))
    })
}

proptest! {
    /// No rule that reaches a ztunnel holds an empty match (which would match nothing: a DENY without effect), and an
    /// ALLOW keeps only rules that were L4 throughout.
    #[test]
    fn translated_rules_are_never_weaker(rules in proptest::collection::vec(rule(), 0..4), deny in any::<bool>()) {
        let action = if deny { "DENY" } else { "ALLOW" };
        let translation = translated(&policy("app", &format!("action: {action}, rules: [{}]", rules.join(", "))));
        let result = &translation.authorizations["app/x"];
        for rule in &result.rules {
            for wanted in rule.clauses.iter().flat_map(|clause| &clause.matches) {
                prop_assert_ne!(wanted, &proto::security::Match::default());
            }
        }
        let l7 = |rule: &&String| ["methods", "paths", "request"].iter().any(|word| rule.contains(word));
        let expected = if deny { rules.len() } else { rules.iter().filter(|rule| !l7(rule)).count() };
        prop_assert_eq!(result.rules.len(), expected);
    }
}

#[test]
fn a_pod_names_the_policies_that_it_must_not_be_without() {
    let needs = |list: &str| {
        let pod = pod("app: a", "").replace(
            "name: p,",
            &format!("name: p, annotations: {{ambient.causeway.dev/required-policies: '{list}'}},"),
        );
        let selected = policy("app", "selector: {matchLabels: {app: a}}");
        let translation = translated(&(selected + &pod));
        workload(&translation, "p").authorization_policies
    };
    assert_eq!(needs(""), ["app/x"]);
    // A plain name lies in the pod's namespace; none of them need be there yet, and none is told twice.
    assert_eq!(
        needs(" guard , other/far ,, x"),
        ["app/guard", "app/x", "other/far"]
    );
}
