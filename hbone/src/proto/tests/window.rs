//! Windows that grow by need and shrink by shortage, and what a connection can be made to hold.

use super::{client, connect, feed, frame, frames, request, requested, server, tunnel};
use crate::headers::ConnectResponse;
use crate::proto::frame::{DEFAULT_WINDOW, flag, kind, number};
use crate::proto::window::PROBE;
use crate::proto::{Config, Connection, Event, StreamId};

const INITIAL: usize = 256 << 10;
const CAP: usize = 4 << 20;

fn window(connection: &Connection, stream: StreamId) -> usize {
    connection.streams.stream(stream).unwrap().window as usize
}

/// What the peer may send.
fn credit(connection: &Connection, stream: StreamId) -> usize {
    connection.streams.stream(stream).unwrap().recv_window as usize
}

fn pong(connection: &mut Connection) {
    feed(connection, &frame(kind::PING, flag::ACK, 0, &PROBE)).unwrap();
}

/// Receives `n` bytes on a stream, in frames of at most 16 KiB.
fn arrive(connection: &mut Connection, id: u32, n: usize) {
    let mut left = n;
    while left > 0 {
        let len = left.min(16_384);
        feed(connection, &frame(kind::DATA, 0, id, &vec![0; len])).unwrap();
        left -= len;
    }
}

/// Two round trips of a stream whose reader keeps up and whose sender waits for credit: a window of bytes in each.
fn full_window(connection: &mut Connection, stream: StreamId) {
    for _ in 0..2 {
        let n = credit(connection, stream);
        arrive(connection, stream.number(), n);
        connection.consumed(stream, n);
        pong(connection);
    }
    connection.output().clear();
}

/// A server that has `n` streams, all answered.
fn tunnels(n: u32, config: Config) -> (Connection, Vec<StreamId>) {
    let mut server = server(config);
    let streams: Vec<StreamId> = (0..n).map(|i| requested(&mut server, 2 * i + 1)).collect();
    for stream in &streams {
        server.respond(*stream, &ConnectResponse::ok(), false);
    }
    server.output().clear();
    (server, streams)
}

#[test]
fn windows_are_announced_small_and_the_connection_window_large() {
    let mut fresh = Connection::server(Config::server());
    let sent = frames(fresh.output());
    let entry = |id: u8| {
        let found = sent[0].3.chunks(6).find(|entry| entry[..2] == [0, id]);
        number(&found.unwrap()[2..]) as usize
    };
    assert_eq!(entry(4), INITIAL);
    assert_eq!(sent[1].0, kind::WINDOW_UPDATE);
    assert_eq!(number(&sent[1].3), (16 << 20) - DEFAULT_WINDOW);
}

#[test]
fn a_window_doubles_when_a_full_one_was_used_in_two_round_trips() {
    let (mut server, stream) = tunnel(Config::server());
    full_window(&mut server, stream);
    assert_eq!(window(&server, stream), INITIAL, "it was measured");
    let mut rounds = 0;
    while window(&server, stream) < CAP {
        full_window(&mut server, stream);
        rounds += 1;
        assert!(rounds < 20, "{}", window(&server, stream));
    }
    full_window(&mut server, stream);
    full_window(&mut server, stream);
    assert_eq!(window(&server, stream), CAP, "and never more");
    arrive(&mut server, 1, CAP);
    server.consumed(stream, CAP);
    let pings = frames(server.output());
    assert!(
        pings.iter().all(|sent| sent.0 != kind::PING),
        "nothing is left to measure"
    );
}

#[test]
fn a_window_that_suffices_stays() {
    let (mut server, stream) = tunnel(Config::server());
    for _ in 0..50 {
        // Half a window in two round trips.
        for _ in 0..2 {
            arrive(&mut server, 1, INITIAL / 4);
            server.consumed(stream, INITIAL / 4);
            pong(&mut server);
        }
        server.output().clear();
        server.tick();
    }
    assert_eq!(window(&server, stream), INITIAL);
}

