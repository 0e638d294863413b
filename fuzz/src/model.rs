//! Two connections back to back, driven by a script: open, send, deliver a piece, consume, end, reset, drain, PING, less
//! room. The model is a few counters per stream: every byte in order, ends behind the last byte, nothing held beyond the
//! bound, and in the end everything has arrived or was reset.

use std::collections::{BTreeMap, VecDeque};

use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Config, Connection, ErrorCode, Event, StreamId};

/// Bytes that one half sends at most, so that an input stays quick.
const MOST: usize = 200_000;

#[derive(Debug)]
struct Half {
    stream: StreamId,
    sent: usize,
    ended: bool,
    received: usize,
    unconsumed: usize,
    peer_ended: bool,
    /// The answer came, or was sent.
    open: bool,
    gone: bool,
}

struct Side {
    connection: Connection,
    config: Config,
    wire: VecDeque<u8>,
    halves: BTreeMap<u32, Half>,
    pings: usize,
}

impl Side {
    fn new(connection: Connection, config: Config) -> Self {
        Self {
            connection,
            config,
            wire: VecDeque::new(),
            halves: BTreeMap::new(),
            pings: 0,
        }
    }

    fn add(&mut self, stream: StreamId, open: bool) {
        self.connection.set_key(stream, stream.number().into());
        let half = Half {
            stream,
            sent: 0,
            ended: false,
            received: 0,
            unconsumed: 0,
            peer_ended: false,
            open,
            gone: false,
        };
        self.halves.insert(stream.number(), half);
    }

    fn pick(&mut self, number: u8) -> Option<&mut Half> {
        let len = self.halves.len().max(1);
        self.halves.values_mut().nth(number as usize % len)
    }

    fn flush(&mut self) {
        self.wire.extend(self.connection.output().drain(..));
    }

    fn send(&mut self, number: u8, most: usize) {
        let Some(half) = self.pick(number) else {
            return;
        };
        if half.gone || half.ended || !half.open {
            return;
        }
        let (stream, at) = (half.stream, half.sent);
        let n = self
            .connection
            .sendable(stream)
            .min(most)
            .min(MOST.saturating_sub(at));
        if n == 0 {
            return;
        }
        self.flush();
        self.wire
            .extend(self.connection.data_header(stream, n, false));
        self.wire.extend((at..at + n).map(|at| pattern(stream, at)));
        if let Some(half) = self.halves.get_mut(&stream.number()) {
            half.sent += n;
        }
    }

    fn consume(&mut self, number: u8, most: usize) {
        let Some(half) = self.pick(number) else {
            return;
        };
        let n = half.unconsumed.min(most);
        half.unconsumed -= n;
        let stream = half.stream;
        self.connection.consumed(stream, n);
    }

    fn end(&mut self, number: u8) {
        if let Some(half) = self.pick(number)
            && half.open
            && !half.gone
            && !half.ended
        {
            half.ended = true;
            let stream = half.stream;
            self.connection.end(stream);
        }
    }

