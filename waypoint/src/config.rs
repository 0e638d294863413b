//! Where ADS meets the compiled state: each push is applied resource by resource, published once, and the
//! names of endpoint sets and route tables that are now wanted are asked for. Called by the xds client's task.

pub mod held;
#[cfg(test)]
mod tests;

use self::held::{Accepted, Held, Refused};
use crate::state::{Snapshot, State, types};
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;
use xds::client::Handle;
use xds::machine::Subscription;
use xds::{Handler, Rejected, ResourceUpdate};

/// The subscriptions of a waypoint, in the order in which they are asked for.
pub fn subscriptions() -> Vec<Subscription> {
    vec![
        Subscription::all(types::CLUSTER),
        Subscription::named(types::ENDPOINT, Vec::<String>::new()),
        Subscription::all(types::LISTENER),
        Subscription::named(types::ROUTE, Vec::<String>::new()),
    ]
}

/// Applies pushes.
#[derive(Clone, Default)]
pub struct Config {
    state: Arc<Mutex<State>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
    handle: Arc<OnceLock<Handle>>,
    asked: Arc<Mutex<Asked>>,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Asked {
    endpoints: BTreeSet<String>,
    routes: BTreeSet<String>,
}

impl Config {
    /// What the data path reads.
    pub fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        self.snapshot.clone()
    }

    /// The resources as they were sent, for dumps.
    pub fn held(&self) -> Held {
        self.lock_held().clone()
    }

    fn lock_held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the generation of the snapshot, each time that it changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The client through which more names are asked for; to be given once, before its first push.
    pub fn connect(&self, handle: Handle) {
        let _ = self.handle.set(handle);
    }

    /// Applies one push; what is refused leaves its last good version in force.
    pub fn apply(&self, type_url: &str, updates: Vec<ResourceUpdate>) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = SystemTime::now();
        for update in updates {
            match update {
                ResourceUpdate::Remove { name } => {
                    state.remove(type_url, &name);
                    self.lock_held().remove(type_url, &name);
                }
                ResourceUpdate::Upsert {
                    name,
                    version,
                    body,
                } => match state.upsert(type_url, &name, &body) {
                    Ok(()) => {
                        let body = body.into();
                        let accepted = Accepted { version, body, at };
                        self.lock_held().accept(type_url, &name, accepted);
                    }
                    Err(reason) => {
                        tracing::warn!(resource = name, reason, "refused");
                        let refused = Refused {
                            version,
                            reason: reason.clone(),
                            at,
                        };
                        self.lock_held().refuse(type_url, &name, refused);
                        rejected.push(Rejected { name, reason });
                    }
                },
            }
        }
        self.ask(&mut state);
        self.snapshot.store(Arc::new(state.snapshot().clone()));
        self.changed.send_replace(state.snapshot().generation);
        rejected
    }

    /// Asks for what is wanted now, and forgets what no longer is: its removal will not be told.
    fn ask(&self, state: &mut State) {
        let Some(handle) = self.handle.get() else {
            return;
        };
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Asked { endpoints, routes } = &mut *asked;
        let wanted = [
            (types::ENDPOINT, endpoints, state.wanted_endpoints()),
            (types::ROUTE, routes, state.wanted_routes()),
        ];
        for (type_url, asked, wanted) in wanted {
            for name in change(handle, type_url, asked, wanted) {
                state.remove(type_url, &name);
                self.lock_held().remove(type_url, &name);
            }
        }
    }
}

/// Subscribes and unsubscribes; yields what is no longer asked for.
fn change(
    handle: &Handle,
    type_url: &str,
    asked: &mut BTreeSet<String>,
    wanted: BTreeSet<String>,
) -> Vec<String> {
    let more: Vec<String> = wanted.difference(asked).cloned().collect();
    let fewer: Vec<String> = asked.difference(&wanted).cloned().collect();
    if !more.is_empty() {
        handle.subscribe(type_url, more);
    }
    if !fewer.is_empty() {
        handle.unsubscribe(type_url, fewer.clone());
    }
    *asked = wanted;
    fewer
}

impl Handler for Config {
    fn apply(&mut self, type_url: &str, updates: Vec<ResourceUpdate>) -> Vec<Rejected> {
        Self::apply(self, type_url, updates)
    }
}
