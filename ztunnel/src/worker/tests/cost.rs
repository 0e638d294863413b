//! What bytes, requests and connections cost, in system calls and allocations, and what a quiet connection holds: on
//! scripted sockets, so the same on every machine. The limits stand a little above what was measured.

use super::super::api::Settings;
use super::facts::connected;
use super::mesh::{CLIENT, ONE_NODE, Pair, Place, SERVER, TWO_NODES};
use super::sim::Sock;

/// What some work has cost both proxies together.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Socket operations and turns of the event loop.
    calls: f64,
    allocations: f64,
    /// Bytes that are held when it is over.
    held: f64,
}

struct Stage {
    pair: Pair,
    turns: usize,
    /// Allocations and bytes held, of the workers alone.
    spent: (u64, i64),
}

impl Stage {
    fn new(places: &'static [Place]) -> Self {
        Self::with(places, |_| {})
    }

    fn with(places: &'static [Place], settings: impl Fn(&mut Settings)) -> Self {
        let pair = Pair::started_at(1, places, settings);
        pair.net.borrow_mut().send_buffer = 4 << 20;
        Self {
            pair,
            turns: 0,
            spent: (0, 0),
        }
    }

    /// One turn of each worker that has events, and everything carried on. True: something moved.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.pair.workers.len() {
            let mut stepped = false;
            let pair = &mut self.pair;
            let spent = allocation_counter::measure(|| stepped = pair.step(index));
            // Control takes the reports away, as it does in the process.
            pair.notices.clear();
            self.turns += usize::from(stepped);
            self.spent.0 += spent.count_total;
            self.spent.1 += spent.bytes_current;
            moved |= stepped;
        }
        let count = self.pair.net.borrow().len();
        for from in 0..count {
            moved |= self.pair.net.borrow_mut().carry(from, usize::MAX);
        }
        moved
    }

    fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn calls(&self) -> usize {
        let net = self.pair.net.borrow();
        self.turns + net.calls.values().sum::<usize>()
    }

    /// The cost of `work` for each of `units`.
    fn cost(&mut self, units: usize, work: impl FnOnce(&mut Self)) -> Cost {
        let (calls, spent) = (self.calls(), self.spent);
        work(self);
        let per = |n: f64| n / units as f64;
        Cost {
            calls: per((self.calls() - calls) as f64),
            allocations: per((self.spent.0 - spent.0) as f64),
            held: per((self.spent.1 - spent.1) as f64),
        }
    }
}

fn within(what: &str, cost: Cost, calls: f64, allocations: f64) {
    println!("{what}: {cost:?}");
    assert!(cost.calls <= calls, "{what}: {} system calls", cost.calls);
    assert!(
        cost.allocations <= allocations,
        "{what}: {} allocations",
        cost.allocations
    );
}

/// Mebibytes from the client to the server.
fn bulk(stage: &mut Stage, (client, server): (Sock, Sock), mebibytes: usize) {
    let chunk = vec![7; 1 << 20];
    let (mut left, mut wanted) = (mebibytes << 20, mebibytes << 20);
    while wanted > 0 {
        left -= stage.pair.write(client, &chunk[..left.min(chunk.len())]);
        stage.turn();
        wanted -= stage.pair.read(server).0.len();
    }
    stage.settle();
}

#[test]
fn a_megabyte_costs_few_system_calls_and_allocations() {
    // 16 KiB is what a peer takes that says nothing (RFC 9113, section 6.5.2).
    for (places, frame, calls, allocations) in [
        (TWO_NODES, 1 << 20, 18.0, 5.0),
        (TWO_NODES, 1 << 14, 18.0, 5.0),
        (ONE_NODE, 1 << 20, 7.0, 1.0),
    ] {
        let mut stage = Stage::with(places, |settings| settings.frame_size = frame);
        let ends = connected(&mut stage.pair);
        bulk(&mut stage, ends, 32);
        let cost = stage.cost(64, |stage| bulk(stage, ends, 64));
        within(
            &format!("{} workers, 1 MiB in frames of {frame}", places.len()),
            cost,
            calls,
            allocations,
        );
    }
}

#[test]
fn a_request_among_many_costs_few_system_calls_and_allocations() {
    for (places, calls, allocations) in [(TWO_NODES, 4.6, 0.5), (ONE_NODE, 4.5, 0.1)] {
        let mut stage = Stage::new(places);
        let ends: Vec<_> = (0..64).map(|_| connected(&mut stage.pair)).collect();
        let rounds = 50;
        let cost = stage.cost(64 * rounds, |stage| {
            for _ in 0..rounds {
                for (client, _) in &ends {
                    stage.pair.write(*client, &[1; 1024]);
                }
                stage.settle();
                for (_, server) in &ends {
                    assert_eq!(stage.pair.read(*server).0.len(), 1024);
                    stage.pair.write(*server, &[2; 1024]);
                }
                stage.settle();
                for (client, _) in &ends {
                    assert_eq!(stage.pair.read(*client).0.len(), 1024);
                }
            }
        });
        within(
            &format!("{} workers, request", places.len()),
            cost,
            calls,
            allocations,
        );
    }
}

#[test]
fn a_connection_on_a_warm_tunnel_costs_few_system_calls_and_allocations() {
    for (places, calls, allocations) in [(TWO_NODES, 44.0, 36.0), (ONE_NODE, 26.0, 8.0)] {
        let mut stage = Stage::new(places);
        connected(&mut stage.pair);
        let cost = stage.cost(200, |stage| {
            for _ in 0..200 {
                let client = stage.pair.call_server();
                stage.pair.write(client, b"ping");
                stage.settle();
                let server = stage.pair.accept().expect("the application was dialled");
                stage.pair.write(server, b"pong");
                stage.pair.net.borrow_mut().end(server);
                stage.settle();
                stage.pair.read(client);
                stage.pair.net.borrow_mut().end(client);
                stage.settle();
            }
        });
        within(
            &format!("{} workers, connection", places.len()),
            cost,
            calls,
            allocations,
        );
    }
}

#[test]
fn a_quiet_connection_holds_less_than_a_kibibyte_on_both_sides_together() {
    for places in [TWO_NODES, ONE_NODE] {
        let mut stage = Stage::new(places);
        connected(&mut stage.pair);
        let count = 1000;
        let cost = stage.cost(count, |stage| {
            for _ in 0..count {
                let client = stage.pair.call_server();
                stage.pair.write(client, b"ping");
                stage.settle();
                let server = stage.pair.accept().expect("the application was dialled");
                stage.pair.read(server);
            }
            stage.settle();
        });
        println!(
            "{} workers, quiet connection: {} bytes",
            places.len(),
            cost.held
        );
        assert!(cost.held <= 1024.0, "{} bytes", cost.held);
        let links: usize = [CLIENT, SERVER]
            .iter()
            .filter_map(|index| stage.pair.workers.get(*index))
            .map(|worker| worker.links.len())
            .sum();
        assert!(links >= 2 * count);
    }
}
