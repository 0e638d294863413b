//! Bytes between two plain sockets: passthrough and plaintext inbound. Same buffers, no TLS.

use std::io::{self, IoSlice};

use super::api::Reason;
use super::io::{Io, Ready};
use super::link::{Far, Half, Phase};
use super::slots::Key;
use super::state::Worker;

/// Reads per direction and turn.
const ROUNDS: usize = 2;

/// Which side of a relay a fault belongs to.
enum Side {
    Near,
    Far,
}

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
        half.readable |= event.readable || event.ended;
        half.ended |= event.ended;
        half.blocked &= !event.writable;
        let Some(socket) = &half.socket else { return };
        let dialling = link.phase == Phase::Dial;
        let fault = if event.error || dialling {
            io.take_error(socket)
        } else {
            None
        };
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
            Some(fault) => self.relay_failed(key, &Side::Far, &fault, io),
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
        let (out, went) = pour(&mut link.near, far, buffer, io);
        let (back, came) = match out {
            Ok(_) => pour(far, &mut link.near, buffer, io),
            Err(_) => (Ok(false), Moved::default()),
        };
        link.count_from_near(went.read);
        link.count_to_near(came.written);
        let after = link.pending();
        self.hold(pod, before, after);
        let fault = match (out, back) {
            (Ok(out), Ok(back)) => {
                if out || back {
                    self.queue_relay(key);
                }
                None
            }
            (Err((from, fault)), _) => Some((if from { Side::Near } else { Side::Far }, fault)),
            (_, Err((from, fault))) => Some((if from { Side::Far } else { Side::Near }, fault)),
        };
        if let Some((side, fault)) = fault {
            return self.relay_failed(key, &side, &fault, io);
        }
        let Some(link) = self.links.get(key) else {
            return;
        };
        if let Far::Plain(far) = &link.far
            && link.near.is_done()
            && far.is_done()
        {
            return self.end_link(key, Reason::Complete, None, io);
        }
        if after > before {
            self.relieve(pod, io);
        }
    }

    fn relay_failed(&mut self, key: Key, side: &Side, fault: &io::Error, io: &mut I) {
        // The near socket of a relay is always the captured one: the source's.
        let reason = match side {
            Side::Near => Reason::SourceReset,
            Side::Far => Reason::DestinationReset,
        };
        self.end_link(key, reason, Some(fault.to_string()), io);
    }
}

/// Bytes that a turn has moved one way.
#[derive(Default, Clone, Copy)]
pub(super) struct Moved {
    /// Taken from the reading side.
    pub(super) read: usize,
    /// Taken by the writing side.
    pub(super) written: usize,
}

/// Moves bytes one way. Says whether there may be more at once; an error says whether it was the reading side's.
pub(super) fn pour<I: Io>(
    from: &mut Half<I::Socket>,
    to: &mut Half<I::Socket>,
    buffer: &mut [u8],
    io: &mut I,
) -> (Result<bool, (bool, io::Error)>, Moved) {
    let mut moved = Moved::default();
    let result = pour_into(from, to, (buffer, &mut moved), io);
    (result, moved)
}

fn pour_into<I: Io>(
    from: &mut Half<I::Socket>,
    to: &mut Half<I::Socket>,
    (buffer, moved): (&mut [u8], &mut Moved),
    io: &mut I,
) -> Result<bool, (bool, io::Error)> {
    let writing = |fault| (false, fault);
    if !to.pending.is_empty() && !to.blocked {
        moved.written += to.flush(io).map_err(writing)?;
    }
    for _ in 0..ROUNDS {
        if !from.readable || from.eof || !to.pending.is_empty() {
            break;
        }
        let Some(socket) = &from.socket else { break };
        match io.read(socket, buffer) {
            Ok(0) => from.eof = true,
            Ok(n) => {
                from.readable = n == buffer.len() || from.ended;
                moved.read += n;
                let slices = [IoSlice::new(&buffer[..n])];
                moved.written += to.deliver(io, &slices).map_err(writing)?;
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => from.readable = false,
            Err(fault) => return Err((true, fault)),
        }
    }
    if from.eof {
        to.finish(io);
    }
    Ok(from.readable && !from.eof && to.pending.is_empty())
}
