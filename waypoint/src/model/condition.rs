//! Authorization policies of the L7 and TCP RBAC filters as conditions that `filters::rbac` evaluates.

use super::{HeaderMatch, StringMatch};
use ipnet::IpNet;
use regex::Regex;
use std::sync::Arc;

/// A permission or a principal: both are conditions on one request or connection.
#[derive(Debug, Clone)]
pub enum Condition {
    /// All hold (an empty list holds).
    All(Vec<Condition>),
    /// One holds (an empty list does not).
    Any(Vec<Condition>),
    /// Does not hold.
    Not(Box<Condition>),
    /// Always.
    Always,
    /// A header of the request.
    Header(HeaderMatch),
    /// The path without query.
    Path(StringMatch),
    /// A path template such as `/a/{*}/b/{**}`, as a regular expression of the whole path.
    PathTemplate(Regex),
    /// The address that the client asked for.
    DestinationIp(IpNet),
    /// The port that the client asked for; `start..end`.
    DestinationPort(u32, u32),
    /// The TLS server name; never present inside HBONE, so only an empty name matches.
    ServerName(StringMatch),
    /// The peer's SPIFFE identity, as text with the scheme; absent never matches.
    Peer(StringMatch),
    /// Any authenticated peer, or one of that name.
    Authenticated(Option<StringMatch>),
    /// The other end of the HBONE connection.
    SourceIp(IpNet),
    /// The last address of `x-forwarded-for`, which the proxy before us wrote; without one, the same as `SourceIp`.
    RemoteIp(IpNet),
}

impl Condition {
    /// Does evaluating it need an HTTP request?
    pub fn needs_request(&self) -> bool {
        match self {
            Self::All(list) | Self::Any(list) => list.iter().any(Self::needs_request),
            Self::Not(inner) => inner.needs_request(),
            Self::Header(_) | Self::Path(_) | Self::PathTemplate(_) => true,
            Self::Always
            | Self::DestinationIp(_)
            | Self::DestinationPort(..)
            | Self::ServerName(_)
            | Self::Peer(_)
            | Self::Authenticated(_)
            | Self::SourceIp(_)
            | Self::RemoteIp(_) => false,
        }
    }
}

/// What a match of the rules means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Only a match may pass.
    Allow,
    /// A match may not pass.
    Deny,
    /// Nobody is held up; the match is only noted.
    Log,
}

/// One named policy, e.g. `ns[app]-policy[l7]-rule[0]`.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Name as it came; it is what a refusal tells.
    pub name: Arc<str>,
    /// One of these must hold.
    pub permissions: Vec<Condition>,
    /// And one of these.
    pub principals: Vec<Condition>,
}

/// An action with its policies in name order (as Envoy walks them).
#[derive(Debug, Clone)]
pub struct Policies {
    /// What a match means.
    pub action: Action,
    /// Sorted by name.
    pub policies: Vec<Policy>,
}

/// One RBAC filter.
#[derive(Debug, Clone, Default)]
pub struct Rbac {
    /// Enforced; `None` lets all pass.
    pub rules: Option<Policies>,
    /// Evaluated and reported only.
    pub shadow: Option<Policies>,
}
