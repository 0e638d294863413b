//! AuthorizationPolicy to RBAC filters. A waypoint applies only policies that target it, its class, or a service that
//! it serves. Nothing here may widen what the author wrote.

use std::{borrow::Cow, collections::BTreeMap};

use envoy_types::pb::envoy::{
    config::{
        listener::v3::Filter,
        rbac::v3::{Policy, Rbac, rbac::Action},
    },
    extensions::filters::{
        http::rbac::v3 as http,
        network::{http_connection_manager::v3::HttpFilter, rbac::v3 as network},
    },
};
use objects::{
    AuthorizationPolicy, Fault, Key, Kind, Operation, PolicyAction, PolicySource, Rule, Service,
    TargetRef,
};

use super::{
    Index, Served, Translation,
    listener::{http_filter, network_filter},
};

mod rule;

use rule::{everything, policy_of};

const DRY_RUN: &str = "istio.io/dry-run";
/// istiod names both filters' shadow rules so, whatever the action.
const SHADOW_PREFIX: &str = "istio_dry_run_allow_";

/// The condition that only a look into the TLS hello can answer.
const SERVER_NAME: &str = "connection.sni";

/// Which form of a policy: with all it says, or only what holds for a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Http,
    Tcp,
}

/// The policies of one chain, in the order in which they are asked: log, deny, allow.
pub(super) struct Policies {
    http: Vec<Rbac>,
    tcp: Vec<Rbac>,
    /// Whether a rule asks for the server name of a TLS hello.
    pub asks_server_name: bool,
}

impl Policies {
    /// Those for a service's chains, or (without one) for the chains to workloads.
    pub fn of(served: &Served<'_>, service: Option<&Service>, faults: &mut Vec<Fault>) -> Policies {
        let all = served.index.store.authorization_policies.all();
        let mine: Vec<&AuthorizationPolicy> = all
            .map(|policy| &**policy)
            .filter(|policy| applies(served, policy, service))
            .collect();
        // Our own waypoint refuses a listener that would have to look into TLS.
        let sees_names = served.waypoint.is_envoy();
        for policy in &mine {
            warn(policy, sees_names, faults);
        }
        let effective: Vec<_> = { mine }
            .into_iter()
            .filter(|policy| {
                policy.metadata.annotation(DRY_RUN) != Some("true") || policy.invalid.is_some()
            })
            .collect();
        let mut all_rules = effective.iter().flat_map(|policy| &policy.spec.rules);
        Policies {
            http: filters(&effective, Form::Http, sees_names),
            tcp: filters(&effective, Form::Tcp, sees_names),
            asks_server_name: sees_names && all_rules.any(asks_server_name),
        }
    }

    pub fn http_filters(&self) -> Vec<HttpFilter> {
        let filter = |rules: &Rbac| {
            let shadow_rules_stat_prefix = SHADOW_PREFIX.to_owned();
            let config = http::Rbac {
                rules: Some(rules.clone()),
                shadow_rules_stat_prefix,
                ..http::Rbac::default()
            };
            http_filter("envoy.filters.http.rbac", &config)
        };
        self.http.iter().map(filter).collect()
    }

    pub fn network_filters(&self) -> Vec<Filter> {
        let filter = |rules: &Rbac| {
            let config = network::Rbac {
                rules: Some(rules.clone()),
                shadow_rules_stat_prefix: SHADOW_PREFIX.into(),
                stat_prefix: "tcp.".into(),
                ..network::Rbac::default()
            };
            network_filter("envoy.filters.network.rbac", &config)
        };
        self.tcp.iter().map(filter).collect()
    }
}

fn applies(served: &Served<'_>, policy: &AuthorizationPolicy, service: Option<&Service>) -> bool {
    let (waypoint, mesh) = (served.waypoint, served.index.mesh);
    let namespace = &policy.metadata.namespace;
    let hit = |target: &TargetRef| match target.kind.as_str() {
        "Gateway" => *namespace == waypoint.namespace && target.name == waypoint.name,
        "GatewayClass" => *namespace == mesh.root_namespace && target.name == waypoint.class,
        "Service" => service
            .is_some_and(|s| *namespace == s.metadata.namespace && target.name == s.metadata.name),
        _ => false,
    };
    policy.spec.targets().any(hit)
}

