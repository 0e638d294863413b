//! Keeps the certificates of many identities: fetches in parallel by priority, renews, backs off, and
//! hands the newest one to whoever asks. ztunnel and waypoint hold a [`Store`]; the [`Driver`] is one
//! future that the owner spawns.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mesh::identity::Identity;
use tokio::sync::{Notify, watch};

use crate::ca::{Authority, CaError};
use crate::certificate::Certificate;
use crate::rotation::{Action, Rotation};

mod driver;

pub use driver::Driver;

/// Fetches that may be in flight at once.
pub const PARALLEL: usize = 8;

/// Who waits for a certificate; the later variants go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody waits: a renewal while the old certificate is valid.
    Background,
    /// A pod is being added; its first connection will come.
    Warmup,
    /// A connection waits.
    RealTime,
}

/// What is known of one identity.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The newest certificate; look at its validity.
    pub certificate: Option<Arc<Certificate>>,
    /// Why the latest attempt failed; `None` after a success or before the first attempt.
    pub failure: Option<Arc<CaError>>,
    /// Attempts that have ended.
    pub attempts: u64,
}

/// No certificate now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// The last attempt failed; the next one comes after a back-off.
    #[error("no certificate for {identity}: {reason}")]
    Failed {
        /// Whose certificate.
        identity: Identity,
        /// What the CA or the connection to it said.
        reason: Arc<CaError>,
    },
    /// The identity was forgotten, or the store's driver has ended.
    #[error("no certificate for {0}: it is no longer wanted on this node")]
    Forgotten(Identity),
}

/// A fact for the owner of the store, given from the driver in the order in which things happen.
#[derive(Clone, Debug)]
pub enum Change {
    /// A first or renewed certificate.
    Issued(Arc<Certificate>),
    /// An attempt failed. An earlier certificate stays in use while it is valid.
    Failed {
        /// Whose certificate.
        identity: Identity,
        /// Why.
        reason: Arc<CaError>,
    },
}

/// Gives the time of day. A function of its own so that a test can tie it to tokio's paused clock.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The certificates of this process. Clones share them.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    entries: Mutex<HashMap<Identity, Entry>>,
    /// Wakes the driver after a request.
    wake: Notify,
    clock: Clock,
    /// The driver has ended. Written under the lock of `entries`.
    closed: AtomicBool,
}

struct Entry {
    rotation: Rotation,
    priority: Priority,
    fetching: bool,
    /// Tells an entry from an earlier one of the same identity that was forgotten meanwhile.
    epoch: u64,
    status: watch::Sender<Status>,
}

impl Store {
    /// A store that asks `authority`, and the driver that does its work. `on_change` is called from
    /// the driver and must not block.
    pub fn new(
        authority: Arc<dyn Authority>,
        on_change: impl Fn(Change) + Send + 'static,
    ) -> (Self, Driver) {
        Self::with_clock(authority, on_change, Arc::new(SystemTime::now))
    }

    /// [`Store::new`] with another source of the time of day.
    pub fn with_clock(
        authority: Arc<dyn Authority>,
        on_change: impl Fn(Change) + Send + 'static,
        clock: Clock,
    ) -> (Self, Driver) {
        let shared = Arc::new(Shared {
            entries: Mutex::default(),
            wake: Notify::new(),
            clock,
            closed: AtomicBool::new(false),
        });
        let driver = Driver::new(shared.clone(), authority, Box::new(on_change));
        (Self { shared }, driver)
    }

    /// Asks that `identity` be held from now on, without waiting for it.
    pub fn prefetch(&self, identity: &Identity) {
        drop(self.watch(identity, Priority::Warmup));
    }

    /// Stops holding `identity`; its watchers see their channel close.
    pub fn forget(&self, identity: &Identity) {
        self.shared.lock().remove(identity);
    }

    /// The certificate at hand, if it has not expired. Never waits, asks for nothing.
    pub fn current(&self, identity: &Identity) -> Option<Arc<Certificate>> {
        let now = (self.shared.clock)();
        let entries = self.shared.lock();
        let status = entries.get(identity)?.status.borrow();
        status.certificate.clone().filter(|c| now < c.not_after())
    }

