//! Tunnels that retire right behind the last bytes of their streams.

use std::time::Duration;

use super::super::api::Reason;
use super::facts::connected;
use super::hostile::{Peer, good_start};
use super::mesh::{CLIENT, Pair, SERVER};

const SECOND: Duration = Duration::from_secs(1);

/// As [`Pair::settle`], over a network that carries little at a time.
fn trickle(pair: &mut Pair, most: usize) {
    for _ in 0..100_000 {
        let mut moved = false;
        for index in 0..pair.workers.len() {
            moved |= pair.step(index);
        }
        let count = pair.net.borrow().len();
        for from in 0..count {
            moved |= pair.net.borrow_mut().carry(from, most);
        }
        if !moved {
            return;
        }
    }
    panic!("the pair never comes to rest");
}

/// The server's node drains.
fn drain(pair: &mut Pair) {
    let now = pair.now;
    let Pair { workers, ios, .. } = pair;
    workers[SERVER].drain(now + 60 * SECOND, now, &mut ios[SERVER]);
}

#[test]
fn a_tunnel_that_retires_behind_its_last_bytes_loses_none_of_them() {
    for by_drain in [true, false] {
        let mut pair = Pair::started(1, |_| {});
        pair.net.borrow_mut().send_buffer = 1 << 20;
        let (client, server) = connected(&mut pair);
        pair.net.borrow_mut().end(server);
        pair.settle();
        if by_drain {
            drain(&mut pair);
        } else {
            // As one that has become too old.
            let worker = &mut pair.workers[CLIENT];
            for key in worker.tunnels.keys(|_| true) {
                worker.peer_goes_away(key);
            }
        }
        pair.pass(Duration::ZERO);
        pair.settle();
        let upload: Vec<u8> = (0..200_000_u32).map(|i| (i >> 4) as u8).collect();
        assert_eq!(pair.write(client, &upload), upload.len());
        pair.net.borrow_mut().end(client);
        // All of it is with the client's proxy before the network has carried much of it further.
        pair.net.borrow_mut().carry(client.0, usize::MAX);
        trickle(&mut pair, 4096);
        let (came, ended) = pair.read(server);
        assert_eq!(came.len(), upload.len(), "by drain: {by_drain}");
        assert!(came == upload && ended);
        let tunnels: usize = pair.workers.iter().map(|one| one.tunnels.len()).sum();
        assert_eq!(tunnels, 0, "by drain: {by_drain}");
        assert!(pair.reasons().iter().all(|one| *one == Reason::Complete));
    }
}

#[test]
fn a_server_tunnel_that_retires_behind_a_large_answer_loses_none_of_it() {
    let mut pair = Pair::started(1, |_| {});
    pair.net.borrow_mut().send_buffer = 1 << 20;
    let (client, server) = connected(&mut pair);
    pair.net.borrow_mut().end(client);
    pair.settle();
    drain(&mut pair);
    pair.pass(Duration::ZERO);
    pair.settle();
    let answer: Vec<u8> = (0..200_000_u32).map(|i| (i >> 4) as u8).collect();
    assert_eq!(pair.write(server, &answer), answer.len());
    pair.net.borrow_mut().end(server);
    pair.net.borrow_mut().carry(server.0, usize::MAX);
    trickle(&mut pair, 4096);
    let (came, ended) = pair.read(client);
    assert_eq!(came.len(), answer.len());
    assert!(came == answer && ended);
    pair.pass(Duration::ZERO);
    pair.settle();
    assert!(pair.workers[SERVER].is_drained());
}

#[test]
fn a_peer_that_never_closes_a_retired_tunnel_holds_it_for_some_seconds() {
    let mut pair = Pair::started(1, |_| {});
    let mut peer = Peer::connect(&mut pair);
    let (mut h2, start) = good_start(0);
    peer.say(&mut pair, &start);
    drain(&mut pair);
    pair.pass(Duration::ZERO);
    pair.settle();
    // It answers the PING by which a drain learns that all requests are in, and does not care otherwise.
    peer.turn(&mut pair);
    let mut plain = &peer.plain[..];
    while h2.receive(&mut plain).unwrap().is_some() {}
    let pong = std::mem::take(h2.output());
    peer.say(&mut pair, &pong);
    assert!(!pair.workers[SERVER].is_drained());
    for _ in 0..7 {
        pair.pass(SECOND);
        pair.settle();
    }
    assert!(pair.workers[SERVER].is_drained());
    assert!(pair.notices.len() < 3, "{:?}", pair.notices);
}

#[test]
fn a_retired_tunnel_stays_while_a_slow_network_takes_what_it_has_sent() {
    let mut pair = Pair::started(1, |_| {});
    pair.net.borrow_mut().send_buffer = 1 << 20;
    let (client, server) = connected(&mut pair);
    pair.net.borrow_mut().end(server);
    pair.settle();
    drain(&mut pair);
    pair.pass(Duration::ZERO);
    pair.settle();
    assert_eq!(pair.write(client, &[7; 200_000]), 200_000);
    pair.net.borrow_mut().end(client);
    pair.net.borrow_mut().carry(client.0, usize::MAX);
    // Three seconds for each 20,000 bytes: half a minute for all of it.
    let (mut came, mut ended) = (0, false);
    for _ in 0..18 {
        for index in [CLIENT, SERVER, CLIENT, SERVER] {
            pair.step(index);
        }
        let count = pair.net.borrow().len();
        for from in 0..count {
            pair.net.borrow_mut().carry(from, 20_000);
        }
        let (bytes, end) = pair.read(server);
        came += bytes.len();
        ended |= end;
        pair.pass(3 * SECOND);
    }
    assert_eq!((came, ended), (200_000, true));
    pair.settle();
    let tunnels: usize = pair.workers.iter().map(|one| one.tunnels.len()).sum();
    assert_eq!(tunnels, 0);
}
