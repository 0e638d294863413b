//! Connections kept by key. How to dial, and what time it is, come from the caller; nothing is spawned, no timer is set
//! per checkout, and no lock is held while somebody dials.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::tokio::sync::watch;

use super::client::{Handle, Permit};

/// When connections are shared, and when they are let go.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams on one connection before another is dialled (the peer's limit counts too); 100.
    pub streams_per_connection: usize,
    /// How long a connection without streams is kept; 5 minutes.
    pub idle: Duration,
    /// How old a connection may be to get new streams (its streams live on); none.
    pub max_age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_connection: 100,
            idle: Duration::from_secs(300),
            max_age: None,
        }
    }
}

/// Why there is no permit.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError<E> {
    /// Dialling failed; everybody who waited for that dial gets the same error.
    #[error("dial: {0}")]
    Dial(Arc<E>),
    /// The new connection allows no stream.
    #[error("the peer allows no streams")]
    NoStreams,
}

/// Connections by key: whatever must be equal for two tunnels to share one. Cheap to clone.
#[derive(Debug)]
pub struct Pool<K, E> {
    entries: Arc<Mutex<HashMap<K, Entry<E>>>>,
    limits: Limits,
}

/// How a dial went, as those learn it who wait for it; none while it runs.
type Outcome<E> = Option<Result<(), Arc<E>>>;

#[derive(Debug)]
struct Entry<E> {
    connections: Vec<Pooled>,
    dialling: Option<watch::Receiver<Outcome<E>>>,
}

#[derive(Debug)]
struct Pooled {
    handle: Handle,
    born: Instant,
    used: Instant,
}

impl<K: Eq + Hash + Clone, E> Pool<K, E> {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self {
            entries: Arc::new(Mutex::new(HashMap::new())),
            limits,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<E>>> {
        self.entries.lock().expect("no code panics under this lock")
    }

    /// A stream on a connection of this key: on one that is there, or on one that somebody is dialling already, or on
    /// one dialled now. `dial` returns a handle whose driver runs. Dropping the future in mid-dial lets the next in
    /// line dial.
    ///
    /// # Errors
    /// See [`CheckoutError`].
    pub async fn checkout<F>(
        &self,
        key: &K,
        now: Instant,
        dial: impl FnOnce() -> F,
    ) -> Result<Permit, CheckoutError<E>>
    where
        F: Future<Output = Result<Handle, E>>,
    {
        let turn = loop {
            let mut waiting = match self.step(key, now) {
                Step::Permit(permit) => return Ok(permit),
                Step::Dial(turn) => break turn,
                Step::Wait(waiting) => waiting,
            };
            // An error of the channel: the one who dialled gave up.
            if let Ok(outcome) = waiting.wait_for(Option::is_some).await
                && let Some(Err(error)) = &*outcome
            {
                return Err(CheckoutError::Dial(error.clone()));
            }
        };
        match dial().await {
            Ok(handle) => {
                let permit = handle.reserve(self.limits.streams_per_connection);
                turn.finish(Ok(Pooled {
                    handle,
                    born: now,
                    used: now,
                }));
                permit.ok_or(CheckoutError::NoStreams)
            }
            Err(error) => {
                let error = Arc::new(error);
                turn.finish(Err(error.clone()));
                Err(CheckoutError::Dial(error))
            }
        }
    }

    fn step(&self, key: &K, now: Instant) -> Step<'_, K, E> {
        let mut dropped = Vec::new();
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            connections: Vec::new(),
            dialling: None,
        });
        dropped.extend(
            entry
                .connections
                .extract_if(.., |pooled| !self.is_usable(pooled, now)),
        );
        for pooled in &mut entry.connections {
            if let Some(permit) = pooled.handle.reserve(self.limits.streams_per_connection) {
                pooled.used = now;
                return Step::Permit(permit);
            }
        }
        if let Some(dialling) = &entry.dialling {
            return Step::Wait(dialling.clone());
        }
        let (outcome, dialling) = watch::channel(None);
        entry.dialling = Some(dialling);
        Step::Dial(Turn {
            pool: self,
            key: key.clone(),
            outcome,
        })
    }

    fn is_usable(&self, pooled: &Pooled, now: Instant) -> bool {
        let age = now.saturating_duration_since(pooled.born);
        pooled.handle.is_open() && self.limits.max_age.is_none_or(|max| age < max)
    }

    /// Lets go of connections that are closed, too old, or idle for too long, and of keys without connections.
    /// To be called now and then by whoever owns the pool.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, entry| {
            entry.connections.retain_mut(|pooled| {
                if pooled.handle.in_use() > 0 {
                    pooled.used = now;
                }
                let idle = now.saturating_duration_since(pooled.used);
                self.is_usable(pooled, now) && idle < self.limits.idle
            });
            !entry.connections.is_empty() || entry.dialling.is_some()
        });
    }

    /// Lets go of all connections, or of those whose key says so (an identity was rotated, a peer is gone). Their
    /// streams live on; each ends gracefully with its last stream. A dial that is under way serves the one who
    /// dials, and is not kept.
    pub fn release(&self, mut which: impl FnMut(&K) -> bool) {
        for (key, entry) in &mut *self.lock() {
            if which(key) {
                entry.connections.clear();
                entry.dialling = None;
            }
        }
    }

    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.lock()
            .values()
            .map(|entry| entry.connections.len())
            .sum()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, E> Clone for Pool<K, E> {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            limits: self.limits,
        }
    }
}

enum Step<'a, K: Eq + Hash + Clone, E> {
    Permit(Permit),
    Wait(watch::Receiver<Outcome<E>>),
    Dial(Turn<'a, K, E>),
}

/// The right to dial for a key. Dropping it passes the right on.
struct Turn<'a, K: Eq + Hash + Clone, E> {
    pool: &'a Pool<K, E>,
    key: K,
    outcome: watch::Sender<Outcome<E>>,
}

impl<K: Eq + Hash + Clone, E> Turn<'_, K, E> {
    fn finish(self, result: Result<Pooled, Arc<E>>) {
        let outcome = match result {
            Ok(pooled) => {
                let mut entries = self.pool.lock();
                if let Some(entry) = entries
                    .get_mut(&self.key)
                    .filter(|entry| self.is_current(entry))
                {
                    entry.connections.push(pooled);
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        // Before those who wait look again.
        self.clear();
        self.outcome.send_replace(Some(outcome));
    }

    /// Whether this is the dial of its key still: not released meanwhile.
    fn is_current(&self, entry: &Entry<E>) -> bool {
        let dialling = entry.dialling.as_ref();
        dialling.is_some_and(|dialling| dialling.same_channel(&self.outcome.subscribe()))
    }

    fn clear(&self) {
        let mut entries = self.pool.lock();
        if let Some(entry) = entries.get_mut(&self.key)
            && self.is_current(entry)
        {
            entry.dialling = None;
            if entry.connections.is_empty() {
                entries.remove(&self.key);
            }
        }
    }
}

impl<K: Eq + Hash + Clone, E> Drop for Turn<'_, K, E> {
    fn drop(&mut self) {
        self.clear();
    }
}
