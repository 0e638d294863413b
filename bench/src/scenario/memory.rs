//! Memory of both proxies together: for each idle connection in fresh processes and after load, and a minute after a storm
//! of connections (B14). Fresh processes for each half round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Session, ZTUNNELS, closed, rounds};
use crate::load::{Exchange, Kind, Life, Load, Pace};
use crate::meter::{self, Memory};
use crate::outcome::{Block, Outcome};
use crate::world::{Name, PORT, Plan, Subject, World};

/// Until what was just asked for or given back is so.
const SETTLE: Duration = Duration::from_secs(1);
/// What runs between the fresh and the later count.
const BETWEEN: [&str; 3] = ["bulk-up-16", "rr-1k-64", "crr-16"];
const STORM: usize = 100;
const QUIET: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(60);

/// Idle connections, then the storm.
///
/// # Errors
/// When a load failed.
pub fn run(session: &mut Session<'_>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    if session.options.wants("idle", &super::ids()) {
        let mut halves = Vec::new();
        for _ in 0..session.options.rounds.div_ceil(3) {
            let world = World::start(&Plan::new(&ZTUNNELS, session.workers()), session.binaries)?;
            let names = world.present(&ZTUNNELS);
            // Only the first half of a round: fresh processes are fresh once.
            halves.extend(rounds(1, &names, |name, forward| {
                let subject = world.subject(name)?;
                let one = forward.then(|| idle(&world, subject, session)).transpose();
                one.with_context(|| name.text())
            })?);
        }
        halves.retain(|half| !half.blocks.is_empty());
        outcomes.push(Outcome::of_memory("idle", halves));
    }
    if session.options.wants("storm", &super::ids()) {
        outcomes.push(storm(session)?);
    }
    Ok(outcomes)
}

fn idle(world: &World, subject: &Subject, session: &Session<'_>) -> Result<Block> {
    let all = world.processes();
    let (before, begin) = (meter::look(&all)?, Instant::now());
    std::thread::sleep(SETTLE);
    let count = session.options.idle as usize;
    let fresh = held(subject, count)?;
    for scenario in closed::ALL
        .iter()
        .filter(|scenario| BETWEEN.contains(&scenario.id))
    {
        closed::block(world, subject, scenario, session.options.time())?;
    }
    std::thread::sleep(SETTLE * 3);
    let after = held(subject, count)?;
    let values = BTreeMap::from([
        ("fresh_rss_kib", fresh.rss),
        ("fresh_pss_kib", fresh.pss),
        ("after_rss_kib", after.rss),
        ("after_pss_kib", after.pss),
    ]);
    let machine = meter::look(&all)?.since(&before);
    Ok(Block {
        values,
        wall: begin.elapsed().as_secs_f64(),
        machine,
    })
}

/// KiB for each connection.
struct Each {
    rss: f64,
    pss: f64,
}

/// What `count` connections take that have had one answer and now do nothing.
fn held(subject: &Subject, count: usize) -> Result<Each> {
    let pids = subject.pids();
    let exchange = Exchange {
        connections: count,
        size: 64,
        life: Life::Endless,
        pace: Pace::Hold,
        total: None,
    };
    let before = meter::memory(&pids)?;
    let load = start(subject, exchange)?;
    load.until("idle connections", LIMIT, |tally| {
        tally.operations() >= count as u64
    })?;
    std::thread::sleep(SETTLE);
    let with = meter::memory(&pids)?;
    load.stop()?;
    std::thread::sleep(SETTLE);
    let each =
        |part: fn(&Memory) -> u64| (part(&with) as f64 - part(&before) as f64) / count as f64;
    Ok(Each {
        rss: each(|memory| memory.rss),
        pss: each(|memory| memory.pss),
    })
}

fn start(subject: &Subject, exchange: Exchange) -> Result<Load> {
    let server = &subject.far[0];
    let client = &subject.clients[0].net.ns;
    Load::start(
        &[client],
        &[&server.net.ns],
        &[server.at(PORT)],
        Kind::Exchange(exchange),
    )
}

fn storm(session: &Session<'_>) -> Result<Outcome> {
    let world = World::start(&Plan::new(&ZTUNNELS, session.workers()), session.binaries)?;
    let names = world.present(&ZTUNNELS);
    std::thread::sleep(SETTLE);
    let before = meter::look(&world.processes())?;
    let mut seen: BTreeMap<Name, [Memory; 2]> = BTreeMap::new();
    let begin = Instant::now();
    for name in &names {
        let subject = world.subject(*name)?;
        let idle = meter::memory(&subject.pids())?;
        let exchange = Exchange {
            connections: STORM,
            size: 1024,
            life: Life::Once,
            pace: Pace::Closed,
            total: None,
        };
        let load = start(subject, exchange)?;
        let mut peak = idle;
        let until = Instant::now() + session.options.time() * 5;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            let now = meter::memory(&subject.pids())?;
            if now.rss > peak.rss {
                peak = now;
            }
        }
        load.stop()?;
        seen.insert(*name, [idle, peak]);
    }
    // Each had its storm a little earlier than the next; all have at least this long.
    std::thread::sleep(if session.options.quick {
        QUIET / 10
    } else {
        QUIET
    });
    let machine = meter::look(&world.processes())?.since(&before);
    let mut half = crate::outcome::Half::default();
    for (name, [idle, peak]) in seen {
        let after = meter::memory(&world.subject(name)?.pids())?;
        let values = BTreeMap::from([
            ("idle_kib", idle.rss as f64),
            ("peak_kib", peak.rss as f64),
            ("after_kib", after.rss as f64),
            ("after_over_idle", after.rss as f64 / idle.rss as f64),
        ]);
        half.blocks.insert(
            name,
            Block {
                values,
                wall: begin.elapsed().as_secs_f64(),
                machine,
            },
        );
    }
    Ok(Outcome::of_memory("storm", vec![half]))
}
