//! The scenarios and the order in which they run. Each one starts what it needs, carries its loads, and returns what it
//! saw. Called by `main`; `closed` is the common case, the others say what is different about them.

mod beside;
pub mod closed;
mod identities;
mod memory;
mod open;
mod policies;
mod stall;

use std::time::Duration;

use anyhow::Result;

use crate::options::Options;
use crate::outcome::{Half, Outcome};
use crate::world::{Binaries, Name, Plan, World};

/// Before a block counts: windows and buffers have grown by then.
const WARM: Duration = Duration::from_millis(200);
/// In the order in which they have their blocks. The relay stands between, as the reference of noise.
const SUBJECTS: [Name; 4] = [Name::Ours, Name::Peer, Name::Relay, Name::Twin];
/// Where only ztunnels have anything to show.
const ZTUNNELS: [Name; 3] = [Name::Ours, Name::Peer, Name::Twin];

/// A scenario, or several that share their preparations.
struct Scenario {
    ids: &'static [&'static str],
    /// Whether it runs in the world that several share.
    shared: bool,
    run: fn(&mut Session<'_>) -> Result<Vec<Outcome>>,
}

/// What a run carries from scenario to scenario.
pub struct Session<'a> {
    options: &'a Options,
    binaries: &'a Binaries,
    world: Option<World>,
    /// What there is so far.
    pub outcomes: Vec<Outcome>,
    say: &'a dyn Fn(&str),
}

/// Names of all scenarios.
#[must_use]
pub fn ids() -> Vec<&'static str> {
    let closed = closed::ALL.iter().map(|scenario| scenario.id);
    closed
        .chain(
            others()
                .iter()
                .flat_map(|scenario| scenario.ids.iter().copied()),
        )
        .collect()
}

fn others() -> [Scenario; 7] {
    let scenario = |ids, shared, run| Scenario { ids, shared, run };
    [
        scenario(&["open-50", "open-70", "open-90"], true, open::run),
        scenario(&["beside-bulk"], true, beside::run),
        scenario(&["stall"], true, stall::run),
        scenario(&["crr-new-identity"], false, identities::defaults),
        scenario(&["crr-new-identity-pqc"], false, identities::post_quantum),
        scenario(&["policies"], false, policies::run),
        scenario(&["idle", "storm"], false, memory::run),
    ]
}

impl<'a> Session<'a> {
    /// Nothing has run yet.
    #[must_use]
    pub fn new(options: &'a Options, binaries: &'a Binaries, say: &'a dyn Fn(&str)) -> Self {
        Self {
            options,
            binaries,
            world: None,
            outcomes: Vec::new(),
            say,
        }
    }

    /// Runs all that is wanted. A scenario that fails is told of, and the others go on.
    pub fn run(&mut self) {
        for scenario in &closed::ALL {
            if self.options.wants(scenario.id, &ids()) {
                (self.say)(&format!("{}: {}", scenario.id, scenario.title));
                let done = self.shared().and_then(|()| closed::run(self, scenario));
                self.take(&[scenario.id], done.map(|outcome| vec![outcome]));
            }
        }
        for scenario in others() {
            let wanted: Vec<_> = scenario
                .ids
                .iter()
                .copied()
                .filter(|id| self.options.wants(id, &ids()))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            (self.say)(&wanted.join(", "));
            let ready = if scenario.shared {
                self.shared()
            } else {
                // What is not measured shall not run beside.
                self.world = None;
                Ok(())
            };
            let done = ready.and_then(|()| (scenario.run)(self));
            self.take(&wanted, done);
        }
        self.world = None;
    }

    fn take(&mut self, ids: &[&str], done: Result<Vec<Outcome>>) {
        match done {
            Ok(mut outcomes) => {
                for outcome in &mut outcomes {
                    let (all, lost) = (outcome.halves.len(), outcome.dropped());
                    if lost > 0 {
                        let what = if self.options.keep_noise {
                            "kept"
                        } else {
                            "dropped"
                        };
                        (self.say)(&format!(
                            "  {}: {lost} of {all} half rounds spoilt by noise, {what}",
                            outcome.id
                        ));
                    }
                    if let Some(fault) = outcome.peer_failed() {
                        (self.say)(&format!("  {}: the peer failed: {fault}", outcome.id));
                    }
                    if self.options.keep_noise {
                        outcome
                            .halves
                            .iter_mut()
                            .for_each(|half| half.dropped = None);
                    }
                }
                self.outcomes.extend(outcomes);
            }
            Err(fault) => {
                (self.say)(&format!("  failed: {fault:#}"));
                self.outcomes.extend(
                    ids.iter()
                        .map(|id| Outcome::failed(id, format!("{fault:#}"))),
                );
                // Whatever was broken is not carried over.
                self.world = None;
            }
        }
    }

    /// Starts the shared world, if it does not run.
    fn shared(&mut self) -> Result<()> {
        if self.world.is_none() {
            let subjects = [&SUBJECTS[..], &[Name::Bare]].concat();
            let plan = Plan::new(&subjects, self.workers());
            self.world = Some(World::start(&plan, self.binaries)?);
        }
        Ok(())
    }

    fn workers(&self) -> usize {
        usize::try_from(self.options.workers).unwrap_or(2)
    }
}

/// Rounds of `names` forwards and backwards: A B C C B A. `block` also learns whether this is a first half. A peer that
/// fails is left out from then on, and told of; whoever else fails ends the scenario.
fn rounds<B>(count: u32, names: &[Name], mut block: B) -> Result<Vec<Half>>
where
    B: FnMut(Name, bool) -> Result<Option<crate::outcome::Block>>,
{
    let (mut halves, mut without_peer) = (Vec::new(), false);
    for _ in 0..count {
        for forward in [true, false] {
            let mut half = Half::default();
            for index in 0..names.len() {
                let name = names[if forward {
                    index
                } else {
                    names.len() - 1 - index
                }];
                if name == Name::Peer && without_peer {
                    continue;
                }
                match block(name, forward) {
                    Ok(Some(block)) => drop(half.blocks.insert(name, block)),
                    Ok(None) => {}
                    Err(fault) if name == Name::Peer => {
                        half.peer_failed = Some(format!("{fault:#}"));
                        without_peer = true;
                    }
                    Err(fault) => return Err(fault),
                }
            }
            halves.push(half);
        }
    }
    Ok(halves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_run_forwards_and_backwards_in_turn() {
        let mut order = Vec::new();
        let names = [Name::Ours, Name::Peer, Name::Relay];
        let halves = rounds(2, &names, |name, _| {
            order.push(name.text());
            Ok(None)
        });
        assert_eq!(halves.unwrap().len(), 4);
        let round = ["ours", "peer", "relay", "relay", "peer", "ours"];
        assert_eq!(order, [round, round].concat());
    }

    #[test]
    fn a_peer_that_fails_is_left_out_and_told_of_but_ours_ends_the_scenario() {
        let names = [Name::Ours, Name::Peer];
        let mut asked = 0;
        let halves = rounds(2, &names, |name, _| {
            asked += usize::from(name == Name::Peer);
            anyhow::ensure!(name == Name::Ours, "reset");
            Ok(None)
        })
        .unwrap();
        assert_eq!(asked, 1);
        assert_eq!(halves[0].peer_failed.as_deref(), Some("reset"));
        let ours = rounds(2, &names, |_, _| anyhow::bail!("reset"));
        assert!(ours.is_err());
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let mut names = ids();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
