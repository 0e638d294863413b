//! AuthorizationPolicy to RBAC filters. A waypoint applies only policies that target it, its class, or a service that
//! it serves. Nothing here may widen what the author wrote.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::{
    config::{
        core::v3::{CidrRange, TypedExtensionConfig},
        listener::v3::Filter,
        rbac::v3::{Permission, Policy, Principal, Rbac, permission, principal, rbac::Action},
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    extensions::{
        filters::{
            http::rbac::v3 as http,
            network::{http_connection_manager::v3::HttpFilter, rbac::v3 as network},
        },
        path::r#match::uri_template::v3::UriTemplateMatchConfig,
    },
    r#type::matcher::v3::{
        FilterStateMatcher, PathMatcher, StringMatcher, filter_state_matcher, path_matcher,
    },
};
use objects::{
    AuthorizationPolicy, Fault, Key, Kind, Operation, PolicyAction, PolicyCondition, PolicySource,
    Rule, Service, TargetRef,
};
use permission::Rule as Permit;
use principal::Identifier as Who;

use super::{
    Served,
    listener::{http_filter, network_filter},
    pack,
};

const DRY_RUN: &str = "istio.io/dry-run";
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";
/// istiod names both filters' shadow rules so, whatever the action.
const SHADOW_PREFIX: &str = "istio_dry_run_allow_";

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
}

