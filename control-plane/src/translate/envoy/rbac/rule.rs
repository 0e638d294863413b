//! One rule of an AuthorizationPolicy as a policy of Envoy's RBAC: permissions say what is done, principals by whom.

use envoy_types::pb::envoy::{
    config::{
        core::v3::{CidrRange, TypedExtensionConfig},
        rbac::v3::{Permission, Policy, Principal, permission, principal},
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig,
    r#type::matcher::v3::{
        FilterStateMatcher, PathMatcher, StringMatcher, filter_state_matcher, path_matcher,
    },
};
use objects::{Operation, PolicyCondition, PolicySource, Rule};
use permission::Rule as Permit;
use principal::Identifier as Who;

use super::{super::pack, Form, is_http_key};

const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// Matches every request.
pub(super) fn everything() -> Policy {
    Policy {
        permissions: vec![all_of(vec![permit(Permit::Any(true))])],
        principals: vec![all_ids(vec![who(Who::Any(true))])],
        ..Policy::default()
    }
}

/// One permission for each `to`, one principal for each `from`; every `when` is in all of its side.
pub(super) fn policy_of(rule: &Rule, namespace: &str, form: Form) -> Policy {
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
        name: name.to_ascii_lowercase(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }
}

fn header_or_present(name: &str, value: &str) -> HeaderMatcher {
    if value == "*" {
        let header_match_specifier = Some(HeaderMatchSpecifier::PresentMatch(true));
        return HeaderMatcher {
            name: name.to_ascii_lowercase(),
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
