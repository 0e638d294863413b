//! What a connection tells its driver.

use super::error::ErrorCode;
use crate::headers::{AuthorityError, ConnectRequest, ConnectResponse};

/// A stream of one connection: 8 bytes, cheap to copy, found without hashing. A stale one is harmless: every call
/// with it does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub(super) id: u32,
    pub(super) slot: u32,
}

impl StreamId {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self.id
    }
}

/// One thing that happened. `key` is what [`super::Connection::set_key`] stored (0 until then), so that a driver needs
/// no map of its own.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Server: a CONNECT arrived. Answer with [`super::Connection::respond`] or reset it.
    Request {
        /// The new stream; its key is 0.
        stream: StreamId,
        /// The head.
        head: Box<ConnectRequest>,
    },
    /// Server: a whole request that is no CONNECT arrived. What it gets is the driver's choice: answer it as any other
    /// (our proxies say 400).
    OtherMethod {
        /// The new stream; its key is 0.
        stream: StreamId,
    },
    /// Server: a request that is no valid CONNECT was answered already (400, 431) or reset. Only for the log.
    Refused {
        /// Its number on the wire.
        id: u32,
        /// What was wrong.
        fault: HeadFault,
    },
    /// Client: the answer arrived. Anything but 200 is followed by End or Reset.
    Response {
        /// The stream.
        stream: StreamId,
        /// Its key.
        key: u64,
        /// The head.
        head: Box<ConnectResponse>,
    },
    /// Bytes, in order, never empty. They lie in the input: forward or copy them before the next read.
    Data {
        /// The stream.
        stream: StreamId,
        /// Its key.
        key: u64,
        /// The bytes; perhaps only a part of a DATA frame.
        bytes: &'a [u8],
    },
    /// The peer will send no more (half-close). Act on it after the bytes before it were delivered.
    /// If we had ended our half too, the stream is gone.
    End {
        /// The stream.
        stream: StreamId,
        /// Its key.
        key: u64,
    },
    /// The stream is gone: the peer reset it, broke its rules (we reset it), or will not process it after its GOAWAY
    /// (REFUSED_STREAM, may be tried again).
    Reset {
        /// The stream; stale from now on.
        stream: StreamId,
        /// Its key.
        key: u64,
        /// Why.
        code: ErrorCode,
    },
    /// A stream whose `sendable` was 0 may send again.
    SendCredit {
        /// The stream.
        stream: StreamId,
        /// Its key.
        key: u64,
    },
    /// The peer takes no new streams on this connection. May come twice.
    GoAway {
        /// The last of our streams that it will process.
        last: u32,
        /// Why.
        code: ErrorCode,
    },
    /// The peer's SETTINGS arrived (`capacity` may have changed).
    Settings,
    /// Our PING was answered.
    Pong,
}

/// Why a request was refused before anybody saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// `:authority` is missing or not an authority: 400.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The header list is larger than we allow: 431.
    #[error("header list too large")]
    TooLarge,
    /// Malformed by RFC 9113 §8: reset with PROTOCOL_ERROR.
    #[error("malformed head: {0}")]
    Malformed(&'static str),
    /// More streams than we allow at once, or the connection drains: reset with REFUSED_STREAM.
    #[error("stream refused")]
    Refused,
}
