//! AuthorizationPolicy to the L4 policy that ztunnels enforce. Nothing here may widen what the author wrote: what L4
//! cannot express makes an ALLOW narrower and a DENY broader.

use std::net::IpAddr;

use objects::{
    AuthorizationPolicy, Fault, Key, Kind, Meta, Operation, PolicyAction, PolicyCondition,
    PolicySource, Rule,
};
use proto::security::{
    self as wds, Action, Authorization, Clause, Match, Scope, ServiceAccountMatch, StringMatch,
    string_match::MatchType,
};

use super::{Index, Mesh, service::octets};

const DRY_RUN: &str = "istio.io/dry-run";
/// On a pod: policies that it must not be reached without, comma separated.
const REQUIRED_POLICIES: &str = "ambient.causeway.dev/required-policies";

/// `namespace/name`.
pub(super) fn resource_name(policy: &Authorization) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

/// Whether ztunnels get this policy: one with `targetRefs` is for waypoints, AUDIT and dry runs decide nothing.
fn is_for_ztunnel(policy: &AuthorizationPolicy) -> bool {
    policy.spec.targets().next().is_none() && decides(policy)
}

/// Whether anybody may be let in or kept out by it.
pub(super) fn decides(policy: &AuthorizationPolicy) -> bool {
    policy.invalid.is_some()
        || policy.spec.action != PolicyAction::Audit
            && policy.metadata.annotation(DRY_RUN) != Some("true")
}

/// Whether only the pods that a selector picks are bound, so that their workloads must name the policy.
fn is_selective(policy: &AuthorizationPolicy) -> bool {
    policy
        .spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.match_labels.is_empty())
}

/// Names that the workload of a pod must carry: policies whose selector picks it (of its namespace and the root
/// namespace), then converted peer authentications.
pub(super) fn names_for(index: &Index<'_>, pod: &Meta) -> Vec<String> {
    let root = &index.mesh.root_namespace;
    let namespaces = [
        Some(root.as_str()),
        Some(pod.namespace.as_str()).filter(|namespace| namespace != root),
    ];
    let policies = namespaces
        .into_iter()
        .flatten()
        .flat_map(|ns| index.store.authorization_policies.of(ns));
    let bound = policies.filter(|policy| {
        let selector = policy.spec.selector.as_ref();
        is_for_ztunnel(policy)
            && is_selective(policy)
            && selector.is_some_and(|s| s.matches(&pod.labels))
    });
    let mut names: Vec<String> = bound
        .map(|policy| format!("{}/{}", policy.metadata.namespace, policy.metadata.name))
        .collect();
    names.extend(required(pod));
    names.sort();
    names.dedup();
    names.extend(index.peers.name_for(pod));
    names
}

/// The policies without which a pod must not be reached, whatever else selects it: it names them itself, so
/// that it is closed from its start until they are there. `name` lies in the pod's namespace, `ns/name`
/// elsewhere.
fn required(pod: &Meta) -> impl Iterator<Item = String> + '_ {
    let list = pod.annotation(REQUIRED_POLICIES).unwrap_or_default();
    let names = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names.map(|name| {
        if name.contains('/') {
            name.to_owned()
        } else {
            format!("{}/{name}", pod.namespace)
        }
    })
}

