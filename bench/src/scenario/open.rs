//! Requests at a planned rate: 50, 70 and 90 % of what the slower of the two can do. Latency counts from the planned time.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::closed::{self, measure};
use super::{Session, WARM, ZTUNNELS, rounds};
use crate::load::{Exchange, Kind, Life, Load, Pace};
use crate::outcome::Outcome;
use crate::stats::median;
use crate::world::{Name, PORT};

/// Where the peak is taken from, when it has run.
const PEAK: &str = "rr-1k-64";
const CONNECTIONS: usize = 64;
const SIZE: usize = 1024;
/// A tail needs more time than a mean.
const LONGER: u32 = 3;

/// 50, 70 and 90 %.
///
/// # Errors
/// When a load failed.
pub fn run(session: &mut Session<'_>) -> Result<Vec<Outcome>> {
    let peak = peak(session)?;
    let world = session
        .world
        .as_ref()
        .context("the world is started before")?;
    let names = world.present(&ZTUNNELS);
    let mut outcomes = Vec::new();
    for (id, share) in [("open-50", 0.5), ("open-70", 0.7), ("open-90", 0.9)] {
        if !session.options.wants(id, &super::ids()) {
            continue;
        }
        (session.say)(&format!("  {id}: {:.0} requests a second", peak * share));
        let exchange = Exchange {
            connections: CONNECTIONS,
            size: SIZE,
            life: Life::Endless,
            pace: Pace::Open(peak * share),
            total: None,
        };
        let count = session.options.rounds.div_ceil(2);
        let halves = rounds(count, &names, |name, _| {
            let subject = world.subject(name)?;
            let server = &subject.far[0];
            let load = Load::start(
                &[&subject.clients[0].net.ns],
                &[&server.net.ns],
                &[server.at(PORT)],
                Kind::Exchange(exchange),
            )?;
            load.until("warm-up", Duration::from_secs(30), |tally| {
                tally.operations() >= 2 * CONNECTIONS as u64
            })?;
            std::thread::sleep(WARM);
            measure(world, subject, load, session.options.time() * LONGER).map(Some)
        })?;
        outcomes.push(Outcome::new(id, halves));
    }
    Ok(outcomes)
}

/// Requests a second of the slower of ours and the peer's.
fn peak(session: &Session<'_>) -> Result<f64> {
    let world = session
        .world
        .as_ref()
        .context("the world is started before")?;
    let known = session.outcomes.iter().find(|outcome| outcome.id == PEAK);
    let mut peaks = Vec::new();
    for name in world.present(&[Name::Ours, Name::Peer]) {
        let mut rates = known
            .map(|outcome| outcome.values(name, "per_s"))
            .unwrap_or_default();
        if rates.is_empty() {
            let scenario = closed::ALL.iter().find(|scenario| scenario.id == PEAK);
            let scenario = scenario.context("there is a load to take the peak from")?;
            for _ in 0..3 {
                let block = closed::block(
                    world,
                    world.subject(name)?,
                    scenario,
                    session.options.time(),
                )?;
                rates.extend(block.values.get("per_s"));
            }
        }
        peaks.push(median(&rates));
    }
    peaks
        .into_iter()
        .reduce(f64::min)
        .context("nobody to measure")
}
