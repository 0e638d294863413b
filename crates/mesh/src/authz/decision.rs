//! The outcome of `authorize`, with the policy that decided. Its text goes to logs, metrics and `causeway why`.

use std::{fmt, sync::Arc};

use super::{Facts, explain};
use crate::policy::{Policy, PolicyName};

/// The outcome. `Display` says which policy and rule; [`Decision::explain`] also whom and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The connection may pass.
    Allow {
        /// What allows it.
        by: AllowedBy,
    },
    /// The connection must not pass.
    Deny {
        /// What denies it.
        by: DeniedBy,
    },
    /// No known policy denies it, but the workload names a policy that is not here: wait for it, and deny
    /// when it does not come.
    Missing {
        /// The first such policy.
        name: PolicyName,
    },
}

/// What allows a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedBy {
    /// No DENY policy matches and there is no ALLOW policy.
    NoPolicy,
    /// A rule of an ALLOW policy.
    Policy {
        /// The policy.
        policy: Arc<Policy>,
        /// Index of the rule in it, from 0 (texts count from 1).
        rule: usize,
    },
}

/// What denies a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeniedBy {
    /// A rule of a DENY policy.
    Policy {
        /// The policy.
        policy: Arc<Policy>,
        /// Index of the rule in it, from 0 (texts count from 1).
        rule: usize,
    },
    /// A policy that could not be understood.
    Invalid {
        /// The policy; it says what is wrong with it.
        policy: Arc<Policy>,
    },
    /// There are ALLOW policies and none matches.
    NotAllowed {
        /// The first of them.
        first: Arc<Policy>,
        /// How many there are.
        policies: usize,
    },
}

impl Decision {
    /// Whether the connection may pass. `Missing` may not (yet).
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// The policy that decided, if one did.
    #[must_use]
    pub fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Allow {
                by: AllowedBy::NoPolicy,
            } => None,
            Self::Allow {
                by: AllowedBy::Policy { policy, .. },
            }
            | Self::Deny {
                by: DeniedBy::Policy { policy, .. } | DeniedBy::Invalid { policy },
            }
            | Self::Deny {
                by: DeniedBy::NotAllowed { first: policy, .. },
            } => Some(&policy.name),
            Self::Missing { name } => Some(name),
        }
    }

    /// The whole sentence for people: the decision, who called what, and which conditions made it so.
    /// `facts` are those that were decided on.
    #[must_use]
    pub fn explain(&self, facts: &Facts) -> String {
        explain::sentence(self, facts)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow { by } => by.fmt(f),
            Self::Deny { by } => by.fmt(f),
            Self::Missing { name } => {
                write!(
                    f,
                    "undecided: the workload names policy {name}, which has not arrived from the control plane"
                )
            }
        }
    }
}

impl fmt::Display for AllowedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => {
                f.write_str("allowed: no DENY policy matches and no ALLOW policy is in force")
            }
            Self::Policy { policy, rule } => {
                write!(f, "allowed by policy {}, rule {}", policy.name, rule + 1)
            }
        }
    }
}

impl fmt::Display for DeniedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { policy, rule } => {
                write!(f, "denied by policy {}, rule {}", policy.name, rule + 1)
            }
            Self::Invalid { policy } => {
                let why = policy
                    .invalid
                    .as_deref()
                    .unwrap_or("no reason was recorded");
                write!(
                    f,
                    "denied by policy {}, which could not be understood: {why}",
                    policy.name
                )
            }
            Self::NotAllowed { first, policies: 1 } => {
                write!(
                    f,
                    "denied: no rule of the only ALLOW policy, {}, matches",
                    first.name
                )
            }
            Self::NotAllowed { first, policies } => {
                write!(
                    f,
                    "denied: none of {policies} ALLOW policies matches, the first is {}",
                    first.name
                )
            }
        }
    }
}
