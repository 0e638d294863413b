//! Thousands of connections under a policy that changes at random: no verdict, on a new or on a live connection, may
//! be one that no policy in force within the last second gives. Prints how long a change takes to cut what it forbids.
//! Needs root and the release binaries.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use proto::security::{Action, Match, Scope, StringMatch, string_match};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::echo::{self, Behaviour};
use testkit::mesh::Mesh;

const ACCOUNTS: [&str; 3] = ["red", "green", "blue"];
/// New connections in all.
const CONNECTIONS: usize = 5_000;
/// Threads that open them, for each account.
const OPENERS: usize = 2;
/// Connections held open, for each account.
const HELD: usize = 8;
/// How old a policy may be that still decides.
const GRACE: Duration = Duration::from_secs(1);
/// Nothing here takes so long unless it is stuck.
const STUCK: Duration = Duration::from_secs(10);
/// Between attempts of one thread, so that all of them together meet many changes.
const PACE: Duration = Duration::from_millis(15);

/// Which accounts may connect, one bit each.
type Allowed = u8;

/// Every policy that was ever in force, with the time at which it was pushed.
struct History(Mutex<Vec<(Instant, Allowed)>>);

/// What the threads found.
#[derive(Default)]
struct Found {
    wrong: Mutex<Vec<String>>,
    allowed: AtomicUsize,
    denied: AtomicUsize,
    kept: AtomicUsize,
    cuts: Mutex<Vec<Duration>>,
}

/// What a thread needs.
#[derive(Clone)]
struct Place {
    history: Arc<History>,
    found: Arc<Found>,
    stop: Arc<AtomicBool>,
    left: Arc<AtomicUsize>,
    server: SocketAddr,
    account: usize,
}

impl History {
    fn push(&self, allowed: Allowed) {
        self.0
            .lock()
            .expect("no holder panics")
            .push((Instant::now(), allowed));
    }

    /// Whether some policy in force between `GRACE` before `begin` and `end` says `verdict` of `account`.
    fn gives(&self, account: usize, verdict: bool, begin: Instant, end: Instant) -> bool {
        let history = self.0.lock().expect("no holder panics");
        let earliest = begin.checked_sub(GRACE).unwrap_or(begin);
        history.iter().enumerate().any(|(at, (since, allowed))| {
            let until = history.get(at + 1).map_or(end, |(next, _)| *next);
            *since <= end && until >= earliest && (allowed >> account & 1 == 1) == verdict
        })
    }

    /// When the policy now in force began to forbid `account`; `None` while it is allowed.
    fn forbidden_since(&self, account: usize) -> Option<Instant> {
        let history = self.0.lock().expect("no holder panics");
        let forbidding = history
            .iter()
            .rev()
            .take_while(|(_, allowed)| allowed >> account & 1 == 0);
        forbidding.last().map(|(since, _)| *since)
    }
}

impl Place {
    fn verdict(&self, kind: &str, verdict: bool, begin: Instant) {
        let end = Instant::now();
        if !self.history.gives(self.account, verdict, begin, end) {
            let says = if verdict { "allowed" } else { "denied" };
            let account = ACCOUNTS[self.account];
            self.wrong(format!(
                "{kind} of {account} was {says} in {:?}",
                end - begin
            ));
        }
    }

