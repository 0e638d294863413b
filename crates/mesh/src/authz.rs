//! May this connection pass? The L4 authorization decision as a pure function of a snapshot, the workload
//! that is called and what is known about the connection. Called for each new connection and again for
//! live ones when policies or workloads change; evaluation does not allocate.
//!
//! Order: any enforced DENY match denies; without enforced ALLOW policies all else is allowed; any ALLOW
//! match allows; all else is denied. A policy that is named and not here makes the answer `Missing` unless
//! a DENY that is here matches anyway.

mod decision;
mod explain;
mod matching;

use std::net::{IpAddr, SocketAddr};

pub use self::decision::{AllowedBy, Decision, DeniedBy};
use self::matching::View;
use crate::{
    identity::Identity,
    policy::{Action, Policy, PolicyName},
    state::{Bound, Snapshot},
    workload::Workload,
};

/// What is known about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Who calls, proven by mTLS; `None` for plaintext.
    pub source: Option<Identity>,
    /// Address of the caller.
    pub source_ip: IpAddr,
    /// What is called: address and port of the workload.
    pub destination: SocketAddr,
}

/// Decides whether `facts` may reach `workload`. A policy that is named and not here: [`Decision::Missing`].
#[must_use]
pub fn authorize(snapshot: &Snapshot, workload: &Workload, facts: &Facts) -> Decision {
    authorize_with(snapshot, workload, facts, &|_| false)
}

/// As [`authorize`], but a missing policy for whose name `absent` is true counts as one that does not exist.
/// Two uses: the list of names that are proven harmless, and judging live connections by the policies at
/// hand (`|_| true`) while a missing one is waited for.
#[must_use]
pub fn authorize_with(
    snapshot: &Snapshot,
    workload: &Workload,
    facts: &Facts,
    absent: &dyn Fn(&PolicyName) -> bool,
) -> Decision {
    evaluate(snapshot, workload, facts, absent, &|policy| !policy.dry_run)
}

/// What [`authorize`] would say if the dry-run policies were enforced too; `None` where no dry-run policy
/// guards the workload. Missing policies count as absent here: this is a report, not a decision.
#[must_use]
pub fn dry_run(snapshot: &Snapshot, workload: &Workload, facts: &Facts) -> Option<Decision> {
    let any = snapshot
        .policies_of(workload)
        .any(|bound| matches!(bound, Bound::Known(policy) if policy.dry_run));
    any.then(|| evaluate(snapshot, workload, facts, &|_| true, &|_| true))
}

/// Names of policies that `workload` carries and that are not here.
pub fn missing<'a>(
    snapshot: &'a Snapshot,
    workload: &'a Workload,
) -> impl Iterator<Item = &'a PolicyName> {
    snapshot
        .policies_of(workload)
        .filter_map(|bound| match bound {
            Bound::Missing(name) => Some(name),
            Bound::Known(_) => None,
        })
}

fn evaluate(
    snapshot: &Snapshot,
    workload: &Workload,
    facts: &Facts,
    absent: &dyn Fn(&PolicyName) -> bool,
    enforced: &dyn Fn(&Policy) -> bool,
) -> Decision {
    let view = View::from(facts);
    let mut missing = None;
    let (mut first_allow, mut allows, mut admitted) = (None, 0, None);
    for bound in snapshot.policies_of(workload) {
        let policy = match bound {
            Bound::Missing(name) if absent(name) => continue,
            Bound::Missing(name) => {
                missing = missing.or(Some(name));
                continue;
            }
            Bound::Known(policy) if enforced(policy) => policy,
            Bound::Known(_) => continue,
        };
        if policy.invalid.is_some() {
            return Decision::Deny {
                by: DeniedBy::Invalid {
                    policy: policy.clone(),
                },
            };
        }
        match policy.action {
            Action::Deny => {
                if let Some(rule) = matching::rule(policy, &view) {
                    return Decision::Deny {
                        by: DeniedBy::Policy {
                            policy: policy.clone(),
                            rule,
                        },
                    };
                }
            }
            Action::Allow => {
                first_allow = first_allow.or(Some(policy));
                allows += 1;
                admitted = admitted.or_else(|| Some((policy, matching::rule(policy, &view)?)));
            }
        }
    }
    if let Some(name) = missing {
        return Decision::Missing { name: name.clone() };
    }
    match (first_allow, admitted) {
        (None, _) => Decision::Allow {
            by: AllowedBy::NoPolicy,
        },
        (Some(_), Some((policy, rule))) => Decision::Allow {
            by: AllowedBy::Policy {
                policy: policy.clone(),
                rule,
            },
        },
        (Some(first), None) => Decision::Deny {
            by: DeniedBy::NotAllowed {
                first: first.clone(),
                policies: allows,
            },
        },
    }
}

#[cfg(test)]
mod tests;