/// The L4 policy, or none when ztunnels have nothing to do with it.
pub(super) fn translate(
    policy: &AuthorizationPolicy,
    mesh: &Mesh,
    faults: &mut Vec<Fault>,
) -> Option<Authorization> {
    let meta = &policy.metadata;
    let key = Key::new(Kind::AuthorizationPolicy, &meta.namespace, &meta.name);
    let mut warn =
        |field: String, why: &str| faults.push(Fault::warning(Some(key.clone()), field, why));
    if policy.spec.targets().next().is_some() {
        return None;
    }
    if policy.spec.action == PolicyAction::Audit && policy.invalid.is_none() {
        warn("spec.action".into(), "AUDIT has no effect");
    }
    if meta.annotation(DRY_RUN) == Some("true") && policy.invalid.is_none() {
        warn(
            format!("metadata.annotations[{DRY_RUN}]"),
            "a dry run has no effect",
        );
    }
    if !is_for_ztunnel(policy) {
        return None;
    }
    let scope = match (is_selective(policy), meta.namespace == mesh.root_namespace) {
        (true, _) => Scope::WorkloadSelector,
        (false, true) => Scope::Global,
        (false, false) => Scope::Namespace,
    };
    if policy.spec.action == PolicyAction::Custom && policy.invalid.is_none() {
        warn(
            "spec.action".into(),
            "CUSTOM cannot be asked at layer 4: what the rules match is denied",
        );
    }
    let (action, rules) = if policy.invalid.is_some() {
        // One rule without clauses matches everything.
        (Action::Deny, vec![wds::Rule::default()])
    } else if policy.spec.action == PolicyAction::Allow {
        (Action::Allow, allow_rules(policy, &mut warn))
    } else {
        (Action::Deny, deny_rules(policy, &mut warn))
    };
    Some(Authorization {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        scope: scope.into(),
        action: action.into(),
        rules,
        ..Authorization::default()
    })
}

type Warn<'a> = dyn FnMut(String, &str) + 'a;

/// A rule with any L7 part is left out: it allows nothing.
fn allow_rules(policy: &AuthorizationPolicy, warn: &mut Warn<'_>) -> Vec<wds::Rule> {
    let mut rules = Vec::new();
    for (i, rule) in policy.spec.rules.iter().enumerate() {
        match l7_part(rule) {
            None => rules.push(rule_of(rule, &policy.metadata.namespace)),
            Some(field) => warn(
                format!("spec.rules[{i}].{field}"),
                "needs layer 7: without a waypoint this rule allows nothing",
            ),
        }
    }
    rules
}

/// L7 parts are taken off, so that the rule denies more.
fn deny_rules(policy: &AuthorizationPolicy, warn: &mut Warn<'_>) -> Vec<wds::Rule> {
    let mut rules = Vec::new();
    for (i, rule) in policy.spec.rules.iter().enumerate() {
        if let Some(field) = l7_part(rule) {
            warn(
                format!("spec.rules[{i}].{field}"),
                "needs layer 7: without a waypoint this rule denies whatever the rest of it matches",
            );
        }
        rules.push(rule_of(rule, &policy.metadata.namespace));
    }
    rules
}

/// The first field that only layer 7 can judge.
fn l7_part(rule: &Rule) -> Option<&'static str> {
    let source = |source: &PolicySource| {
        [
            &source.request_principals,
            &source.not_request_principals,
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
        ]
        .iter()
        .any(|list| !list.is_empty())
    };
    let operation = |op: &Operation| {
        [
            &op.hosts,
            &op.not_hosts,
            &op.methods,
            &op.not_methods,
            &op.paths,
            &op.not_paths,
        ]
        .iter()
        .any(|list| !list.is_empty())
    };
    if rule.from.iter().any(|from| source(&from.source)) {
        return Some("from");
    }
    if rule.to.iter().any(|to| operation(&to.operation)) {
        return Some("to");
    }
    rule.when
        .iter()
        .any(|when| !is_l4_key(&when.key))
        .then_some("when")
}

fn is_l4_key(key: &str) -> bool {
    matches!(
        key,
        "source.ip"
            | "source.namespace"
            | "source.serviceAccount"
            | "source.principal"
            | "destination.ip"
            | "destination.port"
    )
}

/// One clause for `to`, one for `from`, one for each `when`, in upstream's order. A part that loses all its L4
/// conditions is left out as a whole, since an empty match would match nothing.
fn rule_of(rule: &Rule, namespace: &str) -> wds::Rule {
    let mut clauses = Vec::new();
    let to = rule
        .to
        .iter()
        .map(|to| operation_match(&to.operation))
        .collect();
    let from = rule
        .from
        .iter()
        .map(|from| source_match(&from.source, namespace))
        .collect();
    push_clause(&mut clauses, to);
    push_clause(&mut clauses, from);
    for when in rule.when.iter().filter(|when| is_l4_key(&when.key)) {
        push_clause(&mut clauses, vec![condition_match(when, namespace)]);
    }
    wds::Rule { clauses }
}

