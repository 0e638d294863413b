//! Arbitrary bytes, frames and header blocks into a connection of either role, driven as a driver would: no panic, no
//! spin, no growth.

use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Config, Connection, Event};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Raw bytes, with and without a greeting.
pub(crate) fn bytes(input: &[u8]) {
    let piece = piece(input);
    drive(Connection::server(Config::server()), input, piece);
    for (connection, bytes) in [server(input), client(input)] {
        drive(connection, &bytes, piece);
    }
}

/// Frames that are mostly well formed.
pub(crate) fn frames(input: &[u8]) {
    let (piece, bytes) = (piece(input), framed(input));
    for (connection, bytes) in [server(&bytes), client(&bytes)] {
        drive(connection, &bytes, piece);
    }
}

/// Header blocks, three of one connection.
pub(crate) fn hpack(input: &[u8]) {
    let mut bytes = Vec::new();
    for (i, block) in input.chunks(1 + input.len() / 3).enumerate() {
        let len = (block.len() as u32).to_be_bytes();
        bytes.extend([len[1], len[2], len[3], 1, 5, 0, 0, 0, 2 * i as u8 + 1]);
        bytes.extend(block);
    }
    let (connection, bytes) = server(&bytes);
    drive(connection, &bytes, 1000);
}

/// How the input is cut.
fn piece(input: &[u8]) -> usize {
    input.first().map_or(1, |byte| 1 + *byte as usize % 64)
}

/// Feeds bytes in pieces and does what a driver would.
fn drive(mut connection: Connection, bytes: &[u8], piece: usize) {
    for part in bytes.chunks(piece.max(1)) {
        let mut input = part;
        let mut events = 0;
        loop {
            let event = match connection.receive(&mut input) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => {
                    assert!(connection.receive(&mut input).is_err());
                    return;
                }
            };
            events += 1;
            assert!(events <= 1000 + part.len(), "more events than bytes");
            match event {
                Event::Request { stream, .. } if stream.number() % 3 == 0 => {
                    connection.respond(stream, &ConnectResponse::status(503), true);
                }
                Event::Request { stream, .. } => {
                    connection.respond(stream, &ConnectResponse::ok(), false)
                }
                Event::Data { stream, bytes, .. } => {
                    assert!(!bytes.is_empty());
                    connection.consumed(stream, bytes.len());
                    let n = connection.sendable(stream).min(bytes.len());
                    if n > 0 {
                        connection.data_header(stream, n, false);
                    }
                }
                Event::End { stream, .. } => connection.end(stream),
                _ => {}
            }
        }
        assert!(input.is_empty());
        assert!(connection.streams_len() <= 200);
        assert_eq!(connection.held(), 0, "everything was consumed");
        connection.output().clear();
    }
}

/// Reads arbitrary bytes as a script of frames that are mostly well formed, so that deep states are reached.
fn framed(script: &[u8]) -> Vec<u8> {
    let block = b"\x02\x07CONNECT\x01\x0b10.0.0.1:80";
    let mut bytes = Vec::new();
    let mut rest = script;
    while let [kind, flags, id, len, tail @ ..] = rest {
        let (payload, next) = tail.split_at((*len as usize % 32).min(tail.len()));
        let payload = if *kind % 11 == 1 && len % 2 == 0 {
            block
        } else {
            payload
        };
        bytes.extend([
            0,
            0,
            payload.len() as u8,
            kind % 11,
            *flags & 0x2d,
            0,
            0,
            0,
            id % 16,
        ]);
        bytes.extend(payload);
        rest = next;
    }
    bytes
}

fn server(bytes: &[u8]) -> (Connection, Vec<u8>) {
    (
        Connection::server(Config::server()),
        [PREFACE, SETTINGS, bytes].concat(),
    )
}

fn client(bytes: &[u8]) -> (Connection, Vec<u8>) {
    let mut client = Connection::client(Config::client());
    for _ in 0..4 {
        let request = ConnectRequest::new("10.0.0.1:80".parse().expect("an authority"));
        client.open(&request).expect("a stream");
    }
    (client, [SETTINGS, bytes].concat())
}
