//! A peer with a valid certificate that speaks TLS well and HTTP/2 badly: nothing may panic, spin, leak, or reach the
//! neighbours.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hbone::headers::ConnectRequest;
use hbone::proto::{Config, Connection, ErrorCode};
use mesh::identity::Identity;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustls::pki_types::ServerName;

use super::super::api::Notice;
use super::super::buffers::Outgoing;
use super::super::state::MAX_NOTICES;
use super::super::tls::{FRONT, Tls};
use super::super::tunnel::{Phase, Tunnel};
use super::facts::connected;
use super::mesh::{CLIENT, Pair, SERVER, account, address};
use super::sim::{Sock, TEST};

/// The peer: its socket and its TLS session.
pub(super) struct Peer {
    pub(super) sock: Sock,
    tls: Tls,
    out: Outgoing,
    pub(super) plain: Vec<u8>,
}

impl Peer {
    /// Dials the server pod's 15008 and shakes hands.
    pub(super) fn connect(pair: &mut Pair) -> Self {
        Self::connect_from(pair, [10, 9, 9, 9])
    }

    /// As [`Peer::connect`], from another address.
    pub(super) fn connect_from(pair: &mut Pair, from: [u8; 4]) -> Self {
        let identity = pair.ca.identity("evil", "peer");
        Self::connect_as(pair, from, &identity)
    }

    /// As [`Peer::connect_from`], with another identity.
    pub(super) fn connect_as(pair: &mut Pair, from: [u8; 4], identity: &Identity) -> Self {
        let to = SocketAddr::new(address(SERVER), 15008);
        let from = IpAddr::from(from);
        let sock = pair.net.borrow_mut().connect(TEST, from, to, None).unwrap();
        let certificate = pair.ca.issue(identity, Duration::from_secs(3600));
        let name = ServerName::IpAddress(to.ip().into());
        let tls = Tls::client(certificate.client_config(), name).unwrap();
        let mut peer = Self::new(sock, tls);
        while !peer.turn(pair) {}
        peer
    }

    /// A peer that was dialled at `sock`, with the server pod's identity.
    pub(super) fn accepted(pair: &Pair, sock: Sock) -> Self {
        let identity = pair.ca.identity("app", account(SERVER));
        let certificate = pair.ca.issue(&identity, Duration::from_secs(3600));
        Self::new(sock, Tls::server(certificate.server_config()).unwrap())
    }

    fn new(sock: Sock, tls: Tls) -> Self {
        Self {
            sock,
            tls,
            out: Outgoing::default(),
            plain: Vec::new(),
        }
    }

    /// Sends what is due, takes what came. True: the handshake is done (or the session is over).
    pub(super) fn turn(&mut self, pair: &mut Pair) -> bool {
        let (came, _) = pair.read(self.sock);
        let mut rx = vec![0; FRONT + (128 << 10) + came.len()];
        let end = self.tls.resume(&mut rx);
        rx[end..end + came.len()].copy_from_slice(&came);
        let (rx, mut plain) = (&mut rx[..end + came.len()], 0);
        let opened = self.tls.open(rx, &mut plain, &mut self.out);
        self.plain.extend_from_slice(&rx[..plain]);
        pair.write(self.sock, self.out.pending());
        self.out.clear();
        pair.settle();
        opened.is_ok_and(|opened| opened.established)
    }

    /// As [`Peer::say`], while nothing is carried to `full`.
    pub(super) fn say_slowly(&mut self, pair: &mut Pair, bytes: &[u8], full: Sock) {
        self.tls.seal(bytes, &mut self.out).unwrap();
        while !self.out.pending().is_empty() {
            let taken = pair.write(self.sock, self.out.pending());
            self.out.sent(taken);
            pair.settle_except(full);
        }
        self.out.clear();
    }

    pub(super) fn say(&mut self, pair: &mut Pair, bytes: &[u8]) {
        self.tls.seal(bytes, &mut self.out).unwrap();
        if !pair.net.borrow().was_reset(self.sock) {
            pair.write(self.sock, self.out.pending());
        }
        self.out.clear();
        pair.settle();
    }
}

