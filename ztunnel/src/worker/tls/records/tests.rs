//! The record layer against rustls' own, in both roles, and against a peer that has the keys and breaks the rules.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConnection, Connection, ServerConnection};
use testkit::ca::TestCa;

use super::super::{FRONT, Stage, Tls};
use super::*;

const CLIENT: &str = "client";
const SERVER: &str = "server";

fn name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into())
}

/// Ours, with what it has received and what it has to send.
struct Ours {
    tls: Tls,
    plain: Vec<u8>,
    out: Outgoing,
    opened: Opened,
}

impl Ours {
    fn new(tls: Tls) -> Self {
        Self {
            tls,
            plain: Vec::new(),
            out: Outgoing::default(),
            opened: Opened::default(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        let mut rx = vec![0; FRONT + (128 << 10) + bytes.len()];
        let end = self.tls.resume(&mut rx);
        rx[end..end + bytes.len()].copy_from_slice(bytes);
        let (rx, mut plain) = (&mut rx[..end + bytes.len()], 0);
        let opened = self.tls.open(rx, &mut plain, &mut self.out);
        self.plain.extend_from_slice(&rx[..plain]);
        self.opened = opened?;
        Ok(())
    }

    fn take_output(&mut self) -> Vec<u8> {
        let bytes = self.out.pending().to_vec();
        self.out.clear();
        bytes
    }

    fn records(&mut self) -> &mut Records {
        match &mut self.tls.stage {
            Stage::Open(records) => records,
            _ => panic!("the handshake is not done"),
        }
    }

    /// One record of any kind, as a peer that has the keys may send it.
    fn record(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let Self { tls, out, .. } = self;
        let Stage::Open(records) = &mut tls.stage else {
            panic!("the handshake is not done");
        };
        records.tx.seal(kind, content, out).unwrap();
        self.take_output()
    }
}

/// Two of ours with keys.
fn pair() -> (Ours, Ours) {
    let ca = TestCa::new("cluster.local");
    let issue = |account| ca.issue(&ca.identity("ns", account), Duration::from_secs(3600));
    let mut client = Ours::new(Tls::client(issue(CLIENT).client_config(), name()).unwrap());
    let mut server = Ours::new(Tls::server(issue(SERVER).server_config()).unwrap());
    client.feed(&[]).unwrap();
    while !(client.opened.established && server.opened.established) {
        let flight = client.take_output();
        server.feed(&flight).unwrap();
        let flight = server.take_output();
        client.feed(&flight).unwrap();
    }
    let flight = client.take_output();
    server.feed(&flight).unwrap();
    (client, server)
}

/// Ours as a client, and a server of rustls alone with one suite, which also sends tickets.
fn client_beside(suite: CipherSuite) -> (Ours, Connection) {
    let ca = TestCa::new("cluster.local");
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|one| one.suite() == suite);
    let pem = ca.issue_pem(&ca.identity("ns", SERVER), Duration::from_secs(3600));
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap(),
        );
    let theirs = ServerConnection::new(Arc::new(config.unwrap())).unwrap();
    let identity = ca.identity("ns", CLIENT);
    let config = ca
        .issue(&identity, Duration::from_secs(3600))
        .client_config();
    let ours = Ours::new(Tls::client(config, name()).unwrap());
    let (ours, theirs) = shaken(ours, theirs.into());
    assert_eq!(theirs.negotiated_cipher_suite().unwrap().suite(), suite);
    (ours, theirs)
}

/// Ours as a server beside a client of rustls.
fn server_beside() -> (Ours, Connection) {
    let ca = TestCa::new("cluster.local");
    let issue = |account| ca.issue(&ca.identity("ns", account), Duration::from_secs(3600));
    let theirs = ClientConnection::new(issue(CLIENT).client_config(), name()).unwrap();
    let ours = Ours::new(Tls::server(issue(SERVER).server_config()).unwrap());
    shaken(ours, theirs.into())
}

fn shaken(mut ours: Ours, mut theirs: Connection) -> (Ours, Connection) {
    ours.feed(&[]).unwrap();
    settle(&mut ours, &mut theirs);
    assert!(ours.opened.established && !theirs.is_handshaking());
    (ours, theirs)
}

/// Carries bytes until both are silent. Returns what rustls opened.
fn settle(ours: &mut Ours, theirs: &mut Connection) -> Vec<u8> {
    let mut opened = Vec::new();
    loop {
        let to_theirs = ours.take_output();
        let mut to_ours = Vec::new();
        while theirs.wants_write() {
            theirs.write_tls(&mut to_ours).unwrap();
        }
        if to_theirs.is_empty() && to_ours.is_empty() {
            return opened;
        }
        let mut input = &to_theirs[..];
        while !input.is_empty() {
            theirs.read_tls(&mut input).unwrap();
            theirs.process_new_packets().unwrap();
            let _ = theirs.reader().read_to_end(&mut opened);
        }
        ours.feed(&to_ours).unwrap();
    }
}