    fn reset(&mut self, number: u8) {
        if let Some(half) = self.pick(number)
            && !half.gone
            && !(half.ended && half.peer_ended)
        {
            half.gone = true;
            let stream = half.stream;
            self.connection.reset(stream, ErrorCode::CONNECT_ERROR);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        while let Some(event) = self.connection.receive(&mut input).expect("an honest peer") {
            match event {
                Event::Request { stream, .. } => {
                    self.add(stream, true);
                    self.connection
                        .respond(stream, &ConnectResponse::ok(), false);
                }
                Event::Response { key, .. } => self.half(key).open = true,
                Event::Data { stream, key, bytes } => {
                    let half = self.half(key);
                    assert!(!half.gone && !half.peer_ended);
                    for byte in bytes {
                        assert_eq!(*byte, pattern(stream, half.received), "out of order");
                        half.received += 1;
                    }
                    half.unconsumed += bytes.len();
                }
                Event::End { key, .. } => self.half(key).peer_ended = true,
                Event::Reset { key, .. } => self.half(key).gone = true,
                Event::Pong => self.pings -= 1,
                Event::OtherMethod { .. } => panic!("nobody here asks for anything but CONNECT"),
                Event::Refused { .. }
                | Event::SendCredit { .. }
                | Event::GoAway { .. }
                | Event::Settings => {}
            }
        }
        let each = self.config.initial_window.max(65_535) as usize;
        let bound = self.connection.streams_len() * each + self.config.room;
        assert!(self.connection.held() <= bound, "too much is held");
    }

    fn half(&mut self, key: u64) -> &mut Half {
        self.halves
            .get_mut(&(key as u32))
            .expect("a stream that we know")
    }
}

fn pattern(stream: StreamId, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(stream.number()) as u8
}

fn deliver(from: &mut Side, to: &mut Side, most: usize) -> bool {
    from.flush();
    let n = from.wire.len().min(most);
    let bytes: Vec<u8> = from.wire.drain(..n).collect();
    to.take(&bytes);
    n > 0
}

pub(crate) fn model(input: &[u8]) {
    let Some(([initial, growth, room], script)) = input.split_first_chunk() else {
        return;
    };
    let change = |base: Config| Config {
        initial_window: 1 + (u32::from(*initial) << 8),
        stream_window: (1 + (u32::from(*initial) << 8)) << (growth % 6),
        connection_window: 65_535,
        room: usize::from(*room) << 12,
        ..base
    };
    let (of_client, of_server) = (change(Config::client()), change(Config::server()));
    let mut client = Side::new(Connection::client(of_client), of_client);
    let mut server = Side::new(Connection::server(of_server), of_server);
    for operation in script.chunks_exact(3).take(2000) {
        let (kind, number, size) = (operation[0], operation[1], operation[2]);
        act(
            &mut client,
            &mut server,
            kind,
            number,
            1 + usize::from(size).pow(2),
        );
    }
    settle(&mut client, &mut server);
}

fn act(client: &mut Side, server: &mut Side, kind: u8, number: u8, size: usize) {
    let (one, other) = if kind & 0x80 == 0 {
        (client, server)
    } else {
        (server, client)
    };
    match kind % 12 {
        0 => {
            let request = ConnectRequest::new("10.0.0.1:80".parse().expect("an authority"));
            if let Ok(stream) = one.connection.open(&request) {
                one.add(stream, false);
            }
        }
        1 | 2 => one.send(number, size),
        3..=5 => _ = deliver(one, other, size),
        6 | 7 => one.consume(number, size),
        8 => one.end(number),
        9 if number.is_multiple_of(4) => one.reset(number / 4),
        9 if number == 1 => one.connection.drain(),
        10 => one.pings += usize::from(one.connection.ping()),
        11 if number.is_multiple_of(2) => one.connection.set_room(size),
        11 => one.connection.tick(),
        _ => {}
    }
}

/// Everybody reads, writes no more, and ends.
fn settle(client: &mut Side, server: &mut Side) {
    let mut moved = true;
    while moved {
        moved = deliver(client, server, usize::MAX) | deliver(server, client, usize::MAX);
        for side in [&mut *client, &mut *server] {
            for number in 0..side.halves.len().min(255) as u8 {
                side.consume(number, usize::MAX);
                side.end(number);
            }
            moved |= !side.connection.output().is_empty();
        }
    }
    for (id, ours) in &client.halves {
        let Some(theirs) = server.halves.get(id) else {
            assert!(ours.gone, "a request was lost");
            continue;
        };
        if !ours.gone && !theirs.gone {
            assert!(ours.peer_ended && theirs.peer_ended, "an end was lost");
            assert_eq!((ours.sent, theirs.sent), (theirs.received, ours.received));
        }
    }
    for side in [client, server] {
        assert_eq!(
            (side.connection.streams_len(), side.connection.held()),
            (0, 0)
        );
        assert_eq!(side.pings, 0, "a PING is unanswered");
    }
}
