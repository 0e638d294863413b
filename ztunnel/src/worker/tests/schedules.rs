//! Random schedules: many connections through two workers back to back, both directions at once, with random chunk
//! sizes, half-closes, resets and slow readers, while tunnels retire. Orderly ones lose nothing; of reset ones a prefix
//! arrives, and a reset.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::tunnel::Tunnel;
use super::mesh::{ONE_NODE, ONE_NODE_TWO_WORKERS, Pair, Place, TWO_NODES};
use super::sim::Sock;

/// One application's end of a connection. Callers tell their number with the first bytes.
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
    /// `by_number`: its first bytes say which call it is.
    fn new(sock: Sock, (stream, by_number): (u16, bool), rng: &mut SmallRng) -> Self {
        let len = match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(1..200),
            2 => rng.random_range(1..50_000),
            _ => rng.random_range(1..400_000),
        };
        let byte = |i: u64| (i.wrapping_mul(u64::from(stream) * 2 + 7) >> 3) as u8;
        let number = if by_number {
            &stream.to_le_bytes()[..]
        } else {
            &[]
        };
        let to_send: Vec<u8> = number
            .iter()
            .copied()
            .chain((0..len as u64).map(byte))
            .collect();
        let len = to_send.len();
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

impl App {
    /// Which call the bytes that came here belong to.
    fn call(&self) -> Option<usize> {
        let number = self.got.first_chunk()?;
        Some(u16::from_le_bytes(*number).into())
    }
}

/// What the applications of all calls answer.
const ANSWER: u16 = 1000;

/// Retires the tunnels of one worker: a client's as too old, a server's as in a drain.
fn retire(pair: &mut Pair, index: usize) {
    let worker = &mut pair.workers[index];
    for key in worker.tunnels.keys(|_| true) {
        match worker.tunnels.get(key).is_some_and(Tunnel::is_client) {
            true => worker.peer_goes_away(key),
            false => worker.drain_tunnel(key),
        }
    }
    pair.pass(Duration::ZERO);
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
    let mut calls: Vec<App> = Vec::new();
    let mut servers: Vec<App> = Vec::new();
    let mut retirements = rng.random_range(0..6);
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
            calls.push(App::new(sock, (calls.len() as u16, true), &mut rng));
            moved = true;
        }
        moved |= pair.net.borrow_mut().shake(&mut rng);
        for index in 0..pair.workers.len() {
            if rng.random_bool(0.7) {
                moved |= pair.step(index);
            }
        }
        if retirements > 0 && rng.random_bool(0.02) {
            retirements -= 1;
            let index = rng.random_range(0..pair.workers.len());
            retire(&mut pair, index);
        }
        while let Some(sock) = pair.accept() {
            servers.push(App::new(sock, (ANSWER, false), &mut rng));
        }
        for app in calls.iter_mut().chain(&mut servers) {
            moved |= app.act(&mut pair, &mut rng);
        }
        let waiting = (0..pair.workers.len()).any(|index| pair.net.borrow().has_events(index));
        still = if moved || waiting || calls.len() < wanted {
            0
        } else {
            still + 1
        };
    }
    judge(seed, &calls, &servers);
    judge_leaks(seed, &pair);
}

/// Orderly: every byte. Reset: a prefix, and the other side learns of the reset unless it was done already.
fn judge(seed: u64, calls: &[App], servers: &[App]) {
    let mut answered: Vec<Option<&App>> = vec![None; calls.len()];
    let mut unknown = 0;
    for (index, app) in servers.iter().enumerate() {
        let place = format!("seed {seed}: application {index}");
        let of = app.to_send.len();
        assert!(app.gone, "{place} hangs: sent {} of {of}", app.sent);
        let Some(number) = app.call() else {
            assert!(!app.saw_end, "{place} saw an end too early");
            unknown += usize::from(app.reset_after.is_some());
            continue;
        };
        let call = &calls[number];
        assert!(
            call.to_send.starts_with(&app.got),
            "{place} got altered bytes"
        );
        let early = app.saw_end && (app.got != call.to_send || !call.ended);
        assert!(!early, "{place} saw an end too early");
        let twice = answered[number].replace(app).is_some();
        assert!(!twice, "{place}: call {number} came twice");
    }
    let mut unanswered = 0;
    for (index, (app, server)) in calls.iter().zip(&answered).enumerate() {
        let place = format!("seed {seed}: caller {index}");
        let of = app.to_send.len();
        assert!(app.gone, "{place} hangs: sent {} of {of}", app.sent);
        let Some(server) = server else {
            unanswered += usize::from(app.reset_after.is_none());
            continue;
        };
        assert!(server.to_send.starts_with(&app.got), "{place} altered");
        let (got, of) = (app.got.len(), server.to_send.len());
        let early = app.saw_end && (got != of || !server.ended);
        assert!(!early, "{place} saw an end after {got} of {of} bytes");
        if app.reset_after.is_none() && server.reset_after.is_none() {
            let whole = app.saw_end && server.saw_end;
            assert!(whole, "{place}: an orderly connection was reset");
        }
    }
    // Where the caller did not reset and its number did not arrive, an application reset before it read that.
    assert!(
        unanswered <= unknown,
        "seed {seed}: orderly connections were reset"
    );
}

/// Nothing is left behind.
fn judge_leaks(seed: u64, pair: &Pair) {
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
