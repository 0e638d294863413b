//! Receive windows. Those of streams start small and double where their reader needs more, within the connection's room;
//! beyond it streams that do not read lose credit. Called by the driver (`consumed`), `data` and `control`.
//!
//! There is no clock: two PINGs, one behind the other, measure two round trips. A stream that got about a whole window of
//! bytes meanwhile is held back by its window; it grows with the next credit, if its reader keeps up. One that got next
//! to nothing gives half of what it has beyond the initial one back. One that stalls gets no credit, so it keeps the
//! window that it has: what counts is that it is small before.

use super::connection::Connection;
use super::event::StreamId;
use super::frame::{self, kind};
use super::streams::Stream;

/// Opaque bytes of the PING that measures a round trip.
pub(super) const PROBE: [u8; 8] = *b"cw-round";
/// Measurements per tick at most: enough to reach the largest window at any distance within a second, and their PINGs
/// are far below what peers count as a flood.
const PROBES: u32 = 64;
/// What a stream that lags behind keeps when there is no room: one frame of the default size.
const LEAST: u32 = 16_384;

/// What the last measurement said of a stream's window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fit {
    /// Nothing, or that it suffices.
    #[default]
    Right,
    /// It holds the peer back.
    Tight,
    /// Next to nothing of it is used.
    Loose,
}

/// The measurement under way, if any.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// PINGs of it that are not answered or not sent yet.
    pub(super) left: u8,
    /// Begun since the last tick.
    begun: u32,
    /// Streams whose windows were found to be tight: since the last tick, and between the two before it.
    tight: [u32; 2],
}

impl Probe {
    /// How many streams want more than they have.
    fn rivals(&self) -> u32 {
        self.tight[0].max(self.tight[1]).max(1)
    }
}

impl Stream {
    /// Credit from here on is worth a WINDOW_UPDATE.
    fn is_due(&self) -> bool {
        self.recv_open && self.credit >= (self.window / 4).max(1) as i32
    }

    /// More than half of the window lies unread: it is the reader that holds this stream back.
    fn lags(&self) -> bool {
        self.unconsumed > self.window / 2
    }

    fn resize(&mut self, window: u32) {
        let change = i64::from(window) - i64::from(self.window);
        // Within a window of 31 bits both ways.
        self.credit = (i64::from(self.credit) + change) as i32;
        self.window = window;
    }
}

impl Connection {
    /// `n` bytes of this stream's DATA have left for the application: the peer gets credit for them (at thresholds).
    #[inline]
    pub fn consumed(&mut self, stream: StreamId, n: usize) {
        let Some(state) = self.streams.stream_mut(stream) else {
            return;
        };
        let n = u32::try_from(n).unwrap_or(u32::MAX).min(state.unconsumed);
        state.unconsumed -= n;
        if state.unconsumed == 0 {
            state.small = 0;
        } else if state.small > 0 {
            // Their share of what was waiting, so that a slow but steady reader pays off its account.
            let before = u64::from(state.unconsumed) + u64::from(n);
            state.small -= (u64::from(state.small) * u64::from(n) / before) as u32;
        }
        // `free`, without looking for the stream again: this is done for every frame.
        let withheld = state.credit < 0;
        if !withheld {
            state.credit += n as i32;
        }
        let due = state.is_due();
        self.streams.held -= u64::from(n);
        if withheld {
            self.free(stream, n);
        } else if due {
            self.grant(stream);
        }
    }

    /// Bytes that the driver holds: received on all streams and not reported as consumed.
    pub fn held(&self) -> usize {
        self.streams.held as usize
    }

    /// How many bytes this connection may hold before streams that do not read lose credit, where pods or the node are
    /// short of memory; never more than [`super::Config::room`]. Streams that read go on whatever it is.
    pub fn set_room(&mut self, bytes: usize) {
        self.room = bytes.min(self.config.room) as u64;
    }

    /// `n` bytes of a stream's window are free again.
    pub(super) fn free(&mut self, stream: StreamId, n: u32) {
        let Some(state) = self.streams.stream_mut(stream) else {
            return;
        };
        if state.credit < 0 {
            self.streams
                .promise(stream, |state| state.credit += n as i32);
            return self.grant(stream);
        }
        state.credit += n as i32;
        if state.is_due() {
            self.grant(stream);
        }
    }

