//! The life of carriers: who may have how many, how long they last, what a refused stream does.

use std::time::Duration;

use hbone::headers::ConnectRequest;

use super::facts::connected;
use super::hostile::{Peer, good_start};
use super::mesh::{CLIENT, Pair, SERVER};

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
