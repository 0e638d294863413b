//! Which policies count, in which order, and what each match kind means.

use super::*;

fn decide(policies: impl IntoIterator<Item = Policy>, bound: &[&str], facts: &Facts) -> Decision {
    authorize(state(policies).current(), &echo(bound), facts)
}

fn allow(text: &str, rules: Vec<Rule>) -> Policy {
    policy(text, Scope::Namespace, Action::Allow, rules)
}

fn deny(text: &str, rules: Vec<Rule>) -> Policy {
    policy(text, Scope::Namespace, Action::Deny, rules)
}

#[test]
fn without_policies_all_is_allowed() {
    assert_eq!(
        decide([], &[], &facts(None)),
        Decision::Allow {
            by: AllowedBy::NoPolicy
        }
    );
}

#[test]
fn deny_wins_over_allow() {
    let decision = decide(
        [allow("app/a", everything()), deny("app/d", everything())],
        &[],
        &facts(Some(CLIENT)),
    );
    assert_eq!(decision.policy(), Some(&name("app/d")));
    assert!(!decision.is_allowed());
}

#[test]
fn with_an_allow_policy_all_that_it_does_not_match_is_denied() {
    let policies = || {
        [
            allow("app/a", only(from_namespace("app"))),
            allow("app/b", only(to_port(1))),
        ]
    };
    assert!(decide(policies(), &[], &facts(Some(CLIENT))).is_allowed());
    let denied = decide(policies(), &[], &facts(None));
    assert!(
        matches!(
            denied,
            Decision::Deny {
                by: DeniedBy::NotAllowed { policies: 2, .. }
            }
        ),
        "{denied:?}"
    );
}

#[test]
fn a_deny_that_does_not_match_allows_nothing_and_denies_nothing() {
    assert!(decide([deny("app/d", only(to_port(1)))], &[], &facts(None)).is_allowed());
}

#[test]
fn a_policy_without_rules_never_matches() {
    assert!(decide([deny("app/d", vec![])], &[], &facts(None)).is_allowed());
    assert!(!decide([allow("app/a", vec![])], &[], &facts(None)).is_allowed());
}

#[test]
fn a_rule_without_clauses_and_a_clause_without_matches_match_everything() {
    assert!(!decide([deny("app/d", everything())], &[], &facts(None)).is_allowed());
    assert!(!decide([deny("app/d", vec![rule(vec![vec![]])])], &[], &facts(None)).is_allowed());
}

#[test]
fn an_empty_match_matches_nothing() {
    assert!(decide([deny("app/d", only(Match::default()))], &[], &facts(None)).is_allowed());
    let beside = vec![rule(vec![vec![Match::default(), to_port(8080)]])];
    assert!(!decide([deny("app/d", beside)], &[], &facts(None)).is_allowed());
}

#[test]
fn rules_are_ored_clauses_anded_matches_ored() {
    let (yes, no) = (|| to_port(8080), || to_port(1));
    let denied = |rules| !decide([deny("app/d", rules)], &[], &facts(None)).is_allowed();
    assert!(denied(vec![
        rule(vec![vec![no()]]),
        rule(vec![vec![yes()]])
    ]));
    assert!(!denied(vec![rule(vec![vec![yes()], vec![no()]])]));
    assert!(denied(vec![rule(vec![vec![no(), yes()], vec![yes()]])]));
}

#[test]
fn fields_are_anded_and_values_ored() {
    let both = |port| Match {
        destination_ports: [1, port].into(),
        ..from_namespace("app")
    };
    assert!(holds(both(8080), &facts(Some(CLIENT))));
    assert!(!holds(both(2), &facts(Some(CLIENT))));
    assert!(!holds(both(8080), &facts(None)));
}

#[test]
fn scopes_select_their_workloads() {
    let of = |text: &str, scope| policy(text, scope, Action::Deny, everything());
    let denied = |policy, bound: &[&str]| !decide([policy], bound, &facts(None)).is_allowed();
    assert!(denied(of("istio-system/g", Scope::Global), &[]));
    assert!(denied(of("app/n", Scope::Namespace), &[]));
    assert!(!denied(of("other/n", Scope::Namespace), &[]));
    assert!(!denied(of("app/s", Scope::Selector), &[]));
    assert!(denied(of("app/s", Scope::Selector), &["app/s"]));
    assert!(denied(
        of("istio-system/s", Scope::Selector),
        &["istio-system/s"]
    ));
    assert!(denied(of("bare", Scope::Selector), &["bare"]));
}

