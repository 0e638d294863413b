//! The model test: random traffic over a wire that cuts and delays bytes at random, with random windows, room and readers,
//! resets, half-closes, PINGs and drains. Every byte arrives in order, every half-close and reset arrives, nothing stalls
//! although a sender acts again only after `SendCredit`, and what is held stays within its bound after every step.
//! `make test` runs a share; all 100,000: HBONE_MODEL_CASES=100000 cargo test --release -p causeway-hbone --lib model

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use crate::headers::ConnectResponse;
use crate::proto::receive::Reading;
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
    config: Config,
    pings: [usize; 2],
    drained: bool,
    /// The widest and the narrowest window that any stream had.
    widest: u32,
    narrowest: u32,
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
            config,
            pings: [0; 2],
            drained: false,
            widest: 0,
            narrowest: u32::MAX,
        }
    }

    /// Nothing is held that the bounds do not allow, and the codec's sums are true.
    fn check(&mut self) {
        let connection = &self.connection;
        let mut held = 0;
        for (stream, key) in connection.streams() {
            let state = connection.streams.stream(stream).expect("it is listed");
            let window = i64::from(state.window);
            let parts = i64::from(state.recv_window) + i64::from(state.unconsumed);
            let parts = parts + i64::from(state.credit);
            // A frame takes its credit whole and arrives in pieces.
            let within = matches!(connection.reading, Reading::Data(_)) && parts < window;
            assert!(parts == window || within, "{state:?}");
            assert!(window <= i64::from(self.config.stream_window.max(65_535)));
            held += state.unconsumed as usize;
            if let Some(half) = self.streams.get(&(key as u32)) {
                assert_eq!(half.unconsumed, state.unconsumed as usize);
            }
            if connection.settings_acked {
                self.widest = self.widest.max(state.window);
                self.narrowest = self.narrowest.min(state.window);
            }
        }
        assert_eq!(connection.held(), held);
        let each = self.config.initial_window.max(65_535) as usize;
        let bound = connection.streams_len() * each + self.config.room;
        assert!(held <= bound, "{held} of {bound}");
        if connection.settings_acked {
            assert!(connection.streams.excess <= self.config.room as u64);
        }
        assert!(connection.partial.len() < 1000 && connection.credit_queue.len() <= 1000);
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
                    let refused = self.client && code == ErrorCode::REFUSED_STREAM;
                    assert!(code == ErrorCode::CONNECT_ERROR || refused);
                    self.half(key).reset = true;
                }
                Event::SendCredit { key, .. } => self.half(key).blocked = false,
                Event::Settings => {}
                Event::Pong => self.pings[1] += 1,
                Event::GoAway { code, .. } => assert_eq!(code, ErrorCode::NO_ERROR),
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

/// How the windows of one side behave.
#[derive(Debug, Clone, Copy)]
struct Windows {
    initial: u32,
    /// The largest is 2 to the power of this times the initial one.
    growth: u32,
    room: usize,
}

impl Windows {
    fn apply(self, base: Config) -> Config {
        Config {
            initial_window: self.initial,
            stream_window: self.initial << self.growth,
            connection_window: 65_535,
            room: self.room,
            ..base
        }
    }
}

/// What a run came past.
#[derive(Debug, Default)]
struct Reached {
    grown: bool,
    shrunk: bool,
    reset: bool,
    finished: bool,
    drained: bool,
}

fn run(seed: u64, windows: [Windows; 2], steps: usize) -> Reached {
    let mut rng = Rng(seed);
    // A window of a few bytes costs a frame for each: less data there.
    let most = if windows.iter().any(|windows| windows.initial < 1000) {
        3
    } else {
        9
    };
    let totals = 1 << (8 + rng.below(most));
    let mut client = Side::new(true, windows[0].apply(Config::client()), totals);
    let mut server = Side::new(false, windows[1].apply(Config::server()), totals);
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
                if rng.one_in(20) {
                    odd(side, &mut rng);
                }
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
        client.check();
        server.check();
    }
    settle(&mut client, &mut server, &mut rng);
    let sides = [&client, &server];
    Reached {
        grown: sides
            .iter()
            .any(|side| side.widest > side.config.initial_window),
        shrunk: sides
            .iter()
            .any(|side| side.narrowest < side.config.initial_window),
        reset: client.streams.values().any(|half| half.reset),
        finished: client
            .streams
            .values()
            .any(|half| half.peer_ended && half.ended),
        drained: sides.iter().any(|side| side.drained),
    }
}

/// What happens now and then.
fn odd(side: &mut Side, rng: &mut Rng) {
    match rng.below(8) {
        0..=2 => side.pings[0] += usize::from(side.connection.ping()),
        3..=5 => side
            .connection
            .set_room(rng.below(2 * side.config.room + 1)),
        6 => side.connection.tick(),
        _ if rng.one_in(5) => {
            side.connection.drain();
            side.drained = true;
        }
        _ => {}
    }
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
        client.check();
        server.check();
        if !moved {
            break;
        }
    }
    for id in server.streams.keys() {
        assert!(client.streams.contains_key(id));
    }
    for (id, ours) in &client.streams {
        let Some(theirs) = server.streams.get(id) else {
            assert!(ours.reset, "request {id} got lost");
            continue;
        };
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
    for side in [client, server] {
        let connection = &side.connection;
        assert_eq!((connection.held(), connection.streams.excess), (0, 0));
        assert_eq!(connection.partial.capacity(), 0);
        assert_eq!(side.pings[0], side.pings[1], "a PING is unanswered");
        assert!(!side.drained || connection.is_drained());
    }
}

fn cases() -> u32 {
    std::env::var("HBONE_MODEL_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(200)
}

fn windows() -> impl Strategy<Value = Windows> {
    let initial = prop_oneof![1u32..100, 100u32..70_000, Just(256 << 10)];
    let room = prop_oneof![Just(0usize), 0usize..100_000, Just(16 << 20)];
    (initial, 0u32..5, room).prop_map(|(initial, growth, room)| Windows {
        initial,
        growth,
        room,
    })
}

#[test]
fn the_model_reaches_what_it_is_for() {
    let windows = Windows {
        initial: 18_000,
        growth: 4,
        room: 100_000,
    };
    let mut counts = [0; 5];
    for seed in 0..20 {
        let reached = run(seed, [windows; 2], 1500);
        let Reached {
            grown,
            shrunk,
            reset,
            finished,
            drained,
        } = reached;
        for (count, one) in counts
            .iter_mut()
            .zip([grown, shrunk, reset, finished, drained])
        {
            *count += usize::from(one);
        }
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_byte_arrives_in_order_and_nothing_stalls(
        seed: u64,
        windows in [windows(), windows()],
        steps in 10usize..1500,
    ) {
        run(seed, windows, steps);
    }
}
