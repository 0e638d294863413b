//! Who sent what and what arrived: digests of every direction of every tunnel, and whether anything still moves. Shared by
//! both ends of `traffic.rs`, which live in one process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{self, SHA256};
use tokio::sync::Notify;

/// One direction of one tunnel.
pub type Direction = (u64, bool);

/// What both ends report. Single-threaded, as the traffic is.
#[derive(Default)]
pub struct Ledger {
    sent: RefCell<BTreeMap<Direction, [u8; 32]>>,
    received: RefCell<BTreeMap<Direction, [u8; 32]>>,
    calls: Cell<usize>,
    bytes: Cell<u64>,
    moves: Cell<u64>,
    faults: RefCell<Vec<String>>,
    /// Ends of tunnels that are not done: number, near, and what the plan is.
    open: RefCell<BTreeMap<Direction, String>>,
    changed: Notify,
    /// A direction has ended.
    whole: Notify,
}

impl Ledger {
    /// A tunnel has come out at the far end.
    pub fn called(&self) {
        self.calls.set(self.calls.get() + 1);
    }

    /// Tunnels that have come out at the far end.
    pub fn calls(&self) -> usize {
        self.calls.get()
    }

    /// Bytes that arrived; they prove that the traffic has not stalled.
    pub fn arrived(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.moves.set(self.moves.get() + 1);
    }

    /// Changes whenever something moved.
    pub fn pulse(&self) -> u64 {
        self.moves.get()
    }

    /// One end of a tunnel has begun, or is done with `None`.
    pub fn end(&self, end: Direction, plan: Option<String>) {
        let mut open = self.open.borrow_mut();
        match plan {
            Some(plan) => _ = open.insert(end, plan),
            None => _ = open.remove(&end),
        }
    }

    /// A sender has come to its end.
    pub fn sent(&self, direction: Direction, digest: [u8; 32]) {
        self.moves.set(self.moves.get() + 1);
        self.sent.borrow_mut().insert(direction, digest);
    }

    /// A receiver has seen the end of a whole direction.
    pub fn received(&self, direction: Direction, digest: [u8; 32]) {
        self.moves.set(self.moves.get() + 1);
        self.received.borrow_mut().insert(direction, digest);
        self.changed.notify_one();
        self.whole.notify_waiters();
    }

    /// Waits for the end of one whole direction.
    pub async fn until_received(&self, direction: Direction) {
        // One thread: nothing happens between the look and the wait.
        while !self.received.borrow().contains_key(&direction) {
            self.whole.notified().await;
        }
    }

    /// Waits for the ends of so many whole directions, or for a fault.
    pub async fn complete(&self, directions: usize) {
        while self.received.borrow().len() < directions && self.faults.borrow().is_empty() {
            self.changed.notified().await;
        }
    }

    /// An end that nobody waits for failed.
    pub fn fault(&self, fault: String) {
        self.faults.borrow_mut().push(fault);
        self.changed.notify_one();
    }

    /// How far it has come, for the text of a failure.
    pub fn state(&self) -> String {
        format!(
            "{} bytes, {} directions sent, {} received, {} ends open, such as {:?}, faults: {:?}",
            self.bytes.get(),
            self.sent.borrow().len(),
            self.received.borrow().len(),
            self.open.borrow().len(),
            self.open.borrow().first_key_value(),
            self.faults.borrow()
        )
    }

    /// Digests of all that was sent and of all that was received, which must be equal; a summary.
    ///
    /// # Errors
    /// When an end failed or one direction differs.
    pub fn close(&self) -> Result<String> {
        let faults = self.faults.borrow();
        ensure!(
            faults.is_empty(),
            "{} faults, such as {:#?}",
            faults.len(),
            &faults[..faults.len().min(3)]
        );
        let (sent, received) = (self.sent.borrow(), self.received.borrow());
        for (direction, digest) in &*sent {
            let other = received
                .get(direction)
                .with_context(|| format!("{direction:?} never ended"))?;
            ensure!(digest == other, "{direction:?}: the bytes differ");
        }
        let (left, right) = (fold(&sent), fold(&received));
        ensure!(
            left == right,
            "received what nobody sent: {left} and {right}"
        );
        let bytes = self.bytes.get();
        Ok(format!(
            "{bytes} bytes, {} whole directions, SHA-256 over their hashes: sent {left}, received {right}",
            sent.len()
        ))
    }
}

fn fold(digests: &BTreeMap<Direction, [u8; 32]>) -> String {
    let mut all = digest::Context::new(&SHA256);
    for ((id, up), digest) in digests {
        all.update(&id.to_be_bytes());
        all.update(&[u8::from(*up)]);
        all.update(digest);
    }
    let hash = all.finish();
    hash.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
