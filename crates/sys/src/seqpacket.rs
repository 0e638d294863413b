//! AF_UNIX SOCK_SEQPACKET: whole messages, each with file descriptors riding along. All sockets
//! are non-blocking and close-on-exec, ready for tokio's `AsyncFd` or mio. Called by `zds`.
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};

/// Room for this many descriptors in one message; more are closed by the kernel and the message
/// counts as truncated.
const MAX_FDS: usize = 4;

/// A listening socket at a path.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One connection.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// One received message.
#[derive(Debug)]
pub struct Received {
    /// Bytes written to the start of the buffer; 0 = the peer has closed.
    pub len: usize,
    /// Descriptors that came along, owned by us (close-on-exec).
    pub fds: Vec<OwnedFd>,
    /// Bytes or descriptors were lost because they did not fit.
    pub truncated: bool,
}

impl Listener {
    /// Binds and listens; the path must not exist.
    ///
    /// # Errors
    /// `AddrInUse` when the path exists (live or stale), or what the kernel says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let fd = new_socket()?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(Self(fd))
    }

    /// The next waiting connection.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn accept(&self) -> io::Result<Connection> {
        let fd = accept4(
            self.0.as_raw_fd(),
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        )?;
        // SAFETY: accept4 has just returned this descriptor, so it is open and nobody else owns it.
        Ok(Connection(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Connection {
    /// Connects to a listener.
    ///
    /// # Errors
    /// `NotFound` without a socket at the path, `ConnectionRefused` when nobody listens any more,
    /// `WouldBlock` when the listener's backlog is full.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = new_socket()?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(fd))
    }

    /// Two connected ends.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message whole, with at most one descriptor (the kernel makes the copy).
    ///
    /// # Errors
    /// `WouldBlock` when the peer's queue is full; `BrokenPipe` when it is gone.
    pub fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let raw = fd.map(|fd| [fd.as_raw_fd()]);
        self.send_raw(bytes, raw.as_ref().map_or(&[], |one| &one[..]))
    }

    /// Sends one message with any number of descriptors. The protocols here never need it; tests
    /// of hostile peers do.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn send_many(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.send_raw(bytes, &raw)
    }

    fn send_raw(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let iov = [IoSlice::new(bytes)];
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(
            self.0.as_raw_fd(),
            &iov,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    /// Receives one message into `buffer`.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
        let mut iov = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut iov, Some(&mut control), flags)?;
        let mut fds = Vec::new();
        // An unreadable control part still leaves `truncated` below.
        for part in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(raw) = part {
                // SAFETY: the kernel has just installed these descriptors for this message; each
                // appears once and nobody else owns it.
                fds.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        let lost = MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC;
        Ok(Received {
            len: message.bytes,
            fds,
            truncated: message.flags.intersects(lost),
        })
    }
}

fn new_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
