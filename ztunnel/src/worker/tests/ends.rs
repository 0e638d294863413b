//! What is still on its way when an end comes: a reset behind the last bytes, a stream that its far side takes leave of, an
//! end without credit.

use std::time::Duration;

use super::super::api::Reason;
use super::facts::connected;
use super::mesh::{ONE_NODE, Pair, TWO_NODES};
use super::sim::Sock;

const SECOND: Duration = Duration::from_secs(1);

/// The ways through the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tunnel,
    SameNode,
    Plain,
}

const WAYS: [Way; 3] = [Way::Tunnel, Way::SameNode, Way::Plain];

/// A connection through which a byte has gone each way.
fn joined(way: Way) -> (Pair, Sock, Sock) {
    let places = match way {
        Way::SameNode => ONE_NODE,
        _ => TWO_NODES,
    };
    let mut pair = Pair::started_at(1, places, |_| {});
    pair.net.borrow_mut().prompt = true;
    if way != Way::Plain {
        let (client, server) = connected(&mut pair);
        return (pair, client, server);
    }
    let client = pair.call_plain();
    pair.settle();
    let server = pair.accept().expect("the application was dialled");
    (pair, client, server)
}

fn links(pair: &Pair) -> usize {
    pair.workers.iter().map(|worker| worker.links.len()).sum()
}

#[test]
fn what_an_application_said_before_its_reset_arrives_before_the_reset() {
    for way in WAYS {
        for by_server in [true, false] {
            let (mut pair, client, server) = joined(way);
            let (from, to) = match by_server {
                true => (server, client),
                false => (client, server),
            };
            // The other side is in the middle of its own bytes, which nobody reads: closing makes a reset of that.
            pair.write(to, &[7; 30_000]);
            pair.settle();
            let answer = b"413 too much".repeat(1000);
            assert_eq!(pair.write(from, &answer), answer.len());
            pair.net.borrow_mut().carry(from.0, usize::MAX);
            pair.net.borrow_mut().close(from, false);
            pair.settle();
            let (came, ended) = pair.read(to);
            assert_eq!(came.len(), answer.len(), "{way:?}, by server: {by_server}");
            assert!(came == answer && !ended);
            assert!(pair.net.borrow().was_reset(to), "{way:?}: no reset");
            assert_eq!(links(&pair), 0, "{way:?}");
            let (by_source, by_destination) = (Reason::SourceReset, Reason::DestinationReset);
            let expected = if by_server { by_destination } else { by_source };
            assert!(pair.reasons().iter().all(|reason| *reason == expected));
        }
    }
}

#[test]
fn what_an_application_said_before_its_reset_arrives_although_a_write_finds_the_reset_first() {
    for way in WAYS {
        let (mut pair, client, server) = joined(way);
        pair.write(server, b"413");
        pair.net.borrow_mut().carry(server.0, usize::MAX);
        pair.net.borrow_mut().close(server, true);
        // Bytes for it are with the worker before it looks at the event of the reset.
        let last = pair.workers.len() - 1;
        let late = pair.net.borrow_mut().take_events(last);
        pair.write(client, &[7; 30_000]);
        for _ in 0..4 {
            pair.step(0);
            let count = pair.net.borrow().len();
            for from in 0..count {
                pair.net.borrow_mut().carry(from, usize::MAX);
            }
        }
        pair.step(last);
        pair.net.borrow_mut().give_events(last, late);
        pair.settle();
        assert_eq!(pair.read(client), (b"413".to_vec(), false), "{way:?}");
        assert!(pair.net.borrow().was_reset(client), "{way:?}");
        assert_eq!(links(&pair), 0, "{way:?}");
    }
}

#[test]
fn an_end_and_a_reset_right_behind_it_arrive_in_this_order() {
    for way in WAYS {
        let (mut pair, client, server) = joined(way);
        let answer = [5; 10_000];
        pair.write(server, &answer);
        pair.net.borrow_mut().end(server);
        pair.net.borrow_mut().carry(server.0, usize::MAX);
        pair.net.borrow_mut().close(server, true);
        pair.settle();
        let (came, ended) = pair.read(client);
        assert!(came == answer && ended, "{way:?}: {} {ended}", came.len());
        assert!(pair.net.borrow().was_reset(client), "{way:?}");
    }
}

#[test]
fn a_reset_waits_some_seconds_for_a_side_that_does_not_take_what_was_said_before_it() {
    for way in WAYS {
        let (mut pair, client, server) = joined(way);
        // The caller reads nothing until no more is taken from the application.
        let mut sent = 0;
        loop {
            let n = pair.write(server, &[7; 64 << 10]);
            sent += n;
            pair.settle();
            if n == 0 {
                break;
            }
        }
        assert!(sent > 256 << 10, "{sent}");
        pair.net.borrow_mut().close(server, true);
        pair.settle();
        assert!(!pair.net.borrow().was_reset(client), "{way:?}");
        for _ in 0..6 {
            pair.pass(SECOND);
            pair.settle();
        }
        assert!(pair.net.borrow().was_reset(client), "{way:?}");
        assert_eq!(links(&pair), 0, "{way:?}");
        for worker in &pair.workers {
            assert_eq!(worker.held, 0);
        }
    }
}
