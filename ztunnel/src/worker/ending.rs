//! Ends that take their time: what a side has said before it goes, goes first. Called by `copy`, `relay`, `local`.

use std::io;
use std::time::Duration;

use super::io::Io;
use super::link::{Far, Phase};
use super::slots::Key;
use super::state::Worker;

/// A link that has begun to end is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// After so many looks a broken socket is given up, whether or not the other side has taken what it had sent.
const BROKEN_LOOKS: u8 = 5;

impl<I: Io> Worker<I> {
    /// The near socket broke. What its application had sent before goes its way first, as it does without a proxy: often it
    /// says why.
    pub(super) fn near_broken(&mut self, key: Key, fault: &io::Error, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let (goes_on, streams) = match link.far {
            Far::Stream { .. } => (!link.near.eof, true),
            Far::Plain(_) | Far::Local { .. } => (true, false),
            _ => (false, false),
        };
        if link.phase != Phase::Copy || !goes_on {
            return self.near_failed(key, fault, io);
        }
        let (pod, before) = (link.pod, link.near.pending.len());
        link.near.fail(fault);
        self.hold(pod, before, 0);
        self.look_again(key);
        match streams {
            true => self.queue_reading(key),
            false => self.queue_other(key),
        }
    }

    /// Looks soon at a link that has begun to end.
    pub(super) fn look_again(&mut self, key: Key) {
        let due = self.now + LOOK;
        let Some(link) = self.links.get(key) else {
            return;
        };
        if link.alarm.due().is_none_or(|known| known > due) {
            self.set_link_alarm(key, LOOK);
        }
    }

    /// A link that carries bytes is looked at: if it has begun to end, is it time to give it up?
    pub(super) fn ending_alarm(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let far = match &link.far {
            Far::Plain(half) => half.broken,
            _ => None,
        };
        let Some(kind) = link.near.broken.or(far) else {
            return;
        };
        link.looks += 1;
        if link.looks < BROKEN_LOOKS {
            return self.look_again(key);
        }
        match link.near.broken {
            Some(_) => self.near_failed(key, &kind.into(), io),
            None => self.far_failed(key, &kind.into(), io),
        }
    }
}