    /// Sends stream credit once a quarter of the window is due, and resizes the window.
    fn grant(&mut self, stream: StreamId) {
        let Some(state) = self
            .streams
            .stream_mut(stream)
            .filter(|state| state.is_due())
        else {
            return;
        };
        let (window, lags) = (state.window, state.lags());
        let fit = std::mem::take(&mut state.fit);
        let measures = !lags && self.may_grow(window);
        let share = self.share();
        let least = LEAST.min(self.config.initial_window);
        let wanted = if lags && self.streams.held > self.room {
            (window / 2).max(least)
        } else if window > self.config.initial_window
            && (self.streams.excess > self.room || window / 2 >= share || fit == Fit::Loose)
        {
            (window / 2).max(self.config.initial_window)
        } else if fit == Fit::Tight && measures && self.grown(window) <= share {
            self.grown(window)
        } else {
            window
        };
        if wanted != window {
            self.streams.promise(stream, |state| state.resize(wanted));
        }
        self.write_stream_credit(stream);
        if measures {
            self.begin_probe();
        }
    }

    fn write_stream_credit(&mut self, stream: StreamId) {
        if let Some(state) = self
            .streams
            .stream_mut(stream)
            .filter(|state| state.is_due())
        {
            frame::write_credit(&mut self.output, stream.id, state.credit as u32);
            state.recv_window += state.credit;
            state.credit = 0;
        }
    }

    /// How far windows may grow: those that want more share what one alone may have, because together they fill the same
    /// path. So a connection that is shared by many and busy does not hold the largest window for each.
    fn share(&self) -> u32 {
        let share = self.config.stream_window / self.probe.rivals();
        share.max(self.config.initial_window)
    }

    /// About a second has passed: measurements are counted anew.
    pub(super) fn tick_windows(&mut self) {
        self.probe.begun = 0;
        self.probe.tight = [0, self.probe.tight[0]];
        for (_, state) in self.streams.iter_mut() {
            state.rival = false;
        }
    }

    /// Whether a stream's window may double now. Up to the initial one it always may.
    fn may_grow(&self, window: u32) -> bool {
        let grown = self.grown(window);
        let more = grown.saturating_sub(window.max(self.config.initial_window));
        let fits = self.streams.held <= self.room / 2
            && self.streams.excess + u64::from(more) <= self.room;
        grown > window && (more == 0 || fits)
    }

    fn grown(&self, window: u32) -> u32 {
        window.saturating_mul(2).min(self.config.stream_window)
    }

    /// Two round trips begin, unless they run already.
    fn begin_probe(&mut self) {
        if self.probe.left > 0 || self.probe.begun >= PROBES {
            return;
        }
        self.probe.begun += 1;
        self.probe.left = 2;
        for (_, state) in self.streams.iter_mut() {
            (state.arrived, state.fit) = (0, Fit::Right);
        }
        frame::write(&mut self.output, kind::PING, 0, 0, &PROBE);
    }

    /// A PING of the measurement was answered.
    pub(super) fn probed(&mut self) {
        self.probe.left -= 1;
        if self.probe.left > 0 {
            return frame::write(&mut self.output, kind::PING, 0, 0, &PROBE);
        }
        let mut rivals = 0;
        for (_, state) in self.streams.iter_mut() {
            // The credit that was due and not yet sent may have held a quarter back.
            state.fit = if state.arrived >= state.window - state.window / 4 {
                Fit::Tight
            } else if state.arrived < state.window / 8 {
                Fit::Loose
            } else {
                Fit::Right
            };
            if state.fit == Fit::Tight && !std::mem::replace(&mut state.rival, true) {
                rivals += 1;
            }
        }
        self.probe.tight[0] += rivals;
    }

    /// The peer knows our initial window: where it is below the default, it could not know until now.
    pub(super) fn initial_window_applies(&mut self) {
        let less = self.assumed_window - self.config.initial_window;
        self.assumed_window = self.config.initial_window;
        if less == 0 {
            return;
        }
        let least = LEAST.min(self.config.initial_window);
        let streams: Vec<StreamId> = self.streams.iter().map(|(stream, _)| stream).collect();
        for stream in streams {
            self.streams.promise(stream, |state| {
                state.recv_window -= less as i32;
                // One that shrank already takes it as credit that it has.
                let window = state.window.saturating_sub(less).max(least);
                state.credit += (window as i32 + less as i32) - state.window as i32;
                state.window = window;
            });
        }
    }
}
