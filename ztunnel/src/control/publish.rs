//! The one place where a snapshot becomes the one in force: workers are woken, and control's own readers see it.
//! Called by `xds`, read by `admin` and `missing`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh::state::Snapshot;
use tokio::sync::watch;

use crate::worker::Workers;

/// The snapshot in force. Clones share it.
#[derive(Clone, Debug)]
pub struct Published {
    snapshot: Arc<ArcSwap<Snapshot>>,
    generation: Arc<watch::Sender<u64>>,
    workers: Arc<Workers>,
}

impl Published {
    /// Begins with what the workers were started with.
    pub fn new(snapshot: Arc<Snapshot>, workers: Arc<Workers>) -> Self {
        let generation = Arc::new(watch::Sender::new(snapshot.generation()));
        Self {
            snapshot: Arc::new(ArcSwap::new(snapshot)),
            generation,
            workers,
        }
    }

    /// Makes `snapshot` the one in force. Workers re-ask authorization for what they carry.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation();
        self.workers.publish(Arc::clone(&snapshot));
        self.snapshot.store(snapshot);
        self.generation.send_replace(generation);
    }

    /// What is in force now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Wakes at each new generation.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}
