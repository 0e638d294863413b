//! Does a rule match a connection? Used by `authorize` and, for the reasons, by `explain`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::Facts;
use crate::policy::{Clause, Match, Policy, Rule, ServiceAccountMatch, StringMatch};

/// The facts, cut as matches ask for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) namespace: Option<&'a str>,
    pub(super) principal: Option<&'a str>,
    pub(super) service_account: Option<&'a str>,
    /// Mapped IPv4 (`::ffff:…`) is read as IPv4.
    pub(super) source_ip: IpAddr,
    pub(super) destination_ip: IpAddr,
    pub(super) port: u16,
}

impl<'a> From<&'a Facts> for View<'a> {
    fn from(facts: &'a Facts) -> Self {
        let source = facts.source.as_ref();
        Self {
            namespace: source.map(|identity| identity.namespace()),
            principal: source.map(|identity| identity.principal()),
            service_account: source.map(|identity| identity.service_account()),
            source_ip: facts.source_ip.to_canonical(),
            destination_ip: facts.destination.ip().to_canonical(),
            port: facts.destination.port(),
        }
    }
}

/// The first rule of `policy` that matches.
pub(super) fn rule(policy: &Policy, view: &View<'_>) -> Option<usize> {
    policy
        .rules
        .iter()
        .position(|rule| rule_matches(rule, view))
}

fn rule_matches(rule: &Rule, view: &View<'_>) -> bool {
    rule.clauses
        .iter()
        .all(|clause| clause_matches(clause, view))
}

pub(super) fn clause_matches(clause: &Clause, view: &View<'_>) -> bool {
    clause.matches.is_empty() || clause.matches.iter().any(|one| match_holds(one, view))
}

/// A match that asks nothing holds never: it is what remains of an L7 condition that L4 cannot check.
pub(super) fn match_holds(one: &Match, view: &View<'_>) -> bool {
    !one.is_empty()
        && !fields(one)
            .iter()
            .any(|field| field.asks() && !field.holds(view))
}

/// One field of a match.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    Namespaces(bool, &'a [StringMatch]),
    Principals(bool, &'a [StringMatch]),
    ServiceAccounts(bool, &'a [ServiceAccountMatch]),
    SourceIps(bool, &'a [IpNet]),
    DestinationIps(bool, &'a [IpNet]),
    DestinationPorts(bool, &'a [u16]),
}

/// All fields: the first of each pair asks for one of its values, the second for none of them. The
/// destructuring makes sure that a new field is not forgotten.
pub(super) fn fields(one: &Match) -> [Field<'_>; 12] {
    let Match {
        namespaces,
        not_namespaces,
        principals,
        not_principals,
        service_accounts,
        not_service_accounts,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
    } = one;
    [
        Field::DestinationPorts(true, destination_ports),
        Field::DestinationPorts(false, not_destination_ports),
        Field::Namespaces(true, namespaces),
        Field::Namespaces(false, not_namespaces),
        Field::Principals(true, principals),
        Field::Principals(false, not_principals),
        Field::ServiceAccounts(true, service_accounts),
        Field::ServiceAccounts(false, not_service_accounts),
        Field::SourceIps(true, source_ips),
        Field::SourceIps(false, not_source_ips),
        Field::DestinationIps(true, destination_ips),
        Field::DestinationIps(false, not_destination_ips),
    ]
}

impl Field<'_> {
    /// Whether it has values at all.
    pub(super) fn asks(&self) -> bool {
        match self {
            Self::Namespaces(_, values) | Self::Principals(_, values) => !values.is_empty(),
            Self::ServiceAccounts(_, values) => !values.is_empty(),
            Self::SourceIps(_, values) | Self::DestinationIps(_, values) => !values.is_empty(),
            Self::DestinationPorts(_, values) => !values.is_empty(),
        }
    }

    pub(super) fn holds(&self, view: &View<'_>) -> bool {
        let (wanted, found) = match *self {
            Self::Namespaces(wanted, values) => {
                (wanted, values.iter().any(|v| v.matches(view.namespace)))
            }
            Self::Principals(wanted, values) => {
                (wanted, values.iter().any(|v| v.matches(view.principal)))
            }
            Self::ServiceAccounts(wanted, values) => {
                (wanted, values.iter().any(|v| is_account(v, view)))
            }
            Self::SourceIps(wanted, values) => {
                (wanted, values.iter().any(|v| holds_ip(v, view.source_ip)))
            }
            Self::DestinationIps(wanted, values) => (
                wanted,
                values.iter().any(|v| holds_ip(v, view.destination_ip)),
            ),
            Self::DestinationPorts(wanted, values) => (wanted, values.contains(&view.port)),
        };
        found == wanted
    }
}

fn is_account(one: &ServiceAccountMatch, view: &View<'_>) -> bool {
    view.namespace == Some(&one.namespace) && view.service_account == Some(&one.name)
}

/// `address` is canonical; a range may still be written as mapped IPv4.
fn holds_ip(range: &IpNet, address: IpAddr) -> bool {
    match (range, address) {
        (IpNet::V6(range), IpAddr::V4(v4)) => {
            range.contains(&Ipv4Addr::to_ipv6_mapped(&v4)) && is_mapped(range)
        }
        _ => range.contains(&address),
    }
}

fn is_mapped(range: &ipnet::Ipv6Net) -> bool {
    range.prefix_len() >= 96 && range.addr().to_ipv4_mapped().is_some()
}
