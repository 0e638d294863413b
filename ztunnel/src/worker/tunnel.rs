//! One carrier: TCP + TLS + HTTP/2 between two proxies, either role, with the streams on it. Moves bytes between the
//! socket and the codec; what the events mean is decided in `carrier`, `outbound`, `inbound`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Connection, ErrorCode, Event, StreamId};
use mesh::identity::Identity;

use super::api::Reason;
use super::buffers::{Buffers, Outgoing};
use super::io::Io;
use super::lease::NONCE;
use super::slots::Key;
use super::timers::Alarm;
use super::tls::Tls;

/// A backlog up to this size is copied so that a stalled tunnel does not keep a whole send buffer.
const SMALL_BACKLOG: usize = 64 << 10;
/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;
/// A tunnel counts as hot for so long after its socket was full.
const HOT: Duration = Duration::from_secs(1);
/// Reads of a closing tunnel per turn.
const DISCARDS: usize = 4;
/// How often the codec's flood counters start anew while bytes arrive.
const TICK: Duration = Duration::from_secs(1);

/// One carrier.
pub(super) struct Tunnel<S> {
    pub(super) pod: Key,
    pub(super) role: Role,
    pub(super) phase: Phase,
    pub(super) socket: Option<S>,
    pub(super) tls: Option<Box<Tls>>,
    pub(super) h2: Option<Box<Connection>>,
    /// Who the peer proved to be.
    pub(super) peer: Option<Identity>,
    /// Whom we prove to be.
    pub(super) own: Option<Identity>,
    /// When the first of the two certificates ends: no new streams from then on.
    pub(super) expires: Option<SystemTime>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Sealed bytes that the socket did not take. While there are any, no application is read for this tunnel.
    pub(super) backlog: Outgoing,
    pub(super) readable: bool,
    /// FIN was announced by an event.
    pub(super) ended: bool,
    /// The last write would have blocked.
    pub(super) blocked: bool,
    /// The socket has failed: nothing is sent any more, but what arrived before is read to its end.
    pub(super) broken: bool,
    /// Our FIN is sent.
    pub(super) fin_sent: bool,
    /// The peer sends nothing more.
    pub(super) peer_closed: bool,
    /// Closing: so much was on its way when last looked.
    pub(super) unsent: usize,
    /// Stands in the worker's list.
    pub(super) queued: bool,
    /// The peer takes no new streams, or we want none.
    pub(super) going_away: bool,
    /// Streams whose application has bytes for us.
    pub(super) ready: VecDeque<Key>,
    /// Links that wait for the tunnel to open (client).
    pub(super) waiting: Vec<Key>,
    /// Links that have a stream here.
    pub(super) members: Vec<Key>,
    pub(super) alarm: Alarm,
    /// When bytes last arrived.
    pub(super) heard: Instant,
    /// When it last had a stream.
    pub(super) used: Instant,
    pub(super) pinged: bool,
    /// The peer's SETTINGS have come: it speaks HTTP/2.
    pub(super) greeted: bool,
    /// Control was asked for what it waits for.
    pub(super) asked: bool,
    /// When its socket last took less than there was to send.
    pub(super) hot: Option<Instant>,
    /// When it was begun.
    pub(super) begun: Instant,
    /// Server: not a byte has come yet. The first one tells TLS from a lease.
    fresh: bool,
    ticked: Instant,
}

/// Which side we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// We dialled it for streams of one pod.
    Client(PoolKey),
    /// A peer dialled one of our pods.
    Server,
}

/// What makes two outbound links fit on one tunnel. The pod stands for source identity and namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) pod: Key,
    pub(super) next_hop: SocketAddr,
    pub(super) accepted: Arc<[Identity]>,
}

/// The client tunnels of one pool key that may take streams, or are being set up.
#[derive(Debug, Default)]
pub(super) struct Pooled {
    pub(super) tunnels: Vec<Key>,
    /// No further one is dialled before, however hot they are.
    pub(super) next_spare: Option<Instant>,
}

/// How far a tunnel has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the pod's workload or certificate.
    Certificate,
    /// TCP runs.
    Dial,
    /// TLS runs.
    Handshake,
    /// Streams may be opened.
    Open,
    /// Our last bytes are on their way. What the peer still sends is dropped.
    Closing,
}

/// Why a tunnel ended.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Loss {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// What the codec said, with ranges of the worker's plaintext buffer instead of borrowed bytes.
#[derive(Debug)]
pub(super) enum Act {
    Request(StreamId, Box<ConnectRequest>),
    Response(u64, Box<ConnectResponse>),
    Data(StreamId, u64, Range<usize>),
    End(StreamId, u64),
    Reset(u64, ErrorCode),
    Credit(u64),
    GoAway,
}