/// A frame of any type, mostly for streams that make some sense.
fn frame(rng: &mut SmallRng) -> Vec<u8> {
    let len = if rng.random_bool(0.8) {
        rng.random_range(0..40)
    } else {
        rng.random_range(0..3000)
    };
    let mut frame = vec![
        0,
        (len >> 8) as u8,
        len as u8,
        rng.random_range(0..11),
        rng.random(),
    ];
    frame.extend(rng.random_range(0..8_u32).to_be_bytes());
    frame.extend((0..len).map(|_| rng.random::<u8>()));
    frame
}

/// The preface and a few good requests for the pod's application.
pub(super) fn good_start(requests: usize) -> (Connection, Vec<u8>) {
    let mut h2 = Connection::client(Config::client());
    let mut bytes = std::mem::take(h2.output());
    for _ in 0..requests {
        let request = ConnectRequest::new("10.0.0.2:8080".parse().unwrap());
        h2.open(&request).unwrap();
        bytes.append(h2.output());
    }
    (h2, bytes)
}

#[test]
fn random_frames_end_one_tunnel_at_most() {
    for seed in 0..60 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut pair = Pair::started(seed, |_| {});
        let mut peer = Peer::connect(&mut pair);
        let (_, start) = good_start(rng.random_range(0..4));
        peer.say(&mut pair, &start);
        for _ in 0..rng.random_range(1..30) {
            let bytes = frame(&mut rng);
            peer.say(&mut pair, &bytes);
        }
        let neighbour = pair.call_server();
        pair.write(neighbour, b"untouched");
        pair.settle();
        let arrived = std::iter::from_fn(|| pair.accept()).collect::<Vec<_>>();
        assert!(
            arrived
                .iter()
                .any(|sock| pair.read(*sock).0 == b"untouched"),
            "seed {seed}"
        );
        pair.net.borrow_mut().close(peer.sock, true);
        pair.settle();
        let worker = &pair.workers[SERVER];
        assert_eq!(
            (worker.links.len(), worker.tunnels.len()),
            (1, 1),
            "seed {seed}: something is left"
        );
    }
}

#[test]
fn requests_that_are_reset_at_once_leave_nothing_behind() {
    let mut pair = Pair::started(5, |_| {});
    let mut peer = Peer::connect(&mut pair);
    let (mut h2, start) = good_start(0);
    peer.say(&mut pair, &start);
    for _ in 0..20 {
        for _ in 0..10 {
            let request = ConnectRequest::new("10.0.0.2:8080".parse().unwrap());
            let stream = h2.open(&request).unwrap();
            h2.reset(stream, ErrorCode::CANCEL);
        }
        let bytes = std::mem::take(h2.output());
        peer.say(&mut pair, &bytes);
    }
    let worker = &pair.workers[SERVER];
    assert_eq!(worker.links.len(), 0);
    assert!(
        pair.accept().is_none(),
        "no application was dialled for a request that was gone"
    );
}

#[test]
fn what_arrived_before_the_reset_of_a_tunnel_is_delivered() {
    // Upstream closes a tunnel that it needs no more; our credit, which it has not read, makes that a reset.
    let mut pair = Pair::started(5, |_| {});
    let mut peer = Peer::connect(&mut pair);
    let (_, start) = good_start(1);
    peer.say(&mut pair, &start);
    let app = pair.accept().unwrap();
    pair.net.borrow_mut().end(app);
    pair.settle();
    let payload = [7; 10_000];
    let mut data = vec![0, 0x27, 0x10, 0, 1, 0, 0, 0, 1];
    data.extend_from_slice(&payload);
    peer.tls.seal(&data, &mut peer.out).unwrap();
    pair.write(peer.sock, peer.out.pending());
    pair.net.borrow_mut().carry(peer.sock.0, usize::MAX);
    pair.net.borrow_mut().close(peer.sock, true);
    pair.settle();
    let (came, ended) = pair.read(app);
    assert!(came == payload && ended, "{} bytes, {ended}", came.len());
    assert!(!pair.net.borrow().was_reset(app));
    assert_eq!(pair.workers[SERVER].tunnels.len(), 0);
}

