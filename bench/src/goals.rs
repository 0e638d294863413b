//! What the figures are held against, and the judgement. Pure; called by `report`.

mod list;

use rand::Rng;
use serde::Serialize;

pub use self::list::GOALS;

use crate::outcome::Outcome;
use crate::stats::{Estimate, estimate};
use crate::world::Name;

/// One of so many half rounds must be left.
const LEAST: usize = 3;
/// Why a goal whose scenario did not run has no figure.
pub const NOT_ASKED: &str = "not asked for";
/// How far the upper end of the interval may lie above 1 where only parity is asked for.
const PARITY: f64 = 1.05;

/// What a figure of ours is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The peer's, of the same half round.
    Peer,
    /// The plain relays', of the same half round.
    Relay,
    /// Nothing: the figure itself.
    Itself,
}

/// Which side of a bound is good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// Good is less.
    AtMost(f64),
    /// Good is more.
    AtLeast(f64),
}

/// One goal.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Goal {
    /// As in the table.
    pub title: &'static str,
    /// Several: the median of their medians.
    pub scenarios: &'static [&'static str],
    /// Name of the figure.
    pub value: &'static str,
    /// Ratio to whom.
    pub against: Against,
    /// The goal.
    pub aim: Aim,
    /// What would be better still.
    pub stretch: Option<f64>,
}

/// What became of a goal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The stretch too.
    Stretch,
    /// Met.
    Met,
    /// Not met.
    NotMet,
    /// No figure, and why.
    NotRun(String),
}

/// A goal with its figure.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The goal.
    pub goal: Goal,
    /// The ratio, or the figure itself.
    pub found: Option<Estimate>,
    /// The same of our second pair against our first: 1 if there were no noise.
    pub control: Option<Estimate>,
    /// Half rounds that did not count, and all.
    pub dropped: (usize, usize),
    /// The judgement.
    pub verdict: Verdict,
}

/// Holds `goal` against what was seen.
pub fn judge(goal: &Goal, outcomes: &[Outcome], rng: &mut impl Rng) -> Judged {
    let mut judged = Judged {
        goal: *goal,
        found: None,
        control: None,
        dropped: (0, 0),
        verdict: Verdict::NotRun(NOT_ASKED.to_owned()),
    };
    let mut seen = Vec::new();
    for id in goal.scenarios {
        let Some(outcome) = outcomes.iter().find(|outcome| outcome.id == *id) else {
            return judged;
        };
        if outcome.fault.is_some() {
            judged.verdict = Verdict::NotRun(format!("{id} failed"));
            return judged;
        }
        if outcome.peer_failed().is_some() && goal.against == Against::Peer {
            judged.verdict = Verdict::NotRun(format!("{id}: the peer failed"));
            return judged;
        }
        judged.dropped.0 += outcome.dropped();
        judged.dropped.1 += outcome.halves.len();
        seen.push(outcome);
    }
    let set = |outcome: &&Outcome| match goal.against {
        Against::Peer => outcome.ratios(goal.value, Name::Ours, Name::Peer),
        Against::Relay => outcome.ratios(goal.value, Name::Ours, Name::Relay),
        Against::Itself => outcome.values(Name::Ours, goal.value),
    };
    let sets: Vec<_> = seen.iter().map(set).collect();
    let twins: Vec<_> = seen
        .iter()
        .map(|outcome| outcome.ratios(goal.value, Name::Twin, Name::Ours))
        .collect();
    judged.found = estimate(&sets, rng);
    judged.control = estimate(&twins, rng);
    let (dropped, all) = judged.dropped;
    judged.verdict = match &judged.found {
        // What is left of a run that was mostly noise proves nothing.
        _ if (all - dropped) * LEAST < all => Verdict::NotRun("noise".to_owned()),
        Some(found) => verdict(goal, found, judged.control.as_ref()),
        None if goal.against == Against::Relay => Verdict::NotRun("no relay".to_owned()),
        None => Verdict::NotRun("no peer".to_owned()),
    };
    judged
}

/// The interval is widened by what the control was off: so much two of the same kind differ.
fn verdict(goal: &Goal, found: &Estimate, control: Option<&Estimate>) -> Verdict {
    let off = match control {
        Some(control) if goal.against != Against::Itself && control.middle > 0.0 => {
            control.middle.max(1.0 / control.middle)
        }
        _ => 1.0,
    };
    let wide = Estimate {
        middle: found.middle,
        low: found.low / off,
        high: found.high * off,
    };
    let ratio = goal.against != Against::Itself;
    let reached = |bound: f64| match goal.aim {
        Aim::AtMost(_) if ratio && bound == 1.0 => wide.high <= PARITY,
        Aim::AtMost(_) => found.middle <= bound && !(ratio && bound < 1.0 && wide.high >= 1.0),
        Aim::AtLeast(_) => found.middle >= bound && !(ratio && bound > 1.0 && wide.low <= 1.0),
    };
    let (Aim::AtMost(bound) | Aim::AtLeast(bound)) = goal.aim;
    if !reached(bound) {
        return Verdict::NotMet;
    }
    if goal.stretch.is_some_and(reached) {
        Verdict::Stretch
    } else {
        Verdict::Met
    }
}

#[cfg(test)]
mod tests;
