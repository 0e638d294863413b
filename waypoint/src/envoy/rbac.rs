//! RBAC filters → `model::condition`. Anything that cannot be evaluated is refused: a policy is never
//! read as less than it says.

use super::strings::{cidr, header, string};
use super::{At, Converted, required, take, unpack};
use crate::model::condition::{Action, Condition, Policies, Policy, Rbac};
use crate::model::text::StringMatch;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy as ProtoPolicy, Principal, Rbac as Rules, permission, principal,
    principal::Authenticated, rbac::Action as ProtoAction,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    FilterStateMatcher, PathMatcher, filter_state_matcher, path_matcher,
};
use regex::Regex;

/// Filter state key that holds the peer's identity behind the tunnel.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// The HTTP filter.
pub fn http(at: &At<'_>, filter: HttpRbac) -> Converted<Rbac> {
    take!(at, filter => HttpRbac { rules, shadow_rules }
        ignored { rules_stat_prefix, shadow_rules_stat_prefix, track_per_rule_stats } refused { matcher, shadow_matcher });
    let convert = |field: &'static str, rules: Option<Rules>| {
        rules
            .map(|rules| policies(&at.field(field), rules, true))
            .transpose()
    };
    Ok(Rbac {
        rules: convert("rules", rules)?,
        shadow: convert("shadow_rules", shadow_rules)?,
    })
}

/// The TCP filter: the same, but no condition may ask for a request.
pub fn network(at: &At<'_>, filter: NetworkRbac) -> Converted<Rbac> {
    take!(at, filter => NetworkRbac { rules, shadow_rules } ignored { stat_prefix, shadow_rules_stat_prefix }
        refused { matcher, shadow_matcher, enforcement_type, delay_deny });
    let convert = |field: &'static str, rules: Option<Rules>| {
        rules
            .map(|rules| policies(&at.field(field), rules, false))
            .transpose()
    };
    Ok(Rbac {
        rules: convert("rules", rules)?,
        shadow: convert("shadow_rules", shadow_rules)?,
    })
}

fn policies(at: &At<'_>, rules: Rules, http: bool) -> Converted<Policies> {
    take!(at, rules => Rules { action, policies } ignored {} refused { audit_logging_options });
    let action = match ProtoAction::try_from(action) {
        Ok(ProtoAction::Allow) => Action::Allow,
        Ok(ProtoAction::Deny) => Action::Deny,
        Ok(ProtoAction::Log) => Action::Log,
        Err(_) => {
            return Err(at
                .field("action")
                .refuse(format!("value {action} is not known")));
        }
    };
    let mut converted = Vec::with_capacity(policies.len());
    for (name, policy) in policies {
        let at = at.key("policies", &name);
        let policy = one_policy(&at, &name, policy)?;
        let asks = policy
            .permissions
            .iter()
            .chain(&policy.principals)
            .any(Condition::needs_request);
        if asks && !http {
            return Err(at.refuse("asks for a request, but this is a TCP filter"));
        }
        converted.push(policy);
    }
    converted.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Policies {
        action,
        policies: converted,
    })
}

fn one_policy(at: &At<'_>, name: &str, policy: ProtoPolicy) -> Converted<Policy> {
    take!(at, policy => ProtoPolicy { permissions, principals } ignored {}
        refused { condition, checked_condition, cel_config });
    let permissions = permissions.into_iter().enumerate();
    let principals = principals.into_iter().enumerate();
    Ok(Policy {
        name: name.into(),
        permissions: permissions
            .map(|(i, p)| permission(&at.index("permissions", i), p))
            .collect::<Result<_, _>>()?,
        principals: principals
            .map(|(i, p)| principal(&at.index("principals", i), p))
            .collect::<Result<_, _>>()?,
    })
}

fn permission(at: &At<'_>, permission: Permission) -> Converted<Condition> {
    use permission::Rule;
    let set = |field: &'static str, set: permission::Set| -> Converted<Vec<Condition>> {
        let at = at.field(field);
        let rules = set.rules.into_iter().enumerate();
        rules
            .map(|(i, rule)| self::permission(&at.index("rules", i), rule))
            .collect()
    };
    Ok(match required(at, "rule", permission.rule)? {
        Rule::AndRules(rules) => Condition::All(set("and_rules", rules)?),
        Rule::OrRules(rules) => Condition::Any(set("or_rules", rules)?),
        Rule::NotRule(rule) => {
            Condition::Not(Box::new(self::permission(&at.field("not_rule"), *rule)?))
        }
        Rule::Any(true) => Condition::Always,
        Rule::Any(false) => return Err(at.field("any").refuse("must be true")),
        Rule::Header(matcher) => Condition::Header(header(&at.field("header"), matcher)?),
        Rule::UrlPath(matcher) => Condition::Path(path(&at.field("url_path"), matcher)?),
        Rule::DestinationIp(range) => {
            Condition::DestinationIp(cidr(&at.field("destination_ip"), range)?)
        }
        Rule::DestinationPort(port) => Condition::DestinationPort(port, port.saturating_add(1)),
        Rule::DestinationPortRange(range) => {
            match (u32::try_from(range.start), u32::try_from(range.end)) {
                (Ok(start), Ok(end)) => Condition::DestinationPort(start, end),
                _ => {
                    return Err(at
                        .field("destination_port_range")
                        .refuse("is not a range of ports"));
                }
            }
        }
        Rule::RequestedServerName(matcher) => {
            Condition::ServerName(string(&at.field("requested_server_name"), matcher)?)
        }
        Rule::UriTemplate(extension) => {
            Condition::PathTemplate(template(&at.field("uri_template"), extension)?)
        }
        Rule::Metadata(_) => return Err(at.unsupported("metadata")),
        Rule::SourcedMetadata(_) => return Err(at.unsupported("sourced_metadata")),
        Rule::Matcher(_) => return Err(at.unsupported("matcher")),
    })
}

