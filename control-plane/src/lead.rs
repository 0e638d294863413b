//! Which replica writes: a lease in the API server, held by at most one. The decision is a pure state machine over
//! what was read and the time that passed here; `lease` carries it out. Started by `app`, asked by whoever writes.
//!
//! No clock of another machine counts: a candidate waits for a lease that did not change for `duration` by its own
//! clock since it saw the last change, and a holder stops `renew` after it *began* its last renewal. With
//! `renew` shorter than `duration`, the old one has stopped before a new one begins.

use std::time::{Duration, Instant};

mod lease;

pub use lease::{Candidate, Leadership, campaign};

/// The times of an election; the defaults are those of Kubernetes' own controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// A lease that did not change for so long may be taken by another.
    pub duration: Duration,
    /// A holder that could not renew for so long stops writing.
    pub renew: Duration,
    /// Between two looks.
    pub retry: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

impl Times {
    /// The setting that could make two replicas write at once, its value and what is allowed.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, Duration, &'static str)> {
        // A holder looks at the clock between two steps only, and its last call may take as long as a step.
        if self.renew + self.retry >= self.duration {
            return Some((
                "LEASE_RENEW_DEADLINE",
                self.renew,
                "together with LEASE_RETRY_PERIOD shorter than LEASE_DURATION, or two replicas could write at once",
            ));
        }
        let good = !self.retry.is_zero() && self.retry * 2 <= self.renew;
        (!good).then_some((
            "LEASE_RETRY_PERIOD",
            self.retry,
            "above 0 and at most half of LEASE_RENEW_DEADLINE",
        ))
    }
}

/// A lease as it was read. What it says is compared, not understood: any change is a sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lease {
    /// Who holds it; empty when it was given back.
    pub holder: String,
    /// The holder's own last sign, as it wrote it.
    pub renewed: String,
    /// How often it changed hands.
    pub transitions: i32,
    /// How long the holder wants others to wait; `None` is read as our own setting.
    pub duration: Option<Duration>,
    /// For a write that must find it unchanged.
    pub version: String,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// There is no lease: make one that is ours.
    Create,
    /// It is ours, or nobody's any more: write it, if it is still what we read. The number of changes of hands to write.
    Write {
        /// To write as `leaseTransitions`.
        transitions: i32,
    },
    /// Another holds it.
    Wait,
}

/// One replica's view of the election.
#[derive(Debug, Clone)]
pub struct Election {
    me: String,
    times: Times,
    /// What was read last, and when it was first seen like that.
    seen: Option<(Lease, Instant)>,
    /// When our last successful write began.
    renewed: Option<Instant>,
}

impl Election {
    /// A candidate that has seen nothing yet. `me` must be nobody else's.
    #[must_use]
    pub fn new(me: &str, times: Times) -> Election {
        Election {
            me: me.to_owned(),
            times,
            seen: None,
            renewed: None,
        }
    }

    /// What to do about the lease that was read just now.
    pub fn look(&mut self, lease: Option<Lease>, now: Instant) -> Act {
        let Some(lease) = lease else {
            self.seen = None;
            self.renewed = None;
            return Act::Create;
        };
        let since = match &self.seen {
            Some((old, since)) if *old == lease => *since,
            _ => now,
        };
        let mine = lease.holder == self.me;
        if !mine {
            // Somebody took it over: whatever we believed has ended.
            self.renewed = None;
        }
        let patience = lease
            .duration
            .unwrap_or(self.times.duration)
            .max(self.times.duration);
        let free = lease.holder.is_empty() || now.duration_since(since) >= patience;
        let transitions = lease.transitions.saturating_add(i32::from(!mine));
        self.seen = Some((lease, since));
        if mine || free {
            Act::Write { transitions }
        } else {
            Act::Wait
        }
    }

    /// Our write, begun at that time, was taken.
    pub fn written(&mut self, begun: Instant) {
        self.renewed = Some(begun);
    }

    /// Whether we may write, and until when at most.
    #[must_use]
    pub fn leads_until(&self, now: Instant) -> Option<Instant> {
        let end = self.renewed? + self.times.renew;
        (now < end).then_some(end)
    }

    /// The lease that we hold as it was read last, so that it can be given back.
    #[must_use]
    pub fn held(&self) -> Option<&Lease> {
        self.renewed?;
        self.seen.as_ref().map(|(lease, _)| lease)
    }
}

#[cfg(test)]
mod tests;
