//! Scripted sockets. Long because the sockets and the seam to them are one machine.
//! Bytes lie in the sender's buffer, on the wire, or in the receiver's buffer; a schedule moves them
//! in random portions. Events are edge-triggered as epoll's are: one when bytes, an end or room arrive, none otherwise.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::SystemTime;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::super::api::Pod;
use super::super::io::{Io, Ready, Token};
use super::super::share::Parcel;

/// Who owns a socket: a worker by number, or the test itself.
pub(super) const TEST: usize = usize::MAX;

/// A socket by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sock(pub(super) usize);

/// One end of a connection.
struct End {
    peer: usize,
    owner: usize,
    token: Option<Token>,
    local: SocketAddr,
    remote: SocketAddr,
    original: Option<SocketAddr>,
    /// Written, not yet on its way.
    out: VecDeque<u8>,
    room: usize,
    fin_out: bool,
    fin_delivered: bool,
    /// Arrived, not yet read.
    inbox: VecDeque<u8>,
    fin_in: bool,
    reset: bool,
    /// The error of the reset, until somebody takes it (SO_ERROR).
    error: Option<io::ErrorKind>,
    closed: bool,
    wants_room: bool,
    connected: bool,
    /// Its machine is gone: nothing comes from it, nothing reaches it.
    vanished: bool,
    /// Everything that was ever written here.
    written: usize,
}

#[derive(Default)]
struct Listener {
    owner: usize,
    token: Option<Token>,
    backlog: VecDeque<usize>,
}

/// All sockets of a test.
#[derive(Default)]
pub(super) struct Net {
    ends: Vec<End>,
    listeners: HashMap<SocketAddr, Listener>,
    events: HashMap<usize, Vec<Ready>>,
    /// What workers have passed on, by receiver.
    parcels: HashMap<usize, VecDeque<Parcel<Sock>>>,
    /// System calls so far, by worker.
    pub(super) calls: HashMap<usize, usize>,
    /// How far the workers' time of day is ahead of the real one.
    pub(super) ahead: std::time::Duration,
    /// Workers that take no parcels.
    pub(super) closed_doors: HashSet<usize>,
    /// Connections to these destinations have lost their way: nothing passes, in either direction.
    pub(super) filtered: HashSet<SocketAddr>,
    /// Destinations where nobody answers.
    pub(super) silent: HashSet<SocketAddr>,
    /// Destinations to which there is no way: a dial fails at once.
    pub(super) unreachable: HashSet<SocketAddr>,
    /// What is written to the test's own sockets arrives at once, as through a veth.
    pub(super) prompt: bool,
    /// Capacity of each socket's send buffer; 0 = 64 KiB.
    pub(super) send_buffer: usize,
    ports: u16,
}

pub(super) type Shared = Rc<RefCell<Net>>;

impl Net {
    fn push(&mut self, end: usize, change: impl Fn(&mut Ready)) {
        let Some(token) = self.ends[end].token else {
            return;
        };
        let owner = self.ends[end].owner;
        let events = self.events.entry(owner).or_default();
        if let Some(known) = events.iter_mut().find(|event| event.token == token) {
            return change(known);
        }
        let mut event = Ready {
            token,
            readable: false,
            writable: false,
            ended: false,
            error: false,
        };
        change(&mut event);
        events.push(event);
    }

    pub(super) fn take_events(&mut self, owner: usize) -> Vec<Ready> {
        self.events.remove(&owner).unwrap_or_default()
    }

    /// Events that were taken too early come once more, with what came since.
    pub(super) fn give_events(&mut self, owner: usize, late: Vec<Ready>) {
        let events = self.events.entry(owner).or_default();
        events.splice(0..0, late);
    }

    /// The next parcel for a worker, whose sockets are its own from now on.
    pub(super) fn take_parcel(&mut self, owner: usize) -> Option<Parcel<Sock>> {
        let parcel = self.parcels.get_mut(&owner)?.pop_front()?;
        let sock = match &parcel {
            Parcel::Captured(captured) => captured.socket,
            Parcel::Offer(offer) => offer.socket,
        };
        self.ends[sock.0].owner = owner;
        Some(parcel)
    }

    pub(super) fn has_events(&self, owner: usize) -> bool {
        self.events
            .get(&owner)
            .is_some_and(|events| !events.is_empty())
    }

    pub(super) fn listen(&mut self, owner: usize, at: SocketAddr) -> SocketAddr {
        self.listeners.insert(
            at,
            Listener {
                owner,
                ..Listener::default()
            },
        );
        at
    }

