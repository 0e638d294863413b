//! A few requests beside four bulk streams to the same node (B8): how much later the latest answers come.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::closed::measure;
use super::{Session, WARM, ZTUNNELS, rounds};
use crate::load::{Bulk, Exchange, Kind, Life, Load, Pace};
use crate::outcome::{Block, Outcome};
use crate::world::{PORT, SECOND_PORT, Subject, World};

/// At a rate that alone is no load at all, on so many connections that an answer may take 128 ms before requests wait for
/// a free one.
const EXCHANGE: Exchange = Exchange {
    connections: 64,
    size: 1024,
    life: Life::Endless,
    pace: Pace::Open(500.0),
    total: None,
};
const BULK: Bulk = Bulk {
    up: true,
    streams: 4,
    staller: false,
};
/// 1 % of the requests of a block must be enough of them.
const LONGER: u32 = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// Alone and beside, for each subject in turn.
///
/// # Errors
/// When a load failed.
pub fn run(session: &mut Session<'_>) -> Result<Vec<Outcome>> {
    let world = session
        .world
        .as_ref()
        .context("the world is started before")?;
    let names = world.present(&ZTUNNELS);
    let time = session.options.time() * LONGER;
    let count = session.options.rounds.div_ceil(2);
    let halves = rounds(count, &names, |name, _| {
        let subject = world.subject(name)?;
        let alone = requests(world, subject, time)?;
        let bulk = start(subject, SECOND_PORT, Kind::Bulk(BULK))?;
        bulk.until("bulk", LIMIT, |tally| tally.bytes() > 64 << 20)?;
        let (bytes, begin) = (bulk.tally.bytes(), std::time::Instant::now());
        let loaded = requests(world, subject, time);
        let gbps = (bulk.tally.bytes() - bytes) as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64();
        bulk.stop()?;
        let mut block = loaded?;
        let p99 = |block: &Block| block.values.get("p99_us").copied().unwrap_or(f64::NAN);
        let (quiet, busy) = (p99(&alone), p99(&block));
        block.values.clear();
        block.values.extend([
            ("alone_p99_us", quiet),
            ("loaded_p99_us", busy),
            ("loaded_over_alone", busy / quiet),
            ("bulk_gbps", gbps),
        ]);
        Ok(Some(block))
    })?;
    Ok(vec![Outcome::new("beside-bulk", halves)])
}

fn start(subject: &Subject, port: u16, kind: Kind) -> Result<Load> {
    let server = &subject.far[0];
    Load::start(
        &[&subject.clients[0].net.ns],
        &[&server.net.ns],
        &[server.at(port)],
        kind,
    )
}

fn requests(world: &World, subject: &Subject, time: Duration) -> Result<Block> {
    let load = start(subject, PORT, Kind::Exchange(EXCHANGE))?;
    load.until("requests", LIMIT, |tally| tally.operations() > 80)?;
    std::thread::sleep(WARM);
    measure(world, subject, load, time)
}
