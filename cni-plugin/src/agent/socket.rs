//! One connection of the CNI binary under tokio. Used by `server`.
use std::io;

use sys::seqpacket::{Connection, Received};
use tokio::io::unix::AsyncFd;

use crate::ask::MAX_MESSAGE;

pub(super) struct Socket {
    fd: AsyncFd<Connection>,
    buffer: Vec<u8>,
}

impl Socket {
    #[expect(
        deprecated,
        reason = "the successor is unsafe because it takes any AsRawFd; our sockets own their descriptor for life"
    )]
    pub(super) fn new(connection: Connection) -> io::Result<Self> {
        Ok(Self {
            fd: AsyncFd::new(connection)?,
            buffer: vec![0; MAX_MESSAGE],
        })
    }

    pub(super) fn peer(&self) -> io::Result<sys::credentials::Credentials> {
        sys::credentials::peer(self.fd.get_ref())
    }

    /// One message; its bytes and what came with it.
    pub(super) async fn recv(&mut self) -> io::Result<(&[u8], Received)> {
        let received = loop {
            let mut ready = self.fd.readable().await?;
            let buffer = self.buffer.as_mut_slice();
            if let Ok(received) = ready.try_io(|inner| inner.get_ref().recv(buffer)) {
                break received?;
            }
        };
        Ok((&self.buffer[..received.len], received))
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            let mut ready = self.fd.writable().await?;
            if let Ok(sent) = ready.try_io(|inner| inner.get_ref().send(bytes, None)) {
                return sent;
            }
        }
    }
}
