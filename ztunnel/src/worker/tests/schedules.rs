//! Random schedules: many connections through two workers back to back, both directions at once, with random chunk
//! sizes, half-closes, resets and slow readers. Orderly ones lose nothing; of reset ones a prefix arrives, and a reset.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::mesh::{ONE_NODE, ONE_NODE_TWO_WORKERS, Pair, Place, TWO_NODES};
use super::sim::Sock;

/// One application's end of a connection.
struct App {
    sock: Sock,
    to_send: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    /// Reads only now and then.
    slow: bool,
    /// Resets the connection once it has sent so many bytes.
    reset_after: Option<usize>,
    ended: bool,
    saw_end: bool,
    saw_reset: bool,
    gone: bool,
}

impl App {
    fn new(sock: Sock, stream: u64, rng: &mut SmallRng) -> Self {
        let len = match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(1..200),
            2 => rng.random_range(1..50_000),
            _ => rng.random_range(1..400_000),
        };
        let to_send: Vec<u8> = (0..len as u64)
            .map(|i| (i.wrapping_mul(stream * 2 + 7) >> 3) as u8)
            .collect();
        let reset_after = rng.random_bool(0.15).then(|| rng.random_range(0..=len));
        Self {
            sock,
            to_send,
            sent: 0,
            got: Vec::new(),
            slow: rng.random_bool(0.2),
            reset_after,
            ended: false,
            saw_end: false,
            saw_reset: false,
            gone: false,
        }
    }

    /// Does something or nothing. True: something.
    fn act(&mut self, pair: &mut Pair, rng: &mut SmallRng) -> bool {
        if self.gone {
            return false;
        }
        let mut net = pair.net.borrow_mut();
        if net.was_reset(self.sock) {
            self.saw_reset = true;
            self.gone = true;
            net.close(self.sock, false);
            return true;
        }
        if self.reset_after.is_some_and(|after| self.sent >= after) {
            self.gone = true;
            net.close(self.sock, true);
            return true;
        }
        let mut moved = false;
        if !self.ended {
            let most = rng
                .random_range(1..30_000)
                .min(self.to_send.len() - self.sent);
            if let Ok(n) = net.write(self.sock, &self.to_send[self.sent..self.sent + most]) {
                self.sent += n;
                moved |= n > 0;
            }
            if self.sent == self.to_send.len() {
                net.end(self.sock);
                self.ended = true;
                moved = true;
            }
        }
        if !self.saw_end && (!self.slow || rng.random_bool(0.1)) {
            let mut buffer = vec![0; rng.random_range(1..60_000)];
            match net.read(self.sock, &mut buffer) {
                Ok(0) => {
                    self.saw_end = true;
                    moved = true;
                }
                Ok(n) => {
                    self.got.extend(&buffer[..n]);
                    moved = true;
                }
                Err(_) => {}
            }
        }
        if self.ended && self.saw_end {
            net.close(self.sock, false);
            self.gone = true;
        }
        moved
    }
}

/// One connection: the caller and, once it is accepted, the application. Told apart by a first byte per connection.
struct Call {
    client: App,
    server: Option<App>,
}

