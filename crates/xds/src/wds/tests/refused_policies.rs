//! Policies that we refuse: the text, and that a policy which denies takes their place.

use super::*;

fn authorization(change: impl FnOnce(&mut security::Match)) -> security::Authorization {
    let mut one = security::Match::default();
    change(&mut one);
    let clauses = vec![security::Clause { matches: vec![one] }];
    let rules = vec![security::Rule::default(), security::Rule { clauses }];
    let scope = security::Scope::Namespace.into();
    security::Authorization {
        name: "p".into(),
        namespace: "app".into(),
        scope,
        rules,
        ..Default::default()
    }
}

fn refused_policy(message: &security::Authorization) -> Refused {
    *Decoder::new()
        .decode(type_url::AUTHORIZATION, "app/p", &message.encode_to_vec())
        .unwrap_err()
}

#[test]
fn each_bad_policy_is_refused_with_path_and_value() {
    type Change = fn(&mut security::Match);
    let cases: [(Change, &str); 7] = [
        (
            |m| m.principals = vec![security::StringMatch::default()],
            "principals[0]: none of exact, prefix, suffix, presence that we know",
        ),
        (
            |m| {
                m.not_source_ips = vec![security::Address {
                    address: vec![1, 2, 3, 4],
                    length: 40,
                }]
            },
            "not_source_ips[0].length: 40 is more than 32, the most for 1.2.3.4",
        ),
        (
            |m| {
                m.destination_ips = vec![security::Address {
                    address: vec![1],
                    length: 4,
                }]
            },
            "destination_ips[0].address: an address has 4 or 16 bytes, not 1",
        ),
        (
            |m| m.destination_ports = vec![80, 65536],
            "destination_ports[1]: 65536 is not a port",
        ),
        (
            |m| m.not_destination_ports = vec![1 << 20],
            "not_destination_ports[0]: 1048576 is not a port",
        ),
        (
            |m| m.service_accounts = vec![security::ServiceAccountMatch::default()],
            "service_accounts[0].service_account: is empty",
        ),
        (
            |m| {
                m.extensions = vec![security::Extension {
                    name: "geo".into(),
                    config: None,
                }]
            },
            r#"extensions[0]: extension "geo" is a condition that we cannot check"#,
        ),
    ];
    for (change, expected) in cases {
        let refused = refused_policy(&authorization(change));
        assert_eq!(
            refused.reason.to_string(),
            format!("authorization.rules[1].clauses[0].matches[0].{expected}")
        );
    }
    let whole = |change: fn(&mut security::Authorization)| {
        let mut message = authorization(|_| {});
        change(&mut message);
        refused_policy(&message).reason.to_string()
    };
    assert_eq!(
        whole(|p| p.action = 2),
        "authorization.action: 2 is not a known value"
    );
    assert_eq!(
        whole(|p| p.scope = 3),
        "authorization.scope: 3 is not a known value"
    );
    assert_eq!(
        whole(|p| p.name = "q".into()),
        r#"authorization: is "app/q", but the resource is named "app/p""#
    );
    assert_eq!(
        whole(|p| p.extensions = vec![security::Extension::default()]),
        r#"authorization.extensions[0]: extension "" is a condition that we cannot check"#
    );
}

fn instead(refused: Refused) -> Policy {
    match refused.instead {
        Some(Update::RefusedPolicy(policy)) => Arc::unwrap_or_clone(policy),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_policy_leaves_one_that_denies_in_its_scope() {
    let denying = instead(refused_policy(&authorization(|m| {
        m.destination_ports = vec![70000]
    })));
    assert_eq!(
        (denying.scope, denying.action),
        (Scope::Namespace, Action::Deny)
    );
    assert_eq!(denying.name, PolicyName::new("app", "p"));
    let why =
        "authorization.rules[1].clauses[0].matches[0].destination_ports[0]: 70000 is not a port";
    assert_eq!(denying.invalid.as_deref(), Some(why));
}

#[test]
fn a_refused_policy_whose_scope_is_unknown_guards_everybody() {
    let mut message = authorization(|_| {});
    message.scope = 9;
    assert_eq!(instead(refused_policy(&message)).scope, Scope::Global);
    let garbage = Decoder::new()
        .decode(type_url::AUTHORIZATION, "app/p", &[0xff])
        .unwrap_err();
    assert_eq!(instead(*garbage).scope, Scope::Global);
}

/// The bytes of a policy with `extra` at the end of its only match (so of everything around it too).
fn with_extra_in_match(message: &security::Authorization, extra: &[u8]) -> Vec<u8> {
    let wrap = |key: u8, body: Vec<u8>| {
        let mut out = vec![key];
        prost::encoding::encode_varint(body.len() as u64, &mut out);
        out.extend(body);
        out
    };
    let mut one = message.rules[1].clauses[0].matches[0].encode_to_vec();
    one.extend(extra);
    let rule = wrap(5 << 3 | 2, wrap(1 << 3 | 2, wrap(2 << 3 | 2, one)));
    let rest = security::Authorization {
        rules: Vec::new(),
        ..message.clone()
    };
    [rest.encode_to_vec(), rule].concat()
}

/// Left out, it would make an ALLOW wider, and a DENY never hold.
#[test]
fn a_field_that_we_do_not_know_refuses_the_policy_and_denies_in_its_scope() {
    let message = authorization(|m| m.destination_ports = vec![80]);
    let decode = |body: &[u8]| Decoder::new().decode(type_url::AUTHORIZATION, "app/p", body);
    assert!(decode(&with_extra_in_match(&message, &[])).is_ok());
    // Field 14, a string.
    let in_match = with_extra_in_match(&message, &[14 << 3 | 2, 1, b'x']);
    let mut outside = message.encode_to_vec();
    outside.extend([14 << 3 | 2, 1, b'x']);
    for body in [in_match, outside] {
        let refused = *decode(&body).unwrap_err();
        let why = "authorization: holds a field that this version does not know";
        assert_eq!(refused.reason.to_string(), why);
        let denying = instead(refused);
        assert_eq!(
            (denying.scope, denying.invalid.as_deref()),
            (Scope::Namespace, Some(why))
        );
    }
}

#[test]
fn an_invalid_policy_is_said_on_the_wire_as_a_deny_of_everything() {
    let policy = Policy::invalid(PolicyName::new("app", "p"), Scope::Selector, "why");
    let message = policy_message(&policy);
    assert_eq!(message.action(), security::Action::Deny);
    assert_eq!(message.rules, [security::Rule::default()]);
}

#[test]
fn principals_lose_their_scheme() {
    let exact = |text: &str| security::StringMatch {
        match_type: Some(security::string_match::MatchType::Exact(text.into())),
    };
    let message = authorization(|m| {
        m.principals = vec![exact("spiffe://td/ns/a/sa/b"), exact("td/ns/a/sa/b")]
    });
    let policy = Decoder::new().policy(&message).unwrap();
    let bare = StringMatch::Exact("td/ns/a/sa/b".into());
    assert_eq!(
        *policy.rules[1].clauses[0].matches[0].principals,
        [bare.clone(), bare]
    );
}
