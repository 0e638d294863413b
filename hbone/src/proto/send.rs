//! What the driver sends: heads, DATA within the peer's credit, half-close, resets.

use super::connection::{Connection, Going, Role};
use super::error::ErrorCode;
use super::event::StreamId;
use super::frame::{self, HEAD, Head, flag, kind};
use super::head;
use super::hpack::Encoder;
use crate::headers::{ConnectRequest, ConnectResponse};

/// Bytes of the header in front of each DATA payload.
pub const DATA_HEADER: usize = HEAD;

/// Why no stream can be opened (now).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer's limit of concurrent streams is reached; try again when one has ended, or on another connection.
    #[error("the peer's stream limit is reached")]
    StreamLimit,
    /// A GOAWAY was sent or received, or the connection failed; use another connection.
    #[error("the connection takes no new streams")]
    GoingAway,
    /// All 2^30 stream numbers are used up; use another connection.
    #[error("stream numbers are used up")]
    Exhausted,
}

impl Connection {
    /// Client: opens a stream; the request waits in the output.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self, request: &ConnectRequest) -> Result<StreamId, OpenError> {
        if self.role == Role::Server || !self.is_open() {
            return Err(OpenError::GoingAway);
        }
        if self.next_id > 0x7fff_ffff {
            return Err(OpenError::Exhausted);
        }
        if self.capacity() == 0 {
            return Err(OpenError::StreamLimit);
        }
        let id = self.next_id;
        self.next_id += 2;
        let stream = self.insert(id);
        self.write_head(id, false, |out, encoder| {
            head::write_request(out, encoder, request)
        });
        Ok(stream)
    }

    pub(super) fn insert(&mut self, id: u32) -> StreamId {
        let window = |size: u32| i32::try_from(size).unwrap_or(i32::MAX);
        self.streams.insert(
            id,
            window(self.peer.initial_window),
            window(self.assumed_window),
        )
    }

    /// Server: answers a request, once. With `end` our half is closed at once; a refusal (not 200, `end`) also
    /// releases the stream: nothing more will come for it.
    pub fn respond(&mut self, stream: StreamId, response: &ConnectResponse, end: bool) {
        let Some(state) = self.streams.stream_mut(stream) else {
            return;
        };
        if self.role == Role::Client || state.answered {
            return;
        }
        state.answered = true;
        let peer_is_open = state.recv_open;
        self.write_head(stream.id, end, |out, encoder| {
            head::write_response(out, encoder, response)
        });
        if !end {
            return;
        }
        if response.is_ok() {
            self.close_send(stream);
            return;
        }
        self.streams.remove(stream);
        if peer_is_open {
            // RFC 9113 §8.1: the answer is complete, the rest of the request is not wanted.
            self.write_reset(stream.id, ErrorCode::NO_ERROR);
        }
    }

    /// Writes HEADERS, in several frames where the block is larger than the peer takes.
    pub(super) fn write_head(
        &mut self,
        id: u32,
        end: bool,
        block: impl FnOnce(&mut Vec<u8>, &mut Encoder),
    ) {
        let start = self.output.len();
        self.output.extend_from_slice(&[0; HEAD]);
        block(&mut self.output, &mut self.encoder);
        let len = self.output.len() - start - HEAD;
        let max = self.peer.max_frame as usize;
        let end_stream = if end { flag::END_STREAM } else { 0 };
        if len <= max {
            let flags = flag::END_HEADERS | end_stream;
            let head = Head {
                len: len as u32,
                kind: kind::HEADERS,
                flags,
                id,
            };
            self.output[start..start + HEAD].copy_from_slice(&head.bytes());
            return;
        }
        let block = self.output.split_off(start + HEAD);
        self.output.truncate(start);
        let count = len.div_ceil(max);
        for (i, part) in block.chunks(max).enumerate() {
            let last = if i + 1 == count { flag::END_HEADERS } else { 0 };
            let (kind, flags) = if i == 0 {
                (kind::HEADERS, end_stream)
            } else {
                (kind::CONTINUATION, 0)
            };
            frame::write(&mut self.output, kind, flags | last, id, part);
        }
    }

    /// How many bytes may be sent on a stream in one DATA frame now: [`Self::credit`], as far as one frame takes it.
    #[inline]
    pub fn sendable(&mut self, stream: StreamId) -> usize {
        self.credit(stream).min(self.max_payload())
    }

    /// How many bytes the peer takes in one DATA frame (its SETTINGS_MAX_FRAME_SIZE).
    #[inline]
    pub fn max_payload(&self) -> usize {
        self.peer.max_frame as usize
    }

    /// How many bytes may be sent on a stream now, in any number of DATA frames: the lesser of both windows.
    /// 0 for a stale stream, for one whose half is closed, and before the response (server); in the case of missing
    /// credit [`super::Event::SendCredit`] follows when there is some.
    #[inline]
    pub fn credit(&mut self, stream: StreamId) -> usize {
        let Some(state) = self.streams.stream_mut(stream) else {
            return 0;
        };
        if !state.send_open || (self.role == Role::Server && !state.answered) {
            return 0;
        }
        if state.send_window <= 0 {
            state.starved = true;
            return 0;
        }
        if self.send_window <= 0 {
            if !state.queued {
                state.queued = true;
                self.credit_queue.push_back(stream);
            }
            return 0;
        }
        i64::from(state.send_window).min(self.send_window) as usize
    }

    /// Takes credit for `len` bytes and returns the frame header that goes right in front of them. `end` closes our half.
    ///
    /// # Panics
    /// If `len` is more than [`Self::sendable`] just said (a fault of the caller, never of the peer).
    #[inline]
    pub fn data_header(&mut self, stream: StreamId, len: usize, end: bool) -> [u8; DATA_HEADER] {
        let most = self.send_window.min(self.peer.max_frame.into());
        let wanted = len as i64;
        let client = self.role == Role::Client;
        let state = self.streams.stream_mut(stream);
        let may = state.as_ref().is_some_and(|state| {
            let open = state.send_open && (client || state.answered);
            open && wanted <= most && wanted <= state.send_window.into()
        });
        assert!(may || len == 0, "DATA beyond the credit");
        if let Some(state) = state {
            state.send_window -= len as i32;
            self.send_window -= wanted;
        }
        if end {
            self.close_send(stream);
        }
        let flags = if end { flag::END_STREAM } else { 0 };
        Head {
            len: len as u32,
            kind: kind::DATA,
            flags,
            id: stream.id,
        }
        .bytes()
    }

    /// Closes our half (END_STREAM). Nothing happens if it is closed. A server must have responded; else it resets.
    pub fn end(&mut self, stream: StreamId) {
        let Some(state) = self.streams.stream(stream) else {
            return;
        };
        if self.role == Role::Server && !state.answered {
            self.reset(stream, ErrorCode::INTERNAL_ERROR);
        } else if state.send_open {
            frame::write(
                &mut self.output,
                kind::DATA,
                flag::END_STREAM,
                stream.id,
                &[],
            );
            self.close_send(stream);
        }
    }

    pub(super) fn close_send(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.stream_mut(stream) {
            state.send_open = false;
            if !state.recv_open {
                self.streams.remove(stream);
            }
        }
    }

    /// Resets a stream; no event follows for it. Use [`ErrorCode::CONNECT_ERROR`] when the application's side broke.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        if self.streams.remove(stream).is_some() && self.failure().is_none() {
            self.write_reset(stream.id, code);
        }
    }

    /// Server: whether a request of this number comes after our last word.
    pub(super) fn is_beyond_goaway(&self, id: u32) -> bool {
        matches!(self.going, Going::Gone(last) if id > last)
    }
}
