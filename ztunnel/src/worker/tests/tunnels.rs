//! The life of carriers: who may have how many, how long they last, what a refused stream does.

use std::time::Duration;

use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Config, Connection, Event};

use super::super::api::Reason;
use super::facts::connected;
use super::hostile::{Peer, good_start, raw};
use super::mesh::{APP_PORT, CLIENT, Pair, SERVER, port};
use super::sim::{Sock, TEST};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A call that goes over a fresh certificate's tunnel; the time of day is `ahead`.
fn renewed(pair: &mut Pair, ahead: Duration) {
    for pod in [CLIENT, SERVER] {
        pair.certify_for(pod, 3 * HOUR);
    }
    pair.net.borrow_mut().ahead = ahead;
}

#[test]
fn when_a_certificate_has_ended_its_tunnel_takes_no_new_stream_and_live_ones_go_on() {
    let mut pair = Pair::started(1, |_| {});
    let (client, server) = connected(&mut pair);
    renewed(&mut pair, HOUR + SECOND);
    let fresh = connected(&mut pair);
    assert_eq!(pair.workers[SERVER].tunnels.len(), 2);
    pair.write(client, b"still here");
    pair.settle();
    assert_eq!(pair.read(server).0, b"still here");
    for sock in [client, server] {
        pair.net.borrow_mut().end(sock);
    }
    pair.settle();
    assert_eq!(pair.workers[SERVER].tunnels.len(), 1, "the old one is done");
    pair.write(fresh.0, b"too");
    pair.settle();
    assert_eq!(pair.read(fresh.1).0, b"too");
}

#[test]
fn tunnels_are_drained_before_their_certificates_end() {
    let mut pair = Pair::started(1, |_| {});
    connected(&mut pair);
    renewed(&mut pair, HOUR - 20 * SECOND);
    // Each side looks at its open tunnels twice a minute.
    pair.pass(31 * SECOND);
    pair.settle();
    assert!(pair.workers[CLIENT].pool.is_empty());
    connected(&mut pair);
    assert_eq!(pair.workers[SERVER].tunnels.len(), 2);
}

#[test]
fn a_peer_with_a_tunnel_that_outlives_its_certificate_is_refused_although_it_knows_no_goaway() {
    let mut pair = Pair::started(1, |_| {});
    let mut peer = Peer::connect(&mut pair);
    let (mut h2, start) = good_start(1);
    peer.say(&mut pair, &start);
    assert!(pair.accept().is_some());
    renewed(&mut pair, HOUR + SECOND);
    for _ in 0..3 {
        let request = ConnectRequest::new("10.0.0.2:8080".parse().unwrap());
        h2.open(&request).unwrap();
        let bytes = std::mem::take(h2.output());
        peer.say(&mut pair, &bytes);
    }
    assert!(pair.accept().is_none());
    assert_eq!(pair.workers[SERVER].links.len(), 1);
}

#[test]
fn an_unused_tunnel_of_a_peer_that_keeps_it_up_is_released_by_the_server_in_the_end() {
    // What a client says of streams that we might open changes nothing.
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for goaway in [&[][..], &goaway] {
        kept_up(goaway);
    }
}

fn kept_up(first: &[u8]) {
    let mut pair = Pair::started(1, |_| {});
    let mut peer = Peer::connect(&mut pair);
    let (_, start) = good_start(0);
    peer.say(&mut pair, &[&start[..], first].concat());
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for _ in 0..8 {
        pair.pass(100 * SECOND);
        peer.say(&mut pair, &ping);
    }
    assert_eq!(
        pair.workers[SERVER].tunnels.len(),
        1,
        "clients hold it for as long"
    );
    for _ in 0..3 {
        pair.pass(100 * SECOND);
        peer.say(&mut pair, &ping);
    }
    assert_eq!(pair.workers[SERVER].tunnels.len(), 0);
}

/// An open tunnel of a peer at this address that has sent so many requests.
fn opened(pair: &mut Pair, from: [u8; 4], requests: usize) -> Peer {
    let mut peer = Peer::connect_from(pair, from);
    let (_, start) = good_start(requests);
    peer.say(pair, &start);
    pair.pass(SECOND);
    peer
}

#[test]
fn an_address_with_too_many_tunnels_loses_the_one_that_it_has_not_used_for_longest() {
    let mut pair = Pair::started(1, |settings| settings.limits.tunnels = 24);
    let peers: Vec<_> = [1, 0, 0, 0]
        .into_iter()
        .map(|requests| opened(&mut pair, [10, 9, 9, 9], requests))
        .collect();
    let ends = peers.iter().map(|peer| pair.read(peer.sock).1);
    assert_eq!(ends.collect::<Vec<_>>(), [false, true, false, false]);
    assert!(pair.accept().is_some());
    connected(&mut pair);
    assert_eq!(pair.workers[SERVER].tunnels.len(), 4);
}

