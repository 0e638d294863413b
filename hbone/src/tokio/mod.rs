//! A driver of `proto` over any AsyncRead + AsyncWrite, for everybody who is not a ztunnel worker: the waypoint, the
//! CLI, tests. Nothing is spawned here: [`Driver`] is a future that the caller runs.

pub mod client;
mod driver;
pub mod pool;
mod pulse;
pub mod server;
mod shared;
mod stream;

pub use driver::{DriveError, Driver};
pub use pulse::Pulse;
pub use stream::Stream;

use crate::headers::ConnectResponse;
use crate::proto::{ErrorCode, OpenError};

/// Why there is no tunnel.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The peer answered, but not with 200.
    #[error("the peer refused the tunnel with status {}", .0.status)]
    Refused(Box<ConnectResponse>),
    /// The peer reset the stream before it answered. REFUSED_STREAM may be tried again elsewhere.
    #[error("the peer reset the stream: {0}")]
    Reset(ErrorCode),
    /// Nothing was sent.
    #[error(transparent)]
    NotOpened(#[from] OpenError),
    /// The connection is over.
    #[error("the connection is closed")]
    Closed,
}