    /// A connection from `from` to the listener at `to`; `original` is where it wanted to go before capture.
    pub(super) fn connect(
        &mut self,
        owner: usize,
        from: IpAddr,
        to: SocketAddr,
        original: Option<SocketAddr>,
    ) -> io::Result<Sock> {
        if self.unreachable.contains(&to) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        self.ports += 1;
        let local = SocketAddr::new(from, 20_000 + self.ports);
        let id = self.ends.len();
        let silent = self.silent.contains(&to);
        let listening = self.listeners.contains_key(&to);
        let room = if self.send_buffer == 0 {
            64 << 10
        } else {
            self.send_buffer
        };
        let end = |owner, peer, local, remote| End {
            peer,
            owner,
            token: None,
            local,
            remote,
            original,
            out: VecDeque::new(),
            room,
            fin_out: false,
            fin_delivered: false,
            inbox: VecDeque::new(),
            fin_in: false,
            reset: false,
            error: None,
            closed: false,
            wants_room: true,
            connected: listening && !silent,
            vanished: false,
            written: 0,
        };
        let peer_owner = self
            .listeners
            .get(&to)
            .map_or(TEST, |listener| listener.owner);
        self.ends.push(end(owner, id + 1, local, to));
        self.ends.push(end(peer_owner, id, to, local));
        if silent {
            return Ok(Sock(id));
        }
        match self.listeners.get_mut(&to) {
            None => {
                self.ends[id].reset = true;
                self.ends[id].error = Some(io::ErrorKind::ConnectionRefused);
            }
            Some(listener) => {
                listener.backlog.push_back(id + 1);
                if let Some(token) = listener.token {
                    let event = Ready {
                        token,
                        readable: true,
                        writable: false,
                        ended: false,
                        error: false,
                    };
                    self.events.entry(listener.owner).or_default().push(event);
                }
            }
        }
        Ok(Sock(id))
    }

    /// The test's own accept.
    pub(super) fn accept(&mut self, at: SocketAddr) -> Option<Sock> {
        self.listeners.get_mut(&at)?.backlog.pop_front().map(Sock)
    }

    pub(super) fn remote(&self, sock: Sock) -> SocketAddr {
        self.ends[sock.0].remote
    }

    /// Moves up to `most` bytes (and the end behind them) of one direction. True: something moved.
    pub(super) fn carry(&mut self, from: usize, most: usize) -> bool {
        let to = self.ends[from].peer;
        if self.ends[from].vanished || self.ends[to].vanished {
            return false;
        }
        let ends = [self.ends[from].remote, self.ends[from].local];
        if ends.iter().any(|end| self.filtered.contains(end)) {
            return false;
        }
        if self.ends[to].closed || self.ends[from].reset {
            let had = !self.ends[from].out.is_empty();
            self.ends[from].out.clear();
            if self.ends[to].closed && had && !self.ends[from].reset {
                // Bytes for a closed socket are answered by a reset, and what it had not sent yet is dropped.
                self.ends[to].out.clear();
                self.ends[to].fin_delivered = true;
                self.reset_end(from);
            }
            return had;
        }
        // The receiver's buffer is as large as its sender's: a reader that does not read stops the sender.
        let space = self.ends[to].room.saturating_sub(self.ends[to].inbox.len());
        let n = most.min(self.ends[from].out.len()).min(space);
        let mut moved = n > 0;
        let bytes: Vec<u8> = self.ends[from].out.drain(..n).collect();
        self.ends[to].inbox.extend(bytes);
        let fin = self.ends[from].fin_out
            && self.ends[from].out.is_empty()
            && !self.ends[from].fin_delivered;
        if fin {
            self.ends[from].fin_delivered = true;
            self.ends[to].fin_in = true;
            moved = true;
        }
        if moved {
            self.push(to, |event| {
                event.readable = true;
                event.ended |= fin;
            });
        }
        if n > 0 && self.ends[from].wants_room {
            self.ends[from].wants_room = false;
            self.push(from, |event| event.writable = true);
        }
        moved
    }

    /// The machine of `owner` dies without a word.
    pub(super) fn vanish(&mut self, owner: usize) {
        for end in self.ends.iter_mut().filter(|end| end.owner == owner) {
            end.vanished = true;
            end.token = None;
        }
        self.events.remove(&owner);
    }