#[test]
fn an_address_whose_tunnels_are_all_in_use_gets_no_more_and_others_do() {
    let mut pair = Pair::started(1, |settings| settings.limits.tunnels = 24);
    let peers: Vec<_> = (0..5)
        .map(|_| opened(&mut pair, [10, 9, 9, 9], 1))
        .collect();
    assert_eq!(pair.workers[SERVER].tunnels.len(), 3);
    assert!(pair.details().contains("all of them in use"));
    for _ in 0..3 {
        assert!(pair.accept().is_some());
    }
    connected(&mut pair);
    for peer in &peers {
        pair.net.borrow_mut().close(peer.sock, true);
    }
    pair.settle();
    let server = &mut pair.workers[SERVER];
    let counted = server.pods.keys(|_| true);
    assert_eq!(server.pods.get(counted[0]).unwrap().tunnels.len(), 1);
}

#[test]
fn a_pod_has_no_more_tunnels_than_its_limit_from_however_many_addresses() {
    let mut pair = Pair::started(1, |settings| settings.limits.tunnels = 24);
    for number in 0..40 {
        opened(&mut pair, [10, 9, 8, number], 0);
    }
    assert_eq!(pair.workers[SERVER].tunnels.len(), 24);
    connected(&mut pair);
}

#[test]
fn waiting_for_a_certificate_that_never_comes_leaves_nothing_behind() {
    let mut pair = Pair::new(1, |_| {});
    pair.add_pod(SERVER);
    for round in 0..40 {
        for number in 0..100 {
            raw(&mut pair, [10, 5, round, number]);
        }
        pair.pass(10 * SECOND);
        pair.settle();
    }
    let worker = &pair.workers[SERVER];
    assert_eq!(worker.tunnels.len(), 0);
    let waiting = worker.queues.certificate.len();
    assert!(waiting <= 2048, "{waiting} keys of tunnels that are gone");
}

/// A far proxy for the server pod that takes few streams at once on each of its tunnels.
struct Narrow {
    tunnels: Vec<(Peer, Connection)>,
    streams: u32,
}

impl Narrow {
    /// Accepts, shakes hands and answers until nothing is left to do. Gives the number of streams that it took.
    fn run(&mut self, pair: &mut Pair) -> usize {
        let mut taken = 0;
        for _ in 0..50 {
            pair.settle();
            while let Some(sock) = accept(pair) {
                let config = Config {
                    max_concurrent_streams: self.streams,
                    ..Config::server()
                };
                self.tunnels
                    .push((Peer::accepted(pair, sock), Connection::server(config)));
            }
            for (peer, h2) in &mut self.tunnels {
                peer.turn(pair);
                let plain = std::mem::take(&mut peer.plain);
                if plain.is_empty() {
                    continue;
                }
                let mut input = &plain[..];
                while let Some(event) = h2.receive(&mut input).unwrap() {
                    if let Event::Request { stream, .. } = event {
                        h2.respond(stream, &ConnectResponse::ok(), false);
                        taken += 1;
                    }
                }
                let bytes = std::mem::take(h2.output());
                peer.say(pair, &bytes);
            }
        }
        taken
    }
}

#[test]
fn a_burst_to_a_peer_that_takes_few_streams_per_tunnel_is_spread_and_nothing_fails() {
    let mut pair = Pair::new(1, |_| {});
    pair.add_pod(CLIENT);
    pair.certify(CLIENT);
    pair.net.borrow_mut().listen(TEST, port(SERVER, 15008));
    let calls: Vec<_> = (0..60).map(|_| pair.call(port(SERVER, APP_PORT))).collect();
    let mut narrow = Narrow {
        tunnels: Vec::new(),
        streams: 7,
    };
    let taken = narrow.run(&mut pair);
    assert!(
        !pair.reasons().contains(&Reason::TunnelRefused),
        "{}",
        pair.details()
    );
    assert_eq!((taken, narrow.tunnels.len()), (60, 9));
    let failed = calls
        .iter()
        .filter(|sock| pair.net.borrow().was_reset(**sock));
    assert_eq!(failed.count(), 0);
}

fn accept(pair: &Pair) -> Option<Sock> {
    pair.net.borrow_mut().accept(port(SERVER, 15008))
}
