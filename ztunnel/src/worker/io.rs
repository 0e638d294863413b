//! What the worker wants from the world: a small set of non-blocking socket operations and readiness events. The epoll
//! shell implements it over real sockets, the simulation over scripted ones.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::api::Pod;
use super::share::Parcel;
use super::slots::Key;

/// Socket operations. None blocks: `WouldBlock` says "later", and then an event follows (edge-triggered).
pub(super) trait Io {
    /// A connection. Dropping it closes it in order.
    type Socket;
    /// A listening socket.
    type Listener;

    fn accept(&mut self, listener: &Self::Listener) -> io::Result<(Self::Socket, SocketAddr)>;
    /// Our side's address.
    fn local_address(&mut self, socket: &Self::Socket) -> io::Result<SocketAddr>;
    /// Where a captured connection was going; `None` if it was not redirected.
    fn original_destination(&mut self, socket: &Self::Socket) -> Option<SocketAddr>;
    /// Starts a dial from inside the pod's namespace, with the given source address if any. It is done, either way,
    /// when the socket becomes writable; ask [`Io::take_error`] then.
    fn dial(
        &mut self,
        pod: &Pod,
        destination: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<Self::Socket>;
    /// The pending error of the socket, which is cleared.
    fn take_error(&mut self, socket: &Self::Socket) -> Option<io::Error>;
    /// From now on events of this socket come under `token`.
    fn register(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;
    /// As [`Io::register`].
    fn register_listener(&mut self, listener: &Self::Listener, token: Token) -> io::Result<()>;
    /// No event of this socket comes any more; another worker may register it.
    fn release(&mut self, socket: &Self::Socket) -> io::Result<()>;
    /// Hands something to another worker; gives it back if that one takes nothing (any more, or now).
    fn pass(&mut self, to: usize, parcel: Parcel<Self::Socket>)
    -> Result<(), Parcel<Self::Socket>>;
    /// The time of day, by which certificates are valid.
    fn wall_clock(&mut self) -> SystemTime;
    fn read(&mut self, socket: &Self::Socket, into: &mut [u8]) -> io::Result<usize>;
    /// `into` is never empty (zero buffers would read as end of file).
    fn read_vectored(
        &mut self,
        socket: &Self::Socket,
        into: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize>;
    fn write(&mut self, socket: &Self::Socket, bytes: &[u8]) -> io::Result<usize>;
    fn write_vectored(&mut self, socket: &Self::Socket, bytes: &[IoSlice<'_>])
    -> io::Result<usize>;
    /// Sends FIN behind everything written.
    fn end(&mut self, socket: &Self::Socket);
    /// Whether the next read would say end of file. Nothing is read.
    ///
    /// # Errors
    /// The pending error of the socket, which is cleared.
    fn is_at_end(&mut self, socket: &Self::Socket) -> io::Result<bool>;
    /// Bytes written (our FIN is one more) that the peer's kernel has not acknowledged.
    fn unacknowledged(&mut self, socket: &Self::Socket) -> usize;
    /// Closes it; with `reset` the peer sees RST, and what was not yet sent is dropped.
    fn close(&mut self, socket: Self::Socket, reset: bool);
}

/// Which socket of which entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) key: Key,
}

/// What a token or a timer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A pod's 15001.
    Outbound = 0,
    /// A pod's 15006.
    InboundPlain = 1,
    /// A pod's 15008.
    Inbound = 2,
    /// The carrier of streams.
    Tunnel = 3,
    /// A link's own socket: captured (outbound, plain inbound) or dialled to the application (inbound HBONE).
    Near = 4,
    /// A link's second socket, if its far side is not a stream.
    Far = 5,
    /// Either socket of a lease.
    Lease = 6,
}

const KINDS: [Kind; 7] = [
    Kind::Outbound,
    Kind::InboundPlain,
    Kind::Inbound,
    Kind::Tunnel,
    Kind::Near,
    Kind::Far,
    Kind::Lease,
];

impl Token {
    /// As an epoll token: 3 bits kind, 61 bits key. Never `u64::MAX`, which is the waker's.
    pub(super) fn to_bits(self) -> u64 {
        (self.kind as u64) << 61 | self.key.to_bits()
    }

    /// Back from [`Token::to_bits`].
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        let kind = *KINDS.get((bits >> 61) as usize)?;
        Some(Self {
            kind,
            key: Key::from_bits(bits),
        })
    }
}

/// One readiness event. Edge-triggered: what it says stays true until an operation says `WouldBlock`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) token: Token,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent FIN (or both directions are shut). A short read then does not mean drained: no further event
    /// will tell of the end.
    pub(super) ended: bool,
    /// An error is pending: ask [`Io::take_error`].
    pub(super) error: bool,
}