#[test]
fn a_peer_that_asks_for_ever_and_reads_no_answer_is_closed() {
    let mut pair = Pair::started(5, |_| {});
    let mut peer = Peer::connect(&mut pair);
    let (mut h2, start) = good_start(0);
    peer.say(&mut pair, &start);
    for _ in 0..300 {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            // Not this pod's address: refused at once.
            let request = ConnectRequest::new("10.8.8.8:1".parse().unwrap());
            let stream = h2.open(&request).unwrap();
            bytes.append(h2.output());
            h2.reset(stream, ErrorCode::CANCEL);
            h2.output().clear();
        }
        peer.say(&mut pair, &bytes);
    }
    assert_eq!(pair.workers[SERVER].tunnels.len(), 0);
}

#[test]
fn a_flood_is_closed_by_a_goaway_that_says_so() {
    let mut pair = Pair::started(5, |_| {});
    let mut peer = Peer::connect(&mut pair);
    let (_, start) = good_start(0);
    peer.say(&mut pair, &start);
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for _ in 0..3 {
        peer.say(&mut pair, &ping.repeat(1334));
        peer.turn(&mut pair);
    }
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    assert!(peer.plain.ends_with(&goaway), "{:?}", peer.plain);
    assert_eq!(pair.workers[SERVER].tunnels.len(), 0);
}

#[test]
fn a_peer_that_says_nothing_after_tls_is_closed_with_the_handshakes_deadline() {
    let mut pair = Pair::started(5, |_| {});
    let peer = Peer::connect(&mut pair);
    let mut polite = Peer::connect(&mut pair);
    let (_, start) = good_start(0);
    polite.say(&mut pair, &start);
    assert_eq!(pair.workers[SERVER].tunnels.len(), 2);
    pair.pass(Duration::from_secs(10));
    pair.settle();
    assert_eq!(pair.workers[SERVER].tunnels.len(), 1);
    assert!(pair.read(peer.sock).1 && !pair.read(polite.sock).1);
    assert!(pair.details().contains("SETTINGS"), "{}", pair.details());
}

#[test]
fn a_peer_that_dribbles_is_closed_at_the_same_deadline() {
    let mut pair = Pair::started(5, |_| {});
    let silent = raw(&mut pair, [10, 6, 6, 6]);
    let mut late = Peer::connect(&mut pair);
    let (_, start) = good_start(0);
    for second in 0..9 {
        // A byte of a ClientHello, and one of the HTTP/2 preface, each second.
        pair.write(silent, &[[22, 3, 1, 2, 0, 1, 0, 1, 252][second]]);
        late.say(&mut pair, &start[second..=second]);
        pair.pass(Duration::from_secs(1));
        pair.settle();
    }
    assert_eq!(pair.workers[SERVER].tunnels.len(), 2);
    pair.pass(Duration::from_secs(1));
    pair.settle();
    assert_eq!(pair.workers[SERVER].tunnels.len(), 0);
    assert!(pair.read(silent).1 && pair.read(late.sock).1);
}

#[test]
fn one_address_that_takes_all_handshakes_keeps_nobody_out() {
    let mut pair = Pair::started(5, |settings| settings.limits.handshakes = 16);
    let silent: Vec<Sock> = (0..40).map(|_| raw(&mut pair, [10, 6, 6, 6])).collect();
    let (client, server) = connected(&mut pair);
    pair.write(client, b"in time");
    pair.settle();
    assert_eq!(pair.read(server).0, b"in time");
    let closed = silent
        .iter()
        .filter(|sock| pair.net.borrow().was_reset(**sock));
    assert!(closed.count() >= 24, "more than the limit are not held");
}

#[test]
fn many_addresses_that_shake_hands_at_once_wait_for_each_other() {
    let mut pair = Pair::started(5, |settings| settings.limits.handshakes = 16);
    let waiting: Vec<Sock> = (0..40).map(|n| raw(&mut pair, [10, 6, 6, n])).collect();
    pair.settle();
    assert_eq!(pair.workers[SERVER].tunnels.len(), 16);
    let reset = waiting
        .iter()
        .any(|sock| pair.net.borrow().was_reset(*sock));
    assert!(!reset, "what is beyond the limit waits in the backlog");
}

