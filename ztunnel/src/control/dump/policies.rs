//! The `policies` of a dump. A policy that could not be understood shows the reason in `invalid`.

use mesh::policy::{Action, Clause, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch};
use mesh::state::Snapshot;
use serde_json::{Map, Value, json};

use super::put;

/// All policies, by name.
pub(super) fn all(snapshot: &Snapshot) -> Vec<Value> {
    let mut policies: Vec<_> = snapshot.policies().collect();
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    policies.into_iter().map(|policy| one(policy)).collect()
}

fn one(policy: &Policy) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), (*policy.name.name).into());
    object.insert("namespace".to_owned(), (*policy.name.namespace).into());
    object.insert("action".to_owned(), action(policy.action).into());
    object.insert("scope".to_owned(), scope(policy.scope).into());
    object.insert("dryRun".to_owned(), policy.dry_run.into());
    object.insert(
        "rules".to_owned(),
        policy.rules.iter().map(rule).collect::<Vec<_>>().into(),
    );
    put(&mut object, "invalid", policy.invalid.as_deref());
    object.into()
}

fn rule(rule: &Rule) -> Value {
    rule.clauses.iter().map(clause).collect::<Vec<_>>().into()
}

fn clause(clause: &Clause) -> Value {
    clause
        .matches
        .iter()
        .map(one_match)
        .collect::<Vec<_>>()
        .into()
}

fn one_match(one: &Match) -> Value {
    let strings = |list: &[StringMatch]| list.iter().map(string).collect::<Vec<_>>();
    let accounts = |list: &[ServiceAccountMatch]| list.iter().map(account).collect::<Vec<_>>();
    let ranges = |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut object = Map::new();
    // Destructured so that a new field cannot be forgotten here.
    let Match {
        namespaces,
        not_namespaces,
        principals,
        not_principals,
        service_accounts,
        not_service_accounts,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
    } = one;
    put(&mut object, "namespaces", strings(namespaces));
    put(&mut object, "notNamespaces", strings(not_namespaces));
    put(&mut object, "principals", strings(principals));
    put(&mut object, "notPrincipals", strings(not_principals));
    put(&mut object, "serviceAccounts", accounts(service_accounts));
    put(
        &mut object,
        "notServiceAccounts",
        accounts(not_service_accounts),
    );
    put(&mut object, "sourceIps", ranges(source_ips));
    put(&mut object, "notSourceIps", ranges(not_source_ips));
    put(&mut object, "destinationIps", ranges(destination_ips));
    put(
        &mut object,
        "notDestinationIps",
        ranges(not_destination_ips),
    );
    put(&mut object, "destinationPorts", destination_ports.to_vec());
    put(
        &mut object,
        "notDestinationPorts",
        not_destination_ports.to_vec(),
    );
    object.into()
}

fn string(value: &StringMatch) -> Value {
    match value {
        StringMatch::Exact(text) => json!({ "Exact": &**text }),
        StringMatch::Prefix(text) => json!({ "Prefix": &**text }),
        StringMatch::Suffix(text) => json!({ "Suffix": &**text }),
        StringMatch::Presence => json!({ "Presence": [] }),
    }
}

fn account(account: &ServiceAccountMatch) -> Value {
    json!({ "namespace": &*account.namespace, "serviceAccount": &*account.name })
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "Allow",
        Action::Deny => "Deny",
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "Global",
        Scope::Namespace => "Namespace",
        Scope::Selector => "WorkloadSelector",
    }
}
