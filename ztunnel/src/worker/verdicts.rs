//! Decisions of the policies in force, remembered: thousands of policies are looked at once for each pair that talks, not
//! once for each connection. Called by `inbound` and `judge`.

use std::collections::HashMap;
use std::sync::Arc;

use mesh::authz::{self, Decision, Facts};
use mesh::state::Snapshot;
use mesh::workload::Workload;

/// So few policies are looked at faster than a decision is found.
const FEW: usize = 8;
/// Decisions that are remembered.
const MOST: usize = 4096;

/// Decisions by one version of the policies.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    version: u64,
    /// The workload is held, so that its address is nobody else's.
    known: HashMap<(usize, Facts), (Arc<Workload>, Decision)>,
}

impl Verdicts {
    /// As [`authz::authorize`].
    pub(super) fn authorize(
        &mut self,
        snapshot: &Snapshot,
        workload: &Arc<Workload>,
        facts: &Facts,
    ) -> Decision {
        if snapshot.policies_of(workload).nth(FEW).is_none() {
            return authz::authorize(snapshot, workload, facts);
        }
        if self.version != snapshot.policy_version() || self.known.len() >= MOST {
            self.version = snapshot.policy_version();
            self.known = HashMap::new();
        }
        let key = (Arc::as_ptr(workload).addr(), facts.clone());
        let (_, decision) = self.known.entry(key).or_insert_with(|| {
            let decision = authz::authorize(snapshot, workload, facts);
            (workload.clone(), decision)
        });
        decision.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mesh::identity::Identity;
    use mesh::policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, StringMatch};
    use mesh::state::{State, Update};
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn policy(number: usize, scope: Scope, action: Action, account: usize) -> Update {
        let principal = StringMatch::Suffix(format!("/sa/account-{account}").into());
        let matching = Match {
            principals: [principal].into(),
            ..Match::default()
        };
        let rules = [Rule {
            clauses: [Clause {
                matches: [matching].into(),
            }]
            .into(),
        }];
        Update::Policy(Arc::new(Policy {
            name: PolicyName::new("app", format!("policy-{number}")),
            scope,
            action,
            rules: rules.into(),
            dry_run: false,
            invalid: None,
        }))
    }

    fn workload(names: usize) -> Workload {
        let name = |number| PolicyName::new("app", format!("policy-{number}"));
        Workload {
            uid: "Kubernetes//Pod/app/server".into(),
            namespace: "app".into(),
            authorization_policies: (0..names).map(name).collect(),
            ..Workload::default()
        }
    }

    #[test]
    fn what_is_remembered_is_what_the_policies_say_however_they_change() {
        let mut rng = SmallRng::seed_from_u64(3);
        let (mut state, mut verdicts) = (State::new(), Verdicts::default());
        let mut names = 0;
        for turn in 0..20_000 {
            let number = rng.random_range(0..24);
            let change = match rng.random_range(0..20) {
                0 => Some(Update::RemovePolicy(PolicyName::new(
                    "app",
                    format!("policy-{number}"),
                ))),
                1 | 2 => {
                    let scope = [Scope::Namespace, Scope::Selector, Scope::Global][number % 3];
                    let action = [Action::Allow, Action::Deny][rng.random_range(0..2)];
                    Some(policy(number, scope, action, rng.random_range(0..6)))
                }
                3 => {
                    names = rng.random_range(0..24);
                    None
                }
                _ => None,
            };
            state.apply(change.into_iter().collect());
            state.apply(vec![Update::Workload(Arc::new(workload(names)))]);
            let snapshot = state.snapshot();
            let own = snapshot.workload("Kubernetes//Pod/app/server").unwrap();
            let account = format!("account-{}", rng.random_range(0..6));
            let source = Identity::new("cluster.local", "app", &account).unwrap();
            let facts = Facts {
                source: (rng.random_range(0..5) > 0).then_some(source),
                source_ip: [10, 0, 0, rng.random_range(1..3)].into(),
                destination: SocketAddr::from(([10, 0, 0, 9], 80)),
            };
            assert_eq!(
                verdicts.authorize(&snapshot, own, &facts),
                authz::authorize(&snapshot, own, &facts),
                "turn {turn}"
            );
        }
    }
}
