//! AF_UNIX SOCK_SEQPACKET: whole messages, each with file descriptors riding along. All sockets
//! are non-blocking and close-on-exec, ready for tokio's `AsyncFd` or mio. Called by `zds`.
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, listen, sendmsg, socket, socketpair,
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
        // Not nix's recvmsg: when descriptors were cut off it hides those that did arrive, and
        // they would stay open for ever.
        let mut control = [0usize; CONTROL_WORDS];
        let mut iov = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: msghdr is plain numbers and pointers; all zeros is a valid value of it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let fd = self.0.as_raw_fd();
        // SAFETY: the header points to one iovec over `buffer` and to `control`, with their exact
        // sizes, and all of them live past the call.
        let len = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        // SAFETY: recvmsg has just filled this header, and `control` is still alive.
        let fds = unsafe { take_descriptors(&message) };
        Ok(Received {
            len,
            fds,
            truncated,
        })
    }
}

/// Words of control buffer for [`MAX_FDS`] descriptors: header and numbers, word-aligned.
const CONTROL_WORDS: usize =
    (size_of::<libc::cmsghdr>() + MAX_FDS * size_of::<RawFd>()).div_ceil(size_of::<usize>());

/// Takes ownership of every descriptor in a received message.
///
/// # Safety
/// `message` was filled by a successful recvmsg whose control buffer is alive, and this is called
/// once for it.
unsafe fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the caller's promise makes the header walkable; CMSG_* stay inside msg_controllen.
    let mut part = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !part.is_null() {
        // SAFETY: a non-null header of the walk is readable, and its data lies behind it.
        let (header, data) = unsafe { (&*part, libc::CMSG_DATA(part).cast::<RawFd>()) };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: no memory is touched by asking for the length of an empty message.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(overhead) / size_of::<RawFd>();
            for at in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there, installed them for this
                // message, each once; nobody else owns them.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(at).read_unaligned()) });
            }
        }
        // SAFETY: as for the first header.
        part = unsafe { libc::CMSG_NXTHDR(message, part) };
    }
    fds
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