/// A TCP connection to the server pod's 15008 that has said nothing.
pub(super) fn raw(pair: &mut Pair, from: [u8; 4]) -> Sock {
    let to = SocketAddr::new(address(SERVER), 15008);
    let from = IpAddr::from(from);
    let sock = pair.net.borrow_mut().connect(TEST, from, to, None);
    pair.settle();
    sock.unwrap()
}

#[test]
fn an_early_end_of_the_peer_in_each_phase_leaves_nothing_behind() {
    for bytes in [0, 1, 5, 100, 300] {
        let mut pair = Pair::started(5, |_| {});
        let (from, to) = (
            IpAddr::from([10, 9, 9, 9]),
            SocketAddr::new(address(SERVER), 15008),
        );
        let sock = pair.net.borrow_mut().connect(TEST, from, to, None).unwrap();
        let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 252];
        hello.resize(bytes, 3);
        pair.write(sock, &hello);
        pair.net.borrow_mut().end(sock);
        pair.settle();
        let worker = &pair.workers[SERVER];
        assert_eq!(
            (worker.links.len(), worker.tunnels.len()),
            (0, 0),
            "after {bytes} bytes"
        );
    }
}

#[test]
fn requests_on_live_tunnels_are_turned_away_while_control_is_behind() {
    let mut pair = Pair::started(1, |_| {});
    let (client, server) = connected(&mut pair);
    pair.behind = Some(SERVER);
    let notices = (0..MAX_NOTICES).map(|_| Notice::Drained { worker: SERVER });
    pair.workers[SERVER].notices.extend(notices);
    let refused = pair.call_server();
    pair.settle();
    assert!(pair.net.borrow().was_reset(refused));
    assert_eq!(pair.workers[SERVER].notices.len(), MAX_NOTICES);
    pair.write(client, b"still here");
    pair.settle();
    assert_eq!(pair.read(server).0, b"still here");
    pair.workers[SERVER].notices.clear();
    connected(&mut pair);
}

/// Handshakes whose next bytes are here and wait for the worker.
fn shaking(pair: &Pair) -> usize {
    let waits = |tunnel: &Tunnel<Sock>| tunnel.phase == Phase::Handshake && tunnel.readable;
    pair.workers[SERVER].tunnels.keys(waits).len()
}

#[test]
fn beside_a_storm_of_handshakes_a_call_on_a_warm_tunnel_waits_for_one_of_them_at_a_time() {
    let mut pair = Pair::started(5, |_| {});
    connected(&mut pair);
    let identity = pair.ca.identity("evil", "peer");
    let certificate = pair.ca.issue(&identity, Duration::from_secs(3600));
    let carry = |pair: &mut Pair| {
        let count = pair.net.borrow().len();
        for from in 0..count {
            pair.net.borrow_mut().carry(from, usize::MAX);
        }
    };
    for number in 0..200 {
        let to = SocketAddr::new(address(SERVER), 15008);
        let from = IpAddr::from([10, 9, 1, number]);
        let sock = pair.net.borrow_mut().connect(TEST, from, to, None).unwrap();
        let name = ServerName::IpAddress(to.ip().into());
        let mut tls = Tls::client(certificate.client_config(), name).unwrap();
        let mut hello = Outgoing::default();
        tls.open(&mut [], &mut 0, &mut hello).unwrap();
        pair.write(sock, hello.pending());
    }
    carry(&mut pair);
    // Accepted in several turns, each of which has time for a few of them.
    for _ in 0..8 {
        pair.step(SERVER);
    }
    let before = shaking(&pair);
    assert!(before > 100, "{before}");
    let client = pair.call_server();
    pair.write(client, b"ping");
    let mut steps = 0;
    let server = loop {
        pair.step(CLIENT);
        pair.step(SERVER);
        carry(&mut pair);
        steps += 1;
        if let Some(server) = pair.accept() {
            break server;
        }
        assert!(steps < 20, "the call does not get through");
    };
    // The server's first step has nothing of the call yet.
    let handshakes = before.saturating_sub(shaking(&pair));
    let most = 4 + (steps - 1);
    assert!(
        handshakes <= most,
        "{handshakes} handshakes in {steps} steps"
    );
    pair.settle();
    assert_eq!(pair.read(server), (b"ping".to_vec(), false));
}
