//! The side that opens tunnels.

use ::tokio::io::{AsyncRead, AsyncWrite};

use super::shared::Shared;
use super::{Driver, Error, Pulse, Stream};
use crate::headers::{ConnectRequest, ConnectResponse};
use crate::proto::{Config, OpenError};

/// Begins HTTP/2 on a carrier that is ready (TLS done). Run the driver, open tunnels with the handle. The connection
/// ends gracefully when all handles and all streams are dropped.
pub fn connect<Io: AsyncRead + AsyncWrite + Unpin>(io: Io, config: Config) -> (Handle, Driver<Io>) {
    let shared = Shared::client(config);
    (
        Handle {
            shared: shared.clone(),
        },
        Driver::new(io, shared),
    )
}

/// Opens tunnels on one connection. Cheap to clone.
#[derive(Debug)]
pub struct Handle {
    shared: Shared,
}

impl Handle {
    /// Opens a tunnel and waits for the answer. Dropping the future resets the stream. There is no deadline here.
    ///
    /// # Errors
    /// [`Error::Refused`] for any answer but 200, else see [`Error`].
    pub async fn open(&self, request: &ConnectRequest) -> Result<(Stream, ConnectResponse), Error> {
        let stream = self.begin(request, false)?;
        let response = stream.response().await?;
        if response.is_ok() {
            Ok((stream, *response))
        } else {
            Err(Error::Refused(response))
        }
    }

    fn begin(&self, request: &ConnectRequest, permitted: bool) -> Result<Stream, Error> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        let promised = if permitted { 0 } else { state.reserved };
        if promised > 0 && state.connection.capacity() <= promised {
            return Err(OpenError::StreamLimit.into());
        }
        let stream = state.connection.open(request)?;
        let slot = state.add(stream);
        state.wake_driver();
        drop(state);
        Ok(Stream::new(self.shared.clone(), slot))
    }

    /// Promises one stream, if fewer than `cap` are in use or promised and the peer allows another.
    pub fn reserve(&self, cap: usize) -> Option<Permit> {
        let mut state = self.shared.lock();
        let used = state.connection.streams_len() + state.reserved;
        if state.closed || used >= cap || state.connection.capacity() <= state.reserved {
            return None;
        }
        state.reserved += 1;
        drop(state);
        Some(Permit {
            handle: self.clone(),
        })
    }

    /// Whether new tunnels may be opened, now or later: no GOAWAY, not closed.
    pub fn is_open(&self) -> bool {
        let state = self.shared.lock();
        !state.closed && state.connection.is_open()
    }

    /// Streams in use or promised.
    pub fn in_use(&self) -> usize {
        let state = self.shared.lock();
        state.connection.streams_len() + state.reserved
    }

    /// Sends a PING and waits for the answer; false: the connection closed first. For idle connections only.
    pub async fn ping(&self) -> bool {
        self.pulse().ping().await
    }

    /// Tells whether the peer still lives.
    pub fn pulse(&self) -> Pulse {
        Pulse::new(self.shared.clone())
    }

    /// Takes no new tunnels and ends the connection when the last one has ended.
    pub fn drain(&self) {
        let mut state = self.shared.lock();
        state.connection.drain();
        state.wake_driver();
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.shared.lock().owners += 1;
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().release_owner();
    }
}

/// The promise of one stream. Dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    handle: Handle,
}

impl Permit {
    /// Opens the promised tunnel; as [`Handle::open`].
    ///
    /// # Errors
    /// As [`Handle::open`]. The peer may have sent GOAWAY since the promise.
    pub async fn open(self, request: &ConnectRequest) -> Result<(Stream, ConnectResponse), Error> {
        let stream = self.handle.begin(request, true)?;
        drop(self);
        let response = stream.response().await?;
        if response.is_ok() {
            Ok((stream, *response))
        } else {
            Err(Error::Refused(response))
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.handle.shared.lock().reserved -= 1;
    }
}