/// Targets of policies that lead to nothing that a waypoint serves: there such a policy has no effect, and ztunnels
/// are not told of it either.
pub(super) fn astray(index: &Index<'_>, translation: &Translation) -> Vec<Fault> {
    let mut faults = Vec::new();
    for policy in index.store.authorization_policies.all() {
        let meta = &policy.metadata;
        for (i, target) in policy.spec.targets().enumerate() {
            if let Some(why) = leads_nowhere(index, translation, &meta.namespace, target) {
                let key = Key::new(Kind::AuthorizationPolicy, &meta.namespace, &meta.name);
                let why = format!("{why}: the policy has no effect there");
                let at = format!("spec.targetRefs[{i}]");
                faults.push(Fault::warning(Some(key), at, why));
            }
        }
    }
    faults
}

fn leads_nowhere(
    index: &Index<'_>,
    translation: &Translation,
    namespace: &str,
    target: &TargetRef,
) -> Option<String> {
    let (kind, name) = (target.kind.as_str(), target.name.as_str());
    match kind {
        "Gateway" => {
            let known = index.waypoints.contains_key(&(namespace, name));
            (!known).then(|| format!("no Gateway `{name}` here is a waypoint"))
        }
        "GatewayClass" if *namespace != *index.mesh.root_namespace => {
            let root = &index.mesh.root_namespace;
            Some(format!(
                "only policies of namespace {root} may target a class"
            ))
        }
        "GatewayClass" => {
            let known = index.waypoints().any(|waypoint| waypoint.class == name);
            (!known).then(|| format!("no waypoint is of class `{name}`"))
        }
        "Service" => {
            let Some(service) = index.store.services.find(namespace, name) else {
                return Some(format!("there is no Service `{name}` here"));
            };
            let served = super::waypoint_of(index, translation, service).is_some();
            (!served).then(|| format!("no waypoint serves Service `{name}`"))
        }
        kind => Some(format!("{kind} is not supported")),
    }
}

fn warn(policy: &AuthorizationPolicy, sees_names: bool, faults: &mut Vec<Fault>) {
    let meta = &policy.metadata;
    let mut push = |field: String, why: &str| {
        let key = Key::new(Kind::AuthorizationPolicy, &meta.namespace, &meta.name);
        let fault = Fault::warning(Some(key), field, why);
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    };
    if policy.invalid.is_some() {
        return;
    }
    if meta.annotation(DRY_RUN) == Some("true") {
        push(
            format!("metadata.annotations[{DRY_RUN}]"),
            "a dry run has no effect",
        );
    }
    if policy.spec.action == PolicyAction::Custom {
        push(
            "spec.action".into(),
            "CUSTOM cannot be asked yet: what the rules match is denied",
        );
    }
    for (i, rule) in policy.spec.rules.iter().enumerate() {
        if uses_jwt(rule) {
            push(
                format!("spec.rules[{i}]"),
                "no request carries a verified JWT here, so this part never matches",
            );
        }
        if asks_remote(rule) {
            push(
                format!("spec.rules[{i}]"),
                "a waypoint takes the remote address from the last entry of X-Forwarded-For, which any caller in the \
                 mesh can set: only behind a gateway that writes it can callers be told apart by it",
            );
        }
        if !sees_names && asks_server_name(rule) {
            push(
                format!("spec.rules[{i}].when"),
                "this waypoint does not look into TLS: with ALLOW the rule allows nothing, else it holds for every \
                 server name",
            );
        }
    }
}

fn uses_jwt(rule: &Rule) -> bool {
    let source = |source: &PolicySource| {
        !source.request_principals.is_empty() || !source.not_request_principals.is_empty()
    };
    rule.from.iter().any(|from| source(&from.source))
        || rule
            .when
            .iter()
            .any(|when| when.key.starts_with("request.auth"))
}

