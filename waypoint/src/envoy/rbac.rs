//! RBAC filters → `model::condition`. Anything that cannot be evaluated is refused: a policy is never
//! read as less than it says.

use super::strings::{cidr, header, string};
use super::{At, Converted, required, take, unpack};
use crate::model::condition::{Action, Condition, Policies, Policy, Rbac};
use crate::model::text::StringMatch;
use crate::path::spelling;
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
        Rule::UrlPath(matcher) => path(&at.field("url_path"), matcher)?,
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
        Rule::UriTemplate(extension) => template(&at.field("uri_template"), extension)?,
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
        Identifier::UrlPath(matcher) => path(&at.field("url_path"), matcher)?,
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

fn path(at: &At<'_>, matcher: PathMatcher) -> Converted<Condition> {
    let path_matcher::Rule::Path(matcher) = required(at, "rule", matcher.rule)?;
    let asked = string(&at.field("path"), matcher)?;
    let canonical = match &asked {
        StringMatch::Exact(text, case) => respelled(text, |text| StringMatch::Exact(text, *case)),
        StringMatch::Prefix(text, case) => respelled(text, |text| StringMatch::Prefix(text, *case)),
        StringMatch::Suffix(text, case) => respelled(text, |text| StringMatch::Suffix(text, *case)),
        StringMatch::Contains(text, case) => {
            respelled(text, |text| StringMatch::Contains(text, *case))
        }
        StringMatch::Regex(_) => None,
    };
    Ok(either(
        Condition::Path(asked),
        canonical.map(Condition::Path),
    ))
}

/// A condition, and the same with its escapes in the form in which requests have them too.
fn either(asked: Condition, canonical: Option<Condition>) -> Condition {
    match canonical {
        None => asked,
        Some(canonical) => Condition::Any(vec![asked, canonical]),
    }
}

fn respelled<T>(text: &str, with: impl FnOnce(String) -> T) -> Option<T> {
    let canonical = spelling::canonical(text);
    (canonical != text).then(|| with(canonical.into_owned()))
}

fn template(at: &At<'_>, extension: TypedExtensionConfig) -> Converted<Condition> {
    take!(at, extension => TypedExtensionConfig { typed_config } ignored { name } refused {});
    let at = &at.field("typed_config");
    let config: UriTemplateMatchConfig = unpack(at, &required(at, "typed_config", typed_config)?)?;
    let regex = |template: &str| {
        template_regex(template)
            .map(Condition::PathTemplate)
            .ok_or_else(|| {
                at.field("path_template")
                    .refuse(format!("{:?} is not a path template", config.path_template))
            })
    };
    let asked = regex(&config.path_template)?;
    let canonical = respelled(&config.path_template, |template| regex(&template)).transpose()?;
    Ok(either(asked, canonical))
}

/// `*`, `{*}` and `{name}` are one path segment, `**` and `{**}` any rest. At most one operator opens a segment; what
/// stands behind it is literal, in the last segment only. Anything else is none: read as less, it would match more.
fn template_regex(template: &str) -> Option<Regex> {
    let mut out = String::from("^");
    let mut rest = Some(template.strip_prefix('/')?);
    let mut ended = false;
    while let Some(text) = rest {
        let (segment, more) = text
            .split_once('/')
            .map_or((text, None), |(first, more)| (first, Some(more)));
        out.push('/');
        let (operator, literal) = operator(segment)?;
        if let Some(operator) = operator {
            // Nothing that varies follows "any rest", as in Envoy.
            if ended || (!literal.is_empty() && more.is_some()) {
                return None;
            }
            ended = operator == ANY_REST;
            out.push_str(operator);
        }
        if literal.contains(['*', '{', '}']) {
            return None;
        }
        out.push_str(&regex::escape(literal));
        rest = more;
    }
    out.push('$');
    Regex::new(&out).ok()
}

const ANY_REST: &str = ".*";
const ONE_SEGMENT: &str = "[^/]+";

