//! One end of a connection: what it sends and receives is known from its seeds, and checked. Used by server and clients.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::wire::{self, Head};
use crate::pattern;

/// A socket with its two positions.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    /// Seed of what is received.
    pub incoming: u64,
    /// Seed of what is sent.
    pub outgoing: u64,
    /// Bytes received so far, the head not counted.
    pub received: u64,
    /// Bytes sent so far, likewise.
    pub sent: u64,
    readable: bool,
    writable: bool,
    hung_up: bool,
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes, all of them right.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The other end has finished.
    End,
}

impl Stream {
    /// Takes over a socket and registers it.
    pub fn new(mut socket: TcpStream, registry: &Registry, token: Token) -> io::Result<Self> {
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            incoming: 0,
            outgoing: 0,
            received: 0,
            sent: 0,
            readable: false,
            writable: false,
            hung_up: false,
        })
    }

    /// Remembers what an event says.
    pub fn ready(&mut self, event: &Event) {
        self.hung_up |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.hung_up;
        self.writable |= event.is_writable();
    }

    /// Whether a dial has come to its end, and how.
    pub fn dialled(&mut self) -> io::Result<bool> {
        if let Some(fault) = self.socket.take_error()? {
            return Err(fault);
        }
        if !self.writable {
            return Ok(false);
        }
        self.socket.set_nodelay(true)?;
        Ok(true)
    }

    /// Reads what there is, at most a buffer, and checks it.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        if !self.readable {
            return Ok(Got::Nothing);
        }
        match self.socket.read(buffer) {
            Ok(0) => Ok(Got::End),
            Ok(n) => {
                // A short read means that nothing is left, unless the end came with the bytes.
                self.readable = n == buffer.len() || self.hung_up;
                pattern::check(self.incoming, self.received, &buffer[..n])
                    .map_err(|altered| altered_at(altered.at))?;
                self.received += n as u64;
                Ok(Got::Bytes(n))
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(Got::Nothing)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Reads a part of a head, unchecked.
    pub fn read_head(&mut self, head: &mut Vec<u8>) -> io::Result<Got> {
        if !self.readable {
            return Ok(Got::Nothing);
        }
        let mut bytes = [0; wire::LENGTH];
        let wanted = wire::LENGTH - head.len();
        match self.socket.read(&mut bytes[..wanted]) {
            Ok(0) => Ok(Got::End),
            Ok(n) => {
                head.extend_from_slice(&bytes[..n]);
                Ok(Got::Bytes(n))
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(Got::Nothing)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Sends at most `wanted` bytes; how many.
    pub fn write(&mut self, wanted: usize) -> io::Result<usize> {
        if !self.writable || wanted == 0 {
            return Ok(0);
        }
        let piece = pattern::piece(self.outgoing, self.sent, wanted);
        let written = self.write_raw(piece)?;
        self.sent += written as u64;
        Ok(written)
    }

    /// Sends a head and the first `size` bytes with it. A fresh socket has room for them.
    pub fn write_head(&mut self, head: &Head, size: usize) -> io::Result<()> {
        let mut bytes = head.encode().to_vec();
        bytes.extend_from_slice(pattern::piece(self.outgoing, self.sent, size));
        if self.write_raw(&bytes)? != bytes.len() {
            return Err(io::Error::other(
                "a first message did not fit into the socket",
            ));
        }
        self.sent += size as u64;
        Ok(())
    }

    /// Ends the sending half.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Write) {
            // The other end was faster.
            Err(fault) if fault.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// Local port.
    pub fn local_port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Port of the other end.
    pub fn peer_port(&self) -> u16 {
        self.socket.peer_addr().map_or(0, |address| address.port())
    }

    fn write_raw(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.write(bytes) {
            Ok(n) => {
                self.writable = n == bytes.len();
                Ok(n)
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(fault) => Err(fault),
        }
    }
}

/// The fault of bytes that are not what was sent.
pub fn altered_at(at: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("ALTERED: byte {at} is not what was sent"),
    )
}
