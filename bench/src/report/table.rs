//! The tables: goals and figures, as padded Markdown that reads well on a terminal too. Pure.

use std::collections::BTreeSet;

use rand::Rng;

use crate::goals::{Against, Aim, Judged, NOT_ASKED, Verdict};
use crate::outcome::Outcome;
use crate::stats::{Estimate, estimate, median};
use crate::world::Name;

const NAMES: [Name; 5] = [Name::Ours, Name::Twin, Name::Peer, Name::Relay, Name::Bare];

/// The goals with what became of them.
pub fn goals(judged: &[Judged]) -> String {
    let head = [
        "goal",
        "of",
        "at",
        "stretch",
        "found (95 %)",
        "control",
        "dropped",
        "verdict",
    ];
    let asked = |one: &&Judged| one.verdict != Verdict::NotRun(NOT_ASKED.to_owned());
    let rows = judged.iter().filter(asked).map(|one| {
        let sign = match one.goal.aim {
            Aim::AtMost(bound) => format!("≤ {bound}"),
            Aim::AtLeast(bound) => format!("≥ {bound}"),
        };
        let against = match one.goal.against {
            Against::Peer => "ours/peer",
            Against::Relay => "ours/relay",
            Against::Itself => "ours",
        };
        vec![
            one.goal.title.to_owned(),
            against.to_owned(),
            sign,
            one.goal
                .stretch
                .map_or_else(|| "-".to_owned(), |stretch| stretch.to_string()),
            interval(one.found.as_ref()),
            interval(one.control.as_ref()),
            format!("{} of {}", one.dropped.0, one.dropped.1),
            match &one.verdict {
                Verdict::Stretch => "met, and the stretch".to_owned(),
                Verdict::Met => "met".to_owned(),
                Verdict::NotMet => "NOT MET".to_owned(),
                Verdict::NotRun(reason) => format!("not run: {reason}"),
            },
        ]
    });
    padded(&head, rows.collect())
}

/// Medians of every figure, and ours against the others.
pub fn figures(outcomes: &[Outcome], rng: &mut impl Rng) -> String {
    let head = [
        "scenario",
        "figure",
        "ours",
        "twin",
        "peer",
        "relay",
        "no mesh",
        "ours/peer",
        "ours/relay",
        "dropped",
    ];
    let mut rows = Vec::new();
    for outcome in outcomes {
        if let Some(fault) = &outcome.fault {
            let mut row = vec![outcome.id.clone(), format!("FAILED: {}", one_line(fault))];
            row.resize(head.len(), "-".to_owned());
            rows.push(row);
            continue;
        }
        if let Some(fault) = outcome.peer_failed() {
            let mut row = vec![
                outcome.id.clone(),
                format!("THE PEER FAILED: {}", one_line(fault)),
            ];
            row.resize(head.len(), "-".to_owned());
            rows.push(row);
        }
        let blocks = outcome.halves.iter().flat_map(|half| half.blocks.values());
        let values: BTreeSet<&'static str> = blocks
            .flat_map(|block| block.values.keys().copied())
            .collect();
        for value in values {
            let mut row = vec![outcome.id.clone(), value.to_owned()];
            row.extend(NAMES.map(|name| number(median(&outcome.values(name, value)))));
            for other in [Name::Peer, Name::Relay] {
                let ratios = outcome.ratios(value, Name::Ours, other);
                row.push(interval(estimate(&[ratios], rng).as_ref()));
            }
            row.push(format!("{} of {}", outcome.dropped(), outcome.halves.len()));
            rows.push(row);
        }
    }
    padded(&head, rows)
}

fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars()
        .take(120)
        .map(|c| if c == '|' { '/' } else { c })
        .collect()
}

fn interval(found: Option<&Estimate>) -> String {
    let Some(Estimate { middle, low, high }) = found else {
        return "-".to_owned();
    };
    format!("{} ({}..{})", number(*middle), number(*low), number(*high))
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn padded(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|word| (*word).to_owned()).collect();
    let width = |column: usize| {
        let cells = rows
            .iter()
            .chain([&head])
            .map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule: String = widths
        .iter()
        .map(|width| format!("{}|", "-".repeat(width + 2)))
        .collect();
    format!(
        "{}|{rule}\n{}",
        line(&head),
        rows.iter().map(line).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::goals::{GOALS, judge};
    use crate::meter::Machine;
    use crate::outcome::{Block, Half};

    fn outcome(id: &str, figures: &[(Name, f64)]) -> Outcome {
        let block = |cpu| Block {
            values: BTreeMap::from([("cpu_us", cpu)]),
            wall: 1.0,
            machine: Machine {
                steal: 0.0,
                outsiders: 0.0,
                busy: 1.0,
            },
        };
        let blocks: BTreeMap<_, _> = figures
            .iter()
            .map(|(name, cpu)| (*name, block(*cpu)))
            .collect();
        let half = Half {
            blocks,
            ..Half::default()
        };
        Outcome::new(id, vec![half; 4])
    }

    #[test]
    fn each_row_says_what_was_found_and_what_became_of_it() {
        let outcomes = [outcome(
            "rr-1k-64",
            &[(Name::Ours, 20.0), (Name::Twin, 20.0), (Name::Peer, 50.0)],
        )];
        let mut rng = StdRng::seed_from_u64(1);
        let judged: Vec<_> = GOALS
            .iter()
            .map(|goal| judge(goal, &outcomes, &mut rng))
            .collect();
        let text = goals(&judged);
        let row = text
            .lines()
            .find(|line| line.contains("RR 1 KB x 64, CPU per op"))
            .unwrap();
        for part in [
            "ours/peer",
            "≤ 0.45",
            "0.36",
            "0.40 (0.40..0.40)",
            "1.00 (1.00..1.00)",
            "0 of 4",
            "| met ",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
        // The three goals of this scenario; what was not asked for has no line.
        assert_eq!(text.lines().count(), 3 + 2);
    }

    #[test]
    fn failed_scenarios_stand_in_the_table_with_their_fault() {
        let outcomes = [
            Outcome::failed("crr-16", "ALTERED: byte 7 | more\nlog".to_owned()),
            outcome("churn", &[(Name::Ours, 1234.5), (Name::Relay, 1000.0)]),
        ];
        let text = figures(&outcomes, &mut StdRng::seed_from_u64(1));
        assert!(text.contains("FAILED: ALTERED: byte 7 / more"), "{text}");
        let widths: BTreeSet<_> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 1, "{text}");
        let row = text.lines().find(|line| line.contains("churn")).unwrap();
        assert!(
            row.contains("1234") && row.contains("1.23 (1.23..1.23)"),
            "{row}"
        );
    }

    #[test]
    fn numbers_have_three_digits_that_mean_something() {
        for (value, text) in [
            (1234.5, "1234"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.012, "0.012"),
            (0.0, "0.00"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