fn principal(at: &At<'_>, principal: Principal) -> Converted<Condition> {
    use principal::Identifier;
    let set = |field: &'static str, set: principal::Set| -> Converted<Vec<Condition>> {
        let at = at.field(field);
        let ids = set.ids.into_iter().enumerate();
        ids.map(|(i, id)| self::principal(&at.index("ids", i), id))
            .collect()
    };
    Ok(match required(at, "identifier", principal.identifier)? {
        Identifier::AndIds(ids) => Condition::All(set("and_ids", ids)?),
        Identifier::OrIds(ids) => Condition::Any(set("or_ids", ids)?),
        Identifier::NotId(id) => {
            Condition::Not(Box::new(self::principal(&at.field("not_id"), *id)?))
        }
        Identifier::Any(true) => Condition::Always,
        Identifier::Any(false) => return Err(at.field("any").refuse("must be true")),
        Identifier::Authenticated(Authenticated { principal_name }) => {
            let name = principal_name
                .map(|name| string(&at.field("authenticated"), name))
                .transpose()?;
            Condition::Authenticated(name)
        }
        Identifier::SourceIp(range) | Identifier::DirectRemoteIp(range) => {
            Condition::SourceIp(cidr(&at.field("direct_remote_ip"), range)?)
        }
        Identifier::RemoteIp(range) => Condition::RemoteIp(cidr(&at.field("remote_ip"), range)?),
        Identifier::Header(matcher) => Condition::Header(header(&at.field("header"), matcher)?),
        Identifier::UrlPath(matcher) => Condition::Path(path(&at.field("url_path"), matcher)?),
        Identifier::FilterState(matcher) => {
            Condition::Peer(peer(&at.field("filter_state"), matcher)?)
        }
        Identifier::Metadata(_) => return Err(at.unsupported("metadata")),
        Identifier::SourcedMetadata(_) => return Err(at.unsupported("sourced_metadata")),
        Identifier::Custom(_) => return Err(at.unsupported("custom")),
    })
}

fn peer(at: &At<'_>, matcher: FilterStateMatcher) -> Converted<StringMatch> {
    let FilterStateMatcher { key, matcher } = matcher;
    if key != PEER_PRINCIPAL {
        return Err(at
            .field("key")
            .refuse(format!("{key:?} is not a key that can be asked for")));
    }
    match required(at, "matcher", matcher)? {
        filter_state_matcher::Matcher::StringMatch(matcher) => {
            string(&at.field("string_match"), matcher)
        }
        filter_state_matcher::Matcher::AddressMatch(_) => Err(at.unsupported("address_match")),
    }
}

fn path(at: &At<'_>, matcher: PathMatcher) -> Converted<StringMatch> {
    let path_matcher::Rule::Path(matcher) = required(at, "rule", matcher.rule)?;
    string(&at.field("path"), matcher)
}

fn template(at: &At<'_>, extension: TypedExtensionConfig) -> Converted<Regex> {
    take!(at, extension => TypedExtensionConfig { typed_config } ignored { name } refused {});
    let at = &at.field("typed_config");
    let config: UriTemplateMatchConfig = unpack(at, &required(at, "typed_config", typed_config)?)?;
    template_regex(&config.path_template).ok_or_else(|| {
        at.field("path_template")
            .refuse(format!("{:?} is not a path template", config.path_template))
    })
}

/// `{*}` or `*` is one path segment, `{**}` or `**` any rest; named variables keep their pattern.
fn template_regex(template: &str) -> Option<Regex> {
    let mut out = String::from("^");
    let mut rest = template.strip_prefix('/')?;
    loop {
        let (segment, more) = rest
            .split_once('/')
            .map_or((rest, None), |(first, more)| (first, Some(more)));
        out.push('/');
        let inner = segment.strip_prefix('{').and_then(|s| s.split_once('}'));
        match (segment, inner) {
            ("*", _) => out.push_str("[^/]+"),
            ("**", _) => out.push_str(".*"),
            (_, Some((pattern, suffix))) => {
                let pattern = pattern
                    .split_once('=')
                    .map_or(pattern, |(_, pattern)| pattern);
                out.push_str(if pattern == "**" { ".*" } else { "[^/]+" });
                out.push_str(&regex::escape(suffix));
            }
            (literal, None) if !literal.contains(['*', '{', '}']) => {
                out.push_str(&regex::escape(literal))
            }
            _ => return None,
        }
        match more {
            Some(more) => rest = more,
            None => break,
        }
    }
    out.push('$');
    Regex::new(&out).ok()
}
