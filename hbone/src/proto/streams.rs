//! The streams of a connection: 48 bytes each in a slab, found by handle without hashing or by number through a small map.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use slab::Slab;

use super::event::StreamId;
use super::window::Fit;

/// One stream. It exists until both halves are closed or it is reset.
#[derive(Debug)]
pub(super) struct Stream {
    /// The driver's number.
    pub(super) key: u64,
    pub(super) id: u32,
    /// What we may send; negative after the peer lowered its initial window.
    pub(super) send_window: i32,
    /// What the peer may send; negative after we lowered ours.
    pub(super) recv_window: i32,
    /// Bytes that the driver holds and has not reported as consumed.
    pub(super) unconsumed: u32,
    /// What the window is meant to be: `recv_window`, `unconsumed` and `credit` together.
    pub(super) window: u32,
    /// Bytes that the peer gets credit for with the next WINDOW_UPDATE; below 0 after the window shrank: so much is
    /// withheld.
    pub(super) credit: i32,
    /// Bytes that arrived since the last measurement of round trips began.
    pub(super) arrived: u32,
    /// Unconsumed DATA frames under 256 bytes.
    pub(super) small: u32,
    /// The peer's half is open.
    pub(super) recv_open: bool,
    /// Our half is open.
    pub(super) send_open: bool,
    /// Server: we answered. Client: the answer arrived.
    pub(super) answered: bool,
    /// The driver wants to send and waits for credit of this stream.
    pub(super) starved: bool,
    /// What the last measurement found.
    pub(super) fit: Fit,
    /// A measurement since the last tick found the window tight.
    pub(super) rival: bool,
    /// The stream stands in the queue for connection credit.
    pub(super) queued: bool,
}

impl Stream {
    /// What this stream may come to hold beyond an initial window.
    pub(super) fn excess(&self, initial: u32) -> u64 {
        let withheld = (-self.credit).max(0) as u32;
        u64::from(self.window)
            .saturating_add(withheld.into())
            .saturating_sub(initial.into())
    }
}

/// Slab and map, and two sums over the streams. An empty one holds no memory.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slab: Slab<Stream>,
    by_id: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
    /// The stream of the last frame: DATA comes in runs.
    last: Option<StreamId>,
    /// The window that each stream may fill whatever others do.
    initial: u32,
    /// Unconsumed bytes of all streams.
    pub(super) held: u64,
    /// What all streams may come to hold beyond their initial windows.
    pub(super) excess: u64,
}

impl Streams {
    pub(super) fn new(initial: u32) -> Self {
        Self {
            initial,
            ..Self::default()
        }
    }

    /// A new stream; `window` is what its peer may send at once.
    pub(super) fn insert(&mut self, id: u32, send_window: i32, window: i32) -> StreamId {
        let stream = Stream {
            key: 0,
            id,
            send_window,
            recv_window: window,
            unconsumed: 0,
            window: window.max(0) as u32,
            credit: 0,
            arrived: 0,
            small: 0,
            recv_open: true,
            send_open: true,
            answered: false,
            starved: false,
            fit: Fit::Right,
            rival: false,
            queued: false,
        };
        self.excess += stream.excess(self.initial);
        let slot = self.slab.insert(stream) as u32;
        self.by_id.insert(id, slot);
        StreamId { id, slot }
    }

    pub(super) fn find(&mut self, id: u32) -> Option<StreamId> {
        if let Some(last) = self.last.filter(|last| last.id == id) {
            return Some(last);
        }
        let slot = *self.by_id.get(&id)?;
        self.last = Some(StreamId { id, slot });
        self.last
    }

    #[inline]
    pub(super) fn stream(&self, handle: StreamId) -> Option<&Stream> {
        self.slab
            .get(handle.slot as usize)
            .filter(|stream| stream.id == handle.id)
    }

    #[inline]
    pub(super) fn stream_mut(&mut self, handle: StreamId) -> Option<&mut Stream> {
        self.slab
            .get_mut(handle.slot as usize)
            .filter(|stream| stream.id == handle.id)
    }

    pub(super) fn remove(&mut self, handle: StreamId) -> Option<Stream> {
        self.stream(handle)?;
        self.by_id.remove(&handle.id);
        self.last = None;
        let stream = self.slab.remove(handle.slot as usize);
        self.held -= u64::from(stream.unconsumed);
        self.excess -= stream.excess(self.initial);
        if self.slab.is_empty() {
            // An idle connection holds nothing.
            self.slab = Slab::new();
            self.by_id = HashMap::default();
        }
        Some(stream)
    }

    /// Changes what a stream's peer is promised.
    pub(super) fn promise(&mut self, handle: StreamId, change: impl FnOnce(&mut Stream)) {
        let initial = self.initial;
        if let Some(stream) = self.stream_mut(handle) {
            let before = stream.excess(initial);
            change(stream);
            let after = stream.excess(initial);
            self.excess = self.excess - before + after;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.slab.iter().map(|(slot, stream)| {
            (
                StreamId {
                    id: stream.id,
                    slot: slot as u32,
                },
                stream,
            )
        })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Stream)> {
        self.slab.iter_mut().map(|(slot, stream)| {
            (
                StreamId {
                    id: stream.id,
                    slot: slot as u32,
                },
                stream,
            )
        })
    }
}

/// Stream numbers spread by one multiplication. The peer may choose them so that they collide, but has at most
/// MAX_CONCURRENT_STREAMS of them.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
