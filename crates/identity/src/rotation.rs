//! When to ask for an identity's next certificate: pure state, the time and the randomness are
//! arguments. Driven by `store`.

use std::time::{Duration, SystemTime};

use rand::{Rng, RngExt as _};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(150);
/// Renewal is planned at half of the certificate's life, ± this share of that half, so that the
/// certificates of one start do not renew in one herd for ever.
const RENEWAL_JITTER: f64 = 0.10;
const BACKOFF_JITTER: f64 = 0.20;
/// A CA that hands out almost expired certificates is asked at most this often.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// What to do now for one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the CA.
    Fetch,
    /// Nothing for so long.
    Wait(Duration),
}

/// The renewal state of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Not before this time; `None` means at once.
    due: Option<SystemTime>,
    /// Attempts that failed since the last success.
    failures: u32,
}

impl Rotation {
    /// An identity that has no certificate yet: fetch at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to do at `now`.
    pub fn next(&self, now: SystemTime) -> Action {
        match self.due.map(|due| due.duration_since(now)) {
            Some(Ok(wait)) if !wait.is_zero() => Action::Wait(wait),
            _ => Action::Fetch,
        }
    }

    /// A certificate valid from `not_before` to `not_after` has arrived: plans its renewal at half of
    /// its life, or, if that is past already, at half of what is left.
    pub fn issued(
        &mut self,
        not_before: SystemTime,
        not_after: SystemTime,
        now: SystemTime,
        rng: &mut impl Rng,
    ) {
        self.failures = 0;
        let half = not_after.duration_since(not_before).unwrap_or_default() / 2;
        let planned = not_before + jitter(half, RENEWAL_JITTER, rng);
        let earliest = now + SHORTEST_WAIT;
        let left = not_after.duration_since(now).unwrap_or_default();
        self.due = Some(if planned > now {
            planned.max(earliest)
        } else {
            (now + jitter(left / 2, RENEWAL_JITTER, rng)).max(earliest)
        });
    }

    /// An attempt failed: 1 s, 2 s, 4 s … 150 s, each ± 20 %.
    pub fn failed(&mut self, now: SystemTime, rng: &mut impl Rng) {
        let doubled = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(16));
        let wait = jitter(doubled.min(LAST_BACKOFF), BACKOFF_JITTER, rng).min(LAST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.due = Some(now + wait);
    }

    /// Failed attempts since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// `around` ± `share` of it, uniformly.
fn jitter(around: Duration, share: f64, rng: &mut impl Rng) -> Duration {
    around.mul_f64(1.0 + rng.random_range(-share..=share))
}

#[cfg(test)]
mod tests;
