//! What people read: which policy, which rule, whom, why.

use super::*;

fn sentence(policies: impl IntoIterator<Item = Policy>, bound: &[&str], facts: &Facts) -> String {
    authorize(state(policies).current(), &echo(bound), facts).explain(facts)
}

#[test]
fn an_allow_without_policies_says_so() {
    assert_eq!(
        sentence([], &[], &facts(Some(CLIENT))),
        "allowed: no DENY policy matches and no ALLOW policy is in force; \
         10.0.0.1 as cluster.local/ns/app/sa/client called 10.0.0.9:8080"
    );
}

#[test]
fn an_allow_names_policy_rule_and_conditions() {
    let rules = vec![Rule::default(), rule(vec![vec![from_namespace("app")]])];
    let mut allow = policy("app/a", Scope::Namespace, Action::Allow, rules);
    allow.rules[0] = rule(vec![vec![to_port(1)]]);
    assert_eq!(
        sentence([allow], &[], &facts(Some(CLIENT))),
        "allowed by policy app/a, rule 2 (source namespace app); \
         10.0.0.1 as cluster.local/ns/app/sa/client called 10.0.0.9:8080"
    );
}

#[test]
fn a_deny_names_policy_rule_whom_and_why() {
    let strict = Match {
        not_principals: [StringMatch::Presence].into(),
        ..Default::default()
    };
    let ports = Match {
        destination_ports: [8080, 9090].into(),
        ..Default::default()
    };
    let deny = policy(
        "istio-system/strict",
        Scope::Selector,
        Action::Deny,
        vec![rule(vec![vec![strict], vec![ports]])],
    );
    assert_eq!(
        sentence([deny], &["istio-system/strict"], &facts(None)),
        "denied by policy istio-system/strict, rule 1 (source principal not *, destination port 8080|9090); \
         10.0.0.1 without mTLS identity called 10.0.0.9:8080"
    );
}

#[test]
fn a_deny_of_everything_says_that_it_has_no_conditions() {
    let deny = policy("app/d", Scope::Namespace, Action::Deny, everything());
    assert_eq!(
        sentence([deny], &[], &facts(None)),
        "denied by policy app/d, rule 1 (the rule has no conditions); \
         10.0.0.1 without mTLS identity called 10.0.0.9:8080"
    );
}

#[test]
fn a_refusal_for_lack_of_an_allow_says_what_each_rule_wants() {
    let many = Match {
        source_ips: ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]
            .map(|net| net.parse().unwrap())
            .into(),
        ..from_namespace("app")
    };
    let rules = vec![
        rule(vec![vec![to_port(8080)], vec![from_namespace("web"), many]]),
        rule(vec![vec![Match::default()]]),
        only(to_port(1)).remove(0),
        only(to_port(2)).remove(0),
    ];
    let allow = policy("app/a", Scope::Namespace, Action::Allow, rules);
    assert_eq!(
        sentence([allow], &[], &facts(Some(CLIENT))),
        "denied: no rule of the only ALLOW policy, app/a, matches (in app/a rule 1 wants source namespace web or \
         source IP 10.1.0.0/16|10.2.0.0/16|10.3.0.0/16|… 1 more; rule 2 wants what cannot be checked at this layer; \
         rule 3 wants destination port 1; 1 more rules); \
         10.0.0.1 as cluster.local/ns/app/sa/client called 10.0.0.9:8080"
    );
}

#[test]
fn several_allow_policies_are_counted() {
    let allow = |text| policy(text, Scope::Namespace, Action::Allow, vec![]);
    assert_eq!(
        sentence([allow("app/b"), allow("app/a")], &[], &facts(None)),
        "denied: none of 2 ALLOW policies matches, the first is app/a (app/a has no rules, so it allows nothing); \
         10.0.0.1 without mTLS identity called 10.0.0.9:8080"
    );
}

#[test]
fn an_invalid_policy_says_what_is_wrong_with_it() {
    let invalid = Policy::invalid(
        name("app/bad"),
        Scope::Namespace,
        "authorization.action: 7 is not a known value",
    );
    assert_eq!(
        sentence([invalid], &[], &facts(None)),
        "denied by policy app/bad, which could not be understood: authorization.action: 7 is not a known value; \
         10.0.0.1 without mTLS identity called 10.0.0.9:8080"
    );
}

#[test]
fn a_missing_policy_is_named() {
    assert_eq!(
        sentence([], &["app/gone"], &facts(None)),
        "undecided: the workload names policy app/gone, which has not arrived from the control plane; \
         10.0.0.1 without mTLS identity called 10.0.0.9:8080"
    );
}

#[test]
fn every_match_kind_has_words() {
    let one = Match {
        not_namespaces: [StringMatch::Suffix("x".into())].into(),
        principals: [StringMatch::Prefix("cluster.local/".into())].into(),
        service_accounts: [ServiceAccountMatch {
            namespace: "app".into(),
            name: "client".into(),
        }]
        .into(),
        not_source_ips: ["10.9.0.0/16".parse().unwrap()].into(),
        destination_ips: ["10.0.0.9/32".parse().unwrap()].into(),
        not_destination_ports: [22].into(),
        ..Default::default()
    };
    let deny = policy("app/d", Scope::Namespace, Action::Deny, only(one));
    let text = sentence([deny], &[], &facts(Some(CLIENT)));
    let conditions = "(destination port not 22, source namespace not *x, source principal cluster.local/*, \
                      source account app/client, source IP not 10.9.0.0/16, destination IP 10.0.0.9/32)";
    assert!(text.contains(conditions), "{text}");
}
