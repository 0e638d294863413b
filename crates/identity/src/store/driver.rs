//! The one future that works for a [`super::Store`]: starts fetches, takes their outcome, sleeps until
//! the next renewal. Spawned by the owner of the store.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use mesh::identity::Identity;
use tokio::task::{Id, JoinError, JoinSet};

use super::{Change, PARALLEL, Priority, Shared, plan};
use crate::ca::{Authority, CaError};
use crate::certificate::{Certificate, CertificateError};

/// The time of day may jump; it is looked at this often at least.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Does the work of a store until it is told to stop.
pub struct Driver {
    shared: Arc<Shared>,
    authority: Arc<dyn Authority>,
    on_change: Box<dyn Fn(Change) + Send>,
    /// The fetches in flight. They end with the driver.
    running: JoinSet<Fetched>,
    /// Whose they are: identity and epoch of its entry.
    fetches: HashMap<Id, (Identity, u64)>,
}

type Fetched = Result<Certificate, CaError>;

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        authority: Arc<dyn Authority>,
        on_change: Box<dyn Fn(Change) + Send>,
    ) -> Self {
        Self {
            shared,
            authority,
            on_change,
            running: JoinSet::new(),
            fetches: HashMap::new(),
        }
    }

    /// Runs until `stop` is ready. Fetches in flight are then dropped.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let wait = self.start_due();
            tokio::select! {
                () = &mut stop => return,
                Some(outcome) = self.running.join_next_with_id() => self.take(outcome),
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts what is due and says how long nothing else will be.
    fn start_due(&mut self) -> Duration {
        let now = (self.shared.clock)();
        let mut entries = self.shared.lock();
        let free = PARALLEL.saturating_sub(self.running.len());
        let (start, wait) = plan(&entries, now, free);
        for identity in start {
            let Some(entry) = entries.get_mut(&identity) else {
                continue;
            };
            entry.fetching = true;
            let epoch = entry.epoch;
            let fetch = self.authority.issue(&identity);
            let task = self.running.spawn(fetch).id();
            self.fetches.insert(task, (identity, epoch));
        }
        wait.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    fn take(&mut self, outcome: Result<(Id, Fetched), JoinError>) {
        let (id, result) = match outcome {
            Ok((id, result)) => (id, result),
            Err(error) => {
                tracing::error!(%error, "a certificate fetch ended abnormally");
                let text = "the fetch ended abnormally".to_owned();
                (error.id(), Err(CaError::Refused(text)))
            }
        };
        if let Some((identity, epoch)) = self.fetches.remove(&id) {
            self.record(identity, epoch, result);
        }
    }

    fn record(&self, identity: Identity, epoch: u64, result: Fetched) {
        let now = (self.shared.clock)();
        let mut entries = self.shared.lock();
        let Some(entry) = entries.get_mut(&identity).filter(|e| e.epoch == epoch) else {
            return; // forgotten meanwhile
        };
        entry.fetching = false;
        let change = match result.and_then(|certificate| alive(certificate, now)) {
            Ok(certificate) => {
                let (from, to) = (certificate.not_before(), certificate.not_after());
                entry.rotation.issued(from, to, now, &mut rand::rng());
                entry.priority = Priority::Background;
                Change::Issued(Arc::new(certificate))
            }
            Err(reason) => {
                entry.rotation.failed(now, &mut rand::rng());
                Change::Failed {
                    identity,
                    reason: Arc::new(reason),
                }
            }
        };
        entry.status.send_modify(|status| {
            status.attempts += 1;
            match &change {
                Change::Issued(certificate) => {
                    status.certificate = Some(certificate.clone());
                    status.failure = None;
                }
                Change::Failed { reason, .. } => status.failure = Some(reason.clone()),
            }
        });
        drop(entries);
        (self.on_change)(change);
    }
}

/// Refuses a certificate whose life is over on arrival.
fn alive(certificate: Certificate, now: SystemTime) -> Result<Certificate, CaError> {
    if certificate.not_after() <= now {
        return Err(CertificateError::Expired.into());
    }
    Ok(certificate)
}

impl Drop for Driver {
    /// Nobody shall wait for a store that no longer works.
    fn drop(&mut self) {
        let mut entries = self.shared.lock();
        self.shared.closed.store(true, Ordering::Release);
        entries.clear();
    }
}
