//! The bulk path allocates nothing per DATA frame, whichever way the bytes go.

use causeway_hbone as hbone;
use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Config, Connection, DATA_HEADER, Event, StreamId};

const PAYLOAD: usize = 16_375;

/// Hands one side's output to the other, answers requests, and says which stream is open.
fn exchange(from: &mut Connection, to: &mut Connection, wire: &mut Vec<u8>) -> Option<StreamId> {
    wire.append(from.output());
    let mut opened = None;
    let mut input = &wire[..];
    while let Some(event) = to.receive(&mut input).expect("an honest peer") {
        match event {
            Event::Request { stream, .. } => {
                to.respond(stream, &ConnectResponse::ok(), false);
                opened = Some(stream);
            }
            Event::Data { stream, bytes, .. } => to.consumed(stream, bytes.len()),
            _ => {}
        }
    }
    wire.clear();
    opened
}

/// One full frame from one side to the other, and the credit back.
fn send(from: &mut Connection, stream: StreamId, to: &mut Connection, wire: &mut Vec<u8>) {
    wire.append(from.output());
    assert!(from.sendable(stream) >= PAYLOAD);
    let at = wire.len();
    wire.resize(at + DATA_HEADER + PAYLOAD, 7);
    wire[at..at + DATA_HEADER].copy_from_slice(&from.data_header(stream, PAYLOAD, false));
    exchange(from, to, wire);
    exchange(to, from, wire);
}

#[test]
fn a_data_frame_allocates_nothing() {
    let (mut client, mut server) = (
        Connection::client(Config::client()),
        Connection::server(Config::server()),
    );
    let mut wire = Vec::with_capacity(1 << 20);
    exchange(&mut server, &mut client, &mut wire);
    let request = ConnectRequest::new("10.0.0.1:80".parse().expect("an authority"));
    let up = client.open(&request).expect("a stream");
    let down = exchange(&mut client, &mut server, &mut wire).expect("a request");
    exchange(&mut server, &mut client, &mut wire);
    let rounds =
        |n: usize, client: &mut Connection, server: &mut Connection, wire: &mut Vec<u8>| {
            for _ in 0..n {
                send(client, up, server, wire);
                send(server, down, client, wire);
            }
        };
    // Warm: the output buffers have their size.
    rounds(2000, &mut client, &mut server, &mut wire);
    let counted = allocation_counter::measure(|| rounds(2000, &mut client, &mut server, &mut wire));
    assert_eq!(counted.count_total, 0);
}