fn push_clause(clauses: &mut Vec<Clause>, matches: Vec<Match>) {
    let restricts = !matches.is_empty() && matches.iter().all(|wanted| *wanted != Match::default());
    if restricts {
        clauses.push(Clause { matches });
    }
}

fn operation_match(operation: &Operation) -> Match {
    Match {
        destination_ports: ports(&operation.ports),
        not_destination_ports: ports(&operation.not_ports),
        ..Match::default()
    }
}

fn source_match(source: &PolicySource, namespace: &str) -> Match {
    Match {
        principals: strings(&source.principals),
        not_principals: strings(&source.not_principals),
        namespaces: strings(&source.namespaces),
        not_namespaces: strings(&source.not_namespaces),
        service_accounts: accounts(&source.service_accounts, namespace),
        not_service_accounts: accounts(&source.not_service_accounts, namespace),
        source_ips: cidrs(&source.ip_blocks),
        not_source_ips: cidrs(&source.not_ip_blocks),
        ..Match::default()
    }
}

fn condition_match(when: &PolicyCondition, namespace: &str) -> Match {
    let (values, not_values) = (&when.values, &when.not_values);
    match when.key.as_str() {
        "source.ip" => Match {
            source_ips: cidrs(values),
            not_source_ips: cidrs(not_values),
            ..Match::default()
        },
        "source.namespace" => Match {
            namespaces: strings(values),
            not_namespaces: strings(not_values),
            ..Match::default()
        },
        "source.serviceAccount" => Match {
            service_accounts: accounts(values, namespace),
            not_service_accounts: accounts(not_values, namespace),
            ..Match::default()
        },
        "source.principal" => Match {
            principals: strings(values),
            not_principals: strings(not_values),
            ..Match::default()
        },
        "destination.ip" => Match {
            destination_ips: cidrs(values),
            not_destination_ips: cidrs(not_values),
            ..Match::default()
        },
        _ => Match {
            destination_ports: ports(values),
            not_destination_ports: ports(not_values),
            ..Match::default()
        },
    }
}

fn ports(values: &[String]) -> Vec<u32> {
    values
        .iter()
        .filter_map(|value| value.parse().ok())
        .collect()
}

fn strings(values: &[String]) -> Vec<StringMatch> {
    values.iter().map(|value| string(value)).collect()
}

/// `*` any, `x*` prefix, `*x` suffix, else exact.
fn string(value: &str) -> StringMatch {
    let kind = if value == "*" {
        MatchType::Presence(())
    } else if let Some(suffix) = value.strip_prefix('*') {
        MatchType::Suffix(suffix.into())
    } else if let Some(prefix) = value.strip_suffix('*') {
        MatchType::Prefix(prefix.into())
    } else {
        MatchType::Exact(value.into())
    };
    StringMatch {
        match_type: Some(kind),
    }
}

/// `name` means an account of the policy's namespace.
fn accounts(values: &[String], namespace: &str) -> Vec<ServiceAccountMatch> {
    let account = |value: &String| {
        let (namespace, account) = value.split_once('/').unwrap_or((namespace, value));
        ServiceAccountMatch {
            namespace: namespace.into(),
            service_account: account.into(),
        }
    };
    values.iter().map(account).collect()
}

fn cidrs(values: &[String]) -> Vec<wds::Address> {
    let cidr = |value: &String| {
        let (address, length) = value
            .split_once('/')
            .map_or((value.as_str(), None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().ok()?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(whole), |length| length.parse().ok())?;
        Some(wds::Address {
            address: octets(address),
            length,
        })
    };
    values.iter().filter_map(cidr).collect()
}
