//! What is held for applications that do not read: counted, bounded, given back.

use super::super::api::{Limits, Reason};
use super::facts::connected;
use super::mesh::{CLIENT, Pair, SERVER};
use super::sim::Sock;

const LIMIT: usize = 1 << 20;

fn pair() -> Pair {
    let pair = Pair::started(1, |settings| settings.limits.held = LIMIT);
    pair.net.borrow_mut().send_buffer = 4096;
    pair
}

/// Writes into `from` until nothing moves; nobody reads.
fn pour(pair: &mut Pair, from: Sock, most: usize) {
    let mut written = 0;
    loop {
        let n = pair.write(from, &[7; 50_000]);
        pair.settle();
        written += n;
        if n == 0 || written > most {
            break;
        }
    }
    for worker in [CLIENT, SERVER] {
        assert_eq!(pair.workers[worker].held, pair.pending(worker));
    }
}

#[test]
fn a_worker_holds_no_more_than_its_limit_and_ends_the_heaviest_links() {
    let mut pair = pair();
    let stuck: Vec<_> = (0..8).map(|_| connected(&mut pair)).collect();
    for (_, server) in &stuck {
        pour(&mut pair, *server, LIMIT);
        assert!(pair.workers[CLIENT].held < LIMIT);
    }
    assert!(
        pair.workers[CLIENT].held > LIMIT / 4,
        "{}",
        pair.workers[CLIENT].held
    );
    assert!(
        pair.reasons().contains(&Reason::Overloaded),
        "{:?}",
        pair.reasons()
    );
    connected(&mut pair);
    pair.workers[CLIENT].force(&mut pair.ios[CLIENT]);
    assert_eq!(pair.workers[CLIENT].held, 0);
}

#[test]
fn a_call_that_comes_while_memory_is_short_is_served_at_the_cost_of_who_holds_most() {
    let mut pair = pair();
    let quiet = connected(&mut pair);
    let stuck: Vec<_> = (0..4).map(|_| connected(&mut pair)).collect();
    for (client, _) in &stuck {
        if pair.workers[SERVER].held < LIMIT - LIMIT / 4 {
            pour(&mut pair, *client, LIMIT);
        }
    }
    let held = pair.workers[SERVER].held;
    assert!((LIMIT - LIMIT / 4..LIMIT).contains(&held), "{held}");
    assert!(!pair.reasons().contains(&Reason::Overloaded));
    connected(&mut pair);
    assert!(
        pair.details().contains("does not read"),
        "{}",
        pair.details()
    );
    assert!(pair.workers[SERVER].held < LIMIT);
    // Some of those who hold have paid for it, nobody else.
    pair.write(quiet.0, b"still here");
    pair.settle();
    assert!(pair.read(quiet.1).0.ends_with(b"still here"));
    let cut = stuck
        .iter()
        .filter(|(client, _)| pair.net.borrow().was_reset(*client));
    assert!((1..=2).contains(&cut.count()), "{}", pair.details());
}

#[test]
fn the_workers_share_what_may_be_held() {
    let all = Limits::default();
    let shares = [1, 2, 4, 64].map(|workers| {
        let one = all.of_one(workers);
        (one.held >> 20, one.pod_held >> 20)
    });
    assert_eq!(shares, [(256, 64), (128, 32), (64, 16), (32, 16)]);
    assert_eq!(all.of_one(4).connections, all.connections);
}
