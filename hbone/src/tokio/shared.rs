//! What the driver and the streams of a connection share: the codec, the transmit buffer, one slot per stream.
//! A short std lock around plain data; never held across an await.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::headers::{ConnectRequest, ConnectResponse};
use crate::proto::{Config, Connection, DATA_HEADER, ErrorCode, Event, ProtocolError, StreamId};

/// Bytes that wait for the carrier at most; beyond it writers wait.
const TRANSMIT_MAX: usize = 256 << 10;
/// DATA payload per frame at most: one TLS record with its frame header.
const FRAME_MAX: usize = 16_375;
/// Buffers larger than this are given back when they run empty.
pub(super) const KEEP: usize = 32 << 10;

/// The shared state of one connection.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(super) fn client(config: Config) -> Self {
        Self::new(Connection::client(config), 0)
    }

    pub(super) fn server(config: Config) -> Self {
        // Twice what may be open, for users that let go of an ended stream a little later than the peer.
        let most = (config.max_concurrent_streams as usize).saturating_mul(2);
        Self::new(Connection::server(config), most)
    }

    fn new(connection: Connection, most_slots: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            connection,
            most_slots,
            transmit: Vec::new(),
            tail: None,
            slots: Slab::new(),
            driver: None,
            space_waiters: VecDeque::new(),
            requests: VecDeque::new(),
            acceptor: None,
            accepting: true,
            owners: 1,
            reserved: 0,
            arrivals: 0,
            pongs: 0,
            pong_waiters: Vec::new(),
            closed: false,
        })))
    }

    /// A poisoned lock means that a thread panicked inside plain bookkeeping; the connection is of no use then.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics under this lock")
    }
}

/// See [`Shared`].
#[derive(Debug)]
pub(super) struct State {
    pub(super) connection: Connection,
    /// Server: slots at most. A stream that the peer has reset still costs its user, and what it received.
    most_slots: usize,
    /// Framed bytes for the carrier.
    pub(super) transmit: Vec<u8>,
    /// The DATA frame at the end of `transmit` (where its header stands), which may still grow.
    tail: Option<(StreamId, usize)>,
    pub(super) slots: Slab<Slot>,
    driver: Option<Waker>,
    /// Slots whose writers wait for room in `transmit`.
    space_waiters: VecDeque<usize>,
    /// Server: requests that nobody has taken yet; at most MAX_CONCURRENT_STREAMS.
    pub(super) requests: VecDeque<(usize, Box<ConnectRequest>)>,
    pub(super) acceptor: Option<Waker>,
    /// Server: somebody takes requests.
    pub(super) accepting: bool,
    /// Handles that can open streams, or 1 for a server's acceptor.
    pub(super) owners: usize,
    /// Streams promised to permits of the pool.
    pub(super) reserved: usize,
    /// How often bytes came from the carrier.
    pub(super) arrivals: u64,
    pub(super) pongs: u64,
    pub(super) pong_waiters: Vec<Waker>,
    pub(super) closed: bool,
}

/// One stream as its user sees it. Lives until the user drops it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) stream: StreamId,
    /// Received and not yet read; at most the stream's window.
    pub(super) received: VecDeque<u8>,
    pub(super) response: Option<Box<ConnectResponse>>,
    /// The peer's half is closed.
    pub(super) ended: bool,
    /// Our half is closed.
    pub(super) shut: bool,
    pub(super) reset: Option<ErrorCode>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Stands among `space_waiters`.
    waits: bool,
}

impl Slot {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

impl State {
    /// Adds a slot for a stream and stores its number (plus one: 0 means none) as the stream's key.
    pub(super) fn add(&mut self, stream: StreamId) -> usize {
        let slot = self.slots.insert(Slot {
            stream,
            received: VecDeque::new(),
            response: None,
            ended: false,
            shut: false,
            reset: None,
            reader: None,
            writer: None,
            waits: false,
        });
        self.connection.set_key(stream, slot as u64 + 1);
        slot
    }

    fn slot(&mut self, key: u64) -> Option<&mut Slot> {
        self.slots
            .get_mut(usize::try_from(key.checked_sub(1)?).ok()?)
    }

