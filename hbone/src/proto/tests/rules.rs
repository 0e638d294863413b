//! One table row per rule of RFC 9113 that a peer could break, and heads. Long because the tables are.
#![allow(clippy::too_many_lines, reason = "tables: one row per rule")]

use super::{Seen, connect, connect_block, feed, frame, frames, server, settings, tunnel};
use crate::headers::ConnectResponse;
use crate::proto::frame::{Head, flag, kind};
use crate::proto::{Config, Connection, ErrorCode, Event, StreamId};

const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
const SIZE: ErrorCode = ErrorCode::FRAME_SIZE_ERROR;
const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;

fn oversized(kind: u8, id: u32) -> Vec<u8> {
    Head {
        len: (1 << 20) + 1,
        kind,
        flags: 0,
        id,
    }
    .bytes()
    .to_vec()
}

#[test]
fn a_broken_connection_rule_ends_the_connection_with_its_code() {
    let trailing = frame(kind::CONTINUATION, flag::END_HEADERS, 3, &[]);
    let open_block = frame(kind::HEADERS, 0, 3, &connect_block());
    let table: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("DATA on stream 0", frame(kind::DATA, 0, 0, b"x"), PROTOCOL),
        (
            "DATA on an idle stream",
            frame(kind::DATA, 0, 5, b"x"),
            PROTOCOL,
        ),
        (
            "DATA on an even stream",
            frame(kind::DATA, 0, 2, b"x"),
            PROTOCOL,
        ),
        (
            "padding as long as the frame",
            frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0]),
            PROTOCOL,
        ),
        (
            "padded DATA of 0 bytes",
            frame(kind::DATA, flag::PADDED, 1, &[]),
            SIZE,
        ),
        (
            "a frame beyond the announced size",
            oversized(kind::DATA, 1),
            SIZE,
        ),
        (
            "an unknown frame beyond the announced size",
            oversized(99, 0),
            SIZE,
        ),
        ("HEADERS on stream 0", connect(0), PROTOCOL),
        ("HEADERS on an even stream", connect(2), PROTOCOL),
        (
            "HEADERS padding too long",
            frame(kind::HEADERS, 12, 3, &[9, 0]),
            PROTOCOL,
        ),
        (
            "HEADERS priority cut",
            frame(kind::HEADERS, 0x24, 3, &[0; 4]),
            SIZE,
        ),
        (
            "a broken header block",
            frame(kind::HEADERS, 4, 3, &[0x80]),
            ErrorCode::COMPRESSION_ERROR,
        ),
        (
            "a table size above the limit",
            frame(kind::HEADERS, 4, 3, &[0x3f, 0xe2, 0x1f]),
            ErrorCode::COMPRESSION_ERROR,
        ),
        ("a lone CONTINUATION", trailing.clone(), PROTOCOL),
        (
            "a block interrupted by DATA",
            [open_block.clone(), frame(0, 0, 1, b"x")].concat(),
            PROTOCOL,
        ),
        (
            "a block interrupted by PING",
            [open_block.clone(), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL,
        ),
        (
            "a block continued elsewhere",
            [open_block, frame(kind::CONTINUATION, 4, 5, &[])].concat(),
            PROTOCOL,
        ),
        (
            "PRIORITY on stream 0",
            frame(kind::PRIORITY, 0, 0, &[0; 5]),
            PROTOCOL,
        ),
        (
            "RST_STREAM on stream 0",
            frame(kind::RST_STREAM, 0, 0, &[0; 4]),
            PROTOCOL,
        ),
        (
            "RST_STREAM on an idle stream",
            frame(kind::RST_STREAM, 0, 9, &[0; 4]),
            PROTOCOL,
        ),
        (
            "RST_STREAM of 5 bytes",
            frame(kind::RST_STREAM, 0, 1, &[0; 5]),
            SIZE,
        ),
        (
            "SETTINGS on a stream",
            frame(kind::SETTINGS, 0, 1, &[]),
            PROTOCOL,
        ),
        (
            "SETTINGS of 5 bytes",
            frame(kind::SETTINGS, 0, 0, &[0; 5]),
            SIZE,
        ),
        (
            "SETTINGS ACK with a payload",
            frame(kind::SETTINGS, 1, 0, &[0; 6]),
            SIZE,
        ),
        ("ENABLE_PUSH 2", settings(&[(2, 2)]), PROTOCOL),
        ("INITIAL_WINDOW_SIZE 2^31", settings(&[(4, 1 << 31)]), FLOW),
        ("MAX_FRAME_SIZE 16383", settings(&[(5, 16_383)]), PROTOCOL),
        ("MAX_FRAME_SIZE 2^24", settings(&[(5, 1 << 24)]), PROTOCOL),
        ("PING of 7 bytes", frame(kind::PING, 0, 0, &[0; 7]), SIZE),
        (
            "PING on a stream",
            frame(kind::PING, 0, 1, &[0; 8]),
            PROTOCOL,
        ),
        (
            "GOAWAY of 7 bytes",
            frame(kind::GOAWAY, 0, 0, &[0; 7]),
            SIZE,
        ),
        (
            "GOAWAY on a stream",
            frame(kind::GOAWAY, 0, 1, &[0; 8]),
            PROTOCOL,
        ),
        (
            "PUSH_PROMISE",
            frame(kind::PUSH_PROMISE, 4, 1, &[0; 4]),
            PROTOCOL,
        ),
        (
            "WINDOW_UPDATE of 3 bytes",
            frame(kind::WINDOW_UPDATE, 0, 1, &[0; 3]),
            SIZE,
        ),
        (
            "connection credit of 0",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
            PROTOCOL,
        ),
        (
            "connection credit beyond 2^31-1",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
            FLOW,
        ),
        (
            "credit for an idle stream",
            frame(kind::WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]),
            PROTOCOL,
        ),
    ];
    for (what, bytes, code) in table {
        // Whole, and byte by byte.
        for piece in [bytes.len(), 1] {
            let (mut server, _) = tunnel(Config::server());
            let result = bytes
                .chunks(piece)
                .try_for_each(|part| feed(&mut server, part).map(|_| ()));
            assert_eq!(result.map_err(|error| error.code), Err(code), "{what}");
            let goaway = frames(server.output()).pop().expect("a GOAWAY");
            assert_eq!(
                (goaway.0, &goaway.3[4..]),
                (kind::GOAWAY, &code.0.to_be_bytes()[..]),
                "{what}"
            );
            assert!(feed(&mut server, b"more").is_err(), "{what}: final");
        }
    }
}

