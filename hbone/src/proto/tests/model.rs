//! The model test: random traffic over a wire that cuts and delays bytes at random. Every byte arrives in order, every
//! half-close and reset arrives, nothing stalls although a sender acts again only after `SendCredit`.
//! HBONE_MODEL_CASES sets the number of cases.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use crate::headers::ConnectResponse;
use crate::proto::{Config, Connection, ErrorCode, Event, StreamId};

use super::request;

/// Splitmix64: enough for choices, reproducible from the seed that proptest prints.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The byte at an offset of a direction of a stream.
fn pattern(from_client: bool, stream: u32, offset: usize) -> u8 {
    (offset as u32)
        .wrapping_mul(31)
        .wrapping_add(stream)
        .wrapping_add(u32::from(from_client)) as u8
}

struct Half {
    handle: StreamId,
    total: usize,
    sent: usize,
    ended: bool,
    /// Waits for SendCredit.
    blocked: bool,
    answered: bool,
    received: usize,
    unconsumed: usize,
    peer_ended: bool,
    /// Gone by a reset, whoever sent it.
    reset: bool,
}

impl Half {
    fn new(handle: StreamId, total: usize, answered: bool) -> Self {
        Self {
            handle,
            total,
            sent: 0,
            ended: false,
            blocked: false,
            answered,
            received: 0,
            unconsumed: 0,
            peer_ended: false,
            reset: false,
        }
    }
}

struct Side {
    client: bool,
    connection: Connection,
    wire: VecDeque<u8>,
    streams: BTreeMap<u32, Half>,
    totals: usize,
    held: usize,
}

impl Side {
    fn new(client: bool, config: Config, totals: usize) -> Self {
        let connection = if client {
            Connection::client(config)
        } else {
            Connection::server(config)
        };
        Self {
            client,
            connection,
            wire: VecDeque::new(),
            streams: BTreeMap::new(),
            totals,
            held: 0,
        }
    }

    fn flush(&mut self) {
        self.wire.extend(self.connection.output().drain(..));
    }

    fn send_some(&mut self, id: u32, max: usize) -> bool {
        let Some(half) = self.streams.get_mut(&id) else {
            return false;
        };
        if half.reset || half.ended || half.blocked || !half.answered {
            return false;
        }
        let credit = self.connection.sendable(half.handle);
        let left = half.total - half.sent;
        if credit == 0 && left > 0 {
            half.blocked = true;
            return false;
        }
        let n = credit.min(left).min(max);
        let end = n == left && max.is_multiple_of(2);
        if n == 0 && !end && left > 0 {
            return false;
        }
        let (handle, sent) = (half.handle, half.sent);
        half.sent += n;
        half.ended = n == left;
        let ended = half.ended;
        self.flush();
        if n > 0 || end {
            self.wire
                .extend(self.connection.data_header(handle, n, end));
            self.wire
                .extend((sent..sent + n).map(|at| pattern(self.client, id, at)));
        }
        if ended && !end {
            self.connection.end(handle);
        }
        self.flush();
        true
    }

    fn consume(&mut self, id: u32, max: usize) -> bool {
        let Some(half) = self.streams.get_mut(&id) else {
            return false;
        };
        let n = half.unconsumed.min(max);
        half.unconsumed -= n;
        self.held -= n;
        self.connection.consumed(half.handle, n);
        n > 0
    }

    fn reset(&mut self, id: u32) {
        if let Some(half) = self.streams.get_mut(&id)
            && !half.reset
            && !(half.ended && half.peer_ended)
        {
            half.reset = true;
            self.connection.reset(half.handle, ErrorCode::CONNECT_ERROR);
        }
    }

