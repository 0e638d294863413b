//! What attacks cost, beside ordinary bulk of as many bytes: CPU of the victim, time until it closes, and the neighbour's
//! latency. Printed by `make e2e`; time fails no test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hbone::headers::{Authority, ConnectRequest};
use hbone::proto::Config;
use hbone::tokio::client;
use testkit::echo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;

use crate::attacks::{ATTACKS, Attack, End, Target};
use crate::{World, local};

/// Bytes of ordinary bulk.
const BULK: usize = 128 << 20;
/// An attack is repeated on new connections until it has sent so much, but not on more than so many.
const ENOUGH: u64 = 2 << 20;
const CONNECTIONS: u32 = 40;
/// How long the neighbour works alone, and beside each attack; in turn, so often.
const BLOCK: Duration = Duration::from_millis(500);
const BLOCKS: usize = 3;
/// Between two hostile connections while the neighbour is measured.
const PAUSE: Duration = Duration::from_millis(20);

/// A preface and nothing else: what a connection costs.
const NOTHING: Attack = Attack {
    name: "nothing",
    round: |_: &Target, _| Vec::new(),
    rounds: 0,
    end: End::Endured,
};

/// No attack: as many tunnels as a peer may have. What opens tunnels is to be compared with this.
const TUNNELS: Attack = Attack {
    name: "200 ordinary tunnels",
    round: |target, round| target.connect(2 * round + 1),
    rounds: 200,
    end: End::Endured,
};

impl World {
    /// CPU time of the victim for `work`.
    async fn cost<T>(&mut self, work: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<(T, f64)> {
        let before = self.mesh.nodes[1].ztunnel().cpu_time()?;
        let done = work(self).await?;
        let used = self.mesh.nodes[1].ztunnel().cpu_time()? - before;
        Ok((done, used.as_secs_f64()))
    }

    /// Sends `BULK` bytes through one ordinary tunnel to an application that reads them.
    async fn bulk(&self) -> Result<()> {
        let (handle, driver) = client::connect(self.front.dial().await?, Config::client());
        let driver = spawn_local(driver);
        let request = ConnectRequest::new(Authority::from(self.server.at(8082)));
        let (mut stream, _) = handle.open(&request).await?;
        let chunk = vec![7; 256 << 10];
        for _ in 0..BULK / chunk.len() {
            stream.write_all(&chunk).await?;
        }
        stream.shutdown().await?;
        ensure!(stream.read(&mut [0]).await? == 0, "a sink says nothing");
        drop((stream, handle));
        Ok(driver.await??)
    }

    /// An attack on new connections: how many, how many bytes, and the longest time until one was over.
    async fn repeat(&self, attack: &Attack, enough: u64) -> Result<(u32, u64, Duration)> {
        let (mut connections, mut bytes, mut longest) = (0, 0, Duration::ZERO);
        while bytes < enough && connections < CONNECTIONS {
            let stream = self.front.connect().await?;
            let (outcome, _) = self.front.attack(stream, attack).await?;
            ensure!(
                outcome.end == attack.end,
                "{}: {:?}",
                attack.name,
                outcome.end
            );
            connections += 1;
            bytes += outcome.sent;
            longest = longest.max(outcome.took);
        }
        Ok((connections, bytes, longest))
    }

    /// The 99th percentile of a kilobyte there and back, while `stop` is not set.
    fn latency(&self, stop: &AtomicBool) -> Result<Duration> {
        let (mut stream, message) = (self.neighbour()?, [7; 1024]);
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            echo::ping(&mut stream, &message)?;
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() * 99 / 100])
    }

    /// The neighbour's latency during `work`.
    fn beside(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let neighbour = scope.spawn(|| self.latency(&stop));
            let worked = work();
            stop.store(true, Ordering::Relaxed);
            let latency = neighbour.join().expect("the neighbour does not panic");
            worked.and(latency)
        })
    }

    /// The neighbour alone and beside the attack: medians of some blocks of each in turn.
    fn neighbours(&self, attack: &Attack) -> Result<(Duration, Duration)> {
        let blocks = (0..BLOCKS).map(|_| self.block(attack));
        let (mut alone, mut beside): (Vec<_>, Vec<_>) =
            blocks.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        alone.sort_unstable();
        beside.sort_unstable();
        Ok((alone[BLOCKS / 2], beside[BLOCKS / 2]))
    }

    fn block(&self, attack: &Attack) -> Result<(Duration, Duration)> {
        let alone = self.beside(|| {
            thread::sleep(BLOCK);
            Ok(())
        })?;
        let attacked = self.beside(|| {
            local(async {
                let begin = Instant::now();
                while begin.elapsed() < BLOCK {
                    self.repeat(attack, 1).await?;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            })
        })?;
        Ok((alone, attacked))
    }
}

#[test]
#[ignore = "figures for make e2e; they fail nothing"]
fn what_attacks_cost() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    let (bulk, connection) = local(async {
        world.bulk().await?;
        let (_, bulk) = world.cost(async |world| world.bulk().await).await?;
        let (_, all) = world
            .cost(async |world| world.repeat(&NOTHING, u64::MAX).await)
            .await?;
        Ok((bulk * 1e9 / BULK as f64, all / f64::from(CONNECTIONS)))
    })?;
    println!(
        "ordinary bulk {bulk:.2} ns of CPU per byte, a connection {:.0} us; an attack's cost is without its connections",
        connection * 1e6
    );
    println!(
        "attack | bytes per connection | ns/byte | x bulk | x bulk with connections | over after ms | p99 alone, beside us"
    );
    for attack in [&TUNNELS].into_iter().chain(ATTACKS) {
        let ((connections, bytes, longest), cpu) =
            local(world.cost(async |world| world.repeat(attack, ENOUGH).await))?;
        let per_byte = |cpu: f64| cpu * 1e9 / bytes as f64;
        let own = per_byte(cpu - connection * f64::from(connections));
        let (alone, beside) = world.neighbours(attack)?;
        println!(
            "{} | {} | {own:.1} | {:.1} | {:.1} | {:.1} | {} {}",
            attack.name,
            bytes / u64::from(connections),
            own / bulk,
            per_byte(cpu) / bulk,
            longest.as_secs_f64() * 1e3,
            alone.as_micros(),
            beside.as_micros()
        );
    }
    Ok(())
}
