//! Waits between attempts to reach a control plane: doubling, with jitter so that the nodes of a mesh
//! do not return in one herd. Pure; used by `client`.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// A doubling wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    current: Duration,
}

impl Backoff {
    /// Waits from `first`, doubling up to `last`.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            current: first,
        }
    }

    /// The next wait: between half of the current step and all of it.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let wait = self.current.mul_f64(rng.random_range(0.5..=1.0));
        self.current = self.current.saturating_mul(2).min(self.last);
        wait
    }

    /// Starts over; called after a stream that worked.
    pub fn reset(&mut self) {
        self.current = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_last_with_jitter_below_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(15));
        for step in 0..20 {
            let full = Duration::from_millis(20 << step).min(Duration::from_secs(15));
            let wait = backoff.next(&mut rand::rng());
            assert!(
                full / 2 <= wait && wait <= full,
                "step {step}: {wait:?} of {full:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next(&mut rand::rng()) <= Duration::from_millis(20));
    }
}
