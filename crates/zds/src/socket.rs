//! A seqpacket connection under tokio, with packets of the protocol's size. Used by both halves.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use sys::seqpacket::{Connection, Received};
use tokio::io::unix::AsyncFd;

use crate::codec::{MAX_PACKET, Packet};

/// Puts a socket under tokio's eye.
#[expect(
    deprecated,
    reason = "the successor is unsafe because it takes any AsRawFd; our sockets own their descriptor for life"
)]
pub(crate) fn watched<T: AsRawFd>(socket: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(socket)
}

#[derive(Debug)]
pub(crate) struct Socket {
    fd: AsyncFd<Connection>,
    buffer: Box<[u8; MAX_PACKET]>,
}

impl Socket {
    pub(crate) fn new(connection: Connection) -> io::Result<Self> {
        Ok(Self {
            fd: watched(connection)?,
            buffer: Box::new([0; MAX_PACKET]),
        })
    }

    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        Self::new(Connection::connect(path)?)
    }

    pub(crate) async fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        loop {
            let mut ready = self.fd.writable().await?;
            if let Ok(done) = ready.try_io(|inner| inner.get_ref().send(bytes, fd)) {
                return done;
            }
        }
    }

    /// The next packet; `None` when the peer has closed. Cancel safe.
    pub(crate) async fn recv(&mut self) -> io::Result<Option<Packet<'_>>> {
        let Received {
            len,
            fds,
            truncated,
        } = loop {
            let mut ready = self.fd.readable().await?;
            let buffer = self.buffer.as_mut_slice();
            match ready.try_io(|inner| inner.get_ref().recv(buffer)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(received) => break received?,
                Err(_would_block) => {}
            }
        };
        if len == 0 && fds.is_empty() && !truncated {
            return Ok(None);
        }
        Ok(Some(Packet {
            bytes: &self.buffer[..len],
            fds,
            truncated,
        }))
    }
}
