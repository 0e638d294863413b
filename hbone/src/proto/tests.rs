//! Two connections back to back, and a peer written by hand for everything an honest one would not do.

mod abuse;
mod flow;
mod model;
mod rules;
mod window;

use super::frame::{self, kind, write_settings};
use super::{Config, Connection, ErrorCode, Event, ProtocolError, StreamId};
use crate::headers::{Authority, ConnectRequest, ConnectResponse};

/// What an event was, without its borrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Request(u32, String),
    OtherMethod(u32),
    Refused(u32, String),
    Response(u32, u16),
    Data(u32, Vec<u8>),
    End(u32),
    Reset(u32, ErrorCode),
    SendCredit(u32),
    GoAway(u32, ErrorCode),
    Settings,
    Pong,
}

impl Seen {
    fn of(event: &Event<'_>) -> Self {
        match event {
            Event::Request { stream, head } => {
                Self::Request(stream.number(), head.authority.to_string())
            }
            Event::OtherMethod { stream } => Self::OtherMethod(stream.number()),
            Event::Refused { id, fault } => Self::Refused(*id, fault.to_string()),
            Event::Response { stream, head, .. } => Self::Response(stream.number(), head.status),
            Event::Data { stream, bytes, .. } => Self::Data(stream.number(), bytes.to_vec()),
            Event::End { stream, .. } => Self::End(stream.number()),
            Event::Reset { stream, code, .. } => Self::Reset(stream.number(), *code),
            Event::SendCredit { stream, .. } => Self::SendCredit(stream.number()),
            Event::GoAway { last, code } => Self::GoAway(*last, *code),
            Event::Settings => Self::Settings,
            Event::Pong => Self::Pong,
        }
    }
}

pub(crate) fn request() -> ConnectRequest {
    ConnectRequest::new("10.0.0.1:80".parse::<Authority>().unwrap())
}

/// Feeds bytes and lists what came of them.
pub(crate) fn feed(connection: &mut Connection, bytes: &[u8]) -> Result<Vec<Seen>, ProtocolError> {
    let (mut input, mut seen) = (bytes, Vec::new());
    while let Some(event) = connection.receive(&mut input)? {
        seen.push(Seen::of(&event));
    }
    assert!(input.is_empty(), "None means that the input is used up");
    Ok(seen)
}

/// A server that has seen a client's preface and empty SETTINGS; its own greeting is thrown away.
pub(crate) fn server(config: Config) -> Connection {
    let mut server = Connection::server(config);
    let mut hello = frame::PREFACE.to_vec();
    frame::write_settings(&mut hello, &[]);
    feed(&mut server, &hello).unwrap();
    server.output().clear();
    server
}

/// A client that has seen a server's SETTINGS.
pub(crate) fn client(config: Config) -> Connection {
    let mut client = Connection::client(config);
    let mut hello = Vec::new();
    frame::write_settings(&mut hello, &[]);
    feed(&mut client, &hello).unwrap();
    client.output().clear();
    client
}

pub(crate) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(&mut bytes, kind, flags, id, payload);
    bytes
}

/// A CONNECT to 10.0.0.1:80 as HPACK literals.
pub(crate) fn connect_block() -> Vec<u8> {
    [&b"\x02\x07CONNECT\x01\x0b10.0.0.1:80"[..]].concat()
}

pub(crate) fn connect(id: u32) -> Vec<u8> {
    frame(
        kind::HEADERS,
        frame::flag::END_HEADERS,
        id,
        &connect_block(),
    )
}

/// The frames in an output: type, flags, stream, payload.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let head = frame::Head::parse(*head);
        let (payload, rest) = rest.split_at(head.len as usize);
        frames.push((head.kind, head.flags, head.id, payload.to_vec()));
        bytes = rest;
    }
    frames
}

/// The first request of a server that was fed one, not yet answered.
pub(crate) fn requested(server: &mut Connection, id: u32) -> StreamId {
    let bytes = connect(id);
    let mut input = &bytes[..];
    match server.receive(&mut input) {
        Ok(Some(Event::Request { stream, .. })) => stream,
        other => panic!("{other:?}"),
    }
}

/// A server with stream 1 open and answered.
pub(crate) fn tunnel(config: Config) -> (Connection, StreamId) {
    let mut server = server(config);
    let stream = requested(&mut server, 1);
    server.respond(stream, &ConnectResponse::ok(), false);
    server.output().clear();
    (server, stream)
}

pub(crate) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_settings(&mut bytes, entries);
    bytes
}
