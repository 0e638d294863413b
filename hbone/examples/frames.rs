//! The codec alone: messages of a size to and fro on many streams, for callgrind (`e2e/tests/instructions.rs` holds its
//! cost to a limit). Arguments: streams, bytes, rounds.
//! `valgrind --tool=callgrind target/release/examples/frames 64 1024 1000`; a frame is sent by one side and received by
//! the other, twice per stream and round.
#![allow(clippy::print_stdout, reason = "its result")]

use causeway_hbone as hbone;
use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Config, Connection, DATA_HEADER, Event, StreamId};

/// Frames one message on each stream.
fn send(connection: &mut Connection, streams: &[StreamId], payload: &[u8], wire: &mut Vec<u8>) {
    for stream in streams {
        let output = connection.output();
        if !output.is_empty() {
            wire.append(output);
        }
        let n = connection.sendable(*stream).min(payload.len());
        assert_eq!(n, payload.len());
        wire.extend_from_slice(&connection.data_header(*stream, n, false));
        wire.extend_from_slice(&payload[..n]);
    }
    wire.append(connection.output());
}

/// Receives and consumes everything; how many bytes.
fn receive(connection: &mut Connection, wire: &mut Vec<u8>, open: &mut Vec<StreamId>) -> usize {
    let (mut input, mut n) = (&wire[..], 0);
    while let Some(event) = connection.receive(&mut input).expect("an honest peer") {
        match event {
            Event::Data { stream, bytes, .. } => {
                n += bytes.len();
                connection.consumed(stream, bytes.len());
            }
            Event::Request { stream, .. } => {
                connection.respond(stream, &ConnectResponse::ok(), false);
                open.push(stream);
            }
            _ => {}
        }
    }
    wire.clear();
    n
}

fn main() {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .map(|text| text.parse().expect("a number"))
        .collect();
    let [streams, size, rounds] = arguments[..] else {
        panic!("streams, bytes, rounds");
    };
    println!("{} frames", run(streams, size, rounds));
}

/// Sends a message of `size` bytes on each stream, both ways, so many times; how many frames that were.
pub fn run(streams: usize, size: usize, rounds: usize) -> usize {
    let mut client = Connection::client(Config::client());
    let mut server = Connection::server(Config::server());
    let request = ConnectRequest::new("10.0.0.1:80".parse().expect("an authority"));
    let ours: Vec<_> = (0..streams)
        .map(|_| client.open(&request).expect("a stream"))
        .collect();
    let mut wire = Vec::with_capacity(streams * (size + DATA_HEADER) + 4096);
    let mut theirs = Vec::new();
    wire.append(client.output());
    receive(&mut server, &mut wire, &mut theirs);
    wire.append(server.output());
    receive(&mut client, &mut wire, &mut Vec::new());
    let payload = vec![7; size];
    let mut bytes = 0;
    for _ in 0..rounds {
        send(&mut client, &ours, &payload, &mut wire);
        bytes += receive(&mut server, &mut wire, &mut Vec::new());
        send(&mut server, &theirs, &payload, &mut wire);
        bytes += receive(&mut client, &mut wire, &mut Vec::new());
    }
    assert_eq!(bytes, 2 * streams * size * rounds);
    2 * streams * rounds
}
