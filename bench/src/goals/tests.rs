use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::list::{goal, of_itself};
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
        ..Half::default()
    };
    let mut noisy = Outcome::new("w", vec![half.clone(); 8]);
    for half in noisy.halves.iter_mut().take(6) {
        half.dropped = Some("steal".to_owned());
    }
    let outcomes = [
        noisy,
        Outcome::new("x", vec![half]),
        Outcome::failed("y", "bytes lost".to_owned()),
    ];
    let mut rng = StdRng::seed_from_u64(1);
    let mut verdict = |scenarios| {
        let goal = goal("t", scenarios, "cpu_us", Aim::AtMost(0.5), 0.4);
        judge(&goal, &outcomes, &mut rng).verdict
    };
    assert_eq!(verdict(&["w"]), Verdict::NotRun("noise".to_owned()));
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