    /// Follows `identity`, holding it from now on. A higher priority than before is taken over.
    pub fn watch(&self, identity: &Identity, priority: Priority) -> watch::Receiver<Status> {
        let mut entries = self.shared.lock();
        if self.shared.closed.load(Ordering::Acquire) {
            return watch::Sender::default().subscribe();
        }
        let entry = entries
            .entry(identity.clone())
            .or_insert_with(|| Entry::new(priority));
        entry.priority = entry.priority.max(priority);
        let receiver = entry.status.subscribe();
        drop(entries);
        self.shared.wake.notify_one();
        receiver
    }

    /// The certificate at hand, or the outcome of the attempt that is under way or about to start. An
    /// identity in back-off fails at once with the last reason.
    pub async fn certificate(
        &self,
        identity: &Identity,
        priority: Priority,
    ) -> Result<Arc<Certificate>, Unavailable> {
        if let Some(certificate) = self.current(identity) {
            return Ok(certificate);
        }
        let mut status = self.watch(identity, priority);
        let before = self.attempts_to_wait_for(identity);
        let outcome = status.wait_for(|s| s.attempts > before).await;
        let status = outcome
            .map_err(|_| Unavailable::Forgotten(identity.clone()))?
            .clone();
        let now = (self.shared.clock)();
        match (
            status.certificate.filter(|c| now < c.not_after()),
            status.failure,
        ) {
            (Some(certificate), _) => Ok(certificate),
            (None, Some(reason)) => Err(Unavailable::Failed {
                identity: identity.clone(),
                reason,
            }),
            (None, None) => Err(Unavailable::Forgotten(identity.clone())),
        }
    }

    /// What is held, for dumps, sorted by identity.
    pub fn statuses(&self) -> Vec<(Identity, Status)> {
        let entries = self.shared.lock();
        let mut all: Vec<_> = entries
            .iter()
            .map(|(id, e)| (id.clone(), e.status.borrow().clone()))
            .collect();
        drop(entries);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The attempt count that must be passed before the outcome counts: that of now if an attempt is
    /// running or due, one less if the entry is backing off.
    fn attempts_to_wait_for(&self, identity: &Identity) -> u64 {
        let now = (self.shared.clock)();
        let entries = self.shared.lock();
        let Some(entry) = entries.get(identity) else {
            return 0;
        };
        let attempts = entry.status.borrow().attempts;
        let backing_off = !entry.fetching && entry.rotation.next(now) != Action::Fetch;
        if backing_off {
            attempts.saturating_sub(1)
        } else {
            attempts
        }
    }
}

impl Shared {
    /// The map is plain data: a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(priority: Priority) -> Self {
        static EPOCH: AtomicU64 = AtomicU64::new(0);
        Self {
            rotation: Rotation::new(),
            priority,
            fetching: false,
            epoch: EPOCH.fetch_add(1, Ordering::Relaxed),
            status: watch::Sender::default(),
        }
    }
}

/// Which identities to fetch now, most urgent first and at most `free` of them, and when to look again.
fn plan(
    entries: &HashMap<Identity, Entry>,
    now: SystemTime,
    free: usize,
) -> (Vec<Identity>, Option<Duration>) {
    let mut due = Vec::new();
    let mut wait: Option<Duration> = None;
    for (identity, entry) in entries.iter().filter(|(_, entry)| !entry.fetching) {
        match entry.rotation.next(now) {
            Action::Fetch => due.push((entry.priority, entry.epoch, identity)),
            Action::Wait(time) => wait = Some(wait.map_or(time, |w| w.min(time))),
        }
    }
    // Within a priority the longest known goes first.
    due.sort_by_key(|(priority, epoch, _)| (std::cmp::Reverse(*priority), *epoch));
    let start = due
        .into_iter()
        .take(free)
        .map(|(_, _, identity)| identity.clone())
        .collect();
    (start, wait)
}

#[cfg(test)]
mod tests;
