//! What is held for applications that do not read: counted, bounded, given back.

use super::super::api::Reason;
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
fn requests_are_refused_while_memory_is_short_and_taken_again_when_it_is_not() {
    let mut pair = pair();
    let stuck: Vec<_> = (0..4).map(|_| connected(&mut pair)).collect();
    for (client, _) in &stuck {
        if pair.workers[SERVER].held < LIMIT - LIMIT / 4 {
            pour(&mut pair, *client, LIMIT);
        }
    }
    let held = pair.workers[SERVER].held;
    assert!((LIMIT - LIMIT / 4..LIMIT).contains(&held), "{held}");
    let late = pair.call_server();
    pair.write(late, b"ping");
    pair.settle();
    assert!(pair.accept().is_none() && pair.net.borrow().was_reset(late));
    assert!(pair.details().contains("do not read"), "{}", pair.details());
    // One of them reads.
    for _ in 0..1000 {
        pair.read(stuck[0].1);
        pair.settle();
    }
    assert!(pair.workers[SERVER].held < LIMIT - LIMIT / 4);
    connected(&mut pair);
}
