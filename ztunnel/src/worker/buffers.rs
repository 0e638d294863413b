//! Byte buffers of the data path. The large ones belong to the worker and are lent for the length of one batch; a
//! quiet connection holds none. Used by `tls`, `tunnel`, `link`.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::tls::{FRONT, RECORD, sealed_size};

/// Bytes on their way to one socket: filled behind, sent from the front. The memory behind the filled part stays
/// initialised, so that a reused buffer is never cleared again.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outgoing {
    /// With room for `capacity` bytes from the start.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity],
            start: 0,
            end: 0,
        }
    }

    /// At least `n` writable bytes behind the filled part; follow with [`Outgoing::grow`].
    pub(super) fn room(&mut self, n: usize) -> &mut [u8] {
        if self.bytes.len() < self.end + n {
            self.bytes.resize(self.end + n, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// `n` bytes of the room were written.
    pub(super) fn grow(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.end <= self.bytes.len());
    }

    /// What is to be sent.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// `n` bytes of the front were sent.
    pub(super) fn sent(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets what is pending.
    pub(super) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

/// Bytes that a slow reader has not yet taken. Chunks, so that neither growing nor draining moves what is held, and
/// memory goes back as it drains. Bounded by the caller (stream window).
#[derive(Debug, Default)]
pub(super) struct Pending(Option<Box<Chunks>>);

#[derive(Debug, Default)]
struct Chunks {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are gone already.
    head: usize,
    len: usize,
}

/// Small appends share a chunk of this size.
const CHUNK: usize = 16 << 10;

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds a copy of `bytes` at the end.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().push(bytes);
        }
    }

    /// The first chunks, for one vectored write. `into` is cleared first.
    pub(super) fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>, most: usize) {
        into.clear();
        if let Some(held) = &self.0 {
            held.slices(into, most);
        }
    }

    /// `n` bytes of the front were taken.
    pub(super) fn taken(&mut self, n: usize) {
        if let Some(held) = &mut self.0 {
            held.taken(n);
            if held.len == 0 {
                // A quiet connection holds nothing.
                self.0 = None;
            }
        }
    }
}

impl Chunks {
    fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(last) = self.chunks.back_mut() {
            let fits = (last.capacity() - last.len()).min(bytes.len());
            last.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
        }
        while !bytes.is_empty() {
            let n = bytes.len().min(CHUNK);
            let mut chunk = Vec::with_capacity(if self.chunks.is_empty() { n } else { CHUNK });
            chunk.extend_from_slice(&bytes[..n]);
            self.chunks.push_back(chunk);
            bytes = &bytes[n..];
        }
    }

    fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>, most: usize) {
        for (i, chunk) in self.chunks.iter().take(most).enumerate() {
            into.push(IoSlice::new(&chunk[if i == 0 { self.head } else { 0 }..]));
        }
    }

    fn taken(&mut self, n: usize) {
        debug_assert!(n <= self.len);
        self.len -= n;
        self.head += n;
        while let Some(first) = self.chunks.front() {
            if self.head < first.len() {
                break;
            }
            self.head -= first.len();
            self.chunks.pop_front();
        }
    }
}

/// Plaintext that is sealed at a time: what is read, sealed and copied in one go stays in the core's own cache.
const BATCH: usize = 16 * RECORD;
/// Sealed bytes of one write: four batches.
const TX: usize = sealed_size(4 * BATCH);
/// Ciphertext per read.
const RX: usize = 1 << 20;

/// The large buffers of one worker, shared by all its connections; empty between batches.
pub(super) struct Buffers {
    /// Ciphertext of a tunnel and what it opened to, or the bytes of a relay.
    pub(super) rx: Vec<u8>,
    /// So many bytes at the front of `rx` are plaintext.
    pub(super) plain: usize,
    /// Frames and application bytes to be sealed.
    pub(super) batch: Outgoing,
    /// What full batches were sealed to.
    pub(super) tx: Outgoing,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            rx: vec![0; FRONT + RX],
            plain: 0,
            batch: Outgoing::with_capacity(BATCH),
            tx: Outgoing::with_capacity(TX),
        }
    }

    /// Free bytes of the batch.
    pub(super) fn batch_room(&self) -> usize {
        BATCH.saturating_sub(self.batch.end)
    }

    /// Whether another batch, once sealed, might not fit.
    pub(super) fn is_tx_full(&self) -> bool {
        self.tx.end + sealed_size(BATCH) > TX
    }

    /// Lends the sealed buffer itself to a stalled tunnel and puts a new one in its place.
    pub(super) fn take_tx(&mut self) -> Outgoing {
        std::mem::replace(&mut self.tx, Outgoing::with_capacity(TX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_gives_back_in_order_and_frees_everything() {
        let mut pending = Pending::default();
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        for part in bytes.chunks(777) {
            pending.push(part);
        }
        let mut out = Vec::new();
        while !pending.is_empty() {
            let mut slices = Vec::new();
            pending.slices(&mut slices, 3);
            let n = slices.iter().map(|s| s.len()).sum::<usize>().min(5_000);
            let joined: Vec<u8> = slices.iter().flat_map(|s| s.to_vec()).take(n).collect();
            out.extend(joined);
            pending.taken(n);
        }
        assert_eq!(out, bytes);
        assert!(pending.0.is_none());
    }

    #[test]
    fn outgoing_keeps_order_over_partial_sends() {
        let mut out = Outgoing::with_capacity(4);
        for part in [&b"ab"[..], b"cdefgh"] {
            out.room(part.len())[..part.len()].copy_from_slice(part);
            out.grow(part.len());
        }
        out.sent(3);
        assert_eq!(out.pending(), b"defgh");
        out.sent(5);
        assert!(out.is_empty());
    }
}