    fn reset_end(&mut self, end: usize) {
        let state = &mut self.ends[end];
        state.reset = true;
        // As in Linux: a broken pipe if the peer's FIN was here before.
        state.error = Some(match state.fin_in && !state.fin_out {
            true => io::ErrorKind::BrokenPipe,
            false => io::ErrorKind::ConnectionReset,
        });
        state.out.clear();
        self.push(end, |event| {
            event.readable = true;
            event.writable = true;
            event.ended = true;
            event.error = true;
        });
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What a worker holds open: a leak shows here.
    pub(super) fn open_of(&self, owner: usize) -> usize {
        self.ends
            .iter()
            .filter(|end| end.owner == owner && !end.closed && end.token.is_some())
            .count()
    }

    pub(super) fn read(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize> {
        let end = &mut self.ends[sock.0];
        assert!(!end.closed, "read of a closed socket");
        if end.inbox.is_empty() {
            // As in Linux, a reset comes behind what has arrived before it, and is told once.
            let told = match end.owner {
                TEST => end.error,
                _ => end.error.take(),
            };
            return match told {
                _ if end.fin_in => Ok(0),
                Some(error) => Err(error.into()),
                None if end.reset => Ok(0),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let n = into.len().min(end.inbox.len());
        for (place, byte) in into.iter_mut().zip(end.inbox.drain(..n)) {
            *place = byte;
        }
        Ok(n)
    }

    pub(super) fn write(&mut self, sock: Sock, bytes: &[u8]) -> io::Result<usize> {
        let end = &mut self.ends[sock.0];
        assert!(!end.closed && !end.fin_out, "write after the end");
        if end.reset {
            return Err(end.error.take().unwrap_or(io::ErrorKind::BrokenPipe).into());
        }
        let n = bytes.len().min(end.room.saturating_sub(end.out.len()));
        end.out.extend(&bytes[..n]);
        end.written += n;
        end.wants_room |= n < bytes.len();
        let peer = end.peer;
        if self.prompt && self.ends[peer].owner == TEST {
            self.carry(sock.0, usize::MAX);
        }
        if n == 0 && !bytes.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(n)
        }
    }

    pub(super) fn end(&mut self, sock: Sock) {
        self.ends[sock.0].fin_out = true;
        let peer = self.ends[sock.0].peer;
        if self.prompt && self.ends[peer].owner == TEST {
            self.carry(sock.0, usize::MAX);
        }
    }

    pub(super) fn close(&mut self, sock: Sock, reset: bool) {
        let unread = !self.ends[sock.0].inbox.is_empty();
        let peer = self.ends[sock.0].peer;
        self.ends[sock.0].closed = true;
        self.ends[sock.0].token = None;
        self.ends[sock.0].fin_out = true;
        if (reset || unread) && !self.ends[sock.0].reset && !self.ends[peer].closed {
            self.ends[sock.0].out.clear();
            self.ends[sock.0].fin_delivered = true;
            self.reset_end(peer);
        }
    }

    /// Everything that was ever written towards or from this address.
    pub(super) fn written_at(&self, at: SocketAddr) -> usize {
        let there = |end: &&End| end.remote == at || end.local == at;
        self.ends.iter().filter(there).map(|end| end.written).sum()
    }

    /// The test resets every connection at this address, as a packet filter with `reject` does.
    pub(super) fn reset_at(&mut self, at: SocketAddr) {
        for end in 0..self.ends.len() {
            if (self.ends[end].remote == at || self.ends[end].local == at) && !self.ends[end].closed
            {
                self.reset_end(end);
            }
        }
    }

    /// Everything that was ever written here.
    pub(super) fn written(&self, sock: Sock) -> usize {
        self.ends[sock.0].written
    }

    /// What has arrived at the other end and was not read there.
    pub(super) fn unread_by_peer(&self, sock: Sock) -> usize {
        self.ends[self.ends[sock.0].peer].inbox.len()
    }

    pub(super) fn was_reset(&self, sock: Sock) -> bool {
        self.ends[sock.0].reset
    }

    /// Random portions of random directions.
    pub(super) fn shake(&mut self, rng: &mut SmallRng) -> bool {
        let mut moved = false;
        for from in 0..self.ends.len() {
            if rng.random_bool(0.5) {
                let most = 1 << rng.random_range(0..17);
                moved |= self.carry(from, most);
            }
        }
        moved
    }
}

/// The sockets as one worker sees them.
pub(super) struct SimIo {
    pub(super) net: Shared,
    pub(super) owner: usize,
    /// The first worker of the same process.
    pub(super) first: usize,
}

impl SimIo {
    /// One system call: counted, and what the simulation itself allocates is nobody's cost.
    fn call<T>(&mut self, work: impl FnOnce(&mut Net) -> T) -> T {
        let mut result = None;
        allocation_counter::opt_out(|| {
            let mut net = self.net.borrow_mut();
            *net.calls.entry(self.owner).or_default() += 1;
            result = Some(work(&mut net));
        });
        result.expect("opt_out has run it")
    }
}

impl Io for SimIo {
    type Socket = Sock;
    type Listener = SocketAddr;

    fn accept(&mut self, listener: &SocketAddr) -> io::Result<(Sock, SocketAddr)> {
        self.call(|net| {
            let sock = net.accept(*listener).ok_or(io::ErrorKind::WouldBlock)?;
            Ok((sock, net.remote(sock)))
        })
    }

    fn local_address(&mut self, socket: &Sock) -> io::Result<SocketAddr> {
        self.call(|net| Ok(net.ends[socket.0].local))
    }

    fn original_destination(&mut self, socket: &Sock) -> Option<SocketAddr> {
        self.call(|net| net.ends[socket.0].original)
    }

    fn dial(
        &mut self,
        _pod: &Pod,
        destination: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<Sock> {
        let from = source.unwrap_or(IpAddr::from([10, 0, 0, 1]));
        let owner = self.owner;
        self.call(|net| net.connect(owner, from, destination, None))
    }

    fn take_error(&mut self, socket: &Sock) -> Option<io::Error> {
        self.call(|net| net.ends[socket.0].error.take().map(Into::into))
    }

    fn register(&mut self, socket: &Sock, token: Token) -> io::Result<()> {
        self.call(|net| {
            net.ends[socket.0].token = Some(token);
            // epoll tells at once what is true already.
            let end = &net.ends[socket.0];
            let (reset, connected) = (end.reset, end.connected);
            let (readable, ended) = (!end.inbox.is_empty() || end.fin_in, end.fin_in);
            if reset || connected {
                net.push(socket.0, |event| {
                    event.readable |= readable || reset;
                    event.writable = true;
                    event.ended |= ended || reset;
                    event.error |= reset;
                });
            }
            Ok(())
        })
    }

    fn register_listener(&mut self, listener: &SocketAddr, token: Token) -> io::Result<()> {
        self.call(|net| {
            let listener = net.listeners.get_mut(listener).expect("listen first");
            listener.token = Some(token);
            Ok(())
        })
    }

    fn release(&mut self, socket: &Sock) -> io::Result<()> {
        self.call(|net| net.ends[socket.0].token = None);
        Ok(())
    }

    fn pass(&mut self, to: usize, parcel: Parcel<Sock>) -> Result<(), Parcel<Sock>> {
        let to = self.first + to;
        self.call(|net| {
            if net.closed_doors.contains(&to) {
                return Err(parcel);
            }
            net.parcels.entry(to).or_default().push_back(parcel);
            Ok(())
        })
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::now() + self.net.borrow().ahead
    }

    fn read(&mut self, socket: &Sock, into: &mut [u8]) -> io::Result<usize> {
        assert!(!into.is_empty(), "an empty read would look like an end");
        self.call(|net| net.read(*socket, into))
    }

    fn read_vectored(&mut self, socket: &Sock, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.call(|net| {
            let mut total = 0;
            for slice in into.iter_mut() {
                match net.read(*socket, slice) {
                    Ok(n) => {
                        total += n;
                        if n < slice.len() {
                            return Ok(total);
                        }
                    }
                    Err(fault) if total == 0 => return Err(fault),
                    Err(_) => return Ok(total),
                }
            }
            Ok(total)
        })
    }

    fn write(&mut self, socket: &Sock, bytes: &[u8]) -> io::Result<usize> {
        self.call(|net| net.write(*socket, bytes))
    }

    fn write_vectored(&mut self, socket: &Sock, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.call(|net| {
            let mut total = 0;
            for slice in bytes {
                match net.write(*socket, slice) {
                    Ok(n) => {
                        total += n;
                        if n < slice.len() {
                            return Ok(total);
                        }
                    }
                    Err(fault) if total == 0 => return Err(fault),
                    Err(_) => return Ok(total),
                }
            }
            Ok(total)
        })
    }

    fn end(&mut self, socket: &Sock) {
        self.call(|net| net.end(*socket));
    }

    fn is_at_end(&mut self, socket: &Sock) -> io::Result<bool> {
        self.call(|net| {
            let end = &mut net.ends[socket.0];
            if !end.inbox.is_empty() {
                return Ok(false);
            }
            match end.error.take() {
                Some(error) => Err(error.into()),
                None => Ok(end.fin_in || end.reset),
            }
        })
    }

    fn unacknowledged(&mut self, socket: &Sock) -> usize {
        self.call(|net| {
            let end = &net.ends[socket.0];
            let fin = end.fin_out && !end.fin_delivered && !end.reset;
            end.out.len() + usize::from(fin)
        })
    }

    fn close(&mut self, socket: Sock, reset: bool) {
        self.call(|net| net.close(socket, reset));
    }
}
