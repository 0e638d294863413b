//! Decisions as sentences: who called what, and which conditions made it so. Called by `Decision::explain`,
//! off the data path; allocates.

use super::{
    AllowedBy, Decision, DeniedBy, Facts,
    matching::{self, Field, View},
};
use crate::policy::{Match, Policy, Rule};

/// Values that are spelled out per condition, and rules per policy: a sentence, not a dump.
const SHOWN: usize = 3;

pub(super) fn sentence(decision: &Decision, facts: &Facts) -> String {
    let view = View::from(facts);
    let why = match decision {
        Decision::Allow {
            by: AllowedBy::Policy { policy, rule },
        }
        | Decision::Deny {
            by: DeniedBy::Policy { policy, rule },
        } => policy.rules.get(*rule).map(|rule| because(rule, &view)),
        Decision::Deny {
            by: DeniedBy::NotAllowed { first, .. },
        } => Some(wanted(first, &view)),
        Decision::Allow {
            by: AllowedBy::NoPolicy,
        }
        | Decision::Deny {
            by: DeniedBy::Invalid { .. },
        }
        | Decision::Missing { .. } => None,
    };
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{decision}{why}; {}", whom(facts))
}

fn whom(facts: &Facts) -> String {
    let who = match &facts.source {
        Some(identity) => format!("{} as {}", facts.source_ip, identity.principal()),
        None => format!("{} without mTLS identity", facts.source_ip),
    };
    format!("{who} called {}", facts.destination)
}

/// Why `rule` matches: per clause, the conditions of the first match that holds.
fn because(rule: &Rule, view: &View<'_>) -> String {
    let held = rule.clauses.iter().filter_map(|clause| {
        clause
            .matches
            .iter()
            .find(|m| matching::match_holds(m, view))
    });
    let conditions: Vec<_> = held
        .flat_map(|one| conditions(one, |field| field.holds(view)))
        .collect();
    match conditions.is_empty() {
        true => "the rule has no conditions".into(),
        false => conditions.join(", "),
    }
}

/// What the rules of an ALLOW policy ask and this connection lacks.
fn wanted(policy: &Policy, view: &View<'_>) -> String {
    if policy.rules.is_empty() {
        return format!("{} has no rules, so it allows nothing", policy.name);
    }
    let lacks: Vec<_> = policy
        .rules
        .iter()
        .enumerate()
        .take(SHOWN)
        .map(|(index, rule)| format!("rule {} wants {}", index + 1, lacking(rule, view)))
        .collect();
    let more = policy.rules.len() - lacks.len();
    let more = if more > 0 {
        format!("; {more} more rules")
    } else {
        String::new()
    };
    format!("in {} {}{more}", policy.name, lacks.join("; "))
}

/// The first clause of `rule` that fails: what its matches ask.
fn lacking(rule: &Rule, view: &View<'_>) -> String {
    let failing = rule
        .clauses
        .iter()
        .find(|clause| !matching::clause_matches(clause, view));
    let matches = failing.map_or(&[][..], |clause| &clause.matches);
    let wishes: Vec<_> = matches
        .iter()
        .filter(|one| !one.is_empty())
        .map(|one| conditions(one, |field| !field.holds(view)).join(" and "))
        .collect();
    match wishes.is_empty() {
        true => "what cannot be checked at this layer".into(),
        false => wishes.join(" or "),
    }
}

fn conditions(one: &Match, which: impl Fn(&Field<'_>) -> bool) -> Vec<String> {
    matching::fields(one)
        .iter()
        .filter(|field| field.asks() && which(field))
        .map(condition)
        .collect()
}

fn condition(field: &Field<'_>) -> String {
    let (what, wanted, values) = match *field {
        Field::Namespaces(wanted, values) => ("source namespace", wanted, list(values)),
        Field::Principals(wanted, values) => ("source principal", wanted, list(values)),
        Field::ServiceAccounts(wanted, values) => ("source account", wanted, list(values)),
        Field::SourceIps(wanted, values) => ("source IP", wanted, list(values)),
        Field::DestinationIps(wanted, values) => ("destination IP", wanted, list(values)),
        Field::DestinationPorts(wanted, values) => ("destination port", wanted, list(values)),
    };
    format!("{what} {}{values}", if wanted { "" } else { "not " })
}

fn list<T: std::fmt::Display>(values: &[T]) -> String {
    let shown: Vec<_> = values.iter().take(SHOWN).map(ToString::to_string).collect();
    match values.len() - shown.len() {
        0 => shown.join("|"),
        more => format!("{}|… {more} more", shown.join("|")),
    }
}
