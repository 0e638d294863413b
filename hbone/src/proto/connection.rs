//! The connection as its driver sees it.

use super::config::Config;
use super::error::{ErrorCode, ProtocolError};
use super::event::{Event, StreamId};
use crate::headers::{ConnectRequest, ConnectResponse};

/// Bytes of the header in front of each DATA payload.
pub const DATA_HEADER: usize = 9;

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

/// One HTTP/2 connection that carries CONNECT tunnels, either role.
#[derive(Debug)]
pub struct Connection {
    output: Vec<u8>,
}

impl Connection {
    /// The side that opens tunnels. The preface and SETTINGS wait in the output.
    pub fn client(_config: Config) -> Self {
        Self { output: Vec::new() }
    }

    /// The side that accepts tunnels. SETTINGS wait in the output.
    pub fn server(_config: Config) -> Self {
        Self { output: Vec::new() }
    }

    /// Takes bytes from the peer, moving `input` forward, and returns the next event. `None`: the input is used up.
    /// The connection may be used freely between events.
    ///
    /// # Errors
    /// If the peer broke a connection rule. Final: every further call returns the same error.
    pub fn receive<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        *input = &[];
        Ok(None)
    }

    /// Control frames that must be written before the next DATA. Take all of it (`append`, `drain(..)`).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Client: opens a stream; the request waits in the output.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self, _request: &ConnectRequest) -> Result<StreamId, OpenError> {
        Err(OpenError::GoingAway)
    }

    /// How many streams may be opened now.
    pub fn capacity(&self) -> usize {
        0
    }

    /// How many streams exist.
    pub fn streams_len(&self) -> usize {
        0
    }

    /// All streams with their keys, e.g. to end them when the carrier broke.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, u64)> {
        std::iter::empty()
    }

    /// Server: answers a request, once. With `end` our half is closed at once; a refusal (not 200, `end`) also
    /// releases the stream: nothing more will come for it.
    pub fn respond(&mut self, _stream: StreamId, _response: &ConnectResponse, _end: bool) {}

    /// How many bytes may be sent on a stream in one DATA frame now: least of both windows and the peer's frame size.
    /// 0 for a stale stream, for one whose half is closed, and before the response (server); in the case of missing
    /// credit [`Event::SendCredit`] follows when there is some.
    pub fn sendable(&mut self, _stream: StreamId) -> usize {
        0
    }

    /// Takes credit for `len` bytes and returns the frame header that goes right in front of them. `end` closes our half.
    ///
    /// # Panics
    /// If `len` is more than `sendable` just said (a fault of the caller, never of the peer).
    pub fn data_header(&mut self, _stream: StreamId, _len: usize, _end: bool) -> [u8; DATA_HEADER] {
        [0; DATA_HEADER]
    }

    /// Closes our half (END_STREAM). Nothing happens if it is closed.
    pub fn end(&mut self, _stream: StreamId) {}

    /// Resets a stream; no event follows for it. Use [`ErrorCode::CONNECT_ERROR`] when the application's side broke.
    pub fn reset(&mut self, _stream: StreamId, _code: ErrorCode) {}

    /// `n` bytes of this stream's DATA have left for the application: the peer gets credit for them (at thresholds).
    pub fn consumed(&mut self, _stream: StreamId, _n: usize) {}

    /// Stores a number with the stream; 0 until set.
    pub fn set_key(&mut self, _stream: StreamId, _key: u64) {}

    /// The stored number; none for a stale stream.
    pub fn key(&self, _stream: StreamId) -> Option<u64> {
        None
    }

    /// Starts a graceful end. Server: GOAWAY in two steps (first without a limit, then after a round trip with the last
    /// stream), so that no request in flight is lost. Client: GOAWAY at once. Existing streams live on.
    pub fn drain(&mut self) {}

    /// Whether a drain (ours or the peer's) has completed and no stream is left: close the carrier.
    pub fn is_drained(&self) -> bool {
        false
    }

    /// Says GOAWAY with this code at once; the caller then closes the carrier.
    pub fn goaway(&mut self, _code: ErrorCode) {}

    /// Sends a PING unless one is unanswered; says whether it did. [`Event::Pong`] follows. Call it only when idle.
    pub fn ping(&mut self) -> bool {
        false
    }

    /// About a second has passed: flood counters start anew.
    pub fn tick(&mut self) {}
}