fn asks_remote(rule: &Rule) -> bool {
    let source = |source: &PolicySource| {
        !source.remote_ip_blocks.is_empty() || !source.not_remote_ip_blocks.is_empty()
    };
    rule.from.iter().any(|from| source(&from.source))
        || rule.when.iter().any(|when| when.key == "remote.ip")
}

fn asks_server_name(rule: &Rule) -> bool {
    rule.when.iter().any(|when| when.key == SERVER_NAME)
}

fn filters(policies: &[&AuthorizationPolicy], form: Form, sees_names: bool) -> Vec<Rbac> {
    let groups = [
        (Action::Log, &[PolicyAction::Audit][..]),
        (
            Action::Deny,
            &[PolicyAction::Deny, PolicyAction::Custom][..],
        ),
        (Action::Allow, &[PolicyAction::Allow][..]),
    ];
    let mut filters = Vec::new();
    for (action, actions) in groups {
        let of_action = |policy: &&&AuthorizationPolicy| {
            // A stand-in for what could not be read denies, whatever its author wanted.
            if policy.invalid.is_some() {
                action == Action::Deny
            } else {
                actions.contains(&policy.spec.action)
            }
        };
        let group: Vec<_> = policies.iter().filter(of_action).collect();
        if group.is_empty() {
            continue;
        }
        let policies: BTreeMap<String, Policy> = group
            .into_iter()
            .flat_map(|policy| rules(policy, action, form, sees_names))
            .collect();
        // An ALLOW filter stands even without a rule: then it allows nothing.
        if action == Action::Allow || !policies.is_empty() {
            let policies = policies.into_iter().collect();
            filters.push(Rbac {
                action: action.into(),
                policies,
                ..Rbac::default()
            });
        }
    }
    filters
}

/// The rules of one policy by name.
fn rules(
    policy: &AuthorizationPolicy,
    action: Action,
    form: Form,
    sees_names: bool,
) -> Vec<(String, Policy)> {
    let meta = &policy.metadata;
    let name = |i: usize| format!("ns[{}]-policy[{}]-rule[{i}]", meta.namespace, meta.name);
    if policy.invalid.is_some() {
        return vec![(name(0), everything())];
    }
    // A rule that asks for what is not there (HTTP on a byte stream, a server name) allows nothing, and denies whatever
    // the rest of it matches.
    let nameless = |rule: &Rule| !sees_names && asks_server_name(rule);
    let lacks = |rule: &Rule| form == Form::Tcp && needs_http(rule) || nameless(rule);
    let rules = policy.spec.rules.iter().enumerate();
    let kept = rules.filter(|(_, rule)| action != Action::Allow || !lacks(rule));
    kept.map(|(i, rule)| {
        let mut rule = Cow::Borrowed(rule);
        if nameless(&rule) {
            rule.to_mut().when.retain(|when| when.key != SERVER_NAME);
        }
        (name(i), policy_of(&rule, &meta.namespace, form))
    })
    .collect()
}

fn needs_http(rule: &Rule) -> bool {
    let source = |s: &PolicySource| {
        let lists = [
            &s.request_principals,
            &s.not_request_principals,
            &s.remote_ip_blocks,
            &s.not_remote_ip_blocks,
        ];
        lists.iter().any(|list| !list.is_empty())
    };
    let operation = |op: &Operation| {
        let lists = [
            &op.hosts,
            &op.not_hosts,
            &op.methods,
            &op.not_methods,
            &op.paths,
            &op.not_paths,
        ];
        lists.iter().any(|list| !list.is_empty())
    };
    rule.from.iter().any(|from| source(&from.source))
        || rule.to.iter().any(|to| operation(&to.operation))
        || rule.when.iter().any(|when| is_http_key(&when.key))
}

fn is_http_key(key: &str) -> bool {
    key.starts_with("request.") || key == "remote.ip"
}
