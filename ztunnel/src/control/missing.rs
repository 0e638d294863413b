//! Policies that a workload of this node names and that the control plane has not sent. After half a minute that is a
//! fault of the control plane, said in the log and in a metric (traffic is denied by then: docs/decisions/0019-harmless-names.md).
//! The ledger is pure; the task around it is started by `app`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::state::Snapshot;
use mesh::{authz, policy::PolicyName};
use prometheus_client::metrics::gauge::Gauge;
use runtime::metrics::Registry;

use super::publish::Published;
use crate::pods::Pods;

/// How long a name may be missing before it is reported.
const PATIENCE: Duration = Duration::from_secs(30);

/// Since when each name is missing, and whether that was reported.
#[derive(Debug, Default)]
pub struct Ledger {
    missing: BTreeMap<PolicyName, Entry>,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    reported: bool,
}

/// What is to be said now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Missing for half a minute, and not said before.
    pub lost: Vec<PolicyName>,
    /// Said before, and no longer missing.
    pub found: Vec<PolicyName>,
    /// When to look again, if nothing changes before.
    pub next: Option<Instant>,
    /// Names that are reported as missing.
    pub standing: usize,
}

impl Ledger {
    /// Brings the ledger up to `now`, at which the names in `missing` are missing.
    pub fn update(&mut self, missing: &BTreeSet<PolicyName>, now: Instant) -> Due {
        let mut due = Due::default();
        self.missing.retain(|name, entry| {
            let still = missing.contains(name);
            if !still && entry.reported {
                due.found.push(name.clone());
            }
            still
        });
        for name in missing {
            let entry = self.missing.entry(name.clone()).or_insert(Entry {
                since: now,
                reported: false,
            });
            let at = entry.since + PATIENCE;
            if !entry.reported && at <= now {
                entry.reported = true;
                due.lost.push(name.clone());
            } else if !entry.reported {
                due.next = Some(due.next.map_or(at, |next| next.min(at)));
            }
        }
        due.standing = self.missing.values().filter(|entry| entry.reported).count();
        due
    }
}

/// The names that workloads of `pods` carry and `snapshot` lacks.
pub fn names(snapshot: &Snapshot, pods: &[Arc<str>]) -> BTreeSet<PolicyName> {
    let workloads = pods.iter().filter_map(|uid| snapshot.workload(uid));
    workloads
        .flat_map(|workload| authz::missing(snapshot, workload))
        .cloned()
        .collect()
}

/// Watches for as long as the process runs.
pub async fn watch(published: Published, pods: Pods, registry: Registry) {
    let gauge: Gauge = registry.register(
        "causeway_policies_missing",
        "Policies that workloads of this node name and that the control plane has not sent for 30 seconds",
        Gauge::default(),
    );
    let (mut generations, mut changes) = (published.generations(), pods.changes());
    let mut ledger = Ledger::default();
    loop {
        let due = ledger.update(
            &names(&published.current(), &pods.workloads()),
            Instant::now(),
        );
        gauge.set(i64::try_from(due.standing).unwrap_or(i64::MAX));
        for name in due.lost {
            tracing::error!(policy = %name, "control plane fault: a workload names this policy, but it was never sent; traffic to the workload is denied");
        }
        for name in due.found {
            tracing::info!(policy = %name, "a missing policy has arrived or is no longer named");
        }
        let later = due.next.map(|at| tokio::time::sleep_until(at.into()));
        let look_again = async {
            match later {
                Some(sleep) => sleep.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = generations.changed() => if changed.is_err() { return },
            changed = changes.changed() => if changed.is_err() { return },
            () = look_again => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_reported_once_after_half_a_minute_and_once_when_it_comes() {
        let (mut ledger, begin) = (Ledger::default(), Instant::now());
        let name = PolicyName::new("app", "late");
        let (missing, none) = (BTreeSet::from([name.clone()]), BTreeSet::new());
        let due = ledger.update(&missing, begin);
        assert_eq!(
            due,
            Due {
                next: Some(begin + PATIENCE),
                ..Due::default()
            }
        );
        assert_eq!(ledger.update(&missing, begin + PATIENCE / 2).lost, []);
        let due = ledger.update(&missing, begin + PATIENCE);
        assert_eq!(
            due,
            Due {
                lost: vec![name.clone()],
                standing: 1,
                ..Due::default()
            }
        );
        assert_eq!(ledger.update(&missing, begin + PATIENCE * 2).lost, []);
        let due = ledger.update(&none, begin + PATIENCE * 3);
        assert_eq!(
            due,
            Due {
                found: vec![name],
                ..Due::default()
            }
        );
    }

    #[test]
    fn a_name_that_comes_in_time_is_never_mentioned() {
        let (mut ledger, begin) = (Ledger::default(), Instant::now());
        ledger.update(&BTreeSet::from([PolicyName::new("app", "late")]), begin);
        assert_eq!(
            ledger.update(&BTreeSet::new(), begin + PATIENCE / 3),
            Due::default()
        );
        assert_eq!(
            ledger.update(&BTreeSet::new(), begin + PATIENCE * 2),
            Due::default()
        );
    }
}
