//! ztunnel's half: connect, say hello, take requests one at a time, answer each. What to do with
//! them is the caller's; on an error the caller drops the connection and comes back after a
//! `Backoff`.
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::codec::{self, ProtocolError, Request};
use crate::socket::Socket;

/// Why a connection to the node agent ended.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent is not there, or the socket broke.
    #[error("the node agent's socket")]
    Io(#[from] io::Error),
    /// The agent closed the connection.
    #[error("the node agent closed the connection")]
    Closed,
    /// The agent broke the protocol.
    #[error("the node agent broke the protocol")]
    Protocol(#[from] ProtocolError),
}

/// A connection to the node agent.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
}

impl Connection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// [`ClientError::Io`] when nobody listens at `path`. Needs a tokio runtime with I/O.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let socket = Socket::connect(path)?;
        socket.send(&codec::encode_hello(), None).await?;
        Ok(Self { socket })
    }

    /// The next request. Answer it with [`Connection::ack`] before asking for another. Cancel safe.
    ///
    /// # Errors
    /// After any error the connection is of no use: drop it and reconnect.
    pub async fn next(&mut self) -> Result<Request, ClientError> {
        let packet = self.socket.recv().await?.ok_or(ClientError::Closed)?;
        Ok(codec::decode_request(packet)?)
    }

    /// Answers the last request: done, or why not. The agent waits 5 s for it.
    ///
    /// # Errors
    /// [`ClientError::Io`] when the agent is gone.
    pub async fn ack(&mut self, done: Result<(), String>) -> Result<(), ClientError> {
        let bytes = codec::encode_ack(done.err().as_deref());
        Ok(self.socket.send(&bytes, None).await?)
    }
}

/// Time between attempts to connect: 10 ms, doubling to 15 s. [`Backoff::reset`] after a snapshot
/// has been taken whole.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LAST: Duration = Duration::from_secs(15);

    /// Starts at 10 ms.
    #[must_use]
    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The time to wait now; the next is twice as long.
    pub fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(Self::LAST);
        now
    }

    /// Back to 10 ms.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_from_10_ms_to_15_s() {
        let mut backoff = Backoff::new();
        let steps: Vec<u128> = (0..13).map(|_| backoff.step().as_millis()).collect();
        let expected = [
            10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000,
        ];
        assert_eq!(steps, expected);
        backoff.reset();
        assert_eq!(backoff.step().as_millis(), 10);
    }
}
