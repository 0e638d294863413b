//! Loads that go as fast as they can: bulk, requests on kept connections, a connection for each request. All subjects in
//! interleaved blocks; CPU time of both proxies together, rate, latency.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::{SUBJECTS, Session, WARM, rounds};
use crate::load::{Bulk, Exchange, Kind, Life, Load, Pace, Tally};
use crate::meter;
use crate::outcome::{Block, Outcome};
use crate::world::{Name, PORT, Subject, World};

/// Carried before a block counts, at least.
const WARM_BYTES: u64 = 64 << 20;
const WARM_OPERATIONS: u64 = 200;
const LIMIT: Duration = Duration::from_secs(30);

/// One load.
pub struct Closed {
    /// Name.
    pub id: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// The load.
    pub kind: Kind,
    /// Client and server on the same node?
    pub near: bool,
}

const fn bulk(
    id: &'static str,
    title: &'static str,
    up: bool,
    streams: usize,
    near: bool,
) -> Closed {
    let kind = Kind::Bulk(Bulk {
        up,
        streams,
        staller: false,
    });
    Closed {
        id,
        title,
        kind,
        near,
    }
}

const fn exchange(
    id: &'static str,
    title: &'static str,
    (connections, size, life): (usize, usize, Life),
    near: bool,
) -> Closed {
    let kind = Kind::Exchange(Exchange {
        connections,
        size,
        life,
        pace: Pace::Closed,
        total: None,
    });
    Closed {
        id,
        title,
        kind,
        near,
    }
}

/// All of them.
pub const ALL: [Closed; 13] = [
    bulk(
        "bulk-up-1",
        "one stream from client to server",
        true,
        1,
        false,
    ),
    bulk(
        "bulk-down-1",
        "one stream from server to client",
        false,
        1,
        false,
    ),
    bulk(
        "bulk-up-16",
        "16 streams from client to server",
        true,
        16,
        false,
    ),
    bulk(
        "bulk-down-16",
        "16 streams from server to client",
        false,
        16,
        false,
    ),
    exchange(
        "rr-64-1",
        "64 bytes there and back, one connection",
        (1, 64, Life::Endless),
        false,
    ),
    exchange(
        "rr-1k-64",
        "1 KiB there and back, 64 connections",
        (64, 1024, Life::Endless),
        false,
    ),
    exchange(
        "crr-16",
        "a connection for each request, 16 at once",
        (16, 64, Life::Once),
        false,
    ),
    exchange(
        "churn",
        "1 KiB on 64 connections that live for up to 20 requests",
        (64, 1024, Life::UpTo(20)),
        false,
    ),
    bulk("near-bulk-up-1", "same node: one stream", true, 1, true),
    bulk("near-bulk-up-16", "same node: 16 streams", true, 16, true),
    exchange(
        "near-rr-64-1",
        "same node: 64 bytes, one connection",
        (1, 64, Life::Endless),
        true,
    ),
    exchange(
        "near-rr-1k-64",
        "same node: 1 KiB, 64 connections",
        (64, 1024, Life::Endless),
        true,
    ),
    exchange(
        "near-crr-16",
        "same node: a connection for each request",
        (16, 64, Life::Once),
        true,
    ),
];

/// Runs one of them in the shared world.
///
/// # Errors
/// When a load failed: bytes lost or altered, connections broken.
pub fn run(session: &Session<'_>, scenario: &Closed) -> Result<Outcome> {
    let world = session
        .world
        .as_ref()
        .context("the world is started before")?;
    let names = world.present(&[&SUBJECTS[..], &[Name::Bare]].concat());
    let halves = rounds(session.options.rounds, &names, |name, forward| {
        // Without a mesh there is little to learn: once a round is enough.
        if name == Name::Bare && !forward {
            return Ok(None);
        }
        let subject = world.subject(name)?;
        block(world, subject, scenario, session.options.time())
            .with_context(|| format!("{} with {}", scenario.id, name.text()))
            .map(Some)
    })?;
    Ok(Outcome::new(scenario.id, halves))
}

/// One block.
///
/// # Errors
/// When the load failed.
pub fn block(world: &World, subject: &Subject, scenario: &Closed, time: Duration) -> Result<Block> {
    let server = if scenario.near {
        &subject.near
    } else {
        &subject.far[0]
    };
    let client = &subject.clients[0].net.ns;
    let load = Load::start(
        &[client],
        &[&server.net.ns],
        &[server.at(PORT)],
        scenario.kind,
    )?;
    load.until("warm-up", LIMIT, warm)?;
    std::thread::sleep(WARM);
    measure(world, subject, load, time)
}

fn warm(tally: &Tally) -> bool {
    tally.bytes() >= WARM_BYTES || tally.operations() >= WARM_OPERATIONS
}

/// Lets a load that runs count for `time`, then ends it.
///
/// # Errors
/// When the load failed.
pub fn measure(world: &World, subject: &Subject, load: Load, time: Duration) -> Result<Block> {
    let (all, pids) = (world.processes(), subject.pids());
    let before = meter::look(&all)?;
    load.tally.record(true);
    let (bytes, operations, cpu) = (
        load.tally.bytes(),
        load.tally.operations(),
        meter::cpu_times(&pids)?,
    );
    let begin = std::time::Instant::now();
    std::thread::sleep(time);
    // Nothing at all has no cost per piece: such a block goes on until something has come, or it fails.
    while load.tally.bytes() + load.tally.operations() == bytes + operations
        && begin.elapsed() < LIMIT
    {
        std::thread::sleep(time);
    }
    let bytes = load.tally.bytes() - bytes;
    let operations = load.tally.operations() - operations;
    let (cpu, wall) = (meter::cpu_times(&pids)? - cpu, begin.elapsed());
    load.tally.record(false);
    let machine = meter::look(&all)?.since(&before);
    let latencies = load.stop()?;
    let mut values = BTreeMap::new();
    if bytes > 0 {
        values.insert("cpu_s_per_gb", cpu.as_secs_f64() / bytes as f64 * 1e9);
        values.insert("gbps", bytes as f64 * 8.0 / 1e9 / wall.as_secs_f64());
        values.insert("machine_s_per_gb", machine.busy / bytes as f64 * 1e9);
    }
    if operations > 0 {
        values.insert("cpu_us", cpu.as_secs_f64() / operations as f64 * 1e6);
        values.insert("per_s", operations as f64 / wall.as_secs_f64());
        values.insert("machine_us", machine.busy / operations as f64 * 1e6);
        values.extend(percentiles(&latencies));
    }
    anyhow::ensure!(!values.is_empty(), "nothing came through in {wall:?}");
    Ok(Block {
        values,
        wall: wall.as_secs_f64(),
        machine,
    })
}

/// Of latencies in nanoseconds, in microseconds.
pub fn percentiles(latencies: &Histogram<u64>) -> [(&'static str, f64); 3] {
    let at = |share| latencies.value_at_quantile(share) as f64 / 1e3;
    [
        ("p50_us", at(0.5)),
        ("p99_us", at(0.99)),
        ("p999_us", at(0.999)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_microseconds_of_the_recorded_nanoseconds() {
        let mut latencies = Histogram::<u64>::new_with_bounds(1000, 60_000_000_000, 3).unwrap();
        (1..=1000).for_each(|us| latencies.saturating_record(us * 1000));
        for (name, right) in [("p50_us", 500.0), ("p99_us", 990.0), ("p999_us", 999.0)] {
            let all = percentiles(&latencies);
            let (_, found) = all.iter().find(|(known, _)| *known == name).unwrap();
            assert!((found / right - 1.0).abs() < 0.002, "{name}: {found}");
        }
    }
}
