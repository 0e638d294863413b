//! Many workers of one process: who has the tunnels.

use super::super::api::Reason;
use super::super::share;
use super::facts::connected;
use super::mesh::{EIGHT_WORKERS, Pair, SERVER, port};

/// A connection that the kernel gave to this worker.
fn connected_at(pair: &mut Pair, worker: usize) {
    let client = pair.call_at(worker);
    pair.write(client, b"ping");
    pair.settle();
    let server = pair.accept().expect("the application was dialled");
    assert_eq!(pair.read(server), (b"ping".to_vec(), false));
}

fn eight() -> Pair {
    Pair::started_at(1, EIGHT_WORKERS, |_| {})
}

#[test]
fn eight_workers_have_two_tunnels_to_a_quiet_peer() {
    let mut pair = eight();
    for _ in 0..10 {
        connected(&mut pair);
        for worker in 1..8 {
            connected_at(&mut pair, worker);
        }
    }
    let server = pair.workers.len() - 1;
    assert_eq!(pair.workers[server].tunnels.len(), 2);
    assert_eq!(pair.workers[server].links.len(), 80);
    let links: usize = pair.workers[..8]
        .iter()
        .map(|worker| worker.links.len())
        .sum();
    assert_eq!(links, 80);
}

#[test]
fn a_hot_pair_may_have_one_on_each_worker() {
    let mut pair = eight();
    let mark = share::pair("client", port(SERVER, 15008));
    pair.workers[3].neighbours.heat.mark(mark, pair.now);
    for worker in 1..8 {
        connected_at(&mut pair, worker);
    }
    assert_eq!(pair.workers[8].tunnels.len(), 7);
}

#[test]
fn a_worker_whose_neighbours_take_nothing_serves_what_it_accepts() {
    let mut pair = eight();
    pair.net.borrow_mut().closed_doors.extend(0..8);
    for worker in 1..8 {
        connected_at(&mut pair, worker);
    }
    assert_eq!(pair.workers[8].links.len(), 7);
}

#[test]
fn what_was_handed_over_for_a_pod_that_has_gone_is_reset_and_reported() {
    let mut pair = eight();
    let clients: Vec<_> = (1..8).map(|worker| pair.call_at(worker)).collect();
    // Accepted and passed on, not yet taken.
    for index in 0..8 {
        let events = pair.net.borrow_mut().take_events(index);
        pair.workers[index].step(&events, pair.now, &mut pair.ios[index]);
    }
    for index in 0..8 {
        pair.workers[index].remove_pod(&"client".into(), &mut pair.ios[index]);
    }
    pair.settle();
    assert!(
        clients
            .iter()
            .all(|client| pair.net.borrow().was_reset(*client))
    );
    let of_client = |reason: &&Reason| **reason == Reason::PodRemoved;
    assert_eq!(pair.reasons().iter().filter(of_client).count(), 7);
}
