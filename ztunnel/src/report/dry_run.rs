//! What policies with the annotation `istio.io/dry-run` would have done: a line and a count for each inbound connection
//! that they guard, made beside the data path. Nothing here has a say in what happens to it. Called by `app`.

use std::fmt;
use std::sync::Arc;

use mesh::authz::{self, Decision, Facts};
use mesh::policy::PolicyName;
use mesh::state::Snapshot;
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use runtime::metrics::Registry;

use crate::worker::api::{Connection, Direction};

/// Counts, and whether there is anything to look for.
#[derive(Debug)]
pub struct DryRun {
    decided: Family<Labels, Counter>,
    /// Lines at `info` (`AUTHZ_POLICY_INFO_LOGGING`), else at `debug`.
    info: bool,
    /// Whether that version of the policies has one for a dry run.
    seen: Option<(u64, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels {
    policy: Option<PolicyName>,
    allowed: bool,
}

impl DryRun {
    /// Registers the count.
    pub fn new(registry: &Registry, info: bool) -> Self {
        Self {
            decided: registry.register(
                "causeway_policy_dry_run",
                "Inbound connections by what would happen if policies of a dry run were in force, and the policy that decides",
                Family::default(),
            ),
            info,
            seen: None,
        }
    }

    /// A connection is being set up.
    pub fn opened(&mut self, snapshot: &Snapshot, connection: &Connection) {
        let Some((decision, facts)) = self.decide(snapshot, connection) else {
            return;
        };
        let text = decision.explain(&facts);
        match self.info {
            true => tracing::info!(target: "authz", "dry-run: {text}"),
            false => tracing::debug!(target: "authz", "dry-run: {text}"),
        }
        let labels = Labels {
            policy: decision.policy().cloned(),
            allowed: decision.is_allowed(),
        };
        self.decided.get_or_create(&labels).inc();
    }

    /// What would happen; `None` where no policy is on a dry run.
    fn decide(
        &mut self,
        snapshot: &Snapshot,
        connection: &Connection,
    ) -> Option<(Decision, Facts)> {
        let own: &Arc<_> = connection.destination_workload.as_ref()?;
        if connection.direction != Direction::Inbound || !self.any(snapshot) {
            return None;
        }
        let facts = Facts {
            source: connection.source_identity.clone(),
            source_ip: connection.source.ip(),
            destination: connection.destination,
        };
        Some((authz::dry_run(snapshot, own, &facts)?, facts))
    }

    /// Nearly always there is none, and then no connection may cost a look at all policies.
    fn any(&mut self, snapshot: &Snapshot) -> bool {
        let version = snapshot.policy_version();
        match self.seen {
            Some((seen, any)) if seen == version => any,
            _ => {
                let any = snapshot.policies().any(|policy| policy.dry_run);
                self.seen = Some((version, any));
                any
            }
        }
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let (namespace, name) = match &self.policy {
            Some(policy) => (&*policy.namespace, &*policy.name),
            None => ("", ""),
        };
        let verdict = if self.allowed { "allow" } else { "deny" };
        ("policy_namespace", namespace).encode(encoder.encode_label())?;
        ("policy", name).encode(encoder.encode_label())?;
        ("verdict", verdict).encode(encoder.encode_label())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mesh::policy::{Action, Clause, Match, Policy, Rule, Scope, StringMatch};
    use mesh::state::{State, Update};
    use mesh::workload::Workload;

    use super::*;
    use crate::worker::api::{Bytes, Security};

    fn connection(direction: Direction) -> Connection {
        let own = Workload {
            uid: "Kubernetes//Pod/app/server".into(),
            namespace: "app".into(),
            ..Workload::default()
        };
        Connection {
            direction,
            security: Security::MutualTls,
            source: "10.0.0.1:4000".parse().unwrap(),
            source_identity: mesh::identity::Identity::new("cluster.local", "app", "client").ok(),
            source_workload: None,
            source_baggage: None,
            destination: "10.0.0.2:8080".parse().unwrap(),
            hbone: None,
            destination_identity: None,
            destination_workload: Some(Arc::new(own)),
            service: None,
            trace: None,
            opened: Instant::now(),
            bytes: Bytes::default(),
        }
    }

    fn policy(dry_run: bool) -> Update {
        let principal = StringMatch::Suffix("/sa/client".into());
        let matching = Match {
            principals: [principal].into(),
            ..Match::default()
        };
        let clause = Clause {
            matches: [matching].into(),
        };
        Update::Policy(Arc::new(Policy {
            name: PolicyName::new("app", "no-clients"),
            scope: Scope::Namespace,
            action: Action::Deny,
            rules: [Rule {
                clauses: [clause].into(),
            }]
            .into(),
            dry_run,
            invalid: None,
        }))
    }

    #[test]
    fn inbound_connections_are_counted_by_what_a_policy_on_a_dry_run_would_do() {
        let registry = Registry::default();
        let (mut report, mut state) = (DryRun::new(&registry, false), State::new());
        let mut look = |updates: Vec<Update>, direction| {
            state.apply(updates);
            report.opened(state.current(), &connection(direction));
            let text = registry.encode(None).1;
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(
            look(vec![policy(false)], Direction::Inbound).is_empty(),
            "it is in force"
        );
        let line = "causeway_policy_dry_run_total{policy_namespace=\"app\",policy=\"no-clients\",verdict=\"deny\"} ";
        assert_eq!(
            look(vec![policy(true)], Direction::Inbound),
            [format!("{line}1")]
        );
        assert_eq!(look(vec![], Direction::Outbound), [format!("{line}1")]);
        assert_eq!(look(vec![], Direction::Inbound), [format!("{line}2")]);
        let gone = Update::RemovePolicy(PolicyName::new("app", "no-clients"));
        assert_eq!(look(vec![gone], Direction::Inbound), [format!("{line}2")]);
    }
}