#[test]
fn a_server_wants_the_preface_and_both_want_settings_first() {
    let mut server = Connection::server(Config::server());
    assert_eq!(
        feed(&mut server, b"GET / HTTP/1.1\r\n").unwrap_err().code,
        PROTOCOL
    );
    let mut client = Connection::client(Config::client());
    assert_eq!(
        feed(&mut client, &frame(kind::PING, 0, 0, &[0; 8]))
            .unwrap_err()
            .code,
        PROTOCOL
    );
    let mut client = Connection::client(Config::client());
    assert_eq!(
        feed(&mut client, &frame(kind::SETTINGS, 1, 0, &[]))
            .unwrap_err()
            .code,
        PROTOCOL
    );
    let mut client = Connection::client(Config::client());
    assert_eq!(
        feed(&mut client, &settings(&[(2, 1)])).unwrap_err().code,
        PROTOCOL,
        "a server may not push"
    );
}

#[test]
fn a_broken_stream_rule_resets_the_stream_alone() {
    let second = frame(kind::HEADERS, flag::END_HEADERS, 1, &[]);
    let table: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("trailers without END_STREAM", second, PROTOCOL),
        (
            "trailers with pseudo-headers",
            frame(kind::HEADERS, 5, 1, &connect_block()),
            PROTOCOL,
        ),
        (
            "credit of 0",
            frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]),
            PROTOCOL,
        ),
        (
            "credit beyond 2^31-1",
            frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255]),
            FLOW,
        ),
        (
            "PRIORITY of 4 bytes",
            frame(kind::PRIORITY, 0, 1, &[0; 4]),
            SIZE,
        ),
        (
            "DATA beyond the stream's credit",
            frame(kind::DATA, 0, 1, &vec![0; 70_000]),
            FLOW,
        ),
        (
            "DATA behind END_STREAM",
            [frame(kind::DATA, 1, 1, b"x"), frame(kind::DATA, 0, 1, b"y")].concat(),
            ErrorCode::STREAM_CLOSED,
        ),
    ];
    for (what, bytes, code) in table {
        let (mut server, stream) = tunnel(Config {
            stream_window: 65_535,
            ..Config::server()
        });
        let seen = feed(&mut server, &bytes).expect(what);
        assert_eq!(seen.last(), Some(&Seen::Reset(1, code)), "{what}");
        let reset = (kind::RST_STREAM, 0, 1, code.0.to_be_bytes().to_vec());
        assert!(frames(server.output()).contains(&reset), "{what}");
        assert_eq!(
            (server.key(stream), server.sendable(stream)),
            (None, 0),
            "{what}: stale"
        );
        assert_eq!(
            feed(&mut server, &frame(kind::DATA, 0, 1, b"late")),
            Ok(vec![]),
            "{what}: late DATA"
        );
        assert_eq!(
            feed(&mut server, &connect(3)).expect(what).len(),
            1,
            "{what}: others live on"
        );
    }
}

