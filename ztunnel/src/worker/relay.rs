//! Bytes between two plain sockets: passthrough and plaintext inbound. Same buffers, no TLS.

use std::io::{self, IoSlice};

use super::api::Reason;
use super::io::{Io, Ready};
use super::link::{Far, Half, Phase};
use super::slots::Key;
use super::state::Worker;

/// Reads per direction and turn.
const ROUNDS: usize = 2;

impl<I: Io> Worker<I> {
    /// Readiness of a link's second socket.
    pub(super) fn far_event(&mut self, event: Ready, io: &mut I) {
        let key = event.token.key;
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Far::Plain(half) = &mut link.far else {
            return;
        };
        let Some(socket) = &half.socket else { return };
        let dialling = link.phase == Phase::Dial;
        let fault = if event.error || dialling {
            io.take_error(socket)
        } else {
            None
        };
        if fault.is_none() {
            half.announced(event);
            half.blocked &= !event.writable;
        }
        match fault {
            Some(fault) if dialling => {
                let reason = match fault.kind() {
                    io::ErrorKind::TimedOut => Reason::DialTimeout,
                    _ => Reason::DialFailed,
                };
                let detail = format!(
                    "dial {}: {fault}",
                    link.facts
                        .as_ref()
                        .map_or(link.destination, |f| f.destination)
                );
                self.end_link(key, reason, Some(detail), io);
            }
            Some(fault) => {
                let (pod, before) = (link.pod, half.pending.len());
                half.fail(&fault);
                self.hold(pod, before, 0);
                self.look_again(key);
                self.queue_relay(key);
            }
            None => {
                if dialling && event.writable {
                    link.phase = Phase::Copy;
                    link.alarm.clear();
                }
                self.queue_relay(key);
                if dialling {
                    self.judge_again(key, io);
                }
            }
        }
    }

    pub(super) fn queue_relay(&mut self, key: Key) {
        if let Some(link) = self.links.get_mut(key)
            && link.phase == Phase::Copy
            && !link.queued
        {
            link.queued = true;
            self.queues.relays.push_back(key);
        }
    }

    /// One turn of a relay: both directions.
    pub(super) fn run_relay(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        link.queued = false;
        if let Far::Local {
            other: Some(other), ..
        } = link.far
        {
            return self.run_local(key, other, io);
        }
        if matches!(link.far, Far::Finished) {
            return self.discard(key, io);
        }
        if !matches!(link.far, Far::Plain(_)) {
            return;
        }
        let (pod, before) = (link.pod, link.pending());
        let limit = self.portion(pod);
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Far::Plain(far) = &mut link.far else {
            return;
        };
        let buffer = &mut self.buffers.rx[..limit];
        let went = pour(&mut link.near, far, buffer, io);
        let came = pour(far, &mut link.near, buffer, io);
        let (near_lost, far_lost) = (link.near.lost(far), far.lost(&link.near));
        let breaks = link.near.broken.is_some() || far.broken.is_some();
        let done = link.near.is_done() && far.is_done();
        link.count_from_near(went.read);
        link.count_to_near(came.written);
        let after = link.pending();
        self.hold(pod, before, after);
        // The near socket of a relay is always the captured one: the source's.
        if let Some(kind) = near_lost {
            return self.near_failed(key, &kind.into(), io);
        }
        if let Some(kind) = far_lost {
            return self.far_failed(key, &kind.into(), io);
        }
        if done {
            return self.end_link(key, Reason::Complete, None, io);
        }
        if went.more || came.more {
            self.queue_relay(key);
        }
        if breaks {
            self.look_again(key);
        }
        if after > before {
            self.relieve(pod, io);
        }
    }

    /// The second socket of a relay failed.
    pub(super) fn far_failed(&mut self, key: Key, fault: &io::Error, io: &mut I) {
        self.end_link(key, Reason::DestinationReset, Some(fault.to_string()), io);
    }
}

/// Bytes that a turn has moved one way.
#[derive(Default, Clone, Copy)]
pub(super) struct Moved {
    /// Taken from the reading side.
    pub(super) read: usize,
    /// Taken by the writing side.
    pub(super) written: usize,
    /// There may be more at once.
    pub(super) more: bool,
}

/// Moves bytes one way. A side that fails is marked; what it had sent before can still be poured.
pub(super) fn pour<I: Io>(
    from: &mut Half<I::Socket>,
    to: &mut Half<I::Socket>,
    buffer: &mut [u8],
    io: &mut I,
) -> Moved {
    let mut moved = Moved::default();
    if !to.pending.is_empty() && !to.blocked {
        match to.flush(io) {
            Ok(n) => moved.written += n,
            Err(fault) => to.fail(&fault),
        }
    }
    for _ in 0..ROUNDS {
        if !from.readable || from.eof || !to.pending.is_empty() || to.broken.is_some() {
            break;
        }
        let Some(socket) = &from.socket else { break };
        match io.read(socket, buffer) {
            Ok(0) => {
                from.at_end();
            }
            Ok(n) => {
                from.readable = n == buffer.len() || from.ended || from.broken.is_some();
                moved.read += n;
                match to.deliver(io, &[IoSlice::new(&buffer[..n])]) {
                    Ok(n) => moved.written += n,
                    Err(fault) => to.fail(&fault),
                }
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock && from.broken.is_none() => {
                from.readable = false;
            }
            Err(fault) => {
                from.fail(&fault);
                from.at_end();
            }
        }
    }
    if from.eof && from.ended {
        to.finish(io);
    }
    moved.more = from.readable && !from.eof && to.pending.is_empty() && to.broken.is_none();
    moved
}