#[test]
fn a_stalled_reader_keeps_the_window_that_it_has() {
    let (mut server, stream) = tunnel(Config::server());
    arrive(&mut server, 1, INITIAL);
    for _ in 0..10 {
        pong(&mut server);
    }
    assert_eq!((window(&server, stream), server.held()), (INITIAL, INITIAL));
    assert!(
        frames(server.output())
            .iter()
            .all(|sent| sent.0 != kind::WINDOW_UPDATE)
    );
    // One that reads a little at a time, always behind, is no better.
    for _ in 0..200 {
        server.consumed(stream, 1000);
        let credit = credit(&server, stream);
        arrive(&mut server, 1, credit);
        pong(&mut server);
    }
    assert_eq!(window(&server, stream), INITIAL);
}

#[test]
fn streams_that_read_are_credited_beside_hundreds_that_do_not() {
    // Equal windows of stream and connection: what froze others elsewhere.
    let config = Config {
        initial_window: 65_535,
        stream_window: 65_535,
        connection_window: 65_535,
        ..Config::server()
    };
    let (mut server, streams) = tunnels(200, config);
    for stalled in &streams[1..] {
        arrive(&mut server, stalled.number(), 65_535);
    }
    server.output().clear();
    for _ in 0..100 {
        arrive(&mut server, 1, 65_535);
        server.consumed(streams[0], 65_535);
    }
    assert_eq!(server.held(), 199 * 65_535);
}

#[test]
fn what_a_connection_can_be_made_to_hold_is_bounded() {
    let config = Config {
        room: 1 << 20,
        ..Config::server()
    };
    let (mut server, streams) = tunnels(8, config);
    // All streams read at full speed for long, then none does.
    for _ in 0..10 {
        for stream in &streams {
            full_window(&mut server, *stream);
        }
    }
    let grown: usize = streams
        .iter()
        .map(|stream| window(&server, *stream) - INITIAL)
        .sum();
    assert!(grown > 0 && grown <= 1 << 20, "{grown}");
    for stream in &streams {
        let credit = credit(&server, *stream);
        arrive(&mut server, stream.number(), credit);
    }
    assert!(
        server.held() <= 8 * INITIAL + (1 << 20),
        "{}",
        server.held()
    );
    let held = |stream: &StreamId| server.streams.stream(*stream).unwrap().unconsumed as usize;
    let heaviest = *streams.iter().max_by_key(|stream| held(stream)).unwrap();
    let bytes = held(&heaviest);
    server.reset(heaviest, crate::proto::ErrorCode::CANCEL);
    assert!(bytes > INITIAL && server.held() <= 8 * INITIAL + (1 << 20) - bytes);
}

/// One measurement in which every stream uses its whole window twice.
fn all_full(connection: &mut Connection, streams: &[StreamId]) {
    for _ in 0..2 {
        for stream in streams {
            let n = credit(connection, *stream);
            arrive(connection, stream.number(), n);
            connection.consumed(*stream, n);
        }
        pong(connection);
    }
    connection.output().clear();
}

#[test]
fn busy_streams_share_what_one_alone_may_have() {
    let (mut server, streams) = tunnels(8, Config::server());
    for _ in 0..20 {
        full_window(&mut server, streams[0]);
    }
    assert_eq!(window(&server, streams[0]), CAP);
    for _ in 0..5 {
        for _ in 0..20 {
            all_full(&mut server, &streams);
        }
        server.tick();
    }
    let windows: Vec<_> = streams.iter().map(|one| window(&server, *one)).collect();
    let together: usize = windows.iter().sum();
    assert!(
        together <= 2 * CAP && windows[0] <= 2 * CAP / 8,
        "{windows:?}"
    );
    // The others have gone: it may have all again.
    for _ in 0..3 {
        server.tick();
        for _ in 0..20 {
            full_window(&mut server, streams[0]);
        }
    }
    assert_eq!(window(&server, streams[0]), CAP);
}

#[test]
fn a_window_that_is_not_used_is_given_back() {
    let (mut server, streams) = tunnels(2, Config::server());
    for _ in 0..3 {
        full_window(&mut server, streams[0]);
    }
    let grown = window(&server, streams[0]);
    assert!(grown > INITIAL, "{grown}");
    // The neighbour's bytes measure the round trips.
    for _ in 0..200 {
        arrive(&mut server, 1, INITIAL / 16);
        server.consumed(streams[0], INITIAL / 16);
        for _ in 0..2 {
            arrive(&mut server, 3, INITIAL / 4);
            server.consumed(streams[1], INITIAL / 4);
            pong(&mut server);
        }
        server.output().clear();
        server.tick();
    }
    assert_eq!(window(&server, streams[0]), INITIAL);
}

