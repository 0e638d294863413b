//! The load generator: a server in one namespace, clients in others, each a thread of its own. It counts only bytes that it
//! has found right. Called by the scenarios. Order of reading: `mod`, `exchange` and `bulk` (clients), `server`, `stream`.

mod bulk;
mod exchange;
mod pace;
mod server;
mod stream;
mod tally;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use hdrhistogram::Histogram;
use mio::{Events, Poll};
use sys::socket::{ListenOptions, listen_tcp};
use testkit::topology::Namespace;

pub use self::bulk::Bulk;
pub use self::exchange::{Exchange, Life, Pace};
pub use self::tally::Tally;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Reads or writes of one connection before the others have their turn.
const TURNS: usize = 4;
/// How often a thread looks whether it should stop.
const TICK: Duration = Duration::from_millis(20);
/// How long connections may take to end after the load has stopped.
const DRAIN: Duration = Duration::from_secs(20);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One-way streams.
    Bulk(Bulk),
    /// Requests and answers.
    Exchange(Exchange),
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    /// Its counters.
    pub tally: Arc<Tally>,
    servers: Vec<JoinHandle<()>>,
    clients: Vec<JoinHandle<()>>,
    answers: mpsc::Receiver<io::Result<Option<Histogram<u64>>>>,
    expected: usize,
}

/// Numbers the loads of this process, so that no two have the same seeds.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Load {
    /// Servers on `port` in each of `servers`; a client with `kind` in each of `clients`, which goes to `targets` in turn.
    ///
    /// # Errors
    /// When a port cannot be bound or a namespace not be entered.
    pub fn start(
        clients: &[&Namespace],
        servers: &[&Namespace],
        targets: &[SocketAddr],
        kind: Kind,
    ) -> Result<Self> {
        let tally = Arc::new(Tally::default());
        // What ends by itself is measured as a whole.
        tally.record(matches!(
            kind,
            Kind::Exchange(Exchange { total: Some(_), .. })
        ));
        let (sender, answers) = mpsc::channel();
        let mut load = Self {
            tally: tally.clone(),
            servers: Vec::new(),
            clients: Vec::new(),
            answers,
            expected: servers.len() + clients.len(),
        };
        let port = targets.first().context("a load has a target")?.port();
        for namespace in servers {
            let listener = listen(namespace, port)?;
            let (tally, sender) = (tally.clone(), sender.clone());
            let serve = move || drop(sender.send(server::run(listener, tally).map(|()| None)));
            load.servers.push(namespace.spawn(serve)?);
        }
        for namespace in clients {
            let salt = NUMBER.fetch_add(1, Ordering::Relaxed) << 32;
            let (tally, sender, targets) = (tally.clone(), sender.clone(), targets.to_vec());
            let work = move || {
                let done = match kind {
                    Kind::Bulk(plan) => bulk::run(plan, targets[0], salt, &tally).map(|()| None),
                    Kind::Exchange(plan) => exchange::run(plan, &targets, salt, &tally).map(Some),
                };
                drop(sender.send(done));
            };
            load.clients.push(namespace.spawn(work)?);
        }
        Ok(load)
    }

    /// Waits until `reached` holds.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or a thread has ended.
    pub fn until(
        &self,
        what: &str,
        limit: Duration,
        reached: impl Fn(&Tally) -> bool,
    ) -> Result<()> {
        let begin = Instant::now();
        while !reached(&self.tally) {
            let ended = self.clients.iter().all(JoinHandle::is_finished);
            if begin.elapsed() > limit || ended && !reached(&self.tally) {
                let faults: Vec<String> = self
                    .answers
                    .try_iter()
                    .filter_map(|done| Some(done.err()?.to_string()))
                    .collect();
                bail!(
                    "{what}: {}; {} bytes, {} answers, {} connections so far; {} {}",
                    if ended {
                        "the clients have ended".to_owned()
                    } else {
                        format!("not within {limit:?}")
                    },
                    self.tally.bytes(),
                    self.tally.operations(),
                    self.tally.opened(),
                    faults.join("; "),
                    self.tally.verdict().err().unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops it, waits until every connection has ended, and returns the latencies (nanoseconds) that were recorded.
    ///
    /// # Errors
    /// When a byte was altered or lost, or a connection failed.
    pub fn stop(self) -> Result<Histogram<u64>> {
        self.tally.stop();
        self.join()
    }

    /// Waits for clients that end by themselves, then as [`Load::stop`].
    ///
    /// # Errors
    /// As [`Load::stop`], and when they do not end within `limit`.
    pub fn finish(self, limit: Duration) -> Result<Histogram<u64>> {
        let begin = Instant::now();
        while !self.clients.iter().all(JoinHandle::is_finished) {
            if begin.elapsed() > limit {
                self.tally
                    .fault(format!("clients did not end within {limit:?}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.stop()
    }

    fn join(self) -> Result<Histogram<u64>> {
        let mut latencies =
            Histogram::new_with_bounds(1000, 60_000_000_000, 3).context("histogram")?;
        let limit = DRAIN + Duration::from_secs(10);
        let mut faults = Vec::new();
        for _ in 0..self.expected {
            match self.answers.recv_timeout(limit) {
                Ok(Ok(Some(part))) => latencies.add(part).context("latencies")?,
                Ok(Ok(None)) => {}
                Ok(Err(fault)) => faults.push(fault.to_string()),
                Err(_) => faults.push("a thread of the load hangs or has panicked".to_owned()),
            }
        }
        if let Err(fault) = self.tally.verdict() {
            faults.push(fault);
        }
        if faults.is_empty() {
            return Ok(latencies);
        }
        Err(anyhow!("load: {}", faults.join("; ")))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Threads of a load that failed to start, or that nobody waits for, end too.
        self.tally.stop();
    }
}

fn listen(namespace: &Namespace, port: u16) -> Result<std::net::TcpListener> {
    let options = ListenOptions {
        backlog: 4096,
        ..ListenOptions::default()
    };
    let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    namespace
        .run(|| listen_tcp(address, &options))?
        .with_context(|| format!("bind {address} in {}", namespace.name()))
}

fn wait(poll: &mut Poll, events: &mut Events, timeout: Duration) -> io::Result<()> {
    match poll.poll(events, Some(timeout)) {
        Err(fault) if fault.kind() == io::ErrorKind::Interrupted => Ok(()),
        polled => polled,
    }
}

#[cfg(test)]
mod tests;
