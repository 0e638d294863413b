//! What the threads of one load have in common: counters that are read while they run, the wish to stop, and what went
//! wrong. Also the account of each stream's two ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Faults that are kept; the rest is only counted.
const KEPT: usize = 8;

/// Shared by all threads of a load.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    operations: AtomicU64,
    opened: AtomicU64,
    stop: AtomicBool,
    recording: AtomicBool,
    stalled: AtomicBool,
    watched: [AtomicU64; 2],
    watched_ports: [AtomicU16; 2],
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    faults: Vec<String>,
    count: u64,
    streams: HashMap<u64, Ends>,
}

/// Bytes that each end of a one-way stream has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    sent: Option<u64>,
    received: Option<u64>,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one that wrote.
    Sender,
    /// The one that read.
    Receiver,
}

impl Tally {
    /// So many bytes have been read and found right.
    pub fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Relaxed);
    }

    /// One request was answered.
    pub fn add_operation(&self) {
        self.operations.fetch_add(1, Relaxed);
    }

    /// The server has accepted a connection.
    pub fn add_connection(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// Bytes of one-way streams so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Answered requests so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Relaxed)
    }

    /// Accepted connections so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Whether latencies count now.
    pub fn recording(&self) -> bool {
        self.recording.load(Relaxed)
    }

    /// Latencies count from now on, or no longer.
    pub fn record(&self, on: bool) {
        self.recording.store(on, Relaxed);
    }

    /// Whether streams that may stall do not read now.
    pub fn stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// Lets them stall, or go on.
    pub fn stall(&self, on: bool) {
        self.stalled.store(on, Relaxed);
    }

    /// How far one end of the stream that may stall has come.
    pub fn watch(&self, end: End, bytes: u64) {
        self.watched[usize::from(end == End::Receiver)].store(bytes, Relaxed);
    }

    /// Bytes that the stream that may stall has sent, and received.
    pub fn watched(&self) -> [u64; 2] {
        [0, 1].map(|end| self.watched[end].load(Relaxed))
    }

    /// Port of the client's socket of the stream that may stall, or the port that its server is called from.
    pub fn watch_port(&self, end: End, port: u16) {
        self.watched_ports[usize::from(end == End::Receiver)].store(port, Relaxed);
    }

    /// See [`Tally::watch_port`]; 0 before they are known.
    pub fn ports(&self) -> [u16; 2] {
        [0, 1].map(|end| self.watched_ports[end].load(Relaxed))
    }

    /// Asks all threads to end.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether that was asked.
    pub fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Something went wrong.
    pub fn fault(&self, text: String) {
        let mut rest = self.lock();
        rest.count += 1;
        if rest.faults.len() < KEPT {
            rest.faults.push(text);
        }
    }

    /// One end of the stream `seed` has come to its end after so many bytes.
    pub fn ended(&self, seed: u64, end: End, bytes: u64) {
        let mut rest = self.lock();
        let ends = rest.streams.entry(seed).or_default();
        match end {
            End::Sender => ends.sent = Some(bytes),
            End::Receiver => ends.received = Some(bytes),
        }
    }

    /// What went wrong, and which streams did not deliver what was sent. Ask after all threads have ended.
    ///
    /// # Errors
    /// A sentence with the first faults.
    pub fn verdict(&self) -> Result<(), String> {
        let rest = self.lock();
        let mut faults = rest.faults.clone();
        for (seed, Ends { sent, received }) in &rest.streams {
            if sent.is_none() || sent != received {
                faults.push(format!(
                    "stream {seed:x}: sent {sent:?}, received {received:?}"
                ));
            }
        }
        if faults.is_empty() {
            return Ok(());
        }
        faults.truncate(KEPT);
        Err(format!(
            "{} faults on connections; {}",
            rest.count,
            faults.join("; ")
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_lost_bytes_or_never_ended_is_a_fault() {
        let ends = |list: &[(End, u64)]| {
            let tally = Tally::default();
            for (end, bytes) in list {
                tally.ended(7, *end, *bytes);
            }
            tally.verdict()
        };
        assert_eq!(ends(&[(End::Sender, 5), (End::Receiver, 5)]), Ok(()));
        for wrong in [
            &[(End::Sender, 5), (End::Receiver, 4)][..],
            &[(End::Sender, 5)],
            &[(End::Receiver, 5)],
        ] {
            assert!(ends(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn many_faults_are_counted_and_a_few_are_told() {
        let tally = Tally::default();
        (0..100).for_each(|n| tally.fault(format!("fault {n}")));
        let text = tally.verdict().unwrap_err();
        assert!(
            text.starts_with("100 faults") && text.contains("fault 0"),
            "{text}"
        );
        assert!(!text.contains("fault 99"), "{text}");
    }
}
