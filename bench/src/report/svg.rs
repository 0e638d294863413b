//! The plot: a bar for each ratio to the peer (or the relays), with its interval and the goal. Pure.

use std::fmt::Write as _;

use crate::goals::{Against, Aim, Judged, Verdict};

const LABELS: f64 = 380.0;
const WIDTH: f64 = 1000.0;
const ROW: f64 = 22.0;
const TOP: f64 = 60.0;
/// Ends of the scale, which is logarithmic.
const LEAST: f64 = 0.02;
const MOST: f64 = 5.0;

/// The plot of all ratios that were found.
pub fn plot(judged: &[Judged]) -> String {
    let rows: Vec<_> = judged
        .iter()
        .filter(|one| one.goal.against != Against::Itself && one.found.is_some())
        .collect();
    let height = TOP + ROW * rows.len() as f64 + 40.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">Ours divided by the peer's (or the plain relays'), 95 % interval; the diamond is the goal</text>\n"
    );
    // Writing to a string cannot fail.
    for tick in [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0] {
        let (x, end) = (place(tick), height - 30.0);
        let stroke = if tick == 1.0 { "black" } else { "#ddd" };
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{end}\" stroke=\"{stroke}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            TOP - 10.0,
            TOP - 16.0
        );
    }
    for (index, one) in rows.iter().enumerate() {
        row(&mut text, TOP + ROW * index as f64, one);
    }
    text + "</svg>\n"
}

fn row(text: &mut String, top: f64, one: &Judged) {
    let Some(found) = &one.found else { return };
    let (Aim::AtMost(goal) | Aim::AtLeast(goal)) = one.goal.aim;
    let colour = match one.verdict {
        Verdict::Stretch => "#1a7f37",
        Verdict::Met => "#4fae66",
        _ => "#d1605e",
    };
    let (one_x, x) = (place(1.0), place(found.middle));
    let middle = top + ROW / 2.0;
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
         <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"black\" stroke-width=\"2\"/>\
         <path d=\"M{:.1} {:.1} l5 -6 l5 6 l-5 6 z\" fill=\"none\" stroke=\"black\"/>",
        LABELS - 10.0,
        middle + 4.0,
        escaped(one.goal.title),
        x.min(one_x),
        top + 4.0,
        (x - one_x).abs(),
        ROW - 8.0,
        place(found.low),
        place(found.high),
        place(goal) - 5.0,
        middle
    );
}

fn place(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    LABELS + share * (WIDTH - LABELS - 30.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::GOALS;
    use crate::stats::Estimate;

    #[test]
    fn there_is_a_bar_for_each_ratio_that_was_found_and_it_lies_between_its_ends() {
        let judged: Vec<_> = GOALS
            .iter()
            .enumerate()
            .map(|(index, goal)| Judged {
                goal: *goal,
                found: (index % 2 == 0).then_some(Estimate {
                    middle: 0.5,
                    low: 0.4,
                    high: 0.6,
                }),
                control: None,
                dropped: (0, 1),
                verdict: Verdict::Met,
            })
            .collect();
        let text = plot(&judged);
        let wanted = judged
            .iter()
            .filter(|one| one.found.is_some() && one.goal.against != Against::Itself);
        assert_eq!(text.matches("<path").count(), wanted.count());
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
        assert!(place(0.4) < place(0.5) && place(0.5) < place(1.0));
        assert!(place(f64::INFINITY) <= WIDTH && place(0.0) >= LABELS);
    }
}
