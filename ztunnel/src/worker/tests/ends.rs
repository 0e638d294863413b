//! What is still on its way when an end comes: a reset behind the last bytes, a stream that its far side takes leave of, an
//! end without credit.

use std::time::Duration;

use super::super::api::Reason;
use super::facts::connected;
use super::hostile::{Peer, good_start};
use super::mesh::{CLIENT, ONE_NODE, Pair, SERVER, TWO_NODES};
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

/// END_STREAM of the first stream.
const END: [u8; 9] = [0, 0, 0, 0, 1, 0, 0, 0, 1];
/// RST_STREAM of the first stream with CANCEL.
const CANCEL: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];

/// The server's application, and a peer that has sent it `payload`, the end, and then that it takes no more.
fn taken_leave_of(payload: usize) -> (Pair, Peer, Sock) {
    let mut pair = Pair::started(5, |_| {});
    pair.net.borrow_mut().send_buffer = 16 << 10;
    let mut peer = Peer::connect(&mut pair);
    let (mut h2, start) = good_start(1);
    peer.say(&mut pair, &start);
    let app = pair.accept().expect("the application was dialled");
    // The application sends and does not read meanwhile.
    pair.write(app, &[9; 200_000]);
    pair.settle_except(app);
    for part in vec![7; payload].chunks(8000) {
        let mut data = vec![0, (part.len() >> 8) as u8, part.len() as u8, 0, 0];
        data.extend([0, 0, 0, 1]);
        data.extend_from_slice(part);
        peer.say_slowly(&mut pair, &data, app);
    }
    h2.output().clear();
    peer.say_slowly(&mut pair, &[&END[..], &CANCEL].concat(), app);
    (pair, peer, app)
}

#[test]
fn an_application_that_reads_only_after_its_own_upload_gets_all_of_a_stream_that_was_taken_leave_of()
 {
    let (mut pair, _peer, app) = taken_leave_of(40_000);
    // The rest of its upload is taken although nobody wants it.
    let mut left: usize = 300_000;
    for _ in 0..1000 {
        left -= pair.write(app, &[9; 8000][..left.min(8000)]);
        pair.settle_except(app);
    }
    assert_eq!(left, 0, "the application still waits to be read");
    let mut came = 0;
    let mut ended = false;
    for _ in 0..100 {
        let (bytes, end) = pair.read(app);
        came += bytes.len();
        ended |= end;
        pair.settle();
    }
    assert_eq!((came, ended), (40_000, true));
    pair.net.borrow_mut().close(app, false);
    pair.settle();
    assert_eq!(links(&pair), 0);
    assert_eq!(pair.reasons(), [Reason::Complete]);
}

#[test]
fn an_application_that_never_stops_sending_is_closed_once_it_has_all_that_was_sent_to_it() {
    let (mut pair, _peer, app) = taken_leave_of(40_000);
    let mut came = 0;
    for _ in 0..60 {
        pair.pass(SECOND / 2);
        pair.settle();
        pair.write(app, &[9; 3000]);
        let mut buffer = [0; 1000];
        let read = pair.net.borrow_mut().read(app, &mut buffer);
        came += read.unwrap_or(0);
    }
    // Nothing was cut while it read slowly.
    let (rest, _) = pair.read(app);
    assert_eq!(came + rest.len(), 40_000);
    pair.settle();
    // It has everything and sends on without end.
    for _ in 0..30 {
        pair.pass(SECOND);
        pair.write(app, &[9; 3000]);
        pair.settle();
    }
    assert_eq!(links(&pair), 0);
    assert_eq!(pair.reasons(), [Reason::Complete]);
}

#[test]
fn an_upload_that_takes_some_seconds_behind_an_early_answer_is_heard_out() {
    let (mut pair, _peer, app) = taken_leave_of(10_000);
    pair.settle();
    assert_eq!(pair.read(app).0.len(), 10_000);
    for second in 0..20 {
        pair.write(app, &[9; 3000]);
        pair.settle();
        pair.pass(SECOND);
        pair.settle();
        assert_eq!(links(&pair), 1, "cut after {second} s");
    }
    pair.net.borrow_mut().end(app);
    pair.settle();
    assert_eq!(links(&pair), 0);
    assert_eq!(pair.reasons(), [Reason::Complete]);
}

