//! Credit, limits, GOAWAY and idle cost: what `model` cannot reach.

use super::{
    Seen, client, connect, feed, frame, frames, request, requested, server, settings, tunnel,
};
use crate::headers::ConnectResponse;
use crate::proto::frame::{flag, kind};
use crate::proto::streams::Stream;
use crate::proto::{Config, Connection, ErrorCode, StreamId};

const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;

#[test]
fn a_lowered_initial_window_makes_windows_negative_until_credit_comes() {
    let (mut server, stream) = tunnel(Config::server());
    server.data_header(stream, 16_384, false);
    feed(&mut server, &settings(&[(4, 100)])).unwrap();
    assert_eq!(server.sendable(stream), 0);
    let credit = |n: u32| frame(kind::WINDOW_UPDATE, 0, 1, &n.to_be_bytes());
    assert_eq!(
        feed(&mut server, &credit(16_284)).unwrap(),
        [],
        "the window is 0 now"
    );
    assert_eq!(
        feed(&mut server, &credit(5)).unwrap(),
        [Seen::SendCredit(1)]
    );
    assert_eq!(server.sendable(stream), 5);
    server.data_header(stream, 5, false);
    assert_eq!(server.sendable(stream), 0);
    assert_eq!(
        feed(&mut server, &settings(&[(4, 150)])).unwrap().first(),
        Some(&Seen::Settings)
    );
    assert_eq!(server.sendable(stream), 50);
    assert_eq!(
        feed(&mut server, &settings(&[(4, 0x7fff_ffff)])).unwrap(),
        [Seen::Settings]
    );
    assert_eq!(
        feed(&mut server, &credit(0x7fff_ffff)).unwrap(),
        [Seen::Reset(1, FLOW)]
    );
}

#[test]
fn streams_starved_by_the_connection_wake_in_order() {
    let mut server = server(Config::server());
    let streams: Vec<StreamId> = [1, 3, 5, 7].map(|id| requested(&mut server, id)).into();
    for stream in &streams {
        server.respond(*stream, &ConnectResponse::ok(), false);
    }
    feed(&mut server, &settings(&[(4, 1 << 20)])).unwrap();
    for _ in 0..4 {
        let n = server.sendable(streams[0]);
        server.data_header(streams[0], n, false);
    }
    for stream in &streams {
        assert_eq!(server.sendable(*stream), 0);
    }
    server.reset(streams[2], ErrorCode::CANCEL);
    let credit = frame(kind::WINDOW_UPDATE, 0, 0, &10u32.to_be_bytes());
    assert_eq!(
        feed(&mut server, &credit).unwrap(),
        [
            Seen::SendCredit(1),
            Seen::SendCredit(3),
            Seen::SendCredit(7)
        ]
    );
}

#[test]
fn credit_is_given_at_thresholds_on_the_connection_at_once_and_on_the_stream_when_consumed() {
    let config = Config {
        stream_window: 80_000,
        connection_window: 100_000,
        ..Config::server()
    };
    let (mut server, stream) = tunnel(config);
    feed(&mut server, &frame(kind::DATA, 0, 1, &[0; 24_999])).unwrap();
    assert_eq!(frames(server.output()), []);
    feed(&mut server, &frame(kind::DATA, 0, 1, &[0; 1])).unwrap();
    let credit = |id, n: u32| (kind::WINDOW_UPDATE, 0, id, n.to_be_bytes().to_vec());
    assert_eq!(frames(server.output()), [credit(0, 25_000)]);
    server.output().clear();
    server.consumed(stream, 19_999);
    assert_eq!(frames(server.output()), []);
    server.consumed(stream, 100_000);
    assert_eq!(
        frames(server.output()),
        [credit(1, 25_000)],
        "never more than was received"
    );
}

