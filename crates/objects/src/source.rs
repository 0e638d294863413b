//! Where objects come from: an initial list, then changes. Implemented by [`crate::Directory`]; a Kubernetes
//! watch fits behind the same trait.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::{
    fault::Fault,
    object::{Key, Object},
};

/// One change of the set of objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object is new or differs.
    Upsert(Object),
    /// The object is gone.
    Remove(Key),
}

/// What a source reports.
#[derive(Debug, Clone)]
pub enum Event {
    /// The complete set; always the first event, and again when a source had to list anew.
    Snapshot {
        /// All objects, each key once.
        objects: Vec<Object>,
        /// All faults that stand now.
        faults: Arc<[Fault]>,
    },
    /// What changed since the last event; `changes` may be empty when only the faults differ.
    Changes {
        /// Changes in order; each key at most once.
        changes: Vec<Change>,
        /// All faults that stand now (not only new ones).
        faults: Arc<[Fault]>,
    },
}

/// A source of objects.
pub trait Source: Send {
    /// Waits for the next event. Cancel safe: a dropped future loses no event. Never ends; a source that cannot
    /// read says so in the faults and tries again.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Event> + Send + '_>>;
}