/// What one turn of receiving ended with.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Received {
    /// The handshake is done with this turn: create the codec.
    pub(super) established: bool,
    /// The peer has closed (FIN or close_notify): nothing more will come.
    pub(super) closed: bool,
    /// What came first is no TLS but as long as a lease's nonce.
    pub(super) nonce: Option<[u8; NONCE]>,
}

impl<S> Tunnel<S> {
    pub(super) fn new(
        pod: Key,
        role: Role,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Self {
        Self {
            pod,
            role,
            phase: Phase::Certificate,
            socket: None,
            tls: None,
            h2: None,
            peer: None,
            own: None,
            expires: None,
            local,
            remote,
            backlog: Outgoing::default(),
            readable: false,
            ended: false,
            blocked: false,
            broken: false,
            fin_sent: false,
            peer_closed: false,
            unsent: usize::MAX,
            queued: false,
            going_away: false,
            ready: VecDeque::new(),
            waiting: Vec::new(),
            members: Vec::new(),
            alarm: Alarm::default(),
            heard: now,
            used: now,
            pinged: false,
            greeted: false,
            asked: false,
            hot: None,
            begun: now,
            fresh: true,
            ticked: now,
        }
    }

    pub(super) fn is_client(&self) -> bool {
        matches!(self.role, Role::Client(_))
    }

    /// Whether it has more bytes in flight than the network takes.
    pub(super) fn is_hot(&self, now: Instant) -> bool {
        self.hot
            .is_some_and(|hot| now.saturating_duration_since(hot) < HOT)
    }

    /// Whether a peer holds it open and has no stream on it.
    pub(super) fn is_unused_server(&self) -> bool {
        !self.is_client() && self.phase == Phase::Open && self.members.is_empty()
    }

    /// Whether one of its certificates has ended by `now`.
    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether a peer that dialled us has not proved who it is.
    pub(super) fn shakes_hands(&self) -> bool {
        !self.is_client() && matches!(self.phase, Phase::Certificate | Phase::Handshake)
    }

    /// Reads once and opens records at the front of `buffers.rx`. False: nothing to read now.
    pub(super) fn read(
        &mut self,
        io: &mut impl Io<Socket = S>,
        buffers: &mut Buffers,
        received: &mut Received,
    ) -> Result<bool, Loss> {
        let (Some(socket), Some(tls)) = (&self.socket, &mut self.tls) else {
            return Ok(false);
        };
        if !self.readable {
            return Ok(false);
        }
        buffers.plain = 0;
        let start = tls.resume(&mut buffers.rx);
        let room = buffers.rx.len() - start;
        let n = match io.read(socket, &mut buffers.rx[start..]) {
            Ok(n) => n,
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock && !self.broken => {
                self.readable = false;
                return Ok(false);
            }
            Err(fault) => return Err(Loss::new(Reason::TunnelLost, format!("read: {fault}"))),
        };
        if n == 0 {
            self.readable = false;
            received.closed = true;
            return Ok(false);
        }
        if n < room && !self.ended {
            // Edge-triggered: what comes later makes a new event, unless that event was the FIN we know of.
            self.readable = false;
        }
        if std::mem::take(&mut self.fresh) && self.role == Role::Server {
            let first = &buffers.rx[start..start + n];
            if first[0] != HANDSHAKE_RECORD {
                received.nonce = first.try_into().ok();
                let why = "what came first is neither TLS nor from this process";
                return received
                    .nonce
                    .map_or_else(|| Err(Loss::new(Reason::Tls, why)), |_| Ok(true));
            }
        }
        let opened = tls
            .open(
                &mut buffers.rx[..start + n],
                &mut buffers.plain,
                &mut self.backlog,
            )
            .map_err(|fault| Loss::new(Reason::Tls, fault.to_string()))?;
        received.established = opened.established;
        received.closed |= opened.closed;
        Ok(true)
    }

    /// Runs the codec over `plain` and lists what it said.
    pub(super) fn parse(
        &mut self,
        plain: &[u8],
        acts: &mut Vec<Act>,
        now: Instant,
    ) -> Result<(), Loss> {
        let Some(h2) = &mut self.h2 else {
            return Ok(());
        };
        self.heard = now;
        self.pinged = false;
        if now.saturating_duration_since(self.ticked) >= TICK {
            self.ticked = now;
            h2.tick();
        }
        let mut input = plain;
        loop {
            let event = h2
                .receive(&mut input)
                .map_err(|fault| Loss::new(Reason::Http2, fault.to_string()))?;
            let Some(event) = event else { return Ok(()) };
            match event {
                Event::Request { stream, head } => acts.push(Act::Request(stream, head)),
                Event::Response { key, head, .. } => acts.push(Act::Response(key, head)),
                Event::Data { stream, key, bytes } => {
                    let start = bytes.as_ptr() as usize - plain.as_ptr() as usize;
                    acts.push(Act::Data(stream, key, start..start + bytes.len()));
                }
                Event::End { stream, key } => acts.push(Act::End(stream, key)),
                Event::Reset { key, code, .. } => acts.push(Act::Reset(key, code)),
                Event::SendCredit { key, .. } => acts.push(Act::Credit(key)),
                Event::GoAway { .. } => acts.push(Act::GoAway),
                Event::Settings => self.greeted = true,
                Event::OtherMethod { stream } => {
                    h2.respond(stream, &ConnectResponse::status(400), true);
                }
                Event::Refused { .. } | Event::Pong => {}
            }
        }
    }

    /// The link of a stream. Acts are carried out after the whole input was parsed, so what stands in the same input as
    /// its own request was parsed before the stream had a key; it has one now, unless its request was refused or it
    /// was reset behind it.
    pub(super) fn link_of(&self, stream: StreamId, key: u64) -> Key {
        let found = if key == 0 {
            self.h2.as_ref().and_then(|h2| h2.key(stream))
        } else {
            Some(key)
        };
        Key::from_bits(found.unwrap_or(0))
    }

    /// The open tunnel's socket has failed. A peer that closes while our credit is on its way makes that a reset, behind
    /// bytes that it has sent in order: they are read first, and the read behind them tells the end.
    pub(super) fn failed(&mut self) {
        (self.broken, self.readable, self.ended) = (true, true, true);
        self.backlog = Outgoing::default();
    }

    fn write_failed(&mut self, fault: &io::Error) -> Result<(), Loss> {
        if self.phase != Phase::Open {
            return Err(Loss::new(Reason::TunnelLost, format!("write: {fault}")));
        }
        self.failed();
        Ok(())
    }

    /// Sends what is sealed already. True: nothing is left.
    pub(super) fn flush(&mut self, io: &mut impl Io<Socket = S>) -> Result<bool, Loss> {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.broken) else {
            return Ok(false);
        };
        while !self.backlog.is_empty() {
            if self.blocked {
                return Ok(false);
            }
            let wanted = self.backlog.pending().len();
            match io.write(socket, self.backlog.pending()) {
                Ok(n) => {
                    self.backlog.sent(n);
                    self.blocked = n < wanted;
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(fault) => return self.write_failed(&fault).map(|()| false),
            }
        }
        if self.backlog.capacity() > 0 {
            self.backlog = Outgoing::default();
        }
        Ok(true)
    }

    /// Sends FIN once everything before it is written.
    pub(super) fn finish(&mut self, io: &mut impl Io<Socket = S>) {
        if let Some(socket) = self
            .socket
            .as_ref()
            .filter(|_| self.backlog.is_empty() && !self.fin_sent)
        {
            io.end(socket);
            self.fin_sent = true;
        }
    }

    /// Drops what the peer has sent. True: nothing more comes.
    pub(super) fn discard(&mut self, io: &mut impl Io<Socket = S>, room: &mut [u8]) -> bool {
        for _ in 0..DISCARDS {
            let Some(socket) = self.socket.as_ref().filter(|_| self.readable) else {
                return false;
            };
            match io.read(socket, room) {
                Ok(0) => return true,
                Ok(n) => self.readable = n == room.len() || self.ended,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return true,
            }
        }
        false
    }

    /// Seals `buffers.batch` behind what is sealed already.
    pub(super) fn seal(&mut self, buffers: &mut Buffers) -> Result<(), Loss> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let sealed = tls.seal(buffers.batch.pending(), &mut buffers.tx);
        buffers.batch.clear();
        sealed.map_err(|fault| Loss::new(Reason::Tls, fault.to_string()))
    }

    /// Sends `buffers.tx`; what the socket does not take becomes the backlog. The backlog must be empty.
    pub(super) fn send(
        &mut self,
        io: &mut impl Io<Socket = S>,
        buffers: &mut Buffers,
        now: Instant,
    ) -> Result<(), Loss> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let sealed = &mut buffers.tx;
        let wanted = sealed.pending().len();
        match io.write(socket, sealed.pending()) {
            Ok(n) => sealed.sent(n),
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
            Err(fault) => {
                sealed.clear();
                return self.write_failed(&fault);
            }
        }
        if sealed.is_empty() {
            return Ok(());
        }
        self.blocked = true;
        self.hot = Some(now);
        let rest = sealed.pending().len();
        debug_assert!(rest <= wanted);
        if rest <= SMALL_BACKLOG {
            let room = self.backlog.room(rest);
            room[..rest].copy_from_slice(sealed.pending());
            self.backlog.grow(rest);
            sealed.clear();
        } else {
            self.backlog = buffers.take_tx();
        }
        Ok(())
    }
}