impl Policies {
    /// Those for a service's chains, or (without one) for the chains to workloads.
    pub fn of(served: &Served<'_>, service: Option<&Service>, faults: &mut Vec<Fault>) -> Policies {
        let all = served.index.store.authorization_policies.all();
        let mine: Vec<&AuthorizationPolicy> = all
            .map(|policy| &**policy)
            .filter(|policy| applies(served, policy, service))
            .collect();
        for policy in &mine {
            warn(policy, faults);
        }
        let effective: Vec<_> = { mine }
            .into_iter()
            .filter(|policy| {
                policy.metadata.annotation(DRY_RUN) != Some("true") || policy.invalid.is_some()
            })
            .collect();
        Policies {
            http: filters(&effective, Form::Http),
            tcp: filters(&effective, Form::Tcp),
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

fn warn(policy: &AuthorizationPolicy, faults: &mut Vec<Fault>) {
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

fn filters(policies: &[&AuthorizationPolicy], form: Form) -> Vec<Rbac> {
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
            .flat_map(|policy| rules(policy, action, form))
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
fn rules(policy: &AuthorizationPolicy, action: Action, form: Form) -> Vec<(String, Policy)> {
    let meta = &policy.metadata;
    let name = |i: usize| format!("ns[{}]-policy[{}]-rule[{i}]", meta.namespace, meta.name);
    if policy.invalid.is_some() {
        return vec![(name(0), everything())];
    }
    let rules = policy.spec.rules.iter().enumerate();
    // On a byte stream, a rule that asks for HTTP allows nothing, and denies whatever the rest of it matches.
    let kept = rules
        .filter(|(_, rule)| form == Form::Http || action != Action::Allow || !needs_http(rule));
    kept.map(|(i, rule)| (name(i), policy_of(rule, &meta.namespace, form)))
        .collect()
}

fn everything() -> Policy {
    Policy {
        permissions: vec![all_of(vec![permit(Permit::Any(true))])],
        principals: vec![all_ids(vec![who(Who::Any(true))])],
        ..Policy::default()
    }
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

/// One permission for each `to`, one principal for each `from`; every `when` is in all of its side.
fn policy_of(rule: &Rule, namespace: &str, form: Form) -> Policy {
    let mut whens = (Vec::new(), Vec::new());
    for when in rule
        .when
        .iter()
        .filter(|when| form == Form::Http || !is_http_key(&when.key))
    {
        match condition(when, namespace) {
            Side::Permission(list) => whens.0.extend(list),
            Side::Principal(list) => whens.1.extend(list),
        }
    }
    let any_operation = [Operation::default()];
    let any_source = [PolicySource::default()];
    let operations: Vec<&Operation> = rule.to.iter().map(|to| &to.operation).collect();
    let operations = if operations.is_empty() {
        any_operation.iter().collect()
    } else {
        operations
    };
    let sources: Vec<&PolicySource> = rule.from.iter().map(|from| &from.source).collect();
    let sources = if sources.is_empty() {
        any_source.iter().collect()
    } else {
        sources
    };
    let permissions = operations.into_iter().map(|operation| {
        let mut all = operation_permissions(operation, form);
        all.extend(whens.0.iter().cloned());
        all_of(if all.is_empty() {
            vec![permit(Permit::Any(true))]
        } else {
            all
        })
    });
    let principals = sources.into_iter().map(|source| {
        let mut all = source_principals(source, namespace, form);
        all.extend(whens.1.iter().cloned());
        all_ids(if all.is_empty() {
            vec![who(Who::Any(true))]
        } else {
            all
        })
    });
    Policy {
        permissions: permissions.collect(),
        principals: principals.collect(),
        ..Policy::default()
    }
}

fn operation_permissions(operation: &Operation, form: Form) -> Vec<Permission> {
    let mut all = Vec::new();
    if form == Form::Http {
        add_permissions(&mut all, &operation.hosts, &operation.not_hosts, |v| {
            let matcher = StringMatcher {
                ignore_case: true,
                ..wildcard(v)
            };
            permit(Permit::Header(header(":authority", matcher)))
        });
        add_permissions(&mut all, &operation.methods, &operation.not_methods, |v| {
            permit(Permit::Header(header(":method", wildcard(v))))
        });
        add_permissions(&mut all, &operation.paths, &operation.not_paths, path);
    }
    add_permissions(&mut all, &operation.ports, &operation.not_ports, port);
    all
}

fn source_principals(source: &PolicySource, namespace: &str, form: Form) -> Vec<Principal> {
    let mut all = Vec::new();
    add_principals(
        &mut all,
        &source.principals,
        &source.not_principals,
        peer_principal,
    );
    if form == Form::Http {
        add_principals(
            &mut all,
            &source.request_principals,
            &source.not_request_principals,
            nobody,
        );
    }
    let account = |v: &str| peer_account(v, namespace);
    add_principals(
        &mut all,
        &source.service_accounts,
        &source.not_service_accounts,
        account,
    );
    add_principals(
        &mut all,
        &source.namespaces,
        &source.not_namespaces,
        peer_namespace,
    );
    if form == Form::Http {
        add_principals(
            &mut all,
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            |v| who(Who::RemoteIp(cidr(v))),
        );
    }
    add_principals(&mut all, &source.ip_blocks, &source.not_ip_blocks, |v| {
        who(Who::DirectRemoteIp(cidr(v)))
    });
    all
}

enum Side {
    Permission(Vec<Permission>),
    Principal(Vec<Principal>),
}

fn condition(when: &PolicyCondition, namespace: &str) -> Side {
    let (values, not_values) = (&when.values, &when.not_values);
    let permissions = |of: &dyn Fn(&str) -> Permission| {
        let mut all = Vec::new();
        add_permissions(&mut all, values, not_values, of);
        Side::Permission(all)
    };
    let principals = |of: &dyn Fn(&str) -> Principal| {
        let mut all = Vec::new();
        add_principals(&mut all, values, not_values, of);
        Side::Principal(all)
    };
    match when.key.as_str() {
        "destination.ip" => permissions(&|v| permit(Permit::DestinationIp(cidr(v)))),
        "destination.port" => permissions(&port),
        "connection.sni" => permissions(&|v| permit(Permit::RequestedServerName(wildcard(v)))),
        "source.ip" => principals(&|v| who(Who::DirectRemoteIp(cidr(v)))),
        "remote.ip" => principals(&|v| who(Who::RemoteIp(cidr(v)))),
        "source.namespace" => principals(&peer_namespace),
        "source.principal" => principals(&peer_principal),
        "source.serviceAccount" => principals(&|v| peer_account(v, namespace)),
        key => match key
            .strip_prefix("request.headers[")
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(name) => principals(&|v| who(Who::Header(header_or_present(name, v)))),
            // request.auth.*: nothing here verifies tokens, so no request has any of it.
            None => principals(&nobody),
        },
    }
}

fn add_permissions(
    all: &mut Vec<Permission>,
    values: &[String],
    not: &[String],
    of: impl Fn(&str) -> Permission,
) {
    let any = |values: &[String]| {
        let rules = values.iter().map(|value| of(value)).collect();
        permit(Permit::OrRules(permission::Set { rules }))
    };
    if !values.is_empty() {
        all.push(any(values));
    }
    if !not.is_empty() {
        all.push(permit(Permit::NotRule(Box::new(any(not)))));
    }
}

fn add_principals(
    all: &mut Vec<Principal>,
    values: &[String],
    not: &[String],
    of: impl Fn(&str) -> Principal,
) {
    let any = |values: &[String]| {
        let ids = values.iter().map(|value| of(value)).collect();
        who(Who::OrIds(principal::Set { ids }))
    };
    if !values.is_empty() {
        all.push(any(values));
    }
    if !not.is_empty() {
        all.push(who(Who::NotId(Box::new(any(not)))));
    }
}

fn permit(rule: Permit) -> Permission {
    Permission { rule: Some(rule) }
}

fn all_of(rules: Vec<Permission>) -> Permission {
    permit(Permit::AndRules(permission::Set { rules }))
}

fn who(identifier: Who) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

fn all_ids(ids: Vec<Principal>) -> Principal {
    who(Who::AndIds(principal::Set { ids }))
}

fn nobody(_: &str) -> Principal {
    who(Who::NotId(Box::new(who(Who::Any(true)))))
}

fn port(value: &str) -> Permission {
    // Validation let only port numbers through; 0 is on no wire.
    permit(Permit::DestinationPort(value.parse().unwrap_or(0)))
}

fn path(value: &str) -> Permission {
    if value.contains(['{', '}']) {
        let config = UriTemplateMatchConfig {
            path_template: value.replace("{**}", "**").replace("{*}", "*"),
        };
        let typed_config = Some(pack::any(&config));
        return permit(Permit::UriTemplate(TypedExtensionConfig {
            name: "uri-template".into(),
            typed_config,
        }));
    }
    permit(Permit::UrlPath(PathMatcher {
        rule: Some(path_matcher::Rule::Path(wildcard(value))),
    }))
}

fn header(name: &str, matcher: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }
}

fn header_or_present(name: &str, value: &str) -> HeaderMatcher {
    if value == "*" {
        let header_match_specifier = Some(HeaderMatchSpecifier::PresentMatch(true));
        return HeaderMatcher {
            name: name.into(),
            header_match_specifier,
            ..HeaderMatcher::default()
        };
    }
    header(name, wildcard(value))
}

/// `*` anything but nothing, `x*` prefix, `*x` suffix, else exact.
fn wildcard(value: &str) -> StringMatcher {
    if value == "*" {
        pack::regex(".+")
    } else if let Some(suffix) = value.strip_prefix('*') {
        pack::suffix(suffix)
    } else if let Some(prefix) = value.strip_suffix('*') {
        pack::prefix(prefix)
    } else {
        pack::exact(value)
    }
}

fn peer(matcher: StringMatcher) -> Principal {
    who(Who::FilterState(FilterStateMatcher {
        key: PEER_PRINCIPAL.into(),
        matcher: Some(filter_state_matcher::Matcher::StringMatch(matcher)),
    }))
}

fn peer_principal(value: &str) -> Principal {
    peer(if value == "*" || value.starts_with('*') {
        wildcard(value)
    } else {
        wildcard(&format!("spiffe://{value}"))
    })
}

fn peer_namespace(value: &str) -> Principal {
    let pattern = value
        .split('*')
        .map(pack::escape)
        .collect::<Vec<_>>()
        .join(".*");
    peer(pack::regex(format!(".*/ns/{pattern}/.*")))
}

fn peer_account(value: &str, namespace: &str) -> Principal {
    let (namespace, account) = value.split_once('/').unwrap_or((namespace, value));
    peer(pack::regex(format!(
        "spiffe://.+/ns/{}/sa/{}",
        pack::escape(namespace),
        pack::escape(account)
    )))
}

fn cidr(value: &str) -> CidrRange {
    let (address, length) = value.split_once('/').unwrap_or((value, ""));
    let whole = if address.contains(':') { 128 } else { 32 };
    CidrRange {
        address_prefix: address.into(),
        prefix_len: pack::number(length.parse().unwrap_or(whole)),
    }
}
