//! Verdicts: actions, each condition, and the words of a refusal.

use super::*;
use crate::model::text::{HeaderKey, HeaderMatch, HeaderTest, StringMatch};
use http::HeaderMap;

fn method(name: &str) -> Condition {
    let test = HeaderTest::Value(StringMatch::Exact(name.into(), false));
    Condition::Header(HeaderMatch {
        key: HeaderKey::Method,
        test,
        invert: false,
        missing_is_empty: false,
    })
}

fn peer(pattern: &str) -> Condition {
    Condition::Peer(StringMatch::Regex(
        regex::Regex::new(&format!("^(?:{pattern})$")).unwrap(),
    ))
}

fn filter(action: Action, policies: Vec<(&str, Condition, Condition)>) -> Rbac {
    let policies = policies
        .into_iter()
        .map(|(name, permission, principal)| Policy {
            name: name.into(),
            permissions: vec![permission],
            principals: vec![principal],
        });
    Rbac {
        rules: Some(Policies {
            action,
            policies: policies.collect(),
        }),
        shadow: None,
    }
}

const APP: &str = "spiffe://cluster.local/ns/app/sa/client";

fn verdict(filter: &Rbac, method: &str, path: &str, peer: Option<&str>) -> Verdict {
    let headers = HeaderMap::new();
    let request = RequestView {
        method,
        path,
        authority: "svc",
        scheme: "http",
        headers: &headers,
    };
    let facts = Facts {
        peer,
        source: "10.9.1.1".parse().unwrap(),
        remote: "10.8.1.1".parse().unwrap(),
        destination: "10.96.0.1".parse().ok(),
        port: 80,
        request: Some(&request),
    };
    judge(filter, &facts)
}

#[test]
fn allow_needs_a_match_and_deny_forbids_one() {
    let allow = filter(
        Action::Allow,
        vec![(
            "ns[app]-policy[l7]-rule[0]",
            method("GET"),
            peer(".*/ns/app/.*"),
        )],
    );
    assert_eq!(verdict(&allow, "GET", "/", Some(APP)), Verdict::Pass);
    assert_eq!(
        verdict(&allow, "DELETE", "/", Some(APP)),
        Verdict::Deny(None)
    );
    assert_eq!(
        verdict(
            &allow,
            "GET",
            "/",
            Some("spiffe://cluster.local/ns/other/sa/x")
        ),
        Verdict::Deny(None)
    );
    assert_eq!(verdict(&allow, "GET", "/", None), Verdict::Deny(None));
    let deny = filter(
        Action::Deny,
        vec![(
            "ns[app]-policy[no]-rule[0]",
            method("DELETE"),
            Condition::Always,
        )],
    );
    assert_eq!(verdict(&deny, "GET", "/", None), Verdict::Pass);
    assert_eq!(
        verdict(&deny, "DELETE", "/", None),
        Verdict::Deny(Some("ns[app]-policy[no]-rule[0]".into()))
    );
}

#[test]
fn an_allow_filter_without_policies_denies_all_and_no_rules_let_pass() {
    assert_eq!(
        verdict(&filter(Action::Allow, vec![]), "GET", "/", Some(APP)),
        Verdict::Deny(None)
    );
    assert_eq!(
        verdict(&filter(Action::Deny, vec![]), "GET", "/", Some(APP)),
        Verdict::Pass
    );
    assert_eq!(verdict(&Rbac::default(), "GET", "/", None), Verdict::Pass);
    let log = filter(
        Action::Log,
        vec![("p", Condition::Always, Condition::Always)],
    );
    assert_eq!(verdict(&log, "GET", "/", None), Verdict::Pass);
}

#[test]
fn each_condition_looks_at_its_fact() {
    let net = |text: &str| text.parse().unwrap();
    let exact = |text: &str| StringMatch::Exact(text.into(), false);
    let cases = [
        (
            Condition::Path(StringMatch::Prefix("/a".into(), false)),
            true,
        ),
        (Condition::Path(exact("/a/b?q")), false),
        (Condition::Path(exact("/a/b")), true),
        (
            Condition::PathTemplate(regex::Regex::new("^/a/[^/]+$").unwrap()),
            true,
        ),
        (Condition::DestinationIp(net("10.96.0.0/16")), true),
        (Condition::DestinationIp(net("10.97.0.0/16")), false),
        (Condition::DestinationPort(80, 81), true),
        (Condition::DestinationPort(81, 82), false),
        (
            Condition::ServerName(StringMatch::Suffix(".x".into(), false)),
            false,
        ),
        (Condition::SourceIp(net("10.9.0.0/16")), true),
        (Condition::SourceIp(net("10.8.0.0/16")), false),
        (Condition::RemoteIp(net("10.8.0.0/16")), true),
        (Condition::RemoteIp(net("10.9.0.0/16")), false),
        (Condition::Authenticated(None), true),
        (Condition::Authenticated(Some(exact(APP))), true),
        (Condition::Not(Box::new(Condition::Always)), false),
        (Condition::All(vec![]), true),
        (Condition::Any(vec![]), false),
    ];
    for (condition, want) in cases {
        let text = format!("{condition:?}");
        let filter = filter(Action::Allow, vec![("p", condition, Condition::Always)]);
        let got = verdict(&filter, "GET", "/a/b?q", Some(APP)) == Verdict::Pass;
        assert_eq!(got, want, "{text}");
    }
}

#[test]
fn the_refusal_names_the_policy() {
    assert_eq!(
        details(Some("ns[a]-policy[b]-rule[0]")),
        "rbac_access_denied_matched_policy[ns[a]-policy[b]-rule[0]]"
    );
    assert_eq!(details(None), "rbac_access_denied_matched_policy[none]");
}
