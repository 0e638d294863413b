//! One of 100 streams whose reader has stopped (B9): what is held for it between the two applications, and what the other
//! 99 still get.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Session, ZTUNNELS, rounds};
use crate::load::{Bulk, Kind, Load};
use crate::meter;
use crate::outcome::{Block, Outcome};
use crate::world::{OUTBOUND, PORT, Subject, World};

const STREAMS: usize = 100;
/// Everything that can be filled is full when the sender has got nothing away for so long. How long that takes is up to the
/// kernel: it lets the stalled reader's own socket grow to tens of megabytes. On a busy machine one of 100 streams may have
/// to wait for its turn, which must not look like that.
const STILL: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(30);

/// For each subject in turn.
///
/// # Errors
/// When a load failed.
pub fn run(session: &mut Session<'_>) -> Result<Vec<Outcome>> {
    let world = session
        .world
        .as_ref()
        .context("the world is started before")?;
    let names = world.present(&ZTUNNELS);
    let count = session.options.rounds.div_ceil(2);
    let halves = rounds(count, &names, |name, _| {
        let subject = world.subject(name)?;
        block(world, subject, session.options.time()).map(Some)
    })?;
    Ok(vec![Outcome::new("stall", halves)])
}

fn block(world: &World, subject: &Subject, time: Duration) -> Result<Block> {
    let (client, server) = (&subject.clients[0], &subject.far[0]);
    let plan = Bulk {
        up: true,
        streams: STREAMS,
        staller: true,
    };
    let load = Load::start(
        &[&client.net.ns],
        &[&server.net.ns],
        &[server.at(PORT)],
        Kind::Bulk(plan),
    )?;
    load.until("100 streams", LIMIT, |tally| {
        tally.opened() >= STREAMS as u64 && tally.bytes() > 200 << 20 && tally.watched()[1] > 0
    })?;
    let all = world.processes();
    let (before, begin) = (meter::look(&all)?, Instant::now());
    let first = rate(&load, time);
    let memory = meter::memory(&subject.pids())?;
    load.tally.stall(true);
    still(&load)?;
    let during = rate(&load, time);
    let [sent, received] = load.tally.watched();
    let [near, far] = load.tally.ports();
    let gone = "a socket of the stalled stream is gone";
    let ours = meter::queues(&client.net.ns, near, PORT)?
        .context(gone)?
        .send;
    let theirs = meter::queues(&server.net.ns, PORT, far)?
        .context(gone)?
        .receive;
    // Where it is held: the proxies' sockets to the two applications.
    let outbound =
        meter::queues(&client.net.ns, OUTBOUND, near)?.map_or(0, |queues| queues.receive);
    let inbound = meter::queues(&server.net.ns, far, PORT)?.map_or(0, |queues| queues.send);
    let grown = meter::memory(&subject.pids())?.rss as f64 - memory.rss as f64;
    load.tally.stall(false);
    let last = rate(&load, time);
    let machine = meter::look(&all)?.since(&before);
    let wall = begin.elapsed().as_secs_f64();
    load.stop()?;
    // What the applications' own sockets hold is not the proxies' doing.
    let held = sent.saturating_sub(received).saturating_sub(ours + theirs);
    ensure!(sent > received, "the stream did not stall");
    let values = BTreeMap::from([
        ("held_kib", held as f64 / 1024.0),
        ("app_sockets_kib", (ours + theirs) as f64 / 1024.0),
        ("proxy_sockets_kib", (outbound + inbound) as f64 / 1024.0),
        ("rss_grown_kib", grown),
        (
            "others_during_over_before_and_after",
            during / ((first + last) / 2.0),
        ),
        ("gbps", during),
    ]);
    Ok(Block {
        values,
        wall,
        machine,
    })
}

/// Waits until the stalled stream takes nothing more.
fn still(load: &Load) -> Result<()> {
    let begin = Instant::now();
    let mut last = (load.tally.watched()[0], begin);
    while last.1.elapsed() < STILL {
        ensure!(begin.elapsed() < LIMIT, "the stalled stream goes on and on");
        std::thread::sleep(Duration::from_millis(50));
        let sent = load.tally.watched()[0];
        if sent != last.0 {
            last = (sent, Instant::now());
        }
    }
    Ok(())
}

/// Gb/s of the streams that never stall.
fn rate(load: &Load, time: Duration) -> f64 {
    let (bytes, begin) = (load.tally.bytes(), Instant::now());
    std::thread::sleep(time);
    (load.tally.bytes() - bytes) as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64()
}