    /// Feeds the codec and hands out what comes of it.
    pub(super) fn receive(&mut self, mut input: &[u8]) -> Result<(), ProtocolError> {
        self.arrivals += 1;
        while let Some(event) = self.connection.receive(&mut input)? {
            match event {
                Event::Request { stream, head } => self.requested(stream, head),
                Event::Response { key, head, .. } => {
                    if let Some(slot) = self.slot(key) {
                        slot.response = Some(head);
                        slot.wake();
                    }
                }
                Event::Data { key, bytes, .. } => {
                    if let Some(slot) = self.slot(key) {
                        slot.received.extend(bytes);
                        if let Some(reader) = slot.reader.take() {
                            reader.wake();
                        }
                    }
                }
                Event::End { key, .. } => {
                    if let Some(slot) = self.slot(key) {
                        slot.ended = true;
                        slot.wake();
                    }
                }
                Event::Reset { key, code, .. } => self.was_reset(key, code),
                Event::SendCredit { key, .. } => {
                    if let Some(writer) = self.slot(key).and_then(|slot| slot.writer.take()) {
                        writer.wake();
                    }
                }
                Event::Pong => {
                    self.pongs += 1;
                    self.pong_waiters.drain(..).for_each(Waker::wake);
                }
                Event::OtherMethod { stream } => {
                    let answer = ConnectResponse::status(400);
                    self.connection.respond(stream, &answer, true);
                }
                Event::Refused { .. } | Event::GoAway { .. } | Event::Settings => {}
            }
        }
        Ok(())
    }

    fn was_reset(&mut self, key: u64, code: ErrorCode) {
        let of_key = |(slot, _): &(usize, _)| *slot as u64 + 1 == key;
        if let Some(at) = self.requests.iter().position(of_key) {
            // Nobody has taken it yet: it is withdrawn, and does not wait here beside the peer's next ones.
            if let Some((slot, _)) = self.requests.remove(at) {
                self.slots.try_remove(slot);
            }
        } else if let Some(slot) = self.slot(key) {
            slot.reset = Some(code);
            slot.wake();
        }
    }

    fn requested(&mut self, stream: StreamId, head: Box<ConnectRequest>) {
        if !self.accepting || self.slots.len() >= self.most_slots {
            self.connection.reset(stream, ErrorCode::REFUSED_STREAM);
            return;
        }
        let slot = self.add(stream);
        self.requests.push_back((slot, head));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }

    /// Frames as much of `bytes` as credit and room allow; 0: the slot's writer will be woken.
    pub(super) fn send(&mut self, slot: usize, bytes: &[u8]) -> usize {
        let Some(stream) = self.slots.get(slot).map(|slot| slot.stream) else {
            return 0;
        };
        let mut sent = 0;
        while sent < bytes.len() {
            let room = TRANSMIT_MAX.saturating_sub(self.transmit.len());
            if room == 0 {
                if sent == 0 {
                    self.await_space(slot);
                }
                break;
            }
            let n = self
                .connection
                .sendable(stream)
                .min(bytes.len() - sent)
                .min(room)
                .min(FRAME_MAX);
            if n == 0 {
                break;
            }
            let n = self.append(stream, &bytes[sent..sent + n]);
            sent += n;
        }
        if sent > 0 {
            self.wake_driver();
        }
        sent
    }

    /// Once, however often its writer is polled.
    fn await_space(&mut self, slot: usize) {
        if let Some(waiter) = self.slots.get_mut(slot).filter(|waiter| !waiter.waits) {
            waiter.waits = true;
            self.space_waiters.push_back(slot);
        }
    }

    /// Appends DATA, to the last frame if that is of the same stream and nothing came between: many small writes make
    /// one frame, which matters to peers that count small ones.
    fn append(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let tail = self
            .tail
            .filter(|(of, _)| *of == stream && self.connection.output().is_empty());
        if let Some((_, at)) = tail {
            let held = self.transmit.len() - at - DATA_HEADER;
            let n = bytes.len().min(FRAME_MAX.saturating_sub(held));
            if n > 0 {
                self.connection.data_header(stream, n, false);
                let [_, a, b, c] = ((held + n) as u32).to_be_bytes();
                self.transmit[at..at + 3].copy_from_slice(&[a, b, c]);
                self.transmit.extend_from_slice(&bytes[..n]);
                return n;
            }
        }
        self.take_output();
        let header = self.connection.data_header(stream, bytes.len(), false);
        self.tail = Some((stream, self.transmit.len()));
        self.transmit.extend_from_slice(&header);
        self.transmit.extend_from_slice(bytes);
        bytes.len()
    }