    fn wrong(&self, text: String) {
        self.found
            .wrong
            .lock()
            .expect("no holder panics")
            .push(text);
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Opens new connections until all are used up.
    fn open(&self) {
        while self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            let begin = Instant::now();
            match attempt(self.server) {
                Ok(stream) => {
                    let verdict = stream.is_some();
                    self.verdict("a new connection", verdict, begin);
                    let count = if verdict {
                        &self.found.allowed
                    } else {
                        &self.found.denied
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.wrong(format!("a new connection: {error}")),
            }
            thread::sleep(PACE);
        }
    }

    /// Holds one connection, watching what becomes of it; opens the next when it was cut.
    fn hold(&self) {
        while self.running() {
            let begin = Instant::now();
            match attempt(self.server) {
                Ok(Some(stream)) => self.watch(stream),
                Ok(None) => {
                    self.verdict("a connection to be held", false, begin);
                    thread::sleep(PACE);
                }
                Err(error) => self.wrong(format!("a connection to be held: {error}")),
            }
        }
    }

    /// Sends a byte now and then; in between the end may come by itself.
    fn watch(&self, mut stream: TcpStream) {
        let mut byte = [0];
        while self.running() {
            let begin = Instant::now();
            let quiet = stream
                .set_read_timeout(Some(PACE))
                .and_then(|()| stream.read(&mut byte));
            match quiet {
                Err(error) if waiting(&error) => {}
                _ => return self.cut(begin),
            }
            let begin = Instant::now();
            let alive = stream
                .set_read_timeout(Some(STUCK))
                .and_then(|()| echo::ping(&mut stream, b"y"));
            match alive {
                Ok(_) => {
                    self.verdict("a live connection", true, begin);
                    self.found.kept.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if waiting(&error) => {
                    return self.wrong("a live connection hangs".to_owned());
                }
                Err(_) => return self.cut(begin),
            }
        }
    }

    fn cut(&self, begin: Instant) {
        self.verdict("a live connection", false, begin);
        if let Some(since) = self.history.forbidden_since(self.account) {
            self.found
                .cuts
                .lock()
                .expect("no holder panics")
                .push(since.elapsed());
        }
    }
}

fn waiting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Connects and sends one byte. The connection, if it came back.
fn attempt(server: SocketAddr) -> io::Result<Option<TcpStream>> {
    let mut stream = match TcpStream::connect_timeout(&server, STUCK) {
        Ok(stream) => stream,
        // Accepted and reset before this thread was woken.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(STUCK))?;
    let mut byte = [0];
    match stream.write_all(b"x").and_then(|()| stream.read(&mut byte)) {
        Ok(read) => Ok((read == 1).then_some(stream)),
        Err(error) if waiting(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Pushes a policy that allows exactly `allowed`, as an ALLOW or as a DENY.
fn push(mesh: &Mesh, allowed: Allowed, as_deny: bool) {
    let named = |wanted: bool| {
        let accounts = (0..ACCOUNTS.len()).filter(|at| (allowed >> at & 1 == 1) == wanted);
        let principals = accounts.map(|at| StringMatch {
            match_type: Some(string_match::MatchType::Exact(format!(
                "cluster.local/ns/app/sa/{}",
                ACCOUNTS[at]
            ))),
        });
        principals.collect::<Vec<_>>()
    };
    let (action, principals) = if as_deny {
        (Action::Deny, named(false))
    } else {
        (Action::Allow, named(true))
    };
    mesh.policy(
        "churn",
        Scope::Namespace,
        action,
        Match {
            principals,
            ..Match::default()
        },
    );
}

#[test]
fn no_verdict_is_older_than_a_second() -> Result<()> {
    testkit::root_or_skip!();
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mesh = Mesh::start(2)?;
    let pods = ACCOUNTS
        .iter()
        .map(|account| mesh.pod(0, account, account))
        .collect::<Result<Vec<_>>>()?;
    let server = mesh.pod(1, "server", "server")?;
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let history = Arc::new(History(Mutex::new(vec![(Instant::now(), 0b111)])));
    let found = Arc::new(Found::default());
    let (stop, left) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(CONNECTIONS)),
    );
    let (mut openers, mut holders) = (Vec::new(), Vec::new());
    for (account, pod) in pods.iter().enumerate() {
        let (history, found, stop, left) =
            (history.clone(), found.clone(), stop.clone(), left.clone());
        let place = Place {
            history,
            found,
            stop,
            left,
            server: server.at(8080),
            account,
        };
        for _ in 0..OPENERS {
            let place = place.clone();
            openers.push(pod.net.ns.spawn(move || place.open())?);
        }
        for _ in 0..HELD {
            let place = place.clone();
            holders.push(pod.net.ns.spawn(move || place.hold())?);
        }
    }
    let mut changes = 0;
    while openers.iter().any(|opener| !opener.is_finished()) {
        let allowed = rng.random_range(0..8);
        history.push(allowed);
        push(&mesh, allowed, rng.random_bool(0.5));
        changes += 1;
        // Mostly short, now and then seconds.
        let pause = if rng.random_bool(0.1) {
            500..3_000
        } else {
            50..400
        };
        thread::sleep(Duration::from_millis(rng.random_range(pause)));
    }
    stop.store(true, Ordering::Relaxed);
    for thread in openers.into_iter().chain(holders) {
        ensure!(thread.join().is_ok(), "a thread panicked");
    }
    print(&found, changes);
    let wrong = found.wrong.lock().expect("no holder panics");
    ensure!(
        wrong.is_empty(),
        "{} wrong verdicts: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
    let (allowed, denied) = (
        found.allowed.load(Ordering::Relaxed),
        found.denied.load(Ordering::Relaxed),
    );
    ensure!(
        allowed + denied == CONNECTIONS && allowed > 0 && denied > 0,
        "{allowed} and {denied}"
    );
    Ok(())
}

fn print(found: &Found, changes: usize) {
    let mut cuts = found.cuts.lock().expect("no holder panics");
    cuts.sort_unstable();
    let at = |share: usize| {
        cuts.get(cuts.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{changes} changes; new: {:?} allowed, {:?} denied; live: {:?} answers, {} cuts, p50 {:?}, p99 {:?} after the change",
        found.allowed,
        found.denied,
        found.kept,
        cuts.len(),
        at(50),
        at(99),
    );
}