#[test]
fn an_application_that_reads_nothing_and_sends_without_end_is_given_up() {
    let (mut pair, _peer, app) = taken_leave_of(40_000);
    for _ in 0..40 {
        pair.pass(SECOND);
        pair.write(app, &[9; 3000]);
        pair.settle_except(app);
    }
    assert_eq!(links(&pair), 0);
}

#[test]
fn an_application_that_waits_for_its_turn_in_a_full_tunnel_is_heard_out_too() {
    let mut pair = Pair::started(5, |_| {});
    pair.net.borrow_mut().send_buffer = 16 << 10;
    let mut peer = Peer::connect(&mut pair);
    let (_, start) = good_start(1);
    peer.say(&mut pair, &start);
    let app = pair.accept().expect("the application was dialled");
    // Nothing is carried to the peer: the tunnel is full while the stream has credit.
    let full = peer.sock;
    for _ in 0..20 {
        pair.write(app, &[9; 8000]);
        pair.settle_except(full);
    }
    assert_eq!(pair.write(app, &[9; 8000]), 0, "it is read on and on");
    peer.say_slowly(&mut pair, &[&END[..], &CANCEL].concat(), full);
    let mut left: usize = 300_000;
    for _ in 0..100 {
        left -= pair.write(app, &[9; 8000][..left.min(8000)]);
        pair.settle_except(full);
    }
    assert_eq!(left, 0, "the application still waits to be read");
    pair.net.borrow_mut().end(app);
    pair.settle_except(full);
    assert_eq!(links(&pair), 0);
    assert_eq!(pair.reasons(), [Reason::Complete]);
}

#[test]
fn an_application_that_neither_reads_nor_ends_is_given_up() {
    let (mut pair, _peer, app) = taken_leave_of(10_000);
    // What fits into its buffers is there; the end behind it is not read, which no one can see.
    for _ in 0..40 {
        pair.pass(SECOND);
        pair.settle_except(app);
    }
    assert_eq!(links(&pair), 0);
}

fn small_window() -> (Pair, Sock, Sock) {
    let mut pair = Pair::started(1, |settings| settings.stream_window = 16 << 10);
    pair.net.borrow_mut().send_buffer = 8 << 10;
    let (client, server) = connected(&mut pair);
    (pair, client, server)
}

/// A connection whose server application reads nothing, and whose stream has no credit left.
fn without_credit() -> (Pair, Sock, Sock) {
    let (mut pair, client, server) = small_window();
    loop {
        let n = pair.write(client, &[7; 4096]);
        pair.settle_except(server);
        if n < 4096 || pair.net.borrow().unread_by_peer(client) > 0 {
            return (pair, client, server);
        }
    }
}

/// Whether the server's proxy knows that the client sends no more.
fn far_ended(pair: &Pair) -> bool {
    let links = &pair.workers[SERVER].links;
    links
        .keys(|_| true)
        .iter()
        .all(|key| links.get(*key).is_some_and(|link| link.far_ended))
}

/// As [`without_credit`], with nothing behind the last byte that had credit.
fn used_up() -> (Pair, Sock, Sock) {
    let (pair, client, _) = without_credit();
    let written = pair.net.borrow().written(client) - 4;
    let total = written - pair.net.borrow().unread_by_peer(client);
    let (mut pair, client, server) = small_window();
    for part in vec![7; total].chunks(4096) {
        assert_eq!(pair.write(client, part), part.len());
        pair.settle_except(server);
    }
    assert_eq!(pair.net.borrow().unread_by_peer(client), 0);
    (pair, client, server)
}

#[test]
fn an_end_needs_no_credit() {
    let (mut pair, client, server) = used_up();
    pair.net.borrow_mut().end(client);
    pair.settle_except(server);
    assert!(far_ended(&pair), "the end waits for credit");
}

#[test]
fn a_reset_needs_no_credit() {
    let (mut pair, client, server) = used_up();
    pair.net.borrow_mut().close(client, true);
    pair.settle_except(server);
    assert!(pair.net.borrow().was_reset(server));
}

#[test]
fn a_reset_behind_bytes_without_credit_is_told_after_some_seconds() {
    let (mut pair, client, server) = without_credit();
    pair.net.borrow_mut().close(client, true);
    for _ in 0..6 {
        pair.pass(SECOND);
        pair.settle_except(server);
    }
    assert!(pair.net.borrow().was_reset(server));
    assert_eq!(links(&pair), 0);
    assert_eq!(pair.workers[CLIENT].held + pair.workers[SERVER].held, 0);
}
