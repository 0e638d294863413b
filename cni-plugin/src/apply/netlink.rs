//! Netlink messages: framing, sending, answers. The kernel answers while it takes the message, so
//! everything here is blocking and short. Used by `nft` and `route`.
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_bindings::builtin::Nlmsghdr;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
pub(super) const DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Messages in one buffer, sent together.
#[derive(Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

impl Messages {
    /// Adds one message: its family header, then whatever `fill` writes.
    pub(super) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        self.count += 1;
        let head = Nlmsghdr {
            len: 0,
            r#type: kind,
            flags: flags | REQUEST,
            seq: self.count,
            pid: 0,
        };
        self.bytes.extend_from_slice(head.as_slice());
        self.bytes.extend_from_slice(header);
        fill(&mut self.bytes);
        let len = u32::try_from(self.bytes.len() - start).expect("a message is a few KiB");
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A netlink socket of the calling thread's network namespace.
pub(super) struct Netlink {
    fd: OwnedFd,
}

impl Netlink {
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let kind = SockType::Raw;
        let fd = socket(
            AddressFamily::Netlink,
            kind,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        Ok(Self { fd })
    }

    /// Sends messages that ask for acks and reads all answers; the first error wins.
    pub(super) fn execute(&self, messages: &Messages) -> io::Result<()> {
        self.send(messages)?;
        let mut acked = false;
        let mut outcome = Ok(());
        self.answers(&mut |kind, body| {
            if kind == NLMSG_ERROR {
                acked = true;
                if outcome.is_ok() {
                    outcome = error_of(body);
                }
            }
            true
        })?;
        outcome?;
        if acked {
            Ok(())
        } else {
            Err(io::Error::other("netlink gave no answer"))
        }
    }

    /// Sends one dump request and hands each message of the answer to `each` (type and body).
    pub(super) fn dump(
        &self,
        request: &Messages,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(request)?;
        let mut outcome = Ok(());
        self.answers(&mut |kind, body| {
            match kind {
                NLMSG_ERROR => outcome = error_of(body),
                NLMSG_DONE => return false,
                _ => each(kind, body),
            }
            kind != NLMSG_ERROR
        })?;
        outcome
    }

    fn send(&self, messages: &Messages) -> io::Result<()> {
        send(self.fd.as_raw_fd(), &messages.bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads what is queued until `each` has enough or nothing is left.
    fn answers(&self, each: &mut dyn FnMut(u16, &[u8]) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let len = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => len,
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let mut rest = &buffer[..len];
            while let Some(head) = rest
                .get(..Nlmsghdr::len())
                .and_then(Nlmsghdr::new_from_slice)
            {
                let total = head.len as usize;
                let Some(body) = rest.get(Nlmsghdr::len()..total) else {
                    return Err(io::Error::other("a netlink answer was cut off"));
                };
                if !each(head.r#type, body) {
                    return Ok(());
                }
                rest = rest.get(total.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn error_of(body: &[u8]) -> io::Result<()> {
    let code = body
        .first_chunk::<4>()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-code))
    }
}
