//! Error codes of HTTP/2 and the one error that ends a connection.

use std::fmt;

/// An HTTP/2 error code (RFC 9113 §7). Unknown codes are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl ErrorCode {
    /// Graceful end.
    pub const NO_ERROR: Self = Self(0);
    /// The peer broke a rule that has no code of its own.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// We failed.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// More bytes than credit.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(4);
    /// A frame for a stream that has ended.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a wrong size.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Not processed at all: may be tried again elsewhere.
    pub const REFUSED_STREAM: Self = Self(7);
    /// No longer needed.
    pub const CANCEL: Self = Self(8);
    /// HPACK state is lost.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The TCP connection behind the tunnel was reset or failed: what to send when an application sends RST.
    pub const CONNECT_ERROR: Self = Self(10);
    /// The peer floods us.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);

    /// Whether a reset with this code is an orderly end (NO_ERROR, CANCEL) of a stream whose peer has ended its half;
    /// before that END_STREAM every reset is a reset towards the application, or a cut would look like a whole answer.
    pub fn is_end_of_file(self) -> bool {
        matches!(self, Self::NO_ERROR | Self::CANCEL)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0)
            .ok()
            .and_then(|code| NAMES.get(code))
        {
            Some(name) => f.write_str(name),
            None => write!(f, "error {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The peer broke the protocol; the connection is over and a GOAWAY with this code waits in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("HTTP/2 {code}: {what}")]
pub struct ProtocolError {
    /// What the GOAWAY says.
    pub code: ErrorCode,
    /// What the peer did, for the log.
    pub what: &'static str,
}

pub(super) fn protocol(what: &'static str) -> ProtocolError {
    ProtocolError {
        code: ErrorCode::PROTOCOL_ERROR,
        what,
    }
}

pub(super) fn frame_size(what: &'static str) -> ProtocolError {
    ProtocolError {
        code: ErrorCode::FRAME_SIZE_ERROR,
        what,
    }
}

pub(super) fn flow(what: &'static str) -> ProtocolError {
    ProtocolError {
        code: ErrorCode::FLOW_CONTROL_ERROR,
        what,
    }
}

pub(super) fn calm(what: &'static str) -> ProtocolError {
    ProtocolError {
        code: ErrorCode::ENHANCE_YOUR_CALM,
        what,
    }
}