#[test]
fn a_missing_policy_is_neither_allow_nor_deny_unless_a_known_deny_matches() {
    let missing = Decision::Missing {
        name: name("app/gone"),
    };
    assert_eq!(decide([], &["app/gone"], &facts(None)), missing);
    assert_eq!(
        decide([allow("app/a", everything())], &["app/gone"], &facts(None)),
        missing
    );
    assert_eq!(
        decide([allow("app/a", vec![])], &["app/gone"], &facts(None)),
        missing
    );
    let decision = decide([deny("app/d", everything())], &["app/gone"], &facts(None));
    assert_eq!(decision.policy(), Some(&name("app/d")));
}

#[test]
fn names_that_are_proven_harmless_read_as_absent_and_others_do_not() {
    let state = state([]);
    let harmless = |name: &PolicyName| &*name.name == "harmless";
    let decide =
        |bound: &[&str]| authorize_with(state.current(), &echo(bound), &facts(None), &harmless);
    assert!(decide(&["x/harmless"]).is_allowed());
    assert_eq!(
        decide(&["x/harmless", "x/other"]),
        Decision::Missing {
            name: name("x/other")
        }
    );
    let at_hand = authorize_with(state.current(), &echo(&["x/other"]), &facts(None), &|_| {
        true
    });
    assert!(at_hand.is_allowed());
}

#[test]
fn missing_names_are_listed() {
    let state = state([policy("app/known", Scope::Selector, Action::Deny, vec![])]);
    let workload = echo(&["app/known", "app/a", "app/b"]);
    let names: Vec<_> = missing(state.current(), &workload)
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["app/a", "app/b"]);
}

#[test]
fn an_invalid_policy_denies_whatever_allows() {
    let invalid = Policy::invalid(name("app/bad"), Scope::Namespace, "rules[0]: bad");
    let decision = decide(
        [allow("app/a", everything()), invalid],
        &[],
        &facts(Some(CLIENT)),
    );
    assert!(
        matches!(&decision, Decision::Deny { by: DeniedBy::Invalid { policy } } if policy.name == name("app/bad"))
    );
}

#[test]
fn dry_run_is_never_enforced_but_reported() {
    let mut dry = deny("app/dry", everything());
    dry.dry_run = true;
    let state = state([dry, allow("app/a", everything())]);
    let (echo, facts) = (echo(&["app/gone-too"]), facts(None));
    assert!(authorize_with(state.current(), &echo, &facts, &|_| true).is_allowed());
    assert_eq!(
        dry_run(state.current(), &echo, &facts).unwrap().policy(),
        Some(&name("app/dry"))
    );
}

#[test]
fn a_dry_run_allow_does_not_close_the_workload() {
    let mut dry = allow("app/dry", vec![]);
    dry.dry_run = true;
    let state = state([dry]);
    assert!(authorize(state.current(), &echo(&[]), &facts(None)).is_allowed());
    assert!(
        !dry_run(state.current(), &echo(&[]), &facts(None))
            .unwrap()
            .is_allowed()
    );
}

#[test]
fn without_dry_run_policies_there_is_nothing_to_report() {
    assert_eq!(
        dry_run(
            state([deny("app/d", everything())]).current(),
            &echo(&[]),
            &facts(None)
        ),
        None
    );
}

#[test]
fn string_matches_on_namespace_and_principal() {
    let exact = |text: &str| StringMatch::Exact(text.into());
    let prefix = |text: &str| StringMatch::Prefix(text.into());
    let suffix = |text: &str| StringMatch::Suffix(text.into());
    let client = facts(Some(CLIENT));
    let namespace = |values| {
        holds(
            Match {
                namespaces: values,
                ..Default::default()
            },
            &client,
        )
    };
    let principal = |values| {
        holds(
            Match {
                principals: values,
                ..Default::default()
            },
            &client,
        )
    };
    assert!(namespace([exact("app")].into()) && !namespace([exact("ap")].into()));
    assert!(namespace([prefix("ap")].into()) && !namespace([prefix("pp")].into()));
    assert!(namespace([suffix("pp")].into()) && !namespace([suffix("ap")].into()));
    assert!(principal([exact("cluster.local/ns/app/sa/client")].into()));
    assert!(
        !principal([exact(CLIENT)].into()),
        "principals are compared without scheme"
    );
    assert!(
        principal([prefix("cluster.local/ns/app/")].into())
            && !principal([prefix("ns/app/")].into())
    );
    assert!(principal([suffix("/sa/client")].into()) && !principal([suffix("/sa/clien")].into()));
    assert!(principal([StringMatch::Presence].into()) && namespace([StringMatch::Presence].into()));
}

