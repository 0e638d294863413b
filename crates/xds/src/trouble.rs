//! Which of many failures in a row are worth a line: a new one at once, the same again only now and then. Pure; kept by
//! the client of a control plane that may be away for hours.

use std::time::{Duration, Instant};

/// So often the same failure is told again.
const REMINDER: Duration = Duration::from_secs(300);

/// The failures since the last success.
#[derive(Debug, Default)]
pub struct Trouble {
    /// How often it has failed.
    failures: u64,
    /// What was told last, and when.
    told: Option<(String, Instant)>,
}

/// What to say of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// It is the first, or another one than before.
    New,
    /// It has gone on; so many attempts have failed by now.
    Still(u64),
    /// It was told.
    Nothing,
}

impl Trouble {
    /// It failed once more.
    pub fn failed(&mut self, why: &str, now: Instant) -> Tell {
        self.failures += 1;
        let tell = match &self.told {
            Some((before, _)) if before != why => Tell::New,
            Some((_, at)) if now.saturating_duration_since(*at) < REMINDER => return Tell::Nothing,
            Some(_) => Tell::Still(self.failures),
            None => Tell::New,
        };
        self.told = Some((why.to_owned(), now));
        tell
    }

    /// It works. Says how many attempts had failed before.
    pub fn over(&mut self) -> u64 {
        std::mem::take(self).failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_told_once_and_then_every_few_minutes() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(trouble.failed("refused", at(0)), Tell::New);
        for second in 1..300 {
            assert_eq!(trouble.failed("refused", at(second)), Tell::Nothing);
        }
        assert_eq!(trouble.failed("refused", at(300)), Tell::Still(301));
        assert_eq!(trouble.failed("refused", at(599)), Tell::Nothing);
        assert_eq!(trouble.failed("no route", at(600)), Tell::New);
        assert_eq!(trouble.over(), 303);
        assert_eq!(trouble.failed("no route", at(601)), Tell::New);
        assert_eq!((trouble.over(), trouble.over()), (1, 0));
    }
}
