//! `splice(2)` through a pipe: bytes move from one socket to another without passing user space.
//! Called by ztunnel's copy loop where both sides are plain TCP.
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// A non-blocking pipe that holds bytes on their way.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl Pipe {
    /// A pipe that holds about `capacity` bytes (the kernel rounds up; without privilege it may
    /// keep its default, see [`Pipe::capacity`]).
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let wanted = libc::c_int::try_from(capacity).unwrap_or(libc::c_int::MAX);
        let granted = match fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted)) {
            Ok(granted) => granted,
            Err(_) => fcntl(&write, FcntlArg::F_GETPIPE_SZ)?,
        };
        Ok(Self {
            read,
            write,
            capacity: usize::try_from(granted).unwrap_or(0),
        })
    }

    /// Bytes that the pipe can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Moves at most `len` bytes from `source` into the pipe; 0 = end of the source.
    ///
    /// # Errors
    /// `WouldBlock` when the source is empty or the pipe full.
    pub fn fill(&self, source: impl AsFd, len: usize) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        Ok(splice(source, None, &self.write, None, len, flags)?)
    }

    /// Moves at most `len` bytes from the pipe to `sink`.
    ///
    /// # Errors
    /// `WouldBlock` when the pipe is empty or the sink full.
    pub fn drain(&self, sink: impl AsFd, len: usize) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        Ok(splice(&self.read, None, sink, None, len, flags)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_through_a_pipe_unchanged() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (c, mut d) = UnixStream::pair().unwrap();
        let pipe = Pipe::new(1 << 16).unwrap();
        assert!(pipe.capacity() >= 1 << 16);
        a.write_all(b"carried").unwrap();
        assert_eq!(pipe.fill(&b, 1024).unwrap(), 7);
        assert_eq!(pipe.drain(&c, 1024).unwrap(), 7);
        let mut got = [0; 7];
        d.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"carried");
    }

    #[test]
    fn end_of_the_source_is_zero_and_an_empty_pipe_would_block() {
        let (a, b) = UnixStream::pair().unwrap();
        let pipe = Pipe::new(4096).unwrap();
        drop(a);
        assert_eq!(pipe.fill(&b, 10).unwrap(), 0);
        let (c, _d) = UnixStream::pair().unwrap();
        assert_eq!(
            pipe.drain(&c, 10).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
