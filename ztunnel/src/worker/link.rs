//! One application connection: its own socket, what carries its other half, and how far it has come. Plain state; the
//! steps are in `outbound`, `inbound`, `copy` and `relay`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hbone::proto::StreamId;

use super::api::{Connection, Direction};
use super::buffers::Pending;
use super::io::{Io, Ready};
use super::slots::Key;
use super::timers::Alarm;
use crate::route;

/// Chunks of pending bytes per vectored write.
const WRITE_CHUNKS: usize = 64;

/// One application connection.
#[derive(Debug)]
pub(super) struct Link<S> {
    pub(super) pod: Key,
    pub(super) direction: Direction,
    pub(super) phase: Phase,
    /// The pod's socket: captured (outbound, plain inbound) or dialled to the application (inbound HBONE).
    pub(super) near: Half<S>,
    pub(super) far: Far<S>,
    /// Who calls.
    pub(super) source: SocketAddr,
    /// Whom: the original destination, or the application's address.
    pub(super) destination: SocketAddr,
    pub(super) opened: Instant,
    pub(super) alarm: Alarm,
    /// The near socket was captured, so it leads to the connection's initiator; otherwise it leads to an application
    /// that we dialled for an inbound stream.
    pub(super) captured: bool,
    /// What the far side of the stream said: no more bytes from there.
    pub(super) far_ended: bool,
    /// We told the far side of the stream: no more bytes from here.
    pub(super) end_sent: bool,
    /// Something of its near socket was read and dropped since the last look.
    pub(super) dropped: bool,
    /// Looks at it since it began to end and its other side did not keep up.
    pub(super) looks: u8,
    /// Stands in its tunnel's list of readers (or the worker's list of relays).
    pub(super) queued: bool,
    /// Its last read was large: the next may be larger.
    pub(super) bulk: bool,
    /// Went to a pooled tunnel that died or refused the stream before the far side saw it, and tries once more.
    pub(super) retried: bool,
    /// How often it looked for another tunnel.
    pub(super) attempts: u8,
    /// Index in its tunnel's members.
    pub(super) member: u32,
    /// Something that it needs (workload, policy) is missing since then.
    pub(super) missing_since: Option<Instant>,
    /// The facts, once announced.
    pub(super) facts: Option<Arc<Connection>>,
    /// Outbound: where it is going, kept until it is there.
    pub(super) route: Option<Box<route::Tunnel>>,
}

/// How far a link has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Outbound: waits for the pod's own workload.
    Workload,
    /// Outbound: waits until the host name of an endpoint is resolved.
    Name,
    /// Outbound: waits for a tunnel that is being set up.
    Tunnel,
    /// Outbound: CONNECT is sent.
    Connect,
    /// Inbound: waits for a policy that its workload names.
    Policy,
    /// A plain dial runs: to the destination (outbound) or the application (inbound).
    Dial,
    /// Bytes flow.
    Copy,
}

/// What carries the other half.
#[derive(Debug)]
pub(super) enum Far<S> {
    /// Not decided yet.
    None,
    /// Waits in the list of this tunnel.
    Waiting(Key),
    /// A stream of this tunnel.
    Stream { tunnel: Key, stream: StreamId },
    /// The stream ended in both directions; at most pending bytes are left for the near side.
    Finished,
    /// Another socket.
    Plain(Box<Half<S>>),
    /// Waits for this lease.
    Leased(Key),
    /// Another link of this worker, under a lease; none until it is made.
    Local { other: Option<Key>, lease: Key },
}

/// A socket with what we know of it.
#[derive(Debug)]
pub(super) struct Half<S> {
    pub(super) socket: Option<S>,
    /// May have bytes or an end for us.
    pub(super) readable: bool,
    /// Its FIN was announced by an event, or read: a short read is not the last one.
    pub(super) ended: bool,
    /// The socket has failed: nothing is written any more, but what it had sent before is read to its end.
    pub(super) broken: Option<io::ErrorKind>,
    /// End of file was read.
    pub(super) eof: bool,
    /// Our FIN is sent.
    pub(super) fin_sent: bool,
    /// The last write would have blocked; an event will come.
    pub(super) blocked: bool,
    /// Bytes that this socket did not take yet.
    pub(super) pending: Pending,
}

impl<S> Half<S> {
    pub(super) fn new(socket: Option<S>) -> Self {
        Self {
            socket,
            readable: false,
            ended: false,
            broken: None,
            eof: false,
            fin_sent: false,
            blocked: false,
            pending: Pending::default(),
        }
    }

