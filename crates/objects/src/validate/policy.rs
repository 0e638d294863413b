//! Checks of the security objects, in line with Istio's own validation: what it refuses is refused here.

use std::net::IpAddr;

use super::{Check, Checked, Invalid, ensure, invalid, is_subdomain, route::is_token};
use crate::policy::{
    AuthorizationPolicy, Operation, PeerAuthentication, PolicyAction, PolicyCondition,
    PolicySource, Rule, TargetRef,
};

impl Check for AuthorizationPolicy {
    fn check(&self) -> Checked {
        let spec = &self.spec;
        let targeted = spec.targets().next().is_some();
        ensure(
            !(spec.selector.is_some() && targeted),
            "spec.selector",
            "must not be set together with targetRefs",
        )?;
        for (i, target) in spec.targets().enumerate() {
            target_ref(
                &format!("spec.targetRefs[{i}]"),
                target,
                &self.metadata.namespace,
            )?;
        }
        if let Some(selector) = &spec.selector {
            let empty = selector.match_labels.keys().any(String::is_empty);
            ensure(!empty, "spec.selector.matchLabels", "has an empty key")?;
        }
        if spec.action == PolicyAction::Custom {
            ensure(
                spec.provider.is_some(),
                "spec.provider",
                "is required for action CUSTOM",
            )?;
        }
        for (i, rule) in spec.rules.iter().enumerate() {
            check_rule(&format!("spec.rules[{i}]"), rule)?;
        }
        Ok(())
    }
}

fn target_ref(at: &str, target: &TargetRef, namespace: &str) -> Checked {
    let known = matches!(
        (target.group.as_str(), target.kind.as_str()),
        ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
            | ("" | "core", "Service")
            | ("networking.istio.io", "ServiceEntry")
    );
    let what = format!(
        "`{}/{}` must be Gateway, GatewayClass, Service or ServiceEntry",
        target.group, target.kind
    );
    ensure(known, format!("{at}.kind"), what)?;
    ensure(!target.name.is_empty(), format!("{at}.name"), "is missing")?;
    let local = target.namespace.is_empty() || target.namespace == namespace;
    ensure(
        local,
        format!("{at}.namespace"),
        "must be the policy's own namespace",
    )
}

fn check_rule(at: &str, rule: &Rule) -> Checked {
    for (i, from) in rule.from.iter().enumerate() {
        check_source(&format!("{at}.from[{i}].source"), &from.source)?;
    }
    for (i, to) in rule.to.iter().enumerate() {
        check_operation(&format!("{at}.to[{i}].operation"), &to.operation)?;
    }
    for (i, when) in rule.when.iter().enumerate() {
        check_condition(&format!("{at}.when[{i}]"), when)?;
    }
    Ok(())
}

type Lists<'a> = [(&'a str, &'a Vec<String>)];

/// Bytes of one text of a list. Some become regular expressions, of which waypoints take only so much.
const MAX_TEXT: usize = 256;
/// Bytes of a service account with its namespace: 63 and 253, and a slash.
const MAX_ACCOUNT: usize = 320;
/// Bytes of texts that are compared as they are.
const MAX_PLAIN: usize = 4096;

/// Bytes of one text of this list.
fn most_of(list: &str) -> usize {
    match list {
        "principals"
        | "notPrincipals"
        | "requestPrincipals"
        | "notRequestPrincipals"
        | "paths"
        | "notPaths"
        | "values"
        | "notValues" => MAX_PLAIN,
        "serviceAccounts" | "notServiceAccounts" => MAX_ACCOUNT,
        _ => MAX_TEXT,
    }
}

/// No list may hold an empty or endless text, and at least one must hold something.
fn filled(at: &str, lists: &Lists<'_>) -> Checked {
    for (name, values) in lists {
        if let Some(i) = values.iter().position(String::is_empty) {
            return invalid(format!("{at}.{name}[{i}]"), "must not be empty");
        }
        let most = most_of(name);
        for (i, value) in values.iter().enumerate() {
            no_longer(&format!("{at}.{name}[{i}]"), value, most)?;
        }
    }
    let some = lists.iter().any(|(_, values)| !values.is_empty());
    ensure(
        some,
        at,
        "must set at least one field; left empty it would match nothing or everything",
    )
}

fn no_longer(at: &str, value: &str, most: usize) -> Checked {
    ensure(
        value.len() <= most,
        at,
        format!("is longer than {most} bytes"),
    )
}