    /// Moves control frames behind the DATA that was framed before them.
    pub(super) fn take_output(&mut self) {
        let output = self.connection.output();
        if !output.is_empty() {
            self.transmit.append(output);
            if output.capacity() > KEEP {
                *output = Vec::new();
            }
            self.tail = None;
        }
    }

    /// Swaps the transmit buffer for an empty one, and lets writers fill that.
    pub(super) fn take_transmit(&mut self, empty: &mut Vec<u8>) {
        self.take_output();
        std::mem::swap(&mut self.transmit, empty);
        self.tail = None;
        for slot in std::mem::take(&mut self.space_waiters) {
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.waits = false;
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
            }
        }
    }

    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    pub(super) fn park_driver(&mut self, waker: &Waker) {
        self.driver = Some(waker.clone());
    }

    /// Whether nobody needs this connection any more.
    pub(super) fn is_done(&self) -> bool {
        self.slots.is_empty() && self.connection.is_drained()
    }

    /// The carrier is gone: everybody who waits learns it.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for (_, slot) in &mut self.slots {
            let finished = slot.ended && slot.shut;
            if slot.reset.is_none() && !finished {
                slot.reset = Some(ErrorCode::CONNECT_ERROR);
            }
            slot.wake();
        }
        self.pong_waiters.drain(..).for_each(Waker::wake);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }

    /// The user is done with a stream: what is not finished is reset, as a closed socket would be.
    pub(super) fn remove(&mut self, slot: usize) {
        let Some(slot) = self.slots.try_remove(slot) else {
            return;
        };
        match (slot.ended && slot.received.is_empty(), slot.shut) {
            _ if slot.reset.is_some() => {}
            (true, _) => self.connection.end(slot.stream),
            (false, true) => self.connection.reset(slot.stream, ErrorCode::CANCEL),
            (false, false) => self.connection.reset(slot.stream, ErrorCode::CONNECT_ERROR),
        }
        self.wake_driver();
    }

    /// One owner less; the last one starts the graceful end.
    pub(super) fn release_owner(&mut self) {
        self.owners -= 1;
        if self.owners == 0 {
            self.connection.drain();
            self.wake_driver();
        }
    }

    /// Waits for one more PONG than `seen`.
    pub(super) fn poll_pong(&mut self, cx: &Context<'_>, seen: u64) -> Poll<bool> {
        if self.pongs > seen || self.closed {
            return Poll::Ready(self.pongs > seen);
        }
        // Polled again and again, it waits in one place.
        if !self
            .pong_waiters
            .iter()
            .any(|one| one.will_wake(cx.waker()))
        {
            self.pong_waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_pong_and_is_polled_again_and_again_waits_in_one_place() {
        let shared = Shared::client(Config::client());
        std::future::poll_fn(|cx| {
            let mut state = shared.lock();
            for _ in 0..1000 {
                assert_eq!(state.poll_pong(cx, 0), Poll::Pending);
            }
            assert_eq!(state.pong_waiters.len(), 1);
            Poll::Ready(())
        })
        .await;
    }

    #[test]
    fn a_writer_that_is_polled_again_and_again_waits_in_one_place() {
        let shared = Shared::client(Config::client());
        let mut state = shared.lock();
        let request = ConnectRequest::new("10.0.0.1:80".parse().expect("an authority"));
        let stream = state.connection.open(&request).expect("a stream");
        let slot = state.add(stream);
        state.transmit = vec![0; TRANSMIT_MAX];
        for _ in 0..1000 {
            assert_eq!(state.send(slot, b"x"), 0);
        }
        assert_eq!(state.space_waiters.len(), 1);
        state.take_transmit(&mut Vec::new());
        assert_eq!(state.send(slot, b"x"), 1);
        state.transmit = vec![0; TRANSMIT_MAX];
        assert_eq!(state.send(slot, b"x"), 0);
        assert_eq!(state.space_waiters.len(), 1, "it waits again");
    }
}