fn all() -> Vec<(Ours, Connection)> {
    vec![
        client_beside(CipherSuite::TLS13_AES_128_GCM_SHA256),
        client_beside(CipherSuite::TLS13_AES_256_GCM_SHA384),
        server_beside(),
    ]
}

#[test]
fn rustls_and_ours_read_each_other_over_key_updates_of_both() {
    let bytes: Vec<u8> = (0..50_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    for (mut ours, mut theirs) in all() {
        // Each of our keys seals three records only.
        ours.records().key_life = 3;
        for turn in 0..6 {
            ours.tls.seal(&bytes, &mut ours.out).unwrap();
            assert!(settle(&mut ours, &mut theirs) == bytes, "turn {turn}");
            ours.plain.clear();
            theirs.writer().write_all(&bytes).unwrap();
            if turn % 2 == 0 {
                theirs.refresh_traffic_keys().unwrap();
            }
            theirs.writer().write_all(b"more").unwrap();
            settle(&mut ours, &mut theirs);
            assert!(ours.plain == [&bytes[..], b"more"].concat(), "turn {turn}");
        }
        assert!(ours.records().tx.sequence <= 3);
        assert_eq!(ours.tls.held(), 0);
    }
}

#[test]
fn rustls_and_ours_end_in_order() {
    for (mut ours, mut theirs) in all() {
        theirs.writer().write_all(b"last").unwrap();
        theirs.send_close_notify();
        settle(&mut ours, &mut theirs);
        assert_eq!((&ours.plain[..], ours.opened.closed), (&b"last"[..], true));
        ours.tls.seal(b"thanks", &mut ours.out).unwrap();
        ours.tls.close(&mut ours.out).unwrap();
        assert!(ours.tls.seal(b"more", &mut ours.out).is_err());
        assert_eq!(settle(&mut ours, &mut theirs), b"thanks");
        let state = theirs.process_new_packets().unwrap();
        assert!(state.peer_has_closed());
    }
}

#[test]
fn rustls_understands_why_a_record_was_refused() {
    let (mut ours, mut theirs) = server_beside();
    theirs.writer().write_all(b"hello").unwrap();
    let mut record = Vec::new();
    theirs.write_tls(&mut record).unwrap();
    *record.last_mut().unwrap() ^= 1;
    let fault = ours.feed(&record).unwrap_err();
    assert_eq!(fault.to_string(), "cannot decrypt peer's message");
    theirs.read_tls(&mut &ours.take_output()[..]).unwrap();
    let told = theirs.process_new_packets().unwrap_err();
    assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
}

/// A key update that wants one in turn.
const ASKING: [u8; 5] = [24, 0, 0, 1, 1];

#[test]
fn many_questions_for_a_new_key_are_answered_once() {
    let (mut client, mut server) = pair();
    for _ in 0..5 {
        let record = client.record(ContentType::Handshake, &ASKING);
        server.feed(&record).unwrap();
        let records = client.records();
        records.tx = Half::new(records.schedule.next_tx().unwrap()).unwrap();
    }
    assert!(
        server.out.is_empty(),
        "nothing is said before there are bytes"
    );
    server.tls.seal(b"pong", &mut server.out).unwrap();
    let bytes = server.take_output();
    client.feed(&bytes).unwrap();
    assert_eq!(client.plain, b"pong");
    // One key update and one record, no more.
    assert_eq!(bytes.len(), (HEADER + 5 + 1 + TAG) + (HEADER + 4 + 1 + TAG));
}

#[test]
fn a_message_in_pieces_is_joined_and_padding_is_dropped() {
    let (mut client, mut server) = pair();
    for byte in ASKING {
        let record = client.record(ContentType::Handshake, &[byte]);
        server.feed(&record).unwrap();
    }
    assert!(server.records().update_due && server.records().message.capacity() == 0);
    let records = client.records();
    records.tx = Half::new(records.schedule.next_tx().unwrap()).unwrap();
    // Content, its type, then zeros: all of it as the content of a record whose own type is 0.
    let mut padded = b"hello\x17".to_vec();
    padded.resize(400, 0);
    let record = client.record(ContentType::Unknown(0), &padded);
    server.feed(&record).unwrap();
    assert_eq!(server.plain, b"hello");
}

/// A record's type and content.
type Sent<'a> = (ContentType, &'a [u8]);

