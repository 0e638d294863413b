//! The generator against itself over the loopback, through a relay that can do wrong.
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::*;

/// What a relay does to the bytes that go from client to server.
#[derive(Clone, Copy)]
enum Wrong {
    Nothing,
    /// Turns a bit of the byte at this position.
    Flip(usize),
    /// Leaves out so many bytes at the end.
    Cut(usize),
}

fn pump(mut from: TcpStream, mut to: TcpStream, wrong: Wrong) {
    let (mut at, mut held, mut buffer) = (0, Vec::new(), vec![0; 64 << 10]);
    let keep = if let Wrong::Cut(count) = wrong {
        count
    } else {
        0
    };
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        if let Wrong::Flip(place) = wrong
            && (at..at + n).contains(&place)
        {
            buffer[place - at] ^= 1;
        }
        at += n;
        held.extend_from_slice(&buffer[..n]);
        let ready = held.len().saturating_sub(keep);
        if to.write_all(&held[..ready]).is_err() {
            break;
        }
        held.drain(..ready);
    }
    let _may_be_gone = to.shutdown(Shutdown::Write);
}

/// Runs a load until `enough`, through the relay; what the tally says in the end.
fn through(wrong: Wrong, kind: Kind, enough: fn(&Tally) -> bool) -> Result<u64, String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let middle = TcpListener::bind("127.0.0.1:0").unwrap();
    let (server, target) = (listener.local_addr().unwrap(), middle.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    let relay = thread::spawn(move || {
        let (near, _) = middle.accept().unwrap();
        let far = TcpStream::connect(server).unwrap();
        let (back_from, back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        let back = thread::spawn(move || pump(back_from, back_to, Wrong::Nothing));
        pump(near, far, wrong);
        back.join().unwrap();
    });
    let tally = Arc::new(Tally::default());
    let serving = thread::spawn({
        let tally = tally.clone();
        move || server::run(listener, tally).unwrap()
    });
    let client = thread::spawn({
        let tally = tally.clone();
        move || match kind {
            Kind::Bulk(plan) => bulk::run(plan, target, 77, &tally).unwrap(),
            Kind::Exchange(plan) => drop(exchange::run(plan, &[target], 77, &tally).unwrap()),
        }
    });
    let begin = Instant::now();
    while !enough(&tally) && tally.verdict().is_ok() && begin.elapsed() < Duration::from_secs(60) {
        thread::yield_now();
    }
    tally.stop();
    for thread in [client, serving, relay] {
        thread.join().unwrap();
    }
    tally.verdict().map(|()| tally.bytes() + tally.operations())
}

fn bulk(up: bool) -> Kind {
    Kind::Bulk(Bulk {
        up,
        streams: 1,
        staller: false,
    })
}

const EXCHANGE: Kind = Kind::Exchange(Exchange {
    connections: 1,
    size: 100,
    life: Life::Endless,
    pace: Pace::Closed,
    total: None,
});

#[test]
fn right_bytes_are_found_right_and_counted() {
    let enough: fn(&Tally) -> bool = |tally| tally.bytes() > 3 << 20 || tally.operations() > 100;
    for kind in [bulk(true), bulk(false), EXCHANGE] {
        let count = through(Wrong::Nothing, kind, enough);
        assert!(
            count.as_ref().is_ok_and(|count| *count > 100),
            "{kind:?}: {count:?}"
        );
    }
}

#[test]
fn one_altered_bit_fails_the_load() {
    for (kind, place) in [(bulk(true), 2_000_000), (bulk(true), 5), (EXCHANGE, 3000)] {
        let verdict = through(Wrong::Flip(place), kind, |tally| tally.bytes() > 64 << 20);
        assert!(
            verdict.as_ref().is_err_and(|text| text.contains("ALTERED")),
            "{kind:?}: {verdict:?}"
        );
    }
}

#[test]
fn bytes_that_are_lost_at_the_end_fail_the_load() {
    let verdict = through(Wrong::Cut(1), bulk(true), |tally| tally.bytes() > 1 << 20);
    assert!(
        verdict
            .as_ref()
            .is_err_and(|text| text.contains("sent Some")),
        "{verdict:?}"
    );
}

#[test]
fn an_open_loop_counts_from_the_planned_time() {
    let kind = Kind::Exchange(Exchange {
        connections: 1,
        size: 100,
        life: Life::Endless,
        pace: Pace::Open(2000.0),
        total: None,
    });
    let count = through(Wrong::Nothing, kind, |tally| tally.operations() > 50);
    assert!(count.is_ok_and(|count| count > 50));
}
