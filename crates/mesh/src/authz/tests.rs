use std::sync::Arc;

use super::*;
use crate::{
    policy::{Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch},
    state::{State, Update},
};

mod differential;
mod order;
mod text;

const CLIENT: &str = "spiffe://cluster.local/ns/app/sa/client";

fn name(text: &str) -> PolicyName {
    text.parse().unwrap()
}

/// The pod that is called: app/echo at 10.0.0.9, bound to these policies.
fn echo(policies: &[&str]) -> Workload {
    let authorization_policies = policies.iter().map(|text| name(text)).collect();
    Workload {
        uid: "c//Pod/app/echo".into(),
        namespace: "app".into(),
        authorization_policies,
        ..Default::default()
    }
}

fn facts(source: Option<&str>) -> Facts {
    Facts {
        source: source.map(|uri| uri.parse().unwrap()),
        source_ip: [10, 0, 0, 1].into(),
        destination: ([10, 0, 0, 9], 8080).into(),
    }
}

fn policy(text: &str, scope: Scope, action: Action, rules: Vec<Rule>) -> Policy {
    Policy {
        name: name(text),
        scope,
        action,
        rules: rules.into(),
        dry_run: false,
        invalid: None,
    }
}

fn rule(clauses: Vec<Vec<Match>>) -> Rule {
    Rule {
        clauses: clauses
            .into_iter()
            .map(|matches| Clause {
                matches: matches.into(),
            })
            .collect(),
    }
}

/// A rule of one clause with one match.
fn only(one: Match) -> Vec<Rule> {
    vec![rule(vec![vec![one]])]
}

fn everything() -> Vec<Rule> {
    vec![Rule::default()]
}

fn from_namespace(namespace: &str) -> Match {
    Match {
        namespaces: [StringMatch::Exact(namespace.into())].into(),
        ..Default::default()
    }
}

fn to_port(port: u16) -> Match {
    Match {
        destination_ports: [port].into(),
        ..Default::default()
    }
}

fn state(policies: impl IntoIterator<Item = Policy>) -> State {
    let mut state = State::new();
    state.apply(
        policies
            .into_iter()
            .map(|policy| Update::Policy(Arc::new(policy)))
            .collect(),
    );
    state
}

/// Whether a rule of that one match matches these facts.
fn holds(one: Match, facts: &Facts) -> bool {
    let deny = policy("app/p", Scope::Namespace, Action::Deny, only(one));
    !authorize(state([deny]).current(), &echo(&[]), facts).is_allowed()
}
