//! Authorization policies: message to model. Called by `wds::Decoder`. Nothing is skipped: a condition that
//! is dropped would widen what an ALLOW admits.

use mesh::policy::{
    Action, Clause, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use prost::Message as _;
use proto::security as pb;

use super::{
    field::{self, FieldError, Result},
    intern::Interner,
};

pub(super) fn policy(interner: &mut Interner, message: &pb::Authorization) -> Result<Policy> {
    if let Some(extension) = message.extensions.first() {
        return Err(unknown_extension(&extension.name));
    }
    let name = field::required("name", &message.name)?;
    Ok(Policy {
        name: PolicyName::new(interner.string(&message.namespace), interner.string(name)),
        scope: scope(message)?,
        action: match field::known("action", message.action)? {
            pb::Action::Allow => Action::Allow,
            pb::Action::Deny => Action::Deny,
        },
        rules: field::each("rules", &message.rules, |message| rule(interner, message))?,
        dry_run: message.dry_run,
        invalid: None,
    })
}

/// A field that this build does not know may be a condition. prost drops such fields silently; then the message is
/// shorter when written again. (No message of a policy has a map, whose default values may be written or not.)
pub(super) fn nothing_dropped(message: &pb::Authorization, received: usize) -> Result<()> {
    match message.encoded_len() == received {
        true => Ok(()),
        false => Err(FieldError::new(
            "holds a field that this version does not know",
        )),
    }
}

/// Any string is a name; see [`PolicyName`].
pub(super) fn name(text: &str) -> PolicyName {
    text.parse().unwrap_or_else(|never| match never {})
}

pub(super) fn scope(message: &pb::Authorization) -> Result<Scope> {
    Ok(match field::known("scope", message.scope)? {
        pb::Scope::Global => Scope::Global,
        pb::Scope::Namespace => Scope::Namespace,
        pb::Scope::WorkloadSelector => Scope::Selector,
    })
}

fn rule(interner: &mut Interner, message: &pb::Rule) -> Result<Rule> {
    let clauses = field::each("clauses", &message.clauses, |message| {
        clause(interner, message)
    })?;
    Ok(Rule { clauses })
}

fn clause(interner: &mut Interner, message: &pb::Clause) -> Result<Clause> {
    let matches = field::each("matches", &message.matches, |message| {
        one_match(interner, message)
    })?;
    Ok(Clause { matches })
}

fn one_match(interner: &mut Interner, message: &pb::Match) -> Result<Match> {
    if let Some(extension) = message.extensions.first() {
        return Err(unknown_extension(&extension.name));
    }
    let i = interner;
    Ok(Match {
        namespaces: strings(i, "namespaces", &message.namespaces)?,
        not_namespaces: strings(i, "not_namespaces", &message.not_namespaces)?,
        principals: principals(i, "principals", &message.principals)?,
        not_principals: principals(i, "not_principals", &message.not_principals)?,
        service_accounts: accounts(i, "service_accounts", &message.service_accounts)?,
        not_service_accounts: accounts(i, "not_service_accounts", &message.not_service_accounts)?,
        source_ips: ranges("source_ips", &message.source_ips)?,
        not_source_ips: ranges("not_source_ips", &message.not_source_ips)?,
        destination_ips: ranges("destination_ips", &message.destination_ips)?,
        not_destination_ips: ranges("not_destination_ips", &message.not_destination_ips)?,
        destination_ports: ports("destination_ports", &message.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &message.not_destination_ports)?,
    })
}

fn strings(
    interner: &mut Interner,
    field: &'static str,
    values: &[pb::StringMatch],
) -> Result<Box<[StringMatch]>> {
    field::each(field, values, |value| string(interner, value, |text| text))
}

fn principals(
    interner: &mut Interner,
    field: &'static str,
    values: &[pb::StringMatch],
) -> Result<Box<[StringMatch]>> {
    field::each(field, values, |value| {
        string(interner, value, bare_principal)
    })
}

/// Principals are compared without their scheme; a policy may carry it.
fn bare_principal(text: &str) -> &str {
    text.strip_prefix(mesh::identity::SCHEME).unwrap_or(text)
}

fn string(
    interner: &mut Interner,
    value: &pb::StringMatch,
    start: fn(&str) -> &str,
) -> Result<StringMatch> {
    use pb::string_match::MatchType;
    Ok(match &value.match_type {
        Some(MatchType::Exact(text)) => StringMatch::Exact(interner.string(start(text))),
        Some(MatchType::Prefix(text)) => StringMatch::Prefix(interner.string(start(text))),
        Some(MatchType::Suffix(text)) => StringMatch::Suffix(interner.string(text)),
        Some(MatchType::Presence(_)) => StringMatch::Presence,
        None => {
            return Err(FieldError::new(
                "none of exact, prefix, suffix, presence that we know",
            ));
        }
    })
}

fn accounts(
    interner: &mut Interner,
    field: &'static str,
    values: &[pb::ServiceAccountMatch],
) -> Result<Box<[ServiceAccountMatch]>> {
    field::each(field, values, |value| {
        let name = field::required("service_account", &value.service_account)?;
        Ok(ServiceAccountMatch {
            namespace: interner.string(&value.namespace),
            name: interner.string(name),
        })
    })
}

fn ranges(field: &'static str, values: &[pb::Address]) -> Result<Box<[ipnet::IpNet]>> {
    field::each(field, values, |value| {
        field::range(&value.address, Some(value.length))
    })
}

fn ports(field: &'static str, values: &[u32]) -> Result<Box<[u16]>> {
    field::each(field, values, |value| {
        u16::try_from(*value).map_err(|_| FieldError::new(format!("{value} is not a port")))
    })
}

fn unknown_extension(name: &str) -> FieldError {
    let problem = format!(
        "extension {} is a condition that we cannot check",
        field::quoted(name)
    );
    FieldError::new(problem).at("extensions[0]")
}