#[test]
fn requests_that_are_no_connect_are_answered_without_bothering_anybody() {
    let authority = |text: &str| [&[0x01, text.len() as u8][..], text.as_bytes()].concat();
    let connect_method = b"\x02\x07CONNECT".to_vec();
    let table: Vec<(&str, Vec<u8>, &str, Option<u8>)> = vec![
        (
            "no authority",
            connect_method.clone(),
            "authority has no valid host",
            Some(0x8c),
        ),
        (
            "no port",
            [connect_method.clone(), authority("host")].concat(),
            "authority has no valid port",
            Some(0x8c),
        ),
        (
            "a path",
            [connect_method.clone(), authority("h:1"), vec![0x84]].concat(),
            "malformed head: pseudo-header not allowed for CONNECT",
            None,
        ),
        (
            "GET without a scheme",
            vec![0x82, 0x84],
            "malformed head: no scheme or no path",
            None,
        ),
        (
            "GET without a path",
            vec![0x82, 0x87],
            "malformed head: no scheme or no path",
            None,
        ),
        (
            "GET of an empty path",
            vec![0x82, 0x87, 0x04, 0],
            "malformed head: empty path",
            None,
        ),
        (
            "GET of two paths",
            vec![0x82, 0x87, 0x84, 0x84],
            "malformed head: pseudo-header twice",
            None,
        ),
        (
            "GET with a status",
            vec![0x82, 0x87, 0x84, 0x88],
            "malformed head: pseudo-header of a response",
            None,
        ),
        (
            "two methods",
            [connect_method.clone(), connect_method.clone()].concat(),
            "malformed head: pseudo-header twice",
            None,
        ),
        (
            "no method",
            authority("h:1"),
            "malformed head: no method",
            None,
        ),
        (
            "upper case",
            [
                connect_method.clone(),
                authority("h:1"),
                b"\x00\x01A\x01b".to_vec(),
            ]
            .concat(),
            "malformed head: header name",
            None,
        ),
        (
            "a line break",
            [
                connect_method.clone(),
                authority("h:1"),
                b"\x00\x01a\x01\n".to_vec(),
            ]
            .concat(),
            "malformed head: header value",
            None,
        ),
        (
            "connection",
            [
                connect_method,
                authority("h:1"),
                b"\x00\x0aconnection\x01x".to_vec(),
            ]
            .concat(),
            "malformed head: connection header",
            None,
        ),
    ];
    for (what, block, fault, status) in table {
        let mut server = server(Config::server());
        let seen = feed(
            &mut server,
            &frame(kind::HEADERS, flag::END_HEADERS, 1, &block),
        )
        .expect(what);
        assert_eq!(seen, [Seen::Refused(1, fault.to_string())], "{what}");
        let sent = frames(server.output());
        let answer = status.map(|status| (kind::HEADERS, 5, 1, vec![status]));
        let code = if status.is_some() {
            ErrorCode::NO_ERROR
        } else {
            PROTOCOL
        };
        let reset = (kind::RST_STREAM, 0, 1, code.0.to_be_bytes().to_vec());
        assert_eq!(
            sent,
            answer.into_iter().chain([reset]).collect::<Vec<_>>(),
            "{what}"
        );
        assert_eq!(server.streams_len(), 0, "{what}");
    }
}