/// The operator at the beginning of a segment, as a regular expression, and what follows it.
fn operator(segment: &str) -> Option<(Option<&'static str>, &str)> {
    if let Some(suffix) = segment.strip_prefix("**") {
        return Some((Some(ANY_REST), suffix));
    }
    if let Some(suffix) = segment.strip_prefix('*') {
        return Some((Some(ONE_SEGMENT), suffix));
    }
    let Some(variable) = segment.strip_prefix('{') else {
        return Some((None, segment));
    };
    let (variable, suffix) = variable.split_once('}')?;
    let operator = match variable.split_once('=') {
        Some((_, "**")) => ANY_REST,
        Some((_, "*")) => ONE_SEGMENT,
        Some(_) => return None,
        None if variable == "**" => ANY_REST,
        None if variable == "*" => ONE_SEGMENT,
        None if variable.is_empty() || variable.contains('*') => return None,
        None => ONE_SEGMENT,
    };
    Some((Some(operator), suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_matches_what_it_says_and_no_more() {
        let cases: [(&str, &str, bool); 12] = [
            ("/a/*/b", "/a/x/b", true),
            ("/a/*/b", "/a/x/y/b", false),
            ("/a/{*}", "/a/x", true),
            ("/a/{id}", "/a/x", true),
            ("/a/{id=*}", "/a/x/y", false),
            ("/a/{rest=**}", "/a/x/y", true),
            ("/a/**", "/a/", true),
            ("/a/**.txt", "/a/b/c.txt", true),
            ("/a/*.txt", "/a/b.md", false),
            ("/a/{x}.txt", "/a/b.txt", true),
            ("/a.b", "/aXb", false),
            ("/a/", "/a/", true),
        ];
        for (template, path, want) in cases {
            let regex = template_regex(template).expect(template);
            assert_eq!(regex.is_match(path), want, "{template} {path}");
        }
    }

    #[test]
    fn a_template_that_cannot_be_carried_out_is_no_template() {
        for template in [
            "a",
            "/a/{x=admin}",
            "/a/{x=*/b}",
            "/a/{x=}",
            "/a/{x",
            "/a/x}",
            "/a*",
            "/a/{x}{y}",
            "/a/{x}*",
            "/a/**/b/*",
            "/a/**/b/{x}",
            "/a/{x=**}/*",
            "/**/**",
        ] {
            assert!(template_regex(template).is_none(), "{template}");
        }
    }

    #[test]
    fn a_policy_on_a_path_counts_for_all_of_its_spellings() {
        use crate::filters::rbac::{Facts, Verdict, judge};
        use crate::model::text::RequestView;
        use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
        use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
        let exact = |text: &str| MatchPattern::Exact(text.into());
        let suffix = |text: &str| MatchPattern::Suffix(text.into());
        let cases = [
            (exact("/a%2fb"), "/a%2fb", true),
            (exact("/a%2fb"), "/a%2Fb", true),
            (exact("/caf%c3%A9"), "/caf%C3%a9", true),
            (exact("/%61dmin"), "/admin", true),
            (exact("/a%2fb"), "/a/b", false),
            (suffix("fb"), "/a%2fb", true),
            (suffix("%2fb"), "/a%2Fb", true),
        ];
        let headers = http::HeaderMap::new();
        for (pattern, path, denied) in cases {
            let text = format!("{pattern:?} {path}");
            let matcher = PathMatcher {
                rule: Some(path_matcher::Rule::Path(StringMatcher {
                    match_pattern: Some(pattern),
                    ..StringMatcher::default()
                })),
            };
            let policy = Policy {
                name: "p".into(),
                permissions: vec![super::path(&At::root("x"), matcher).unwrap()],
                principals: vec![Condition::Always],
            };
            let rules = Policies {
                action: Action::Deny,
                policies: vec![policy],
            };
            let filter = Rbac {
                rules: Some(rules),
                shadow: None,
            };
            let view = RequestView {
                method: "GET",
                path,
                authority: "x",
                scheme: "http",
                headers: &headers,
            };
            let address = ([10, 0, 0, 1], 80).into();
            let facts = Facts {
                request: Some(&view),
                ..Facts::of_connection(None, address, None, 80)
            };
            let verdict = judge(&filter, &facts);
            assert_eq!(verdict != Verdict::Pass, denied, "{text}");
        }
    }
}
