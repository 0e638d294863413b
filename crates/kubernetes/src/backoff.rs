//! How long to wait after failures. Pure: chance is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// The pause after `failures` in a row (at least 1): doubling up to 10 s, and within that anything between half and
/// all of it, so that many clients of a server that comes back do not come at once. `chance` is in 0..1.
pub(crate) fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled
        .min(LONGEST)
        .mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_spread_and_bounded() {
        let millis = |failures, chance| pause(failures, chance).as_millis();
        assert_eq!((millis(1, 0.0), millis(1, 1.0)), (100, 200));
        assert_eq!((millis(2, 0.0), millis(2, 1.0)), (200, 400));
        assert_eq!((millis(7, 0.0), millis(7, 1.0)), (5_000, 10_000));
        assert_eq!(millis(u32::MAX, 1.0), 10_000);
        assert_eq!(millis(0, 1.0), 200);
    }
}
