//! What a connection costs with no policies, with 10,000 that concern others, and with 10,000 on the destination. Three
//! worlds beside each other, so that their blocks can be interleaved.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{Session, closed, rounds};
use crate::outcome::{Block, Outcome};
use crate::world::{Name, Plan, Policies, World};

const COUNT: usize = 10_000;
const QUICK_COUNT: usize = 200;
const LOAD: &str = "crr-16";

/// Ours and the peer's, in all three worlds in turn.
///
/// # Errors
/// When a load failed.
pub fn run(session: &mut Session<'_>) -> Result<Vec<Outcome>> {
    let subjects = [Name::Ours, Name::Peer];
    let count = if session.options.quick {
        QUICK_COUNT
    } else {
        COUNT
    };
    let world = |policies| {
        let mut plan = Plan::new(&subjects, session.workers());
        plan.policies = policies;
        World::start(&plan, session.binaries)
    };
    let none = world(Policies::None).context("without policies")?;
    let elsewhere = world(Policies::Elsewhere(count)).context("with policies elsewhere")?;
    let here = world(Policies::Here(count)).context("with policies on the destination")?;
    let worlds = [
        ("none_us", &none),
        ("elsewhere_us", &elsewhere),
        ("here_us", &here),
    ];
    let scenario = closed::ALL.iter().find(|scenario| scenario.id == LOAD);
    let scenario = scenario.context("there is a load")?;
    let names = none.present(&subjects);
    let halves = rounds(
        session.options.rounds.div_ceil(2),
        &names,
        |name, forward| {
            let mut seen = Vec::new();
            for index in 0..worlds.len() {
                let (value, world) = worlds[if forward {
                    index
                } else {
                    worlds.len() - 1 - index
                }];
                let block = closed::block(
                    world,
                    world.subject(name)?,
                    scenario,
                    session.options.time(),
                );
                seen.push((
                    value,
                    block.with_context(|| format!("{} {value}", name.text()))?,
                ));
            }
            Ok(Some(joined(&seen)))
        },
    )?;
    Ok(vec![Outcome::new("policies", halves)])
}

/// One block of the three.
fn joined(seen: &[(&'static str, Block)]) -> Block {
    let cost = |wanted: &str| {
        let found = seen.iter().find(|(value, _)| *value == wanted);
        found
            .and_then(|(_, block)| block.values.get("cpu_us").copied())
            .unwrap_or(f64::NAN)
    };
    let [none, elsewhere, here] = ["none_us", "elsewhere_us", "here_us"].map(cost);
    let worst = |part: fn(&Block) -> f64| {
        seen.iter()
            .map(|(_, block)| part(block))
            .fold(0.0, f64::max)
    };
    Block {
        values: BTreeMap::from([
            ("none_us", none),
            ("elsewhere_us", elsewhere),
            ("here_us", here),
            ("elsewhere_over_none", elsewhere / none),
            ("here_over_none", here / none),
        ]),
        wall: seen.iter().map(|(_, block)| block.wall).sum(),
        machine: crate::meter::Machine {
            steal: worst(|block| block.machine.steal),
            // The other worlds' processes are idle and not asked for.
            outsiders: worst(|block| block.machine.outsiders),
            busy: seen.iter().map(|(_, block)| block.machine.busy).sum(),
        },
    }
}