fn check_source(at: &str, source: &PolicySource) -> Checked {
    let lists = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    filled(at, &lists)?;
    for (name, values) in &lists[8..] {
        for (i, value) in values.iter().enumerate() {
            check_cidr(&format!("{at}.{name}[{i}]"), value)?;
        }
    }
    for (name, values) in &lists[6..8] {
        for (i, value) in values.iter().enumerate() {
            let (namespace, account) = value.split_once('/').unwrap_or(("x", value));
            let plain = is_subdomain(namespace) && is_subdomain(account);
            ensure(
                plain,
                format!("{at}.{name}[{i}]"),
                format!("`{value}` must be `name` or `namespace/name`"),
            )?;
        }
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    let others = lists[..2]
        .iter()
        .chain(&lists[4..6])
        .any(|(_, values)| !values.is_empty());
    ensure(
        !(accounts && others),
        format!("{at}.serviceAccounts"),
        "must not be set with principals or namespaces",
    )
}

fn check_operation(at: &str, operation: &Operation) -> Checked {
    let lists = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    filled(at, &lists)?;
    for (name, values) in &lists[2..4] {
        for (i, value) in values.iter().enumerate() {
            check_port(&format!("{at}.{name}[{i}]"), value)?;
        }
    }
    for (name, values) in &lists[6..] {
        for (i, value) in values.iter().enumerate() {
            check_path(&format!("{at}.{name}[{i}]"), value)?;
        }
    }
    Ok(())
}

/// `{*}` and `{**}` may stand for whole path segments, `{**}` only once and as the last of them; no other use of
/// braces.
fn check_path(at: &str, value: &str) -> Checked {
    if !value.contains(['{', '}']) {
        return Ok(());
    }
    ensure(
        value.starts_with('/'),
        at,
        format!("`{value}` must begin with `/`"),
    )?;
    let mut doubles = 0;
    for segment in value.split('/') {
        match segment {
            "{*}" | "{**}" if doubles > 0 => {
                return invalid(at, "nothing but text may follow `{**}`");
            }
            "{*}" => {}
            "{**}" => doubles += 1,
            other if other.contains(['{', '}', '*']) => {
                return invalid(
                    at,
                    format!("`{other}`: only `{{*}}` and `{{**}}` may stand for a path segment"),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_port(at: &str, value: &str) -> Checked {
    let good = value.parse::<u16>().is_ok_and(|port| port != 0);
    ensure(
        good,
        at,
        format!("`{value}` must be a port number, 1 to 65535"),
    )
}

fn check_cidr(at: &str, value: &str) -> Checked {
    let (address, length) = value
        .split_once('/')
        .map_or((value, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_| Invalid {
        field: at.into(),
        why: format!("`{value}` is no IP address or CIDR"),
    })?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let good = length.is_none_or(|length| length.parse::<u8>().is_ok_and(|length| length <= most));
    ensure(
        good,
        at,
        format!("`{value}`: the prefix length must be 0 to {most}"),
    )
}

fn check_condition(at: &str, when: &PolicyCondition) -> Checked {
    let key_at = format!("{at}.key");
    ensure(
        is_known_key(&when.key),
        key_at,
        format!("`{}` is no known attribute", when.key),
    )?;
    let lists = [("values", &when.values), ("notValues", &when.not_values)];
    filled(at, &lists)?;
    for (name, values) in &lists {
        for (i, value) in values.iter().enumerate() {
            let at = format!("{at}.{name}[{i}]");
            match when.key.as_str() {
                "source.namespace" => no_longer(&at, value, MAX_TEXT)?,
                "source.serviceAccount" => no_longer(&at, value, MAX_ACCOUNT)?,
                "source.ip" | "remote.ip" | "destination.ip" => check_cidr(&at, value)?,
                "destination.port" => check_port(&at, value)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_known_key(key: &str) -> bool {
    const PLAIN: [&str; 11] = [
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.serviceAccount",
        "source.principal",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "destination.ip",
        "destination.port",
        "connection.sni",
    ];
    let indexed = |prefix: &str| {
        let rest = key.strip_prefix(prefix)?.strip_suffix(']')?;
        (!rest.is_empty()).then_some(rest)
    };
    let pseudo = [":authority", ":method", ":path", ":scheme"];
    let header = |name: &str| is_token(name) || pseudo.contains(&name);
    PLAIN.contains(&key)
        || indexed("request.headers[").is_some_and(header)
        || indexed("request.auth.claims[").is_some()
}

impl Check for PeerAuthentication {
    fn check(&self) -> Checked {
        let ports = &self.spec.port_level_mtls;
        let selected = self
            .spec
            .selector
            .as_ref()
            .is_some_and(|selector| !selector.match_labels.is_empty());
        ensure(
            ports.is_empty() || selected,
            "spec.portLevelMtls",
            "needs a selector",
        )?;
        ports
            .keys()
            .try_for_each(|port| check_port(&format!("spec.portLevelMtls.{port}"), port))
    }
}
