//! What a scenario saw: blocks, two by two in halves of a round, and which of them noise has spoilt. Pure; filled by
//! `scenario`, read by `goals` and `report`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::meter::Machine;
use crate::stats::median;
use crate::world::Name;

/// Steal above which a block is dropped, as a part of the machine's time.
const STEAL: f64 = 0.01;
/// The same for what outsiders used.
const OUTSIDERS: f64 = 0.05;
/// How far the relay may be off its own median.
const RELAY: f64 = 0.10;

/// One subject under one load for some time.
#[derive(Clone, Debug, Serialize)]
pub struct Block {
    /// Figures by name; the unit stands in the name.
    pub values: BTreeMap<&'static str, f64>,
    /// Seconds.
    pub wall: f64,
    /// What else the machine did meanwhile.
    pub machine: Machine,
}

/// Blocks of all subjects, one after the other: A B C, or C B A.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Half {
    /// The blocks.
    pub blocks: BTreeMap<Name, Block>,
    /// Why it does not count.
    pub dropped: Option<String>,
    /// Why the peer is missing from it on.
    pub peer_failed: Option<String>,
}

/// All that a scenario saw.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Short name, by which `ONLY` finds it.
    pub id: String,
    /// In the order in which they ran.
    pub halves: Vec<Half>,
    /// Why it did not come to its end.
    pub fault: Option<String>,
}

impl Outcome {
    /// Of a scenario that has ended; decides which halves count.
    #[must_use]
    pub fn new(id: &str, mut halves: Vec<Half>) -> Self {
        drop_noise(&mut halves);
        Self {
            id: id.to_owned(),
            halves,
            fault: None,
        }
    }

    /// Of a scenario that looks at memory only, which a busy machine does not change.
    #[must_use]
    pub fn of_memory(id: &str, halves: Vec<Half>) -> Self {
        Self {
            id: id.to_owned(),
            halves,
            fault: None,
        }
    }

    /// Of a scenario that failed.
    #[must_use]
    pub fn failed(id: &str, fault: String) -> Self {
        Self {
            id: id.to_owned(),
            halves: Vec::new(),
            fault: Some(fault),
        }
    }

    /// A figure of one subject, of all halves that count.
    #[must_use]
    pub fn values(&self, name: Name, value: &str) -> Vec<f64> {
        let counted = self.halves.iter().filter(|half| half.dropped.is_none());
        counted.filter_map(|half| half.value(name, value)).collect()
    }

    /// Ratios of a figure of two subjects inside each half that counts.
    #[must_use]
    pub fn ratios(&self, value: &str, above: Name, below: Name) -> Vec<f64> {
        let counted = self.halves.iter().filter(|half| half.dropped.is_none());
        let ratio = |half: &Half| {
            let (above, below) = (half.value(above, value)?, half.value(below, value)?);
            (below > 0.0).then_some(above / below)
        };
        counted.filter_map(ratio).collect()
    }

    /// Why the peer did not come to the end.
    #[must_use]
    pub fn peer_failed(&self) -> Option<&str> {
        let mut faults = self
            .halves
            .iter()
            .filter_map(|half| half.peer_failed.as_deref());
        faults.next()
    }

    /// Number of halves that do not count.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.halves
            .iter()
            .filter(|half| half.dropped.is_some())
            .count()
    }
}

impl Half {
    fn value(&self, name: Name, value: &str) -> Option<f64> {
        self.blocks.get(&name)?.values.get(value).copied()
    }
}

/// Says of each half whether noise has spoilt it.
fn drop_noise(halves: &mut [Half]) {
    let cost = |half: &Half| {
        let values = &half.blocks.get(&Name::Relay)?.values;
        values
            .iter()
            .find(|(name, _)| name.starts_with("cpu"))
            .map(|(_, value)| *value)
    };
    let usual = median(&halves.iter().filter_map(cost).collect::<Vec<_>>());
    for half in halves {
        let worst = |part: fn(&Machine) -> f64| {
            half.blocks
                .values()
                .map(|block| part(&block.machine))
                .fold(0.0, f64::max)
        };
        let (steal, outsiders) = (
            worst(|machine| machine.steal),
            worst(|machine| machine.outsiders),
        );
        let off = cost(half).map_or(0.0, |cost| (cost / usual - 1.0).abs());
        half.dropped = if steal > STEAL {
            Some(format!("steal {:.1} %", steal * 100.0))
        } else if outsiders > OUTSIDERS {
            Some(format!(
                "outsiders used {:.1} % of the machine",
                outsiders * 100.0
            ))
        } else if off > RELAY {
            Some(format!(
                "the relay is {:.0} % off its own median",
                off * 100.0
            ))
        } else {
            None
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cpu: f64, steal: f64, outsiders: f64) -> Block {
        Block {
            values: BTreeMap::from([("cpu_us", cpu), ("per_s", 1000.0 / cpu)]),
            wall: 1.0,
            machine: Machine {
                steal,
                outsiders,
                busy: 1.0,
            },
        }
    }

    fn half(ours: Block, relay: Block) -> Half {
        Half {
            blocks: BTreeMap::from([(Name::Ours, ours), (Name::Relay, relay)]),
            ..Half::default()
        }
    }

    #[test]
    fn ratios_are_taken_inside_a_half_and_noise_is_left_out_and_counted() {
        let quiet = |cpu, relay| half(block(cpu, 0.0, 0.0), block(relay, 0.0, 0.0));
        let halves = vec![
            quiet(20.0, 10.0),
            quiet(21.0, 10.5),
            half(block(90.0, 0.02, 0.0), block(10.0, 0.0, 0.0)),
            half(block(90.0, 0.0, 0.0), block(10.0, 0.0, 0.06)),
            quiet(90.0, 14.0),
            quiet(30.0, 10.0),
        ];
        let outcome = Outcome::new("x", halves);
        assert_eq!(
            outcome.ratios("cpu_us", Name::Ours, Name::Relay),
            [2.0, 2.0, 3.0]
        );
        assert_eq!(outcome.values(Name::Ours, "cpu_us"), [20.0, 21.0, 30.0]);
        assert_eq!(outcome.dropped(), 3);
        let reasons: Vec<_> = outcome
            .halves
            .iter()
            .filter_map(|half| half.dropped.clone())
            .collect();
        assert!(reasons[0].contains("steal"), "{reasons:?}");
        assert!(reasons[1].contains("outsiders"), "{reasons:?}");
        assert!(reasons[2].contains("relay"), "{reasons:?}");
    }

    #[test]
    fn who_is_not_there_has_no_ratios() {
        let outcome = Outcome::new("x", vec![half(block(1.0, 0.0, 0.0), block(1.0, 0.0, 0.0))]);
        assert!(outcome.ratios("cpu_us", Name::Ours, Name::Peer).is_empty());
        assert!(outcome.ratios("p99_us", Name::Ours, Name::Relay).is_empty());
    }
}
