//! Readiness: ready when nothing is pending. Parts register what they wait for and drop the guard
//! when it is done; they may register again (a lost connection makes the process unready). Asked by
//! `/healthz/ready`.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The set of pending tasks. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// One pending task; dropping it marks the task done.
#[derive(Debug)]
#[must_use = "dropping it at once means done"]
pub struct Pending {
    owner: Readiness,
    name: String,
}

impl Readiness {
    /// Nothing pending yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the returned guard is dropped. The same name may be pending twice.
    pub fn register(&self, name: impl Into<String>) -> Pending {
        let name = name.into();
        *self.lock().entry(name.clone()).or_default() += 1;
        Pending {
            owner: self.clone(),
            name,
        }
    }

    /// Names of what is pending, sorted.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Is nothing pending?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().is_empty()
    }

    /// The body of `/healthz/ready` and whether it is a success (200) or not (500); upstream's text.
    #[must_use]
    pub fn report(&self) -> (bool, String) {
        let pending = self.pending();
        if pending.is_empty() {
            return (true, "ready\n".into());
        }
        (
            false,
            format!("not ready, pending: {}\n", pending.join(", ")),
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        // The map is valid after every single operation, so a panic elsewhere does not spoil it.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self.owner.lock();
        if let Some(count) = pending.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_guard_is_dropped() {
        let readiness = Readiness::new();
        let state = readiness.register("state manager");
        let pods = readiness.register("proxy manager");
        let report = readiness.report();
        assert_eq!(
            report,
            (
                false,
                "not ready, pending: proxy manager, state manager\n".into()
            )
        );
        drop((state, pods));
        assert_eq!(readiness.report(), (true, "ready\n".into()));
    }

    #[test]
    fn a_name_registered_twice_needs_both_guards_dropped() {
        let readiness = Readiness::new();
        let first = readiness.register("pods");
        let second = readiness.register("pods");
        drop(first);
        assert!(!readiness.is_ready());
        drop(second);
        assert!(readiness.is_ready());
    }
}
