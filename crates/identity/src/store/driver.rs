//! The one future that works for a [`super::Store`]: starts fetches, takes their outcome, sleeps until
//! the next renewal. Spawned by the owner of the store.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh::identity::Identity;
use tokio::task::JoinSet;

use super::{Change, PARALLEL, Priority, Shared, plan};
use crate::ca::{Authority, CaError};
use crate::certificate::Certificate;

/// The time of day may jump; it is looked at this often at least.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Does the work of a store until it is told to stop.
pub struct Driver {
    shared: Arc<Shared>,
    authority: Arc<dyn Authority>,
    on_change: Box<dyn Fn(Change) + Send>,
    /// The fetches in flight. They end with the driver.
    running: JoinSet<Outcome>,
}

struct Outcome {
    identity: Identity,
    epoch: u64,
    result: Result<Certificate, CaError>,
}

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
        }
    }

    /// Runs until `stop` is ready. Fetches in flight are then dropped.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let wait = self.start_due();
            tokio::select! {
                () = &mut stop => return,
                Some(outcome) = self.running.join_next() => self.take(outcome),
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
            self.running.spawn(async move {
                Outcome {
                    identity,
                    epoch,
                    result: fetch.await,
                }
            });
        }
        wait.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    fn take(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        match outcome {
            Ok(outcome) => self.record(outcome),
            // A fetch that panicked tells us not whose it was: all in flight may be asked again.
            Err(error) => {
                tracing::error!(%error, "a certificate fetch ended abnormally");
                self.running.abort_all();
                self.running = JoinSet::new();
                for entry in self.shared.lock().values_mut().filter(|e| e.fetching) {
                    entry.fetching = false;
                    entry
                        .rotation
                        .failed((self.shared.clock)(), &mut rand::rng());
                }
            }
        }
    }

    fn record(&self, outcome: Outcome) {
        let Outcome {
            identity,
            epoch,
            result,
        } = outcome;
        let now = (self.shared.clock)();
        let mut entries = self.shared.lock();
        let Some(entry) = entries.get_mut(&identity).filter(|e| e.epoch == epoch) else {
            return; // forgotten meanwhile
        };
        entry.fetching = false;
        let change = match result {
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

impl Drop for Driver {
    /// Nobody shall wait for a store that no longer works.
    fn drop(&mut self) {
        let mut entries = self.shared.lock();
        self.shared.closed.store(true, Ordering::Release);
        entries.clear();
    }
}