#[test]
fn data_behind_the_end_of_a_stream_is_answered_by_one_reset() {
    let over: [fn(&mut Connection, StreamId) -> Vec<u8>; 2] = [
        |server, stream| {
            server.end(stream);
            frame(kind::DATA, flag::END_STREAM, 1, b"")
        },
        |_, _| frame(kind::RST_STREAM, 0, 1, &8u32.to_be_bytes()),
    ];
    for end in over {
        let (mut server, stream) = tunnel(Config::server());
        let last = end(&mut server, stream);
        feed(&mut server, &last).unwrap();
        assert_eq!(server.streams_len(), 0);
        server.output().clear();
        for _ in 0..2 {
            let seen = feed(&mut server, &frame(kind::DATA, 0, 1, b"late"));
            assert_eq!(seen, Ok(vec![]));
        }
        let code = ErrorCode::STREAM_CLOSED.0.to_be_bytes().to_vec();
        assert_eq!(frames(server.output()), [(kind::RST_STREAM, 0, 1, code)]);
    }
}

#[test]
fn a_whole_request_of_another_method_is_the_drivers_to_answer() {
    let mut server = server(Config::server());
    let get = frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        1,
        &[0x82, 0x84, 0x87],
    );
    let seen = feed(&mut server, &get).unwrap();
    assert_eq!(seen, [Seen::OtherMethod(1), Seen::End(1)]);
    let (stream, _) = server.streams().next().unwrap();
    server.respond(stream, &ConnectResponse::status(400), true);
    let answer = (kind::HEADERS, 5, 1, vec![0x8c]);
    assert_eq!(frames(server.output()), [answer]);
    assert_eq!(server.streams_len(), 0);
}

#[test]
fn a_header_list_beyond_the_limit_is_431_and_hpack_stays_in_step() {
    let mut server = server(Config {
        max_header_list: 1000,
        ..Config::server()
    });
    let big = [&b"\x40\x01a\x7f\x49"[..], &[b'x'; 200]].concat();
    // The entry goes into the table and is named five times.
    let block = [connect_block(), big, vec![0xbe; 5]].concat();
    let seen = feed(
        &mut server,
        &frame(kind::HEADERS, flag::END_HEADERS, 1, &block),
    )
    .unwrap();
    assert_eq!(seen, [Seen::Refused(1, "header list too large".into())]);
    let again = [connect_block(), vec![0xbe]].concat();
    let seen = feed(
        &mut server,
        &frame(kind::HEADERS, flag::END_HEADERS, 3, &again),
    )
    .unwrap();
    assert_eq!(seen, [Seen::Request(3, "10.0.0.1:80".into())]);
}

#[test]
fn padding_priority_and_continuation_are_understood() {
    let mut server = server(Config::server());
    let block = connect_block();
    let (a, b) = block.split_at(5);
    let first = [&[2, 0, 0, 0, 0, 0][..], a, &[0, 0]].concat();
    let bytes = [
        frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &first),
        frame(kind::CONTINUATION, 0, 1, &[]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, b),
        frame(
            kind::DATA,
            flag::PADDED | flag::END_STREAM,
            1,
            &[3, b'h', b'i', 0, 0, 0],
        ),
        frame(77, 255, 1, b"unknown"),
    ]
    .concat();
    let expected = [
        Seen::Request(1, "10.0.0.1:80".into()),
        Seen::Data(1, b"hi".to_vec()),
        Seen::End(1),
    ];
    assert_eq!(feed(&mut server, &bytes).unwrap(), expected);
}

#[test]
fn data_is_passed_on_before_its_frame_is_whole() {
    let (mut server, _) = tunnel(Config::server());
    let bytes = frame(kind::DATA, flag::END_STREAM, 1, b"abcdef");
    assert_eq!(
        feed(&mut server, &bytes[..12]).unwrap(),
        [Seen::Data(1, b"abc".to_vec())]
    );
    assert_eq!(
        feed(&mut server, &bytes[12..]).unwrap(),
        [Seen::Data(1, b"def".to_vec()), Seen::End(1)]
    );
}

#[test]
fn an_end_behind_a_request_is_seen_after_the_driver_acted_on_it() {
    let mut server = server(Config::server());
    let bytes = frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        1,
        &connect_block(),
    );
    let mut input = &bytes[..];
    let Ok(Some(Event::Request { stream, .. })) = server.receive(&mut input) else {
        panic!("no request")
    };
    server.set_key(stream, 7);
    assert_eq!(
        server.receive(&mut input),
        Ok(Some(Event::End { stream, key: 7 }))
    );
    server.respond(stream, &ConnectResponse::ok(), true);
    assert_eq!(server.streams_len(), 0);
}