    /// Writes as much of `slices` as it takes, keeps the rest. Says how many bytes the socket took.
    pub(super) fn deliver(
        &mut self,
        io: &mut impl Io<Socket = S>,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        if self.broken.is_some() {
            return Ok(0);
        }
        let mut taken = 0;
        if let Some(socket) = self
            .socket
            .as_ref()
            .filter(|_| self.pending.is_empty() && !self.blocked)
        {
            taken = match slices {
                [one] => io.write(socket, one),
                many => io.write_vectored(socket, many),
            }
            .or_else(would_block)?;
        }
        let mut skip = taken;
        for slice in slices {
            let rest = &slice[skip.min(slice.len())..];
            skip -= slice.len() - rest.len();
            if !rest.is_empty() {
                self.blocked = true;
                self.pending.push(rest);
            }
        }
        Ok(taken)
    }

    /// Writes pending bytes. Says how many the socket took.
    pub(super) fn flush(&mut self, io: &mut impl Io<Socket = S>) -> io::Result<usize> {
        let Some(socket) = &self.socket else {
            return Ok(0);
        };
        let mut total = 0;
        while !self.pending.is_empty() {
            let mut slices = Vec::new();
            self.pending.slices(&mut slices, WRITE_CHUNKS);
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            let taken = io.write_vectored(socket, &slices).or_else(would_block)?;
            self.pending.taken(taken);
            total += taken;
            if taken < wanted {
                self.blocked = true;
                return Ok(total);
            }
        }
        self.blocked = false;
        Ok(total)
    }

    /// Sends FIN once everything before it is written.
    pub(super) fn finish(&mut self, io: &mut impl Io<Socket = S>) {
        if let Some(socket) = self
            .socket
            .as_ref()
            .filter(|_| self.pending.is_empty() && !self.fin_sent && self.broken.is_none())
        {
            io.end(socket);
            self.fin_sent = true;
        }
    }

    /// Both directions have ended and nothing is left to write.
    pub(super) fn is_done(&self) -> bool {
        self.eof && self.fin_sent && self.broken.is_none()
    }

    /// Takes a readiness event in.
    pub(super) fn announced(&mut self, event: Ready) {
        self.readable |= event.readable || event.ended;
        // A failed socket looks ended too; whether its FIN had come is known from before.
        self.ended |= event.ended && self.broken.is_none();
    }

    /// The socket has failed.
    pub(super) fn fail(&mut self, fault: &io::Error) {
        if self.broken.is_none() {
            self.broken = Some(fault.kind());
            // What Linux says to a reset that came behind the peer's FIN.
            self.ended |= fault.kind() == io::ErrorKind::BrokenPipe;
        }
        self.readable = true;
        self.pending = Pending::default();
    }

    /// There is nothing more to be read. True: the peer has ended in order, which the other side must learn.
    pub(super) fn at_end(&mut self) -> bool {
        self.eof = true;
        // Of a failed socket Linux tells the error once, and then an end that is none.
        self.ended |= self.broken.is_none();
        self.ended
    }

    /// The fault of a failed socket that has nothing more to give to `other`.
    pub(super) fn lost(&self, other: &Self) -> Option<io::ErrorKind> {
        let given = self.eof && other.pending.is_empty();
        self.broken.filter(|_| given || other.broken.is_some())
    }
}

/// `WouldBlock` is zero bytes; other errors stay.
pub(super) fn would_block(fault: io::Error) -> io::Result<usize> {
    if fault.kind() == io::ErrorKind::WouldBlock {
        Ok(0)
    } else {
        Err(fault)
    }
}

impl<S> Link<S> {
    /// A link in its first phase.
    pub(super) fn new(
        pod: Key,
        direction: Direction,
        near: Half<S>,
        far: Far<S>,
        opened: Instant,
    ) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            pod,
            direction,
            phase: Phase::Workload,
            near,
            far,
            source: nowhere,
            destination: nowhere,
            opened,
            alarm: Alarm::default(),
            captured: true,
            far_ended: false,
            end_sent: false,
            queued: false,
            bulk: false,
            retried: false,
            dropped: false,
            looks: 0,
            attempts: 0,
            member: 0,
            missing_since: None,
            facts: None,
            route: None,
        }
    }

    /// Bytes that wait for its sockets.
    pub(super) fn pending(&self) -> usize {
        let far = match &self.far {
            Far::Plain(half) => half.pending.len(),
            _ => 0,
        };
        self.near.pending.len() + far
    }

    /// Counts bytes that were read from the near socket.
    pub(super) fn count_from_near(&self, n: usize) {
        if let Some(facts) = &self.facts {
            match self.captured {
                true => facts.bytes.add_received(n),
                false => facts.bytes.add_sent(n),
            }
        }
    }

    /// Counts bytes that the near socket took.
    pub(super) fn count_to_near(&self, n: usize) {
        if let Some(facts) = &self.facts {
            match self.captured {
                true => facts.bytes.add_sent(n),
                false => facts.bytes.add_received(n),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_link_is_small() {
        // What a connection costs beside its sockets and its facts; 1 KiB for both proxies together is the budget.
        let size = std::mem::size_of::<Link<mio::net::TcpStream>>();
        assert!(size <= 240, "{size} bytes per link");
        let facts = std::mem::size_of::<Connection>();
        assert!(facts <= 384, "{facts} bytes of facts");
    }
}