#[test]
fn a_graceful_end_of_a_server_takes_two_steps() {
    let (mut server, stream) = tunnel(Config::server());
    server.drain();
    let sent = frames(server.output());
    let goaway = |last: u32| (kind::GOAWAY, 0, 0, [last.to_be_bytes(), [0; 4]].concat());
    assert_eq!(sent[0], goaway(0x7fff_ffff));
    assert_eq!(
        feed(&mut server, &connect(3)).unwrap().len(),
        1,
        "still accepted"
    );
    server.output().clear();
    feed(&mut server, &frame(kind::PING, flag::ACK, 0, &sent[1].3)).unwrap();
    assert_eq!(frames(server.output()), [goaway(3)]);
    assert_eq!(
        feed(&mut server, &connect(5)).unwrap(),
        [Seen::Refused(5, "stream refused".into())]
    );
    assert!(!server.is_drained());
    server.reset(stream, ErrorCode::CANCEL);
    feed(&mut server, &frame(kind::RST_STREAM, 0, 3, &[0; 4])).unwrap();
    assert!(server.is_drained());
}

#[test]
fn a_goaway_returns_the_streams_that_the_server_will_not_process() {
    let mut client = client(Config::client());
    for _ in 0..3 {
        client.open(&request()).unwrap();
    }
    let seen = feed(
        &mut client,
        &frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0, b'd']),
    )
    .unwrap();
    assert_eq!(
        seen,
        [
            Seen::GoAway(3, ErrorCode::NO_ERROR),
            Seen::Reset(5, ErrorCode::REFUSED_STREAM)
        ]
    );
    assert!(client.open(&request()).is_err() && !client.is_drained());
}

#[test]
fn stream_limits_hold_both_ways() {
    let mut client = client(Config {
        assumed_streams: 2,
        ..Config::client()
    });
    assert!(client.open(&request()).is_ok() && client.open(&request()).is_ok());
    assert!(client.open(&request()).is_err());
    feed(&mut client, &settings(&[(3, 3)])).unwrap();
    assert_eq!(client.capacity(), 1);
    let mut server = server(Config {
        max_concurrent_streams: 1,
        ..Config::server()
    });
    assert_eq!(
        feed(&mut server, &connect(1)).unwrap(),
        [Seen::Request(1, "10.0.0.1:80".into())]
    );
    assert_eq!(
        feed(&mut server, &connect(3)).unwrap(),
        [Seen::Refused(3, "stream refused".into())]
    );
    assert_eq!(
        feed(&mut server, &connect(3)).unwrap(),
        [],
        "known to be reset: ignored"
    );
}

#[test]
fn informational_answers_are_skipped_and_data_before_the_answer_is_an_error() {
    let mut client = client(Config::client());
    client.open(&request()).unwrap();
    client.open(&request()).unwrap();
    let interim = frame(kind::HEADERS, 4, 1, b"\x08\x03103");
    assert_eq!(feed(&mut client, &interim).unwrap(), []);
    assert_eq!(
        feed(&mut client, &frame(kind::HEADERS, 5, 1, &[0x8d])).unwrap(),
        [Seen::Response(1, 404), Seen::End(1)]
    );
    assert_eq!(
        feed(&mut client, &frame(kind::DATA, 0, 3, b"x")).unwrap(),
        [Seen::Reset(3, PROTOCOL)]
    );
}

#[test]
fn an_idle_stream_is_small_and_an_idle_connection_holds_no_buffers() {
    assert!(size_of::<Stream>() <= 48, "{}", size_of::<Stream>());
    assert!(
        size_of::<Connection>() <= 700,
        "{}",
        size_of::<Connection>()
    );
    let (mut server, stream) = tunnel(Config::server());
    feed(&mut server, &frame(kind::DATA, flag::END_STREAM, 1, b"x")).unwrap();
    server.end(stream);
    assert_eq!((server.streams_len(), server.partial.capacity()), (0, 0));
    assert!(server.ping() && !server.ping());
    let pong = frames(server.output()).pop().expect("a PING");
    assert_eq!(
        feed(&mut server, &frame(kind::PING, flag::ACK, 0, &pong.3)).unwrap(),
        [Seen::Pong]
    );
}
