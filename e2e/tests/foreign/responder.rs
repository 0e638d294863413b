//! A small HTTP/2 server on `hbone::proto` over plain TCP: every request gets 200 and a body under flow control, and what
//! breaks HTTP/2 gets what the codec says. Used by `h2spec.rs`.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use hbone::headers::ConnectResponse;
use hbone::proto::{Config, Connection, DATA_HEADER, Event, ProtocolError, StreamId};

/// What every request is answered with. More than the windows that h2spec grants.
const BODY: &[u8] = &[b'b'; 4000];
/// A peer that says nothing for so long is left; h2spec's own limit is 2 s per case.
const SILENCE: Duration = Duration::from_secs(10);

/// Serves connections on a free port of the loopback address for as long as the process lives.
///
/// # Errors
/// When no port can be had.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

/// What is left to be sent of each answer.
type Bodies = HashMap<StreamId, &'static [u8]>;

/// One connection: until the peer closes it, or the codec does.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    // h2spec does not look at what we announce, but takes the protocol's own defaults.
    let mut connection = Connection::server(Config {
        header_table_size: 4096,
        max_frame_size: 16 << 10,
        ..Config::server()
    });
    let (mut bodies, mut buffer) = (Bodies::new(), vec![0; 64 << 10]);
    loop {
        let out = transmit(&mut connection, &mut bodies);
        stream.write_all(&out)?;
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        if receive(&mut connection, &buffer[..n], &mut bodies).is_err() {
            stream.write_all(connection.output())?;
            stream.shutdown(Shutdown::Write)?;
            // Unread bytes would turn the close into a reset, which may overtake the GOAWAY.
            while stream.read(&mut buffer)? > 0 {}
            return Ok(());
        }
    }
}

fn receive(
    connection: &mut Connection,
    mut input: &[u8],
    bodies: &mut Bodies,
) -> Result<(), ProtocolError> {
    while let Some(event) = connection.receive(&mut input)? {
        match event {
            Event::Request { stream, .. } | Event::OtherMethod { stream } => {
                connection.respond(stream, &ConnectResponse::ok(), false);
                bodies.insert(stream, BODY);
            }
            Event::Data { stream, bytes, .. } => connection.consumed(stream, bytes.len()),
            Event::Reset { stream, .. } => _ = bodies.remove(&stream),
            _ => {}
        }
    }
    Ok(())
}

/// All that may be sent now: control frames, and of each body what the windows allow.
fn transmit(connection: &mut Connection, bodies: &mut Bodies) -> Vec<u8> {
    let mut out = std::mem::take(connection.output());
    bodies.retain(|&stream, body| {
        while connection.key(stream).is_some() && !body.is_empty() {
            let n = connection.sendable(stream).min(body.len());
            if n == 0 {
                return true;
            }
            let (part, rest) = body.split_at(n);
            let header: [u8; DATA_HEADER] = connection.data_header(stream, n, rest.is_empty());
            out.extend_from_slice(&header);
            out.extend_from_slice(part);
            *body = rest;
        }
        false
    });
    out
}
