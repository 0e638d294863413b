//! The TLS seam against itself: handshake in any segmentation, key updates, orderly and unorderly ends, garbage.

use std::sync::LazyLock;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::ca::TestCa;

use super::*;

/// A session with what it has received and what it has to send.
struct End {
    tls: Tls,
    plain: Vec<u8>,
    out: Outgoing,
    state: Opened,
}

impl End {
    fn new(tls: Tls) -> Self {
        Self {
            tls,
            plain: Vec::new(),
            out: Outgoing::default(),
            state: Opened::default(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        let mut rx = vec![0; FRONT + MAX_HELD + bytes.len()];
        let end = self.tls.resume(&mut rx);
        rx[end..end + bytes.len()].copy_from_slice(bytes);
        let (rx, mut plain) = (&mut rx[..end + bytes.len()], 0);
        let opened = self.tls.open(rx, &mut plain, &mut self.out);
        self.plain.extend_from_slice(&rx[..plain]);
        self.state = opened?;
        Ok(())
    }

    fn take_output(&mut self) -> Vec<u8> {
        let bytes = self.out.pending().to_vec();
        self.out.clear();
        bytes
    }
}

static CA: LazyLock<TestCa> = LazyLock::new(|| TestCa::new("cluster.local"));

fn pair() -> (End, End) {
    pair_of(&CA)
}

fn pair_of(ca: &TestCa) -> (End, End) {
    let issue = |account| ca.issue(&ca.identity("ns", account), Duration::from_secs(3600));
    let name = ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
    let client = Tls::client(issue("client").client_config(), name).unwrap();
    let server = Tls::server(issue("server").server_config()).unwrap();
    (End::new(client), End::new(server))
}

/// Carries bytes to and fro in pieces of `piece` until both are silent.
fn settle(a: &mut End, b: &mut End, piece: usize) -> Result<(), TlsError> {
    a.feed(&[])?;
    b.feed(&[])?;
    loop {
        let (to_b, to_a) = (a.take_output(), b.take_output());
        if to_a.is_empty() && to_b.is_empty() {
            return Ok(());
        }
        for part in to_b.chunks(piece) {
            b.feed(part)?;
        }
        for part in to_a.chunks(piece) {
            a.feed(part)?;
        }
    }
}

#[test]
fn the_handshake_succeeds_in_any_segmentation_and_holds_nothing_afterwards() {
    for piece in [1, 7, 100, 1 << 20] {
        let (mut client, mut server) = pair();
        settle(&mut client, &mut server, piece).unwrap();
        assert!(
            client.state.established && server.state.established,
            "pieces of {piece}"
        );
        assert_eq!((client.tls.held(), server.tls.held()), (0, 0));
        assert!(
            client.tls.take_peer_certificates().is_some()
                && server.tls.take_peer_certificates().is_some()
        );
    }
}

#[test]
fn bytes_right_behind_the_handshake_are_opened_with_it() {
    let (mut client, mut server) = pair();
    client.feed(&[]).unwrap();
    let hello = client.take_output();
    server.feed(&hello).unwrap();
    let answer = server.take_output();
    client.feed(&answer).unwrap();
    assert!(client.state.established);
    client.tls.seal(&[9; 40_000], &mut client.out).unwrap();
    let flight = client.take_output();
    // Cut so that half a record stands behind the handshake's last.
    let (front, rest) = flight.split_at(flight.len() - 5_000);
    server.feed(front).unwrap();
    assert!(server.state.established && server.plain.len() == 2 * RECORD);
    server.feed(rest).unwrap();
    assert!(server.plain == vec![9; 40_000]);
}

#[test]
fn bytes_arrive_whole_over_records_and_key_updates() {
    let (mut client, mut server) = pair();
    settle(&mut client, &mut server, 4096).unwrap();
    let bytes: Vec<u8> = (0..300_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let mut sent = Vec::new();
    for (turn, part) in bytes.chunks(70_001).enumerate() {
        client.tls.seal(part, &mut client.out).unwrap();
        sent.extend_from_slice(part);
        // Goes out with the next record.
        refresh_keys(&mut client);
        if turn % 2 == 1 {
            refresh_keys(&mut server);
            server.tls.seal(b"pong", &mut server.out).unwrap();
        }
        settle(&mut client, &mut server, 999).unwrap();
    }
    assert!(server.plain == sent);
    assert_eq!(client.plain, b"pong".repeat(2));
    assert_eq!((client.tls.held(), server.tls.held()), (0, 0));
}

fn refresh_keys(end: &mut End) {
    if let Stage::Open(records) = &mut end.tls.stage {
        records.update_due = true;
    }
}

#[test]
fn close_notify_is_an_orderly_end_after_the_bytes_before_it() {
    let (mut client, mut server) = pair();
    settle(&mut client, &mut server, 4096).unwrap();
    client.tls.seal(b"last words", &mut client.out).unwrap();
    client.tls.close(&mut client.out).unwrap();
    let bytes = client.take_output();
    server.feed(&bytes).unwrap();
    assert_eq!(server.plain, b"last words");
    assert!(server.state.closed);
    // The other direction still works, as TLS 1.3 allows.
    server.tls.seal(b"thanks", &mut server.out).unwrap();
    server.tls.close(&mut server.out).unwrap();
    let bytes = server.take_output();
    client.feed(&bytes).unwrap();
    assert_eq!(client.plain, b"thanks");
    assert!(client.state.closed);
    assert!(client.tls.seal(b"more", &mut client.out).is_err());
}

#[test]
fn garbage_ends_the_session_with_an_alert_and_never_a_panic() {
    let (mut client, mut server) = pair();
    assert!(server.feed(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").is_err());
    assert!(!server.out.is_empty(), "an alert is due");
    let alert = server.take_output();
    client.feed(&[]).unwrap();
    let told = client.feed(&alert).unwrap_err();
    assert!(told.to_string().contains("alert"), "{told}");
    assert!(client.tls.seal(b"x", &mut client.out).is_err());
}

#[test]
fn altered_records_are_refused_but_what_came_before_counts() {
    let (mut client, mut server) = pair();
    settle(&mut client, &mut server, 4096).unwrap();
    client.tls.seal(b"good", &mut client.out).unwrap();
    let good = client.take_output();
    client.tls.seal(b"bad!", &mut client.out).unwrap();
    let mut bad = client.take_output();
    *bad.last_mut().unwrap() ^= 1;
    let told = server.feed(&[good, bad].concat());
    assert!(told.is_err());
    assert_eq!(server.plain, b"good");
}

#[test]
fn a_key_update_cut_in_two_does_not_disturb_sending_in_between() {
    for cut in 1..60 {
        let (mut client, mut server) = pair();
        settle(&mut client, &mut server, 4096).unwrap();
        refresh_keys(&mut client);
        client.tls.seal(b"after", &mut client.out).unwrap();
        let bytes = client.take_output();
        server.feed(&bytes[..cut.min(bytes.len())]).unwrap();
        server.tls.seal(b"meanwhile", &mut server.out).unwrap();
        server.feed(&bytes[cut.min(bytes.len())..]).unwrap();
        assert_eq!(server.plain, b"after");
        let back = server.take_output();
        client.feed(&back).unwrap();
        assert_eq!(client.plain, b"meanwhile");
    }
}

#[test]
fn a_peer_that_never_finishes_a_message_is_cut_off() {
    let (mut client, mut server) = pair();
    client.feed(&[]).unwrap();
    // A handshake record that announces a ClientHello of 16 MiB, then more and more of it.
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    let mut ended = false;
    for _ in 0..64 {
        ended = server.feed(&record).is_err();
        if ended {
            break;
        }
    }
    assert!(ended);
    assert!(server.tls.held() <= MAX_HELD);
}

#[test]
fn altered_cut_and_doubled_flights_never_panic() {
    let mut rng = SmallRng::seed_from_u64(11);
    for _ in 0..400 {
        let (mut client, mut server) = pair_of(&CA);
        let _ = client.feed(&[]);
        // From the first flight on, or after a good handshake.
        if rng.random_bool(0.5) {
            settle(&mut client, &mut server, 4096).unwrap();
            client.tls.seal(&[7; 300], &mut client.out).unwrap();
            refresh_keys(&mut client);
            client.tls.seal(&[8; 300], &mut client.out).unwrap();
        }
        for _ in 0..4 {
            let bytes = spoiled(client.take_output(), &mut rng);
            if server.feed(&bytes).is_err() {
                // Whatever is asked of a failed session, it refuses.
                assert!(
                    server.feed(&[]).is_err() && server.tls.seal(b"x", &mut server.out).is_err()
                );
            }
            let _ = server.tls.seal(b"meanwhile", &mut server.out);
            let bytes = spoiled(server.take_output(), &mut rng);
            let _ = client.feed(&bytes);
            let _ = client.tls.seal(b"meanwhile", &mut client.out);
        }
    }
}

/// Bytes as a hostile network might hand them over.
fn spoiled(mut bytes: Vec<u8>, rng: &mut SmallRng) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    match rng.random_range(0..5) {
        0 => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        1 => bytes.truncate(rng.random_range(0..bytes.len())),
        2 => bytes.extend_from_within(..),
        3 => bytes.insert(rng.random_range(0..bytes.len()), rng.random()),
        _ => {}
    }
    bytes
}

#[test]
fn a_hello_in_many_small_records_is_joined_and_writing_meanwhile_is_refused() {
    let (mut client, mut server) = pair();
    client.feed(&[]).unwrap();
    let hello = client.take_output();
    // The record's payload again, as one record for each 20 bytes.
    for part in hello[5..].chunks(20) {
        let mut record = vec![22, 3, 1, 0, part.len() as u8];
        record.extend_from_slice(part);
        server.feed(&record).unwrap();
        assert!(server.tls.seal(b"too early", &mut server.out).is_err());
    }
    assert!(!server.out.is_empty(), "the server answers the whole hello");
    settle(&mut client, &mut server, 4096).unwrap();
    assert!(client.state.established && server.state.established);
}
