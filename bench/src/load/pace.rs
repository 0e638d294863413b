//! When requests are due in an open loop, and what their latencies are counted from. Pure.

use std::time::{Duration, Instant};

/// Requests at a constant rate, each with its planned time: who is late does not get to send later.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Instant,
    interval: Duration,
    next: u32,
}

impl Schedule {
    /// `rate` requests a second from `start` on.
    #[must_use]
    pub fn new(start: Instant, rate: f64) -> Self {
        Self {
            start,
            interval: Duration::from_secs_f64(1.0 / rate.max(0.01)),
            next: 0,
        }
    }

    /// When the next request is, or was, to be sent.
    #[must_use]
    pub fn planned(&self) -> Instant {
        self.start + self.interval * self.next
    }

    /// The planned time of a request that is due, which is then taken.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let planned = self.planned();
        if planned > now {
            return None;
        }
        self.next += 1;
        if self.next > 1 << 20 {
            // Far below what the multiplication can hold.
            self.start = planned + self.interval;
            self.next = 0;
        }
        Some(planned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_sender_owes_all_requests_with_their_planned_times() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1000.0);
        let now = start + Duration::from_micros(3500);
        let planned: Vec<_> = std::iter::from_fn(|| schedule.take(now)).collect();
        let right: Vec<_> = (0..4).map(|n| start + Duration::from_millis(n)).collect();
        assert_eq!(planned, right);
        assert_eq!(schedule.planned(), start + Duration::from_millis(4));
    }

    #[test]
    fn a_long_run_keeps_its_rate() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1_000_000.0);
        let end = start + Duration::from_secs(3);
        let count = std::iter::from_fn(|| schedule.take(end)).count();
        assert_eq!(count, 3_000_001);
    }
}
