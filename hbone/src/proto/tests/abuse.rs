//! Floods: each ends the connection with ENHANCE_YOUR_CALM after a bounded number of frames, bounded memory until then.
#![allow(clippy::too_many_lines, reason = "tables: one line per flood")]

use super::{Seen, connect, feed, frame, server};
use crate::headers::ConnectResponse;
use crate::proto::frame::{flag, kind};
use crate::proto::{Config, Connection, ErrorCode, Limits};

const LIMITS: Limits = Limits {
    resets: 20,
    control: 50,
    continuations: 4,
    small_data: 30,
    output: 2000,
};

fn victim() -> Connection {
    server(Config {
        limits: LIMITS,
        ..Config::server()
    })
}

/// Feeds one piece after the other until the connection ends; after how many.
fn rounds(mut connection: Connection, mut piece: impl FnMut(u32) -> Vec<u8>) -> u32 {
    for round in 0..200_000 {
        if let Err(error) = feed(&mut connection, &piece(round)) {
            assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
            return round;
        }
        assert!(
            connection.output().len() <= LIMITS.output + 100,
            "replies are bounded"
        );
    }
    panic!("nothing happened")
}

#[test]
fn window_changes_within_one_settings_frame_count_one_by_one() {
    let up_and_down: Vec<(u16, u32)> = (0..60).map(|round| (4, 100 + round % 2)).collect();
    let mut victim = victim();
    let error = feed(&mut victim, &super::settings(&up_and_down)).unwrap_err();
    assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn floods_end_in_enhance_your_calm() {
    let reset = |id| {
        [
            connect(id),
            frame(kind::RST_STREAM, 0, id, &8u32.to_be_bytes()),
        ]
        .concat()
    };
    let made = |id| [connect(id), frame(kind::WINDOW_UPDATE, 0, id, &[0; 4])].concat();
    let bad = |id| frame(kind::HEADERS, 4, id, &[0x82, 0x84, 0x87]);
    let odd = |round: u32| round * 2 + 1;
    assert_eq!(
        rounds(victim(), |round| reset(odd(round))),
        20,
        "rapid reset"
    );
    assert_eq!(
        rounds(victim(), |round| made(odd(round))),
        20,
        "MadeYouReset"
    );
    assert_eq!(
        rounds(victim(), |round| bad(odd(round))),
        20,
        "requests that are no CONNECT"
    );
    assert_eq!(
        rounds(victim(), |_| frame(kind::PING, 0, 0, &[0; 8])),
        50,
        "PING"
    );
    assert_eq!(
        rounds(victim(), |_| frame(kind::SETTINGS, 0, 0, &[])),
        50,
        "SETTINGS"
    );
    assert_eq!(
        rounds(victim(), |_| frame(kind::SETTINGS, 1, 0, &[])),
        51,
        "SETTINGS ACK, one of them due"
    );
    assert_eq!(
        rounds(victim(), |_| frame(kind::PRIORITY, 0, 1, &[0; 5])),
        50,
        "PRIORITY"
    );
    assert_eq!(
        rounds(victim(), |_| frame(99, 0, 0, &[])),
        50,
        "unknown frames"
    );
    let empty = |round| {
        if round == 0 {
            connect(1)
        } else {
            frame(kind::DATA, 0, 1, &[])
        }
    };
    assert_eq!(rounds(victim(), empty), 31, "empty DATA");
    let one = |round| {
        if round == 0 {
            connect(1)
        } else {
            frame(kind::DATA, 0, 1, b"x")
        }
    };
    assert_eq!(
        rounds(victim(), one),
        31,
        "DATA of one byte that nobody consumes"
    );
    let piece = |round| {
        frame(
            if round == 0 {
                kind::HEADERS
            } else {
                kind::CONTINUATION
            },
            0,
            1,
            b"",
        )
    };
    assert_eq!(rounds(victim(), piece), 5, "CONTINUATION");
    let large = frame(kind::HEADERS, flag::END_HEADERS, 1, &vec![0; 200_000]);
    assert_eq!(
        rounds(victim(), |_| large.clone()),
        0,
        "a header block of 200 KB"
    );
}

#[test]
fn unread_replies_end_the_connection() {
    let limits = Limits {
        control: 1_000_000,
        ..LIMITS
    };
    let connection = server(Config {
        limits,
        ..Config::server()
    });
    assert_eq!(
        rounds(connection, |_| frame(kind::PING, 0, 0, &[0; 8])),
        2000 / 17
    );
}

#[test]
fn a_tick_forgives_and_a_reader_pays_off_small_frames() {
    let mut connection = victim();
    for _ in 0..1000 {
        feed(&mut connection, &frame(kind::PING, 0, 0, &[0; 8])).expect("within the limit");
        connection.output().clear();
        connection.tick();
    }
    let seen = feed(&mut connection, &connect(1)).unwrap();
    assert_eq!(seen, [Seen::Request(1, "10.0.0.1:80".into())]);
    let (stream, _) = connection.streams().next().expect("a stream");
    connection.respond(stream, &ConnectResponse::ok(), false);
    feed(&mut connection, &frame(kind::DATA, 0, 1, &[0; 20])).unwrap();
    for _ in 0..1000 {
        feed(&mut connection, &frame(kind::DATA, 0, 1, b"x")).expect("within the limit");
        connection.consumed(stream, 1);
    }
}

#[test]
fn an_hpack_bomb_costs_no_memory() {
    // One entry of 4000 bytes, named 60,000 times: 240 MB if anybody kept it.
    let entry = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let mut connection = victim();
    let block = [entry, vec![0xbe; 60_000]].concat();
    let bytes = frame(kind::HEADERS, flag::END_HEADERS, 1, &block);
    let error = feed(&mut connection, &bytes).unwrap_err();
    assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn a_block_that_copies_one_name_over_and_over_ends_the_connection() {
    let mut connection = server(Config::server());
    // A name of 4000 bytes goes into the table; then entries of two bytes each that take it over.
    let entry = [&b"\x40\x7f\xa1\x1e"[..], &[b'a'; 4000], b"\x00"].concat();
    let block = [entry, [0x7e, 0].repeat(30_000)].concat();
    let bytes = frame(kind::HEADERS, flag::END_HEADERS, 1, &block);
    let error = feed(&mut connection, &bytes).unwrap_err();
    assert_eq!(error.code, ErrorCode::COMPRESSION_ERROR);
}
