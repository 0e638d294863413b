//! Ends that take their time: what a side has said before it goes, goes first. Called by `copy`, `relay`, `local`.

use std::io;
use std::time::Duration;

use super::api::Reason;
use super::io::Io;
use super::link::{Far, Phase};
use super::slots::Key;
use super::state::Worker;

/// A link that has begun to end is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// After so many looks a broken socket is given up, whether or not the other side has taken what it had sent.
const BROKEN_LOOKS: u8 = 5;
/// After so many looks an application that takes nothing more of what was sent to it, and does not end either, is given up.
const LINGERING_LOOKS: u8 = 30;
/// Reads of a link per turn whose bytes nobody wants.
const DISCARDS: usize = 2;

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
            return self.linger(key, io);
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

    /// The far side has sent everything and takes nothing more, but the application goes on sending: once it has got
    /// everything it is closed.
    fn linger(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if !matches!(link.far, Far::Finished) || link.near.eof {
            return;
        }
        link.looks += 1;
        let late = link.looks >= LINGERING_LOOKS;
        let goes_on = std::mem::take(&mut link.dropped);
        let socket = link.near.socket.as_ref();
        let arrived =
            link.near.fin_sent && socket.is_none_or(|socket| io.unacknowledged(socket) == 0);
        match (arrived, late) {
            (true, _) if late || !goes_on => self.end_link(key, Reason::Complete, None, io),
            (false, true) => self.near_failed(key, &io::ErrorKind::TimedOut.into(), io),
            // While it reads, at its own pace, or sends on, it is heard out.
            _ => self.look_again(key),
        }
    }

    /// Nobody wants what the application still sends. It is read and dropped: to close a socket with bytes unread, or one
    /// for which bytes come, makes the kernel drop what it has not sent to the application yet. And an application that
    /// reads only after its whole request would wait for ever.
    pub(super) fn discard(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if let Some(kind) = link.near.broken {
            return self.near_failed(key, &kind.into(), io);
        }
        let room = &mut self.buffers.rx;
        for _ in 0..DISCARDS {
            let may_read = link.near.readable && !link.near.eof;
            let Some(socket) = link.near.socket.as_ref().filter(|_| may_read) else {
                break;
            };
            match io.read(socket, room) {
                Ok(0) => {
                    link.near.at_end();
                }
                Ok(n) => {
                    link.dropped = true;
                    link.near.readable = n == room.len() || link.near.ended;
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    link.near.readable = false;
                }
                Err(fault) => return self.near_failed(key, &fault, io),
            }
        }
        self.queue_reading(key);
        self.far_end_reached(key, io);
    }
}