fn run(seed: u64, places: &'static [Place], plain: bool) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let windows = [(16 << 10, 64 << 10), (65_535, 65_535), (256 << 10, 1 << 20)];
    let (stream_window, connection_window) = windows[rng.random_range(0..windows.len())];
    let streams = rng.random_range(1..12);
    let mut pair = Pair::started_at(seed, places, |settings| {
        settings.stream_window = stream_window;
        settings.connection_window = connection_window.max(65_535);
        settings.streams_per_tunnel = streams;
    });
    pair.net.borrow_mut().send_buffer = 1 << rng.random_range(12..19);
    let mut calls: Vec<Call> = Vec::new();
    let wanted = rng.random_range(1..20);
    let mut still = 0;
    // Slow readers look only now and then: it is over when nothing has moved for a long while.
    while still < 300 {
        let mut moved = false;
        if calls.len() < wanted && rng.random_bool(0.2) {
            let sock = if plain {
                pair.call_plain()
            } else {
                pair.call_server()
            };
            calls.push(Call {
                client: App::new(sock, calls.len() as u64, &mut rng),
                server: None,
            });
            moved = true;
        }
        moved |= pair.net.borrow_mut().shake(&mut rng);
        for index in 0..pair.workers.len() {
            if rng.random_bool(0.7) {
                moved |= pair.step(index);
            }
        }
        while let Some(sock) = pair.accept() {
            // The worker dials in the order of admission, which is not the order of the calls: match later by content.
            let free = calls
                .iter()
                .position(|call| call.server.is_none())
                .expect("no more dials than calls");
            let mut server = App::new(sock, 1000, &mut rng);
            server.to_send = (0..server.to_send.len())
                .map(|i| ((i * 13) >> 2) as u8)
                .collect();
            calls[free].server = Some(server);
        }
        for call in &mut calls {
            moved |= call.client.act(&mut pair, &mut rng);
            if let Some(server) = &mut call.server {
                moved |= server.act(&mut pair, &mut rng);
            }
        }
        let waiting = (0..pair.workers.len()).any(|index| pair.net.borrow().has_events(index));
        still = if moved || waiting || calls.len() < wanted {
            0
        } else {
            still + 1
        };
    }
    judge(seed, &pair, &calls);
}

/// Orderly: every byte. Reset: a prefix, and the other side learns of the reset unless it was done already.
fn judge(seed: u64, pair: &Pair, calls: &[Call]) {
    let servers: Vec<&App> = calls
        .iter()
        .filter_map(|call| call.server.as_ref())
        .collect();
    let resets = calls.iter().any(|call| call.client.reset_after.is_some())
        || servers.iter().any(|server| server.reset_after.is_some());
    for (index, call) in calls.iter().enumerate() {
        let app = &call.client;
        assert!(
            app.gone,
            "seed {seed}: caller {index} hangs: sent {} of {}",
            app.sent,
            app.to_send.len()
        );
        let expected = |i: usize| ((i * 13) >> 2) as u8;
        assert!(
            app.got.iter().enumerate().all(|(i, b)| *b == expected(i)),
            "seed {seed}: caller {index} altered"
        );
        if app.saw_end {
            let whole = servers
                .iter()
                .any(|server| server.to_send.len() == app.got.len() && server.ended);
            assert!(
                whole,
                "seed {seed}: caller {index} saw an end after {} bytes",
                app.got.len()
            );
        }
    }
    for (index, app) in servers.iter().enumerate() {
        assert!(
            app.gone,
            "seed {seed}: application {index} hangs: sent {} of {}",
            app.sent,
            app.to_send.len()
        );
        let prefix = calls
            .iter()
            .any(|call| call.client.to_send.starts_with(&app.got));
        assert!(prefix, "seed {seed}: application {index} got altered bytes");
        if app.saw_end {
            let whole = calls
                .iter()
                .any(|call| call.client.to_send == app.got && call.client.ended);
            assert!(
                whole,
                "seed {seed}: application {index} saw an end too early"
            );
        }
    }
    if !resets {
        assert!(
            calls.iter().all(|call| call.client.saw_end),
            "seed {seed}: an orderly connection was reset"
        );
        assert_eq!(servers.len(), calls.len(), "seed {seed}");
    }
    let mut known = 0;
    let mut open = 0;
    for (index, worker) in pair.workers.iter().enumerate() {
        known += worker.tunnels.len() + 2 * worker.leases.len();
        open += pair.net.borrow().open_of(index);
        assert_eq!(
            worker.links.len(),
            0,
            "seed {seed}: links left on worker {index}"
        );
    }
    assert_eq!(open, known, "seed {seed}: sockets that nobody knows");
}

#[test]
fn tunnels_carry_every_byte_under_any_schedule() {
    for seed in 0..40 {
        run(seed, TWO_NODES, false);
    }
}

#[test]
fn relays_carry_every_byte_under_any_schedule() {
    for seed in 0..80 {
        run(seed, TWO_NODES, true);
    }
}

#[test]
fn the_way_within_a_node_carries_every_byte_under_any_schedule() {
    for seed in 0..40 {
        run(seed, ONE_NODE, false);
        run(seed, ONE_NODE_TWO_WORKERS, false);
    }
}