/// What a peer with the keys may do wrong: its records, one after the other, and what it is told.
#[test]
fn broken_rules_end_the_session_and_the_peer_learns_why() {
    use ContentType::{Alert, ApplicationData, ChangeCipherSpec, Handshake, Unknown};
    let table: [(&str, &[Sent<'_>], AlertDescription); 11] = [
        (
            "a message of no bytes",
            &[(Handshake, &[])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "an alert of one byte",
            &[(Alert, &[2])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "nothing but padding",
            &[(Unknown(0), &[0; 9])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "an unknown type",
            &[(Unknown(99), b"x")],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "a change of cipher under keys",
            &[(ChangeCipherSpec, &[1])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "bytes between the halves of a message",
            &[(Handshake, &ASKING[..2]), (ApplicationData, b"x")],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "a key update with another message behind it",
            &[(Handshake, &[24, 0, 0, 1, 0, 24])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "a key update of no kind",
            &[(Handshake, &[24, 0, 0, 1, 2])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "a ticket from a client",
            &[(Handshake, &[4, 0, 0, 1, 0])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "a new hello",
            &[(Handshake, &[1, 0, 0, 1, 0])],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "a message without end",
            &[(Handshake, &[4, 1, 0, 0])],
            AlertDescription::DecodeError,
        ),
    ];
    for (what, records, alert) in table {
        let (mut client, mut server) = pair();
        let mut refused = false;
        for (kind, content) in records {
            let record = client.record(*kind, content);
            refused = server.feed(&record).is_err();
        }
        assert!(refused && server.plain.is_empty(), "{what}");
        let last_word = server.take_output();
        let told = client.feed(&last_word).unwrap_err();
        assert_eq!(
            told.to_string(),
            Error::AlertReceived(alert).to_string(),
            "{what}"
        );
        assert!(server.tls.seal(b"x", &mut server.out).is_err(), "{what}");
    }
}

#[test]
fn records_that_carry_nothing_are_borne_for_a_while() {
    let empty: fn(&mut Ours) -> Vec<u8> = |peer| peer.record(ContentType::ApplicationData, &[]);
    let canceled: fn(&mut Ours) -> Vec<u8> = |peer| peer.record(ContentType::Alert, &[1, 90]);
    for barren in [empty, canceled] {
        let (mut client, mut server) = pair();
        for _ in 0..3 {
            for _ in 0..FRUITLESS {
                let record = barren(&mut client);
                server.feed(&record).unwrap();
            }
            let record = client.record(ContentType::ApplicationData, b"x");
            server.feed(&record).unwrap();
        }
        for _ in 0..FRUITLESS {
            let record = barren(&mut client);
            server.feed(&record).unwrap();
        }
        let record = barren(&mut client);
        assert!(server.feed(&record).is_err());
        assert_eq!(server.plain, b"xxx");
    }
}

#[test]
fn headers_that_no_record_has_are_refused() {
    let table = [
        (
            [21, 3, 3, 0, 2],
            "an alert without keys",
            AlertDescription::UnexpectedMessage,
        ),
        (
            [22, 3, 3, 0, 40],
            "a message without keys",
            AlertDescription::UnexpectedMessage,
        ),
        (
            [23, 3, 3, 0, 16],
            "shorter than a tag and a type",
            AlertDescription::BadRecordMac,
        ),
        (
            [23, 3, 3, 0x41, 0x01],
            "longer than a record",
            AlertDescription::RecordOverflow,
        ),
    ];
    for (header, what, alert) in table {
        let (mut client, mut server) = pair();
        assert!(server.feed(&header).is_err(), "{what}");
        let last_word = server.take_output();
        let told = client.feed(&last_word).unwrap_err();
        assert_eq!(
            told.to_string(),
            Error::AlertReceived(alert).to_string(),
            "{what}"
        );
    }
}

#[test]
fn the_longest_record_with_all_its_padding_fits() {
    let (mut client, mut server) = pair();
    let bytes = vec![7; RECORD];
    let mut padded = bytes.clone();
    padded.push(23);
    padded.resize(MAX_SEALED - 1 - TAG, 0);
    let record = client.record(ContentType::Unknown(0), &padded);
    assert_eq!(record.len(), HEADER + MAX_SEALED);
    server
        .feed(
            &[
                record.clone(),
                client.record(ContentType::Unknown(0), &padded),
            ]
            .concat(),
        )
        .unwrap();
    assert!(server.plain == [&bytes[..], &bytes[..]].concat());
    let long = client.record(ContentType::ApplicationData, &vec![7; RECORD + 1]);
    let fault = server.feed(&long).unwrap_err();
    assert_eq!(
        fault.to_string(),
        Error::PeerSentOversizedRecord.to_string()
    );
}

#[test]
fn a_record_counts_once() {
    let (mut client, mut server) = pair();
    let record = client.record(ContentType::ApplicationData, b"pay");
    server.feed(&record).unwrap();
    assert!(server.feed(&record).is_err());
    assert_eq!(server.plain, b"pay");
}