#[test]
fn without_identity_no_positive_match_holds_and_every_negative_one_does() {
    let any = || [StringMatch::Prefix("".into())].into();
    let account = || {
        [ServiceAccountMatch {
            namespace: "app".into(),
            name: "client".into(),
        }]
        .into()
    };
    let positive = [
        Match {
            namespaces: any(),
            ..Default::default()
        },
        Match {
            principals: any(),
            ..Default::default()
        },
        Match {
            principals: [StringMatch::Presence].into(),
            ..Default::default()
        },
        Match {
            service_accounts: account(),
            ..Default::default()
        },
    ];
    let negative = [
        Match {
            not_namespaces: any(),
            ..Default::default()
        },
        Match {
            not_principals: any(),
            ..Default::default()
        },
        Match {
            not_principals: [StringMatch::Presence].into(),
            ..Default::default()
        },
        Match {
            not_service_accounts: account(),
            ..Default::default()
        },
    ];
    for (positive, negative) in positive.into_iter().zip(negative) {
        assert!(!holds(positive.clone(), &facts(None)), "{positive:?}");
        assert!(holds(negative.clone(), &facts(None)), "{negative:?}");
        assert!(
            holds(positive.clone(), &facts(Some(CLIENT))),
            "{positive:?}"
        );
        assert!(
            !holds(negative.clone(), &facts(Some(CLIENT))),
            "{negative:?}"
        );
    }
}

#[test]
fn service_accounts_match_namespace_and_name_together() {
    let account = |namespace: &str, name: &str| {
        let one = ServiceAccountMatch {
            namespace: namespace.into(),
            name: name.into(),
        };
        holds(
            Match {
                service_accounts: [one].into(),
                ..Default::default()
            },
            &facts(Some(CLIENT)),
        )
    };
    assert!(account("app", "client"));
    assert!(!account("app", "other") && !account("other", "client"));
}

#[test]
fn addresses_and_ports() {
    let nets = |text: &str| [text.parse().unwrap()].into();
    let v6 = Facts {
        source_ip: "fd00::5".parse().unwrap(),
        ..facts(None)
    };
    let mapped = Facts {
        source_ip: "::ffff:10.0.0.1".parse().unwrap(),
        ..facts(None)
    };
    let source = |text: &str, facts: &Facts| {
        holds(
            Match {
                source_ips: nets(text),
                ..Default::default()
            },
            facts,
        )
    };
    assert!(source("10.0.0.0/24", &facts(None)) && !source("10.0.1.0/24", &facts(None)));
    assert!(source("0.0.0.0/0", &facts(None)) && !source("::/0", &facts(None)));
    assert!(source("fd00::/64", &v6) && !source("0.0.0.0/0", &v6));
    assert!(source("10.0.0.1/32", &mapped) && source("::ffff:10.0.0.0/120", &facts(None)));
    assert!(!holds(
        Match {
            not_source_ips: nets("10.0.0.0/8"),
            ..Default::default()
        },
        &facts(None)
    ));
    assert!(holds(
        Match {
            destination_ips: nets("10.0.0.9/32"),
            ..Default::default()
        },
        &facts(None)
    ));
    assert!(holds(
        Match {
            not_destination_ips: nets("10.0.0.1/32"),
            ..Default::default()
        },
        &facts(None)
    ));
    assert!(holds(to_port(8080), &facts(None)) && !holds(to_port(8081), &facts(None)));
    assert!(!holds(
        Match {
            not_destination_ports: [8080].into(),
            ..Default::default()
        },
        &facts(None)
    ));
}
