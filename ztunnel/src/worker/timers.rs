//! Deadlines of tunnels, links and the worker itself. A heap with lazy entries: moving a deadline is a store, and an
//! entity without one costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::io::{Kind, Token};

/// The deadline of one entity and the earliest heap entry that it has.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Alarm {
    due: Option<Instant>,
    armed: Option<Instant>,
}

/// All armed deadlines of a worker.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Instant,
    token: u64,
}

impl Timers {
    /// Sets the alarm of `token` to `due`, replacing an earlier one.
    pub(super) fn set(&mut self, alarm: &mut Alarm, token: Token, due: Instant) {
        alarm.due = Some(due);
        if alarm.armed.is_none_or(|armed| armed > due) {
            alarm.armed = Some(due);
            self.heap.push(Reverse(Entry {
                at: due,
                token: token.to_bits(),
            }));
        }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The next token whose entry is due, and when that was; the caller asks the entity's alarm with [`Timers::rings`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Token, Instant)> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if entry.at > now {
                return None;
            }
            let Reverse(entry) = self.heap.pop().expect("just peeked");
            if let Some(token) = Token::from_bits(entry.token) {
                return Some((token, entry.at));
            }
        }
        None
    }

    /// Whether the alarm is really due, asked with what [`Timers::pop`] gave; one that was moved is armed again, one that
    /// was cleared is forgotten.
    pub(super) fn rings(
        &mut self,
        alarm: &mut Alarm,
        (token, at): (Token, Instant),
        now: Instant,
    ) -> bool {
        if alarm.armed != Some(at) {
            // Of an alarm that was brought forward since: its newer entry counts, or they would gather.
            return false;
        }
        alarm.armed = None;
        match alarm.due {
            Some(due) if due <= now => {
                alarm.due = None;
                true
            }
            Some(due) => {
                self.set(alarm, token, due);
                false
            }
            None => false,
        }
    }
}

impl Alarm {
    /// When it rings, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// No deadline any more.
    pub(super) fn clear(&mut self) {
        self.due = None;
    }
}

impl Kind {
    /// Timers of a link always run under its near token.
    pub(super) const LINK: Self = Self::Near;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::slots::Slots;
    use super::*;

    #[test]
    fn a_moved_alarm_rings_once_at_its_new_time_and_a_cleared_one_never() {
        let mut slots = Slots::default();
        let (a, b) = (
            slots.insert(Alarm::default()),
            slots.insert(Alarm::default()),
        );
        let token = |key| Token {
            kind: Kind::Tunnel,
            key,
        };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.set(slots.get_mut(a).unwrap(), token(a), at(10));
        timers.set(slots.get_mut(b).unwrap(), token(b), at(10));
        timers.set(slots.get_mut(a).unwrap(), token(a), at(30));
        slots.get_mut(b).unwrap().clear();
        let mut rung = Vec::new();
        for now in [at(10), at(20), at(30), at(40)] {
            while let Some((token, at)) = timers.pop(now) {
                if timers.rings(slots.get_mut(token.key).unwrap(), (token, at), now) {
                    rung.push((token.key, now));
                }
            }
        }
        assert_eq!(rung, [(a, at(30))]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn an_alarm_that_is_often_brought_forward_does_not_gather_entries() {
        let mut slots = Slots::default();
        let key = slots.insert(Alarm::default());
        let token = Token {
            kind: Kind::Tunnel,
            key,
        };
        let (mut now, mut timers) = (Instant::now(), Timers::default());
        let secs = Duration::from_secs;
        for second in 0..1000 {
            now += secs(1);
            let alarm = slots.get_mut(key).unwrap();
            while let Some((token, at)) = timers.pop(now) {
                if timers.rings(alarm, (token, at), now) {
                    timers.set(alarm, token, now + secs(30));
                }
            }
            if second % 11 == 0 {
                timers.set(alarm, token, now + secs(5));
            }
        }
        assert!(timers.heap.len() < 10, "{} entries", timers.heap.len());
    }
}
