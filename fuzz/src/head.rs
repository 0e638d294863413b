//! The head of a CONNECT: a request built of arbitrary fields is either refused, or one that our own client sends, and
//! that our own server then reads as the same.

use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Config, Connection, Event};

/// Names that a head may carry, or must not.
const NAMES: [&[u8]; 14] = [
    b":method",
    b":authority",
    b":scheme",
    b":path",
    b":protocol",
    b"baggage",
    b"forwarded",
    b"traceparent",
    b"x-forwarded-host",
    b"connection",
    b"te",
    b"host",
    b"content-length",
    b"x-any",
];

/// Fields as literals without index: a byte picks the name, a byte is the length of the value, then the value.
fn block(mut script: &[u8]) -> Vec<u8> {
    let mut block = b"\x02\x07CONNECT\x01\x0b10.0.0.1:80".to_vec();
    if script.first().is_some_and(|byte| byte % 8 == 0) {
        block.clear();
    }
    while let [name, len, rest @ ..] = script {
        let (value, rest) = rest.split_at((*len as usize % 64).min(rest.len()));
        let name = NAMES[*name as usize % NAMES.len()];
        block.extend([0, name.len() as u8]);
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value);
        script = rest;
    }
    block
}

fn frame(block: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (block.len() as u32).to_be_bytes();
    [&[a, b, c, 1, 4, 0, 0, 0, 1], block].concat()
}

/// What a fresh server makes of bytes behind its greeting: the request that it reads.
fn read(bytes: &[u8]) -> Option<Box<ConnectRequest>> {
    let mut server = Connection::server(Config::server());
    let mut input = bytes;
    let mut request = None;
    while let Ok(Some(event)) = server.receive(&mut input) {
        if let Event::Request { stream, head } = event {
            server.respond(stream, &ConnectResponse::ok(), true);
            request = Some(head);
        }
    }
    request
}

pub(crate) fn head(input: &[u8]) {
    let mut greeting = Connection::client(Config::client());
    let bytes = [&greeting.output()[..], &frame(&block(input))].concat();
    let Some(request) = read(&bytes) else { return };
    // A header that says nothing, such as `forwarded` without anything that we know, is not sent.
    let sent = read(&send(&request)).expect("our own request is read");
    assert_eq!(sent.authority, request.authority);
    assert_eq!(read(&send(&sent)), Some(sent));
}

fn send(request: &ConnectRequest) -> Vec<u8> {
    let mut client = Connection::client(Config::client());
    client.open(request).expect("a stream");
    std::mem::take(client.output())
}
