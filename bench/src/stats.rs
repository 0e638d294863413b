//! Medians and bootstrap intervals of ratios. Pure: the rng is an argument. Called by `goals` and `report`.

use rand::{Rng, RngExt as _};
use serde::Serialize;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Median.
    pub middle: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The value below which the part `share` of `sorted` lies, interpolated; NaN of nothing.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * part
}

/// Median; NaN of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The median of the medians of several sets (one set: its median), with a bootstrap interval: each set is drawn anew from
/// itself, with replacement, many times. `None` when a set is empty.
pub fn estimate(sets: &[Vec<f64>], rng: &mut impl Rng) -> Option<Estimate> {
    if sets.is_empty() || sets.iter().any(Vec::is_empty) {
        return None;
    }
    let middle = median(&sets.iter().map(|set| median(set)).collect::<Vec<_>>());
    let mut drawn = Vec::new();
    for _ in 0..RESAMPLES {
        let medians: Vec<f64> = sets.iter().map(|set| median(&redrawn(set, rng))).collect();
        drawn.push(median(&medians));
    }
    drawn.sort_by(f64::total_cmp);
    Some(Estimate {
        middle,
        low: quantile(&drawn, 0.025),
        high: quantile(&drawn, 0.975),
    })
}

fn redrawn(set: &[f64], rng: &mut impl Rng) -> Vec<f64> {
    (0..set.len())
        .map(|_| set[rng.random_range(0..set.len())])
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert!((quantile(&sorted, 0.5) - 2.5).abs() < 1e-12);
        assert!((quantile(&sorted, 1.0) - 4.0).abs() < 1e-12);
        assert!((median(&[5.0, 1.0, 3.0]) - 3.0).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_set_without_spread_has_an_interval_without_width() {
        let mut rng = StdRng::seed_from_u64(1);
        let found = estimate(&[vec![0.5; 9]], &mut rng).unwrap();
        assert_eq!(
            found,
            Estimate {
                middle: 0.5,
                low: 0.5,
                high: 0.5
            }
        );
        assert_eq!(estimate(&[vec![1.0], vec![]], &mut rng), None);
    }

    #[test]
    fn several_sets_are_joined_by_the_median_of_their_medians() {
        let mut rng = StdRng::seed_from_u64(1);
        let sets = [vec![1.0; 5], vec![2.0; 5], vec![3.0; 5], vec![100.0; 5]];
        assert!((estimate(&sets, &mut rng).unwrap().middle - 2.5).abs() < 1e-12);
    }

    /// Of many samples of a known median, about 95 % of the intervals must hold it (the bootstrap of few values is a little
    /// too narrow, so the bounds are wide).
    #[test]
    fn intervals_hold_the_true_median_about_as_often_as_they_claim() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut held = 0;
        for _ in 0..200 {
            // Sums of uniform values: nearly normal around 1.
            let one = |rng: &mut StdRng| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() / 6.0;
            let set: Vec<f64> = (0..12).map(|_| one(&mut rng)).collect();
            let found = estimate(&[set], &mut rng).unwrap();
            held += usize::from(found.low <= 1.0 && 1.0 <= found.high);
        }
        assert!((175..=200).contains(&held), "{held} of 200");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_interval_lies_within_the_values_and_around_the_median(set in prop::collection::vec(0.01_f64..100.0, 1..20)) {
            let mut rng = StdRng::seed_from_u64(3);
            let found = estimate(std::slice::from_ref(&set), &mut rng).unwrap();
            let (least, most) = set.iter().fold((f64::MAX, f64::MIN), |(l, m), v| (l.min(*v), m.max(*v)));
            prop_assert!(least <= found.low && found.high <= most);
            prop_assert!(found.low <= found.middle + 1e-9 && found.middle <= found.high + 1e-9);
        }
    }
}