    /// Takes bytes off the peer's wire.
    fn take(&mut self, bytes: &[u8], rng: &mut Rng) {
        let mut input = bytes;
        while let Some(event) = self
            .connection
            .receive(&mut input)
            .expect("honest peers do not fail")
        {
            match event {
                Event::Request { stream, head } => {
                    assert_eq!(*head, request());
                    let id = stream.number();
                    self.connection.set_key(stream, id.into());
                    self.connection
                        .respond(stream, &ConnectResponse::ok(), false);
                    self.streams
                        .insert(id, Half::new(stream, rng.below(self.totals), true));
                }
                Event::Response { key, head, .. } => {
                    assert!(head.is_ok());
                    self.half(key).answered = true;
                }
                Event::Data { key, bytes, .. } => {
                    self.held += bytes.len();
                    let (client, half) = (self.client, self.half(key));
                    assert!(!half.reset && !half.peer_ended && !bytes.is_empty());
                    for byte in bytes {
                        assert_eq!(*byte, pattern(!client, key as u32, half.received));
                        half.received += 1;
                    }
                    half.unconsumed += bytes.len();
                }
                Event::End { key, .. } => self.half(key).peer_ended = true,
                Event::Reset { key, code, .. } => {
                    assert_eq!(code, ErrorCode::CONNECT_ERROR);
                    self.half(key).reset = true;
                }
                Event::SendCredit { key, .. } => self.half(key).blocked = false,
                Event::Settings => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(input.is_empty());
    }

    fn half(&mut self, key: u64) -> &mut Half {
        self.streams
            .get_mut(&(key as u32))
            .expect("the key is the stream's number")
    }
}

fn deliver(from: &mut Side, to: &mut Side, max: usize, rng: &mut Rng) -> bool {
    from.flush();
    let n = from.wire.len().min(max);
    let bytes: Vec<u8> = from.wire.drain(..n).collect();
    to.take(&bytes, rng);
    n > 0
}

fn run(seed: u64, windows: [u32; 2], steps: usize) {
    let mut rng = Rng(seed);
    let config = |base: Config, window: u32| Config {
        stream_window: window,
        connection_window: 65_535,
        ..base
    };
    // A window of a few bytes costs a frame for each: less data there.
    let most = if windows.iter().any(|window| *window < 1000) {
        3
    } else {
        9
    };
    let totals = 1 << (8 + rng.below(most));
    let mut client = Side::new(true, config(Config::client(), windows[0]), totals);
    let mut server = Side::new(false, config(Config::server(), windows[1]), totals);
    for _ in 0..steps {
        let piece = if rng.one_in(3) {
            1 + rng.below(20)
        } else {
            rng.below(40_000)
        };
        match rng.below(10) {
            0 => open(&mut client, rng.below(totals)),
            1..=2 => _ = deliver(&mut client, &mut server, piece, &mut rng),
            3..=4 => _ = deliver(&mut server, &mut client, piece, &mut rng),
            action => {
                let side = if rng.one_in(2) {
                    &mut client
                } else {
                    &mut server
                };
                let Some(id) = side
                    .streams
                    .keys()
                    .nth(rng.below(side.streams.len()))
                    .copied()
                else {
                    continue;
                };
                match action {
                    5..=6 => _ = side.send_some(id, piece),
                    7..=8 => _ = side.consume(id, piece),
                    _ if rng.one_in(8) => side.reset(id),
                    _ => {}
                }
            }
        }
        let bound = |window: u32, side: &Side| window.max(65_535) as usize * side.streams.len();
        assert!(
            client.held <= bound(windows[0], &client) && server.held <= bound(windows[1], &server)
        );
    }
    settle(&mut client, &mut server, &mut rng);
}

fn open(client: &mut Side, total: usize) {
    if let Ok(stream) = client.connection.open(&request()) {
        client.connection.set_key(stream, stream.number().into());
        client
            .streams
            .insert(stream.number(), Half::new(stream, total, false));
    }
}

/// Lets everything run to its end and compares.
fn settle(client: &mut Side, server: &mut Side, rng: &mut Rng) {
    loop {
        let mut moved =
            deliver(client, server, usize::MAX, rng) | deliver(server, client, usize::MAX, rng);
        for side in [&mut *client, &mut *server] {
            let ids: Vec<u32> = side.streams.keys().copied().collect();
            for id in ids {
                moved |= side.consume(id, usize::MAX) | side.send_some(id, 9_001);
            }
        }
        if !moved {
            break;
        }
    }
    assert_eq!(client.streams.len(), server.streams.len());
    for (id, ours) in &client.streams {
        let theirs = &server.streams[id];
        let finished = ours.ended && theirs.ended && ours.peer_ended && theirs.peer_ended;
        assert!(
            finished || ours.reset || theirs.reset,
            "stream {id} stalled"
        );
        if finished {
            assert_eq!((ours.total, theirs.total), (theirs.received, ours.received));
        } else {
            assert!(
                ours.reset || ours.ended && ours.peer_ended,
                "the reset of {id} got lost"
            );
            assert!(
                theirs.reset || theirs.ended && theirs.peer_ended,
                "the reset of {id} got lost"
            );
        }
    }
    assert_eq!(
        (
            client.connection.streams_len(),
            server.connection.streams_len()
        ),
        (0, 0)
    );
}

fn cases() -> u32 {
    std::env::var("HBONE_MODEL_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_byte_arrives_in_order_and_nothing_stalls(
        seed: u64,
        windows in [prop_oneof![1u32..100, 100u32..70_000, Just(4 << 20)], prop_oneof![1u32..100, 100u32..70_000, Just(4 << 20)]],
        steps in 10usize..1500,
    ) {
        run(seed, windows, steps);
    }
}