#[test]
fn without_room_a_slow_reader_shrinks_to_one_frame_and_a_fast_one_goes_on() {
    let (mut server, streams) = tunnels(2, Config::server());
    server.set_room(100_000);
    arrive(&mut server, 1, INITIAL);
    for _ in 0..INITIAL / 1000 {
        server.consumed(streams[0], 1000);
        let credit = credit(&server, streams[0]);
        arrive(&mut server, 1, credit);
        assert!(server.held() <= INITIAL);
        for _ in 0..2 {
            arrive(&mut server, 3, INITIAL / 2);
            server.consumed(streams[1], INITIAL / 2);
            pong(&mut server);
        }
    }
    assert!(server.held() <= 100_000, "{}", server.held());
    assert_eq!(window(&server, streams[1]), INITIAL);
    // It reads again, and there is room.
    server.set_room(usize::MAX);
    for _ in 0..20 {
        let held = server.streams.stream(streams[0]).unwrap().unconsumed;
        server.consumed(streams[0], held as usize);
        full_window(&mut server, streams[0]);
    }
    assert_eq!(window(&server, streams[0]), CAP);
}

#[test]
fn readers_give_grown_windows_back_when_the_room_is_taken_away() {
    let (mut server, stream) = tunnel(Config::server());
    for _ in 0..10 {
        full_window(&mut server, stream);
    }
    assert_eq!(window(&server, stream), CAP);
    server.set_room(0);
    for _ in 0..10 {
        full_window(&mut server, stream);
    }
    assert_eq!(
        (window(&server, stream), server.streams.excess),
        (INITIAL, 0)
    );
}

#[test]
fn a_window_that_shrank_before_the_peer_knew_the_initial_one_stays_above_nothing() {
    let config = Config {
        initial_window: 20_000,
        room: 0,
        ..Config::server()
    };
    let mut server = server(config);
    feed(&mut server, &connect(1)).unwrap();
    let (stream, _) = server.streams().next().unwrap();
    server.respond(stream, &ConnectResponse::ok(), false);
    arrive(&mut server, 1, 65_535);
    for _ in 0..45 {
        server.consumed(stream, 1000);
        let credit = credit(&server, stream);
        arrive(&mut server, 1, credit);
    }
    feed(&mut server, &frame(kind::SETTINGS, flag::ACK, 0, &[])).unwrap();
    server.consumed(stream, 65_535);
    let state = server.streams.stream(stream).unwrap();
    assert!(state.recv_window > 0, "{state:?}");
    assert_eq!(
        state.recv_window + state.unconsumed as i32 + state.credit,
        state.window as i32
    );
}

/// A sender with endless bytes and a reader that keeps up, one-way bytes in flight for half a round trip. What a round
/// trip carries, one number for each.
fn at_a_distance(rounds: usize) -> Vec<usize> {
    let mut client = client(Config::client());
    let mut server = Connection::server(Config::server());
    let stream = client.open(&request()).unwrap();
    let mut to_server = [crate::proto::frame::PREFACE, &super::settings(&[])[..]].concat();
    let mut carried = Vec::new();
    let mut answered = false;
    for _ in 0..rounds {
        to_server.append(client.output());
        while answered && client.sendable(stream) > 0 {
            let n = client.sendable(stream);
            to_server.extend(client.data_header(stream, n, false));
            to_server.extend(vec![0; n]);
        }
        let (mut input, mut n) = (&to_server[..], 0);
        while let Some(event) = server.receive(&mut input).unwrap() {
            match event {
                Event::Request { stream, .. } => {
                    server.respond(stream, &ConnectResponse::ok(), false)
                }
                Event::Data { stream, bytes, .. } => {
                    n += bytes.len();
                    server.consumed(stream, bytes.len());
                }
                _ => {}
            }
        }
        to_server.clear();
        let to_client = std::mem::take(server.output());
        feed(&mut client, &to_client).unwrap();
        answered = true;
        carried.push(n);
    }
    carried
}

#[test]
fn at_a_distance_the_window_reaches_its_cap_within_a_few_round_trips() {
    let carried = at_a_distance(40);
    let full = carried.iter().position(|n| *n >= CAP);
    assert!(full.is_some_and(|at| at <= 25), "{carried:?}");
    assert_eq!(carried.iter().max(), Some(&CAP), "{carried:?}");
}
