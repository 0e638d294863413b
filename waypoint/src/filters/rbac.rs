//! Authorization: may this request (or TCP connection) pass, and which policy says so. Pure.

#[cfg(test)]
mod tests;

use crate::model::condition::{Action, Condition, Policies, Policy, Rbac};
use crate::model::text::RequestView;
use crate::path::spelling;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What policies look at.
pub struct Facts<'a> {
    /// The peer's SPIFFE URI behind the tunnel.
    pub peer: Option<&'a str>,
    /// The other end of the HBONE connection.
    pub source: IpAddr,
    /// The client as the proxies before us tell it; the same as `source` where there is no request.
    pub remote: IpAddr,
    /// What the client asked for; `None` for a host name.
    pub destination: Option<IpAddr>,
    /// The port that the client asked for.
    pub port: u16,
    /// The request; `None` on a TCP chain.
    pub request: Option<&'a RequestView<'a>>,
}

impl<'a> Facts<'a> {
    /// Facts without a request.
    pub fn of_connection(
        peer: Option<&'a str>,
        source: SocketAddr,
        destination: Option<IpAddr>,
        port: u16,
    ) -> Self {
        Self {
            peer,
            source: source.ip(),
            remote: source.ip(),
            destination,
            port,
            request: None,
        }
    }
}

/// The verdict of one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// May pass.
    Pass,
    /// May not; the policy that denies, or none if no policy allowed it.
    Deny(Option<Arc<str>>),
}

/// Judges one filter.
pub fn judge(filter: &Rbac, facts: &Facts<'_>) -> Verdict {
    let Some(rules) = &filter.rules else {
        return Verdict::Pass;
    };
    let matched = first_match(rules, facts);
    match (rules.action, matched) {
        (Action::Allow, Some(_)) | (Action::Deny, None) | (Action::Log, _) => Verdict::Pass,
        (Action::Allow, None) => Verdict::Deny(None),
        (Action::Deny, Some(policy)) => Verdict::Deny(Some(policy.name.clone())),
    }
}

/// What the shadow rules would have said.
pub fn judge_shadow(filter: &Rbac, facts: &Facts<'_>) -> Option<Verdict> {
    let shadow = filter.shadow.clone()?;
    Some(judge(
        &Rbac {
            rules: Some(shadow),
            shadow: None,
        },
        facts,
    ))
}

/// The first policy, in name order, that matches.
pub fn first_match<'a>(rules: &'a Policies, facts: &Facts<'_>) -> Option<&'a Policy> {
    rules.policies.iter().find(|policy| {
        policy
            .permissions
            .iter()
            .any(|condition| holds(condition, facts))
            && policy
                .principals
                .iter()
                .any(|condition| holds(condition, facts))
    })
}

/// Envoy's `RESPONSE_CODE_DETAILS` for a refusal.
pub fn details(policy: Option<&str>) -> String {
    let name = policy.unwrap_or("none").replace(' ', "_");
    format!("rbac_access_denied_matched_policy[{name}]")
}

fn holds(condition: &Condition, facts: &Facts<'_>) -> bool {
    match condition {
        Condition::All(list) => list.iter().all(|condition| holds(condition, facts)),
        Condition::Any(list) => list.iter().any(|condition| holds(condition, facts)),
        Condition::Not(inner) => !holds(inner, facts),
        Condition::Always => true,
        Condition::Header(header) => facts.request.is_some_and(|request| header.matches(request)),
        Condition::Path(test) => facts
            .request
            .is_some_and(|request| spelling::any(request.path_only(), |path| test.matches(path))),
        Condition::PathTemplate(regex) => facts
            .request
            .is_some_and(|request| spelling::any(request.path_only(), |path| regex.is_match(path))),
        Condition::DestinationIp(net) => facts.destination.is_some_and(|ip| net.contains(&ip)),
        Condition::DestinationPort(start, end) => (*start..*end).contains(&u32::from(facts.port)),
        Condition::ServerName(name) => name.matches(""),
        Condition::Peer(name) => facts.peer.is_some_and(|peer| name.matches(peer)),
        Condition::Authenticated(None) => facts.peer.is_some(),
        Condition::Authenticated(Some(name)) => facts.peer.is_some_and(|peer| name.matches(peer)),
        Condition::SourceIp(net) => net.contains(&facts.source),
        Condition::RemoteIp(net) => net.contains(&facts.remote),
    }
}
