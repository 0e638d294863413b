//! Policies: model to message. Part of `encode`.

use ipnet::IpNet;
use mesh::policy::{Action, Clause, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch};
use proto::security;

use super::{ip, text};

/// The message of a policy.
#[must_use]
pub fn policy_message(policy: &Policy) -> security::Authorization {
    let invalid = policy.invalid.is_some();
    let action = if invalid { Action::Deny } else { policy.action };
    // A rule without clauses matches everything.
    let rules = if invalid {
        vec![security::Rule::default()]
    } else {
        policy.rules.iter().map(rule).collect()
    };
    security::Authorization {
        name: text(&policy.name.name),
        namespace: text(&policy.name.namespace),
        scope: match policy.scope {
            Scope::Global => security::Scope::Global,
            Scope::Namespace => security::Scope::Namespace,
            Scope::Selector => security::Scope::WorkloadSelector,
        }
        .into(),
        action: match action {
            Action::Allow => security::Action::Allow,
            Action::Deny => security::Action::Deny,
        }
        .into(),
        rules,
        dry_run: policy.dry_run && !invalid,
        extensions: Vec::new(),
    }
}

fn rule(rule: &Rule) -> security::Rule {
    let clause = |clause: &Clause| security::Clause {
        matches: clause.matches.iter().map(one_match).collect(),
    };
    security::Rule {
        clauses: rule.clauses.iter().map(clause).collect(),
    }
}

fn one_match(one: &Match) -> security::Match {
    let accounts = |values: &[ServiceAccountMatch]| {
        values
            .iter()
            .map(|value| security::ServiceAccountMatch {
                namespace: text(&value.namespace),
                service_account: text(&value.name),
            })
            .collect()
    };
    let strings = |values: &[StringMatch]| values.iter().map(string).collect();
    let ranges = |values: &[IpNet]| values.iter().map(range).collect();
    let ports = |values: &[u16]| values.iter().copied().map(u32::from).collect();
    security::Match {
        namespaces: strings(&one.namespaces),
        not_namespaces: strings(&one.not_namespaces),
        principals: strings(&one.principals),
        not_principals: strings(&one.not_principals),
        source_ips: ranges(&one.source_ips),
        not_source_ips: ranges(&one.not_source_ips),
        destination_ips: ranges(&one.destination_ips),
        not_destination_ips: ranges(&one.not_destination_ips),
        destination_ports: ports(&one.destination_ports),
        not_destination_ports: ports(&one.not_destination_ports),
        service_accounts: accounts(&one.service_accounts),
        not_service_accounts: accounts(&one.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn string(value: &StringMatch) -> security::StringMatch {
    use security::string_match::MatchType;
    let match_type = Some(match value {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(()),
    });
    security::StringMatch { match_type }
}

fn range(range: &IpNet) -> security::Address {
    security::Address {
        address: ip(&range.addr()),
        length: range.prefix_len().into(),
    }
}
