//! Two nodes in one process over real sockets and real TLS: bytes, half-closes, resets, policy cuts, drain.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{Pair, content};
use mesh::policy::{Policy, PolicyName, Scope};
use mesh::state::Update;
use ztunnel::worker::api::{Notice, Reason};

/// Sends `ours` in odd pieces, ends, and returns what came until the other end.
fn exchange(stream: TcpStream, ours: &[u8], piece: usize) -> Vec<u8> {
    let mut reader = stream.try_clone().unwrap();
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).map(|_| got)
    });
    let mut writer = stream;
    for part in ours.chunks(piece) {
        writer.write_all(part).unwrap();
    }
    writer.shutdown(Shutdown::Write).unwrap();
    reading.join().unwrap().unwrap()
}

/// The application: answers the first 8 bytes (a number) with contents of its own, takes everything.
fn serve(
    pair: &Pair,
    connections: usize,
    len: usize,
) -> thread::JoinHandle<Vec<(u64, usize, bool)>> {
    let listener = pair.app.try_clone().unwrap();
    thread::spawn(move || {
        let serving: Vec<_> = (0..connections)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                thread::spawn(move || {
                    let mut number = [0; 8];
                    stream.read_exact(&mut number).unwrap();
                    let number = u64::from_be_bytes(number);
                    let got = exchange(stream, &content(number + 1000, len), 50_000);
                    (number, got.len(), got == content(number, len))
                })
            })
            .collect();
        serving.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn both_directions_at_once_over_many_connections_lose_nothing() {
    const CONNECTIONS: u64 = 40;
    const LEN: usize = 1_000_000;
    let pair = Pair::start(2, |_| {});
    let serving = serve(&pair, CONNECTIONS as usize, LEN);
    let calling: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let mut stream = pair.call();
            thread::spawn(move || {
                stream.write_all(&number.to_be_bytes()).unwrap();
                let got = exchange(
                    stream,
                    &content(number, LEN),
                    1 + 977 * (number as usize + 1),
                );
                got == content(number + 1000, LEN)
            })
        })
        .collect();
    assert!(
        calling.into_iter().all(|one| one.join().unwrap()),
        "a caller got other bytes"
    );
    let served = serving.join().unwrap();
    assert!(
        served.iter().all(|(_, len, same)| *len == LEN && *same),
        "the application got other bytes: {served:?}"
    );
    pair.stop();
}

/// One connection with the application's end of it, after a ping and a pong.
fn connected(pair: &Pair) -> (TcpStream, TcpStream) {
    let mut client = pair.call();
    client.write_all(b"ping").unwrap();
    let (mut server, _) = pair.app.accept().unwrap();
    let mut four = [0; 4];
    server.read_exact(&mut four).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"pong");
    (client, server)
}

fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .is_err_and(|fault| fault.kind() == ErrorKind::ConnectionReset)
}

fn reset(stream: TcpStream) {
    sys::socket::set_linger_reset(&stream).unwrap();
}

#[test]
fn a_reset_arrives_as_a_reset_in_either_direction() {
    let mut pair = Pair::start(1, |_| {});
    let (client, mut server) = connected(&pair);
    reset(client);
    assert!(is_reset(&mut server));
    let (mut client, server) = connected(&pair);
    reset(server);
    assert!(is_reset(&mut client));
    let mut reasons = Vec::new();
    while reasons.len() < 2 {
        reasons.push(pair.notice(0, |notice| match notice {
            Notice::Closed(closed) => Some(closed.reason),
            _ => None,
        }));
    }
    assert_eq!(reasons, [Reason::SourceReset, Reason::DestinationReset]);
    pair.stop();
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    let mut pair = Pair::start(1, |_| {});
    let (mut client, mut server) = connected(&pair);
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).unwrap();
    let bytes = content(7, 3_000_000);
    let sent = bytes.clone();
    let sending = thread::spawn(move || server.write_all(&sent));
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    sending.join().unwrap().unwrap();
    assert!(got == bytes);
    let (sent, received) = pair.notice(0, |notice| match notice {
        Notice::Closed(closed) if closed.reason == Reason::Complete => Some((
            closed.connection.bytes.sent(),
            closed.connection.bytes.received(),
        )),
        _ => None,
    });
    assert_eq!((sent, received), (3_000_004, 4));
    pair.stop();
}

#[test]
fn a_new_policy_cuts_a_live_connection_and_refuses_the_next() {
    let mut pair = Pair::start(2, |_| {});
    let (mut client, mut server) = connected(&pair);
    let deny_all = Policy::invalid(PolicyName::new("app", "nobody"), Scope::Namespace, "test");
    pair.state.apply(vec![Update::Policy(Arc::new(deny_all))]);
    let changed = Instant::now();
    pair.publish();
    assert!(is_reset(&mut client) && is_reset(&mut server));
    assert!(changed.elapsed() < Duration::from_secs(10));
    let mut refused = pair.call();
    let _ = refused.write_all(b"ping");
    assert!(is_reset(&mut refused));
    let detail = pair.notice(1, |notice| match notice {
        Notice::Closed(closed) if closed.reason == Reason::PolicyDenied => closed.detail.clone(),
        _ => None,
    });
    assert!(detail.contains("app/nobody"), "{detail}");
    pair.stop();
}

#[test]
fn a_drain_lets_running_connections_finish() {
    let mut pair = Pair::start(1, |_| {});
    let (mut client, mut server) = connected(&pair);
    let deadline = Instant::now() + Duration::from_secs(60);
    pair.run(pair.workers(0).drain(deadline)).unwrap();
    pair.run(pair.workers(1).drain(deadline)).unwrap();
    client.write_all(b"still here").unwrap();
    let mut ten = [0; 10];
    server.read_exact(&mut ten).unwrap();
    drop(client);
    drop(server);
    for node in [0, 1] {
        pair.notice(node, |notice| {
            matches!(notice, Notice::Drained { .. }).then_some(())
        });
    }
    pair.stop();
}
