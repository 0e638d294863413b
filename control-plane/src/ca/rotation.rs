//! When a root is due for the next step of its rotation. Pure; asked by `vault`.
//!
//! steady → (the end nears, or somebody asks) a second root is *announced*: clients are told to trust it, nothing is
//! signed by it → after the overlap it *signs*, the first one is trusted on → after another overlap, when nothing that
//! the first one signed is alive, that is *retired*. So at no time does a client meet a certificate of a root that it was
//! not told of, nor lose one that is still in use.

use std::time::{Duration, SystemTime};

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// One root signs and is trusted.
    Steady,
    /// A second root is trusted, since then.
    Announced(SystemTime),
    /// The second root signs, since then, and the first is trusted on.
    Retiring(SystemTime),
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Make a second root and have it trusted.
    Announce,
    /// Sign with the second root.
    Activate,
    /// Trust the first root no more.
    Retire,
}

/// How rotations go.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Time for every client to learn of a new root, and then for every certificate of the old one to end; at least the
    /// longest life of a certificate.
    pub overlap: Duration,
    /// Life of a new root.
    pub life: Duration,
}

impl Plan {
    /// How long before its end a root is replaced: a fifth of its life, and never less than both overlaps take.
    #[must_use]
    pub fn lead(&self) -> Duration {
        (self.life / 5).max(self.overlap * 3)
    }
}

/// The step that is due. `ends` is the end of the root that signs; `asked`: somebody wants a rotation now.
#[must_use]
pub fn due(phase: Phase, ends: SystemTime, asked: bool, now: SystemTime, plan: &Plan) -> Step {
    let since = |at: SystemTime| now.duration_since(at).unwrap_or_default();
    match phase {
        Phase::Steady if asked || ends <= now + plan.lead() => Step::Announce,
        // A root that has ended signs nothing that anybody accepts: waiting longer helps nobody.
        Phase::Announced(at) if since(at) >= plan.overlap || ends <= now => Step::Activate,
        Phase::Retiring(at) if since(at) >= plan.overlap => Step::Retire,
        _ => Step::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn plan() -> Plan {
        Plan {
            overlap: 90 * DAY,
            life: 3650 * DAY,
        }
    }

    fn day(day: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * day
    }

    #[test]
    fn a_root_goes_through_all_phases_in_order() {
        let ends = day(3650);
        let table = [
            (Phase::Steady, ends, false, day(2919), Step::Rest),
            (Phase::Steady, ends, false, day(2920), Step::Announce),
            (Phase::Steady, ends, true, day(1), Step::Announce),
            (Phase::Announced(day(10)), ends, true, day(99), Step::Rest),
            (
                Phase::Announced(day(10)),
                ends,
                false,
                day(100),
                Step::Activate,
            ),
            (
                Phase::Announced(day(10)),
                day(20),
                false,
                day(20),
                Step::Activate,
            ),
            (Phase::Retiring(day(10)), ends, true, day(99), Step::Rest),
            (
                Phase::Retiring(day(10)),
                ends,
                false,
                day(100),
                Step::Retire,
            ),
            // A clock that went back only makes us wait.
            (Phase::Retiring(day(10)), ends, false, day(5), Step::Rest),
        ];
        for (phase, ends, asked, now, step) in table {
            assert_eq!(
                due(phase, ends, asked, now, &plan()),
                step,
                "{phase:?} at {now:?}"
            );
        }
    }

    #[test]
    fn a_short_lived_root_is_replaced_before_both_overlaps_are_over() {
        let plan = Plan {
            overlap: 30 * DAY,
            life: 100 * DAY,
        };
        assert_eq!(plan.lead(), 90 * DAY);
    }
}
