//! A tap on an interface (AF_PACKET): every frame that comes in or goes out, as bytes. Called by
//! the demo and the tests to show what is, and is not, readable on the wire.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

use crate::Netns;

/// The kernel's queue for one tap, in bytes, so that a burst is not lost.
const QUEUE: usize = 8 << 20;

/// An open tap; frames queue from the moment it is opened.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
}

impl Capture {
    /// Opens a tap on `interface` inside `netns`.
    ///
    /// # Errors
    /// `NotFound` when there is no such interface; without CAP_NET_RAW; when the namespace cannot
    /// be entered.
    pub fn open(netns: &Netns, interface: &str) -> io::Result<Self> {
        netns.enter(|| Self::open_here(interface))?
    }

    fn open_here(interface: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface).map_err(|e| {
            if e == nix::errno::Errno::ENODEV {
                io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface}"))
            } else {
                e.into()
            }
        })?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // No protocol yet: nothing of other interfaces is queued before the bind below.
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            flags,
            None::<SockProtocol>,
        )?;
        // Best effort: the plain option is capped by net.core.rmem_max.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &QUEUE);
        bind_to_interface(fd.as_fd(), index)?;
        Ok(Self { fd })
    }

    /// The next frame, from its link header on, within `timeout`; `None` when none came.
    ///
    /// # Errors
    /// `NetworkDown` when the interface went away.
    pub fn next(&self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    buffer.truncate(len);
                    return Ok(Some(buffer));
                }
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut wanted = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn bind_to_interface(fd: BorrowedFd<'_>, index: libc::c_uint) -> io::Result<()> {
    let all = u16::try_from(libc::ETH_P_ALL)
        .expect("ETH_P_ALL is 3")
        .to_be();
    // SAFETY: sockaddr_ll is plain numbers; all zeros is a valid value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("AF_PACKET is 17");
    address.sll_protocol = all;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("a few bytes");
    // SAFETY: `address` lives for the call, and `len` is its exact size.
    let done = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests;
