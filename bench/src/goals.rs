//! What the figures are held against, and the judgement. Pure; called by `report`.

use rand::Rng;
use serde::Serialize;

use crate::outcome::Outcome;
use crate::stats::{Estimate, estimate};
use crate::world::Name;

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

const BULK: &[&str] = &["bulk-up-1", "bulk-down-1", "bulk-up-16", "bulk-down-16"];

const fn goal(
    title: &'static str,
    scenarios: &'static [&'static str],
    value: &'static str,
    aim: Aim,
    stretch: f64,
) -> Goal {
    Goal {
        title,
        scenarios,
        value,
        against: Against::Peer,
        aim,
        stretch: Some(stretch),
    }
}

const fn of_itself(
    title: &'static str,
    scenarios: &'static [&'static str],
    value: &'static str,
    aim: Aim,
    stretch: Option<f64>,
) -> Goal {
    Goal {
        title,
        scenarios,
        value,
        against: Against::Itself,
        aim,
        stretch,
    }
}

/// All goals.
pub const GOALS: [Goal; 33] = [
    goal(
        "bulk, CPU-s/GB",
        BULK,
        "cpu_s_per_gb",
        Aim::AtMost(0.60),
        0.52,
    ),
    Goal {
        title: "bulk, CPU-s/GB against plain relays (a stretch)",
        scenarios: BULK,
        value: "cpu_s_per_gb",
        against: Against::Relay,
        aim: Aim::AtMost(1.15),
        stretch: None,
    },
    goal(
        "bulk, Gb/s, 1 stream",
        &["bulk-up-1", "bulk-down-1"],
        "gbps",
        Aim::AtLeast(1.4),
        1.6,
    ),
    goal(
        "bulk, Gb/s, 16 streams",
        &["bulk-up-16", "bulk-down-16"],
        "gbps",
        Aim::AtLeast(1.7),
        2.0,
    ),
    goal(
        "RR 64 B x 1, CPU per op",
        &["rr-64-1"],
        "cpu_us",
        Aim::AtMost(1.0),
        0.85,
    ),
    goal(
        "RR 64 B x 1, p50",
        &["rr-64-1"],
        "p50_us",
        Aim::AtMost(1.0),
        0.6,
    ),
    goal(
        "RR 1 KB x 64, CPU per op",
        &["rr-1k-64"],
        "cpu_us",
        Aim::AtMost(0.45),
        0.36,
    ),
    goal(
        "RR 1 KB x 64, ops/s",
        &["rr-1k-64"],
        "per_s",
        Aim::AtLeast(2.0),
        2.5,
    ),
    goal(
        "RR 1 KB x 64, p99",
        &["rr-1k-64"],
        "p99_us",
        Aim::AtMost(0.7),
        0.5,
    ),
    goal(
        "CRR x 16, CPU per connection",
        &["crr-16"],
        "cpu_us",
        Aim::AtMost(0.60),
        0.50,
    ),
    goal(
        "CRR x 16, connections/s",
        &["crr-16"],
        "per_s",
        Aim::AtLeast(1.3),
        1.6,
    ),
    goal(
        "CRR, new identities, CPU; both X25519MLKEM768",
        &["crr-new-identity-pqc"],
        "cpu_us",
        Aim::AtMost(0.75),
        0.6,
    ),
    goal(
        "CRR, new identities, CPU; each its default key exchange",
        &["crr-new-identity"],
        "cpu_us",
        Aim::AtMost(0.75),
        0.6,
    ),
    goal(
        "idle connection, fresh, RSS",
        &["idle"],
        "fresh_rss_kib",
        Aim::AtMost(0.10),
        0.05,
    ),
    goal(
        "idle connection, after load, RSS",
        &["idle"],
        "after_rss_kib",
        Aim::AtMost(0.25),
        0.1,
    ),
    of_itself(
        "RSS a minute after a storm, over idle",
        &["storm"],
        "after_over_idle",
        Aim::AtMost(1.5),
        Some(1.2),
    ),
    goal(
        "same node, bulk, CPU-s/GB",
        &["near-bulk-up-1", "near-bulk-up-16"],
        "cpu_s_per_gb",
        Aim::AtMost(0.30),
        0.22,
    ),
    goal(
        "same node, RR 1 KB x 64, CPU per op",
        &["near-rr-1k-64"],
        "cpu_us",
        Aim::AtMost(0.45),
        0.38,
    ),
    goal(
        "same node, RR 64 B x 1, CPU per op",
        &["near-rr-64-1"],
        "cpu_us",
        Aim::AtMost(0.70),
        0.60,
    ),
    goal(
        "same node, RR 64 B x 1, p50",
        &["near-rr-64-1"],
        "p50_us",
        Aim::AtMost(1.0),
        0.70,
    ),
    goal(
        "same node, CRR x 16, CPU per connection",
        &["near-crr-16"],
        "cpu_us",
        Aim::AtMost(0.95),
        0.80,
    ),
    goal(
        "open loop at 50 %, p99",
        &["open-50"],
        "p99_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 50 %, p99.9",
        &["open-50"],
        "p999_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 70 %, p99",
        &["open-70"],
        "p99_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 70 %, p99.9",
        &["open-70"],
        "p999_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 90 %, p99",
        &["open-90"],
        "p99_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 90 %, p99.9",
        &["open-90"],
        "p999_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "B8: p99 beside four bulk streams, loaded/alone",
        &["beside-bulk"],
        "loaded_over_alone",
        Aim::AtMost(0.5),
        0.3,
    ),
    of_itself(
        "B9: held for a stalled stream, KiB",
        &["stall"],
        "held_kib",
        Aim::AtMost(1024.0),
        None,
    ),
    of_itself(
        "B9: the 99 others, during/before and after",
        &["stall"],
        "others_during_over_before_and_after",
        Aim::AtLeast(0.95),
        None,
    ),
    of_itself(
        "CPU per connect, 10,000 policies elsewhere/none",
        &["policies"],
        "elsewhere_over_none",
        Aim::AtMost(1.1),
        Some(1.02),
    ),
    of_itself(
        "CPU per connect, 10,000 policies here/none",
        &["policies"],
        "here_over_none",
        Aim::AtMost(1.1),
        Some(1.02),
    ),
    goal(
        "churn, CPU per op (no goal in the issue: parity)",
        &["churn"],
        "cpu_us",
        Aim::AtMost(1.0),
        0.6,
    ),
];

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
    judged.verdict = match &judged.found {
        Some(found) => verdict(goal, found, judged.control.as_ref()),
        None if judged.dropped.0 == judged.dropped.1 => Verdict::NotRun("noise".to_owned()),
        None => Verdict::NotRun(format!(
            "no {}",
            if goal.against == Against::Relay {
                "relay"
            } else {
                "peer"
            }
        )),
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
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::meter::Machine;
    use crate::outcome::{Block, Half};

    fn estimate(middle: f64, low: f64, high: f64) -> Estimate {
        Estimate { middle, low, high }
    }

    fn asked(aim: Aim, stretch: f64) -> Goal {
        goal("x", &["x"], "cpu_us", aim, stretch)
    }

    #[test]
    fn a_win_counts_only_when_the_interval_excludes_one() {
        let goal = asked(Aim::AtMost(0.6), 0.5);
        assert_eq!(
            verdict(&goal, &estimate(0.58, 0.5, 0.7), None),
            Verdict::Met
        );
        assert_eq!(
            verdict(&goal, &estimate(0.49, 0.4, 0.7), None),
            Verdict::Stretch
        );
        assert_eq!(
            verdict(&goal, &estimate(0.58, 0.3, 1.01), None),
            Verdict::NotMet
        );
        assert_eq!(
            verdict(&goal, &estimate(0.61, 0.6, 0.62), None),
            Verdict::NotMet
        );
        let more = asked(Aim::AtLeast(1.3), 1.6);
        assert_eq!(verdict(&more, &estimate(1.4, 1.1, 1.5), None), Verdict::Met);
        assert_eq!(
            verdict(&more, &estimate(1.4, 0.9, 1.5), None),
            Verdict::NotMet
        );
    }

    #[test]
    fn parity_needs_only_an_upper_bound() {
        let goal = asked(Aim::AtMost(1.0), 0.85);
        assert_eq!(
            verdict(&goal, &estimate(1.01, 0.97, 1.04), None),
            Verdict::Met
        );
        assert_eq!(
            verdict(&goal, &estimate(0.99, 0.9, 1.06), None),
            Verdict::NotMet
        );
        assert_eq!(
            verdict(&goal, &estimate(0.8, 0.7, 0.9), None),
            Verdict::Stretch
        );
    }

    #[test]
    fn a_control_that_is_off_widens_the_interval() {
        let goal = asked(Aim::AtMost(0.95), 0.8);
        let found = estimate(0.92, 0.9, 0.95);
        assert_eq!(
            verdict(&goal, &found, Some(&estimate(1.01, 0.9, 1.1))),
            Verdict::Met
        );
        for off in [1.1, 0.9] {
            assert_eq!(
                verdict(&goal, &found, Some(&estimate(off, 0.9, 1.1))),
                Verdict::NotMet
            );
        }
    }

    #[test]
    fn a_figure_of_its_own_is_held_against_the_bound_alone() {
        let goal = of_itself("x", &["x"], "after_over_idle", Aim::AtMost(1.5), Some(1.2));
        assert_eq!(verdict(&goal, &estimate(1.3, 1.0, 9.0), None), Verdict::Met);
        assert_eq!(
            verdict(&goal, &estimate(1.6, 1.0, 9.0), None),
            Verdict::NotMet
        );
    }

    #[test]
    fn without_a_peer_or_a_run_nothing_is_claimed() {
        let block = Block {
            values: BTreeMap::from([("cpu_us", 1.0)]),
            wall: 1.0,
            machine: Machine {
                steal: 0.0,
                outsiders: 0.0,
                busy: 1.0,
            },
        };
        let half = Half {
            blocks: BTreeMap::from([(Name::Ours, block)]),
            dropped: None,
        };
        let outcomes = [
            Outcome::new("x", vec![half]),
            Outcome::failed("y", "bytes lost".to_owned()),
        ];
        let mut rng = StdRng::seed_from_u64(1);
        let mut verdict = |scenarios| {
            let goal = goal("t", scenarios, "cpu_us", Aim::AtMost(0.5), 0.4);
            judge(&goal, &outcomes, &mut rng).verdict
        };
        assert_eq!(verdict(&["x"]), Verdict::NotRun("no peer".to_owned()));
        assert_eq!(verdict(&["y"]), Verdict::NotRun("y failed".to_owned()));
        assert_eq!(verdict(&["z"]), Verdict::NotRun("not asked for".to_owned()));
    }

    #[test]
    fn every_goal_names_scenarios_that_exist() {
        let ids = crate::scenario::ids();
        for goal in &GOALS {
            for id in goal.scenarios {
                assert!(ids.contains(id), "{}: {id}", goal.title);
            }
        }
    }
}
