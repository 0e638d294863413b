//! The same-node path: what stands in for a tunnel when this process has captured both pods. A *lease* is a TCP
//! connection through both pods' veths to the destination's 15008, so that whatever filters packets there decides as
//! for a tunnel. It opens with a nonce that only this process recognises, carries a heartbeat each second and nothing
//! else; while it lives, bytes move from application socket to application socket (`local`). Called by `outbound`
//! (`leasable`, `lease_stream`), `carrier` (`recognise`), the shell (`offered`). docs/decisions/0025-same-node.md.

mod ticket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sys::socket::unmapped;

pub(super) use self::ticket::{NONCE, Secret, Ticket};
use super::api::{Reason, SameNode};
use super::io::{Io, Kind, Ready, Token};
use super::link::{self, Far};
use super::share::Parcel;
use super::slots::Key;
use super::state::Worker;
use super::timers::Alarm;
use super::tunnel::{Loss, PoolKey};
use crate::route;

/// A heartbeat is sent so often.
const BEAT: Duration = Duration::from_secs(1);
/// One that is not answered for so long ends the lease: with the second that may pass before it is sent, less than
/// three seconds after packets stopped.
const SILENCE: Duration = Duration::from_millis(1900);
/// A lease that carries nothing is given up after this time.
const UNUSED: Duration = Duration::from_secs(30);
/// Where another process serves the destination, TLS is used for so long before the next try.
const NOT_OURS: Duration = Duration::from_secs(10);

/// One lease, at the worker that has dialled it.
pub(super) struct Lease<S> {
    pub(super) pool: PoolKey,
    /// The destination's pod.
    pub(super) destination: Key,
    phase: Phase,
    pub(super) random: [u8; 5],
    dialled: S,
    accepted: Option<S>,
    /// The source as the destination sees it.
    pub(super) remote: SocketAddr,
    /// Outbound links that wait for it.
    pub(super) waiting: Vec<Key>,
    /// Outbound links that it carries.
    pub(super) members: Vec<Key>,
    /// An unanswered heartbeat was sent then.
    asked: Option<Instant>,
    /// When it last carried a link.
    used: Instant,
    alarm: Alarm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// TCP runs.
    Dial,
    /// The nonce is sent.
    Offered,
    /// Links may use it.
    Open,
}

/// The far end of a lease, found by whichever worker accepted it.
pub(super) struct Offer<S> {
    pub(super) ticket: Ticket,
    pub(super) socket: S,
    pub(super) remote: SocketAddr,
}

impl<I: Io> Worker<I> {
    /// The destination's pod, if a route ends at a pod that this process has captured and both sides can prove who they
    /// are, as TLS would want it.
    pub(super) fn leasable(
        &mut self,
        pool: &PoolKey,
        route: &route::Tunnel,
        io: &mut I,
    ) -> Option<Key> {
        if self.settings.same_node == SameNode::Tunnel
            || self.draining.is_some()
            || route.next_hop.port() != self.settings.ports.inbound
            || self.other_process(pool)
        {
            return None;
        }
        let destination = *self.workloads.get(&*route.workload.uid)?;
        if !self.pods.get(destination)?.has_inbound() {
            return None;
        }
        let source = self.own_workload(pool.pod)?.identity.clone()?;
        let own = self.own_workload(destination)?;
        let answers = own.identity.clone()?;
        let now = io.wall_clock();
        let proven = |identity| {
            let certificate = self.certificates.get(identity);
            certificate.is_some_and(|certificate| certificate.valid_at(now))
        };
        let fits = own.addresses.contains(&route.next_hop.ip())
            && route.accepted.contains(&answers)
            && source.trust_domain() == answers.trust_domain()
            && proven(&source)
            && proven(&answers);
        fits.then_some(destination)
    }

    /// Whether the last lease of this pair met another process.
    fn other_process(&mut self, pool: &PoolKey) -> bool {
        let Some(until) = self.not_ours.get(pool) else {
            return false;
        };
        let still = *until > self.now;
        if !still {
            self.not_ours.remove(pool);
        }
        still
    }

    /// Gives a link the pair's lease, or begins one.
    pub(super) fn lease_stream(&mut self, key: Key, pool: PoolKey, destination: Key, io: &mut I) {
        if let Some(lease) = self.lease_pool.get(&pool).copied() {
            let same = |lease: &Lease<I::Socket>| lease.destination == destination;
            if self.leases.get(lease).is_some_and(same) {
                return self.join_or_wait(key, lease, io);
            }
            let loss = Loss::new(Reason::TunnelLost, "the address belongs to another pod now");
            self.lose_lease(lease, &loss, io);
        }
        let (pod, next_hop) = (pool.pod, pool.next_hop);
        let dialled = match self.dial(pod, next_hop, None, io) {
            Ok(socket) => socket,
            Err(fault) => {
                let detail = format!("dial {next_hop}: {fault}");
                return self.end_link(key, dial_reason(&fault), Some(detail), io);
            }
        };
        let lease = self.leases.insert(Lease {
            pool: pool.clone(),
            destination,
            phase: Phase::Dial,
            random: rand::RngExt::random(&mut self.rng),
            dialled,
            accepted: None,
            remote: next_hop,
            waiting: Vec::new(),
            members: Vec::new(),
            asked: None,
            used: self.now,
            alarm: Alarm::default(),
        });
        self.lease_pool.insert(pool, lease);
        self.set_lease_alarm(lease, self.now + self.settings.deadlines.dial);
        self.join_or_wait(key, lease, io);
        let token = lease_token(lease);
        let registered = self
            .leases
            .get(lease)
            .map_or(Ok(()), |state| io.register(&state.dialled, token));
        if let Err(fault) = registered {
            let loss = Loss::new(Reason::Overloaded, format!("epoll: {fault}"));
            self.lose_lease(lease, &loss, io);
        }
    }

    fn join_or_wait(&mut self, key: Key, lease: Key, io: &mut I) {
        let Some(state) = self.leases.get_mut(lease) else {
            return;
        };
        if state.phase == Phase::Open {
            return self.join_lease(key, lease, io);
        }
        state.waiting.push(key);
        if let Some(link) = self.links.get_mut(key) {
            link.phase = link::Phase::Tunnel;
            link.far = Far::Leased(lease);
        }
    }

    /// Readiness of one of a lease's sockets.
    pub(super) fn lease_event(&mut self, event: Ready, io: &mut I) {
        let key = event.token.key;
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        match lease.phase {
            Phase::Dial if event.writable || event.error || event.ended => {
                let next_hop = lease.pool.next_hop;
                if let Some(fault) = io.take_error(&lease.dialled) {
                    let detail = format!("dial {next_hop}: {fault}");
                    return self.lose_lease(key, &Loss::new(dial_reason(&fault), detail), io);
                }
                self.offer(key, io);
            }
            Phase::Offered if event.readable || event.error || event.ended => {
                // Nobody but us knows what to say to a nonce: this is the end, or another process's TLS.
                self.not_recognised(key, io);
            }
            Phase::Open => self.hear(key, io),
            Phase::Dial | Phase::Offered => {}
        }
    }

    /// Sends the nonce.
    fn offer(&mut self, key: Key, io: &mut I) {
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        let Some(state) = self.pods.get(lease.destination) else {
            return self.not_recognised(key, io);
        };
        let ticket = Ticket {
            worker: self.neighbours.index as u16,
            lease: key,
            random: lease.random,
        };
        let nonce = self.neighbours.secret.seal(&ticket, &state.pod.uid);
        // The first bytes of a connection always fit; if not, it is of no use.
        if !io
            .write(&lease.dialled, &nonce)
            .is_ok_and(|n| n == nonce.len())
        {
            return self.not_recognised(key, io);
        }
        lease.phase = Phase::Offered;
        self.set_lease_alarm(key, self.now + self.settings.deadlines.handshake);
    }

    /// What came first on a server tunnel is no TLS. If it is a nonce of this process, the socket goes to the worker
    /// that has offered it. False: it is not, and the connection must be closed.
    pub(super) fn recognise(&mut self, tunnel: Key, nonce: &[u8; NONCE], io: &mut I) -> bool {
        let Some(state) = self.tunnels.get(tunnel) else {
            return false;
        };
        let (pod, remote) = (state.pod, state.remote);
        let Some(uid) = self.pods.get(pod).map(|pod| pod.pod.uid.clone()) else {
            return false;
        };
        let Some(ticket) = self.neighbours.secret.open(nonce, &uid) else {
            return false;
        };
        let Some(socket) = self.take_socket(tunnel, io) else {
            return false;
        };
        let offer = Offer {
            ticket,
            socket,
            remote,
        };
        if usize::from(ticket.worker) == self.neighbours.index {
            self.offered(offer, io);
        } else if let Err(Parcel::Offer(offer)) =
            io.pass(ticket.worker.into(), Parcel::Offer(offer))
        {
            io.close(offer.socket, true);
        }
        true
    }

    /// The far end of a lease of ours has been found: it is open. Each offer is taken once.
    pub(super) fn offered(&mut self, offer: Offer<I::Socket>, io: &mut I) {
        let key = offer.ticket.lease;
        let expected = |lease: &&mut Lease<I::Socket>| {
            lease.phase == Phase::Offered && lease.random == offer.ticket.random
        };
        let Some(lease) = self.leases.get_mut(key).filter(expected) else {
            return io.close(offer.socket, true);
        };
        if let Err(fault) = io.register(&offer.socket, lease_token(key)) {
            io.close(offer.socket, true);
            let loss = Loss::new(Reason::Overloaded, format!("epoll: {fault}"));
            return self.lose_lease(key, &loss, io);
        }
        lease.accepted = Some(offer.socket);
        lease.remote = unmapped(offer.remote);
        lease.phase = Phase::Open;
        lease.used = self.now;
        let waiting = std::mem::take(&mut lease.waiting);
        self.set_lease_alarm(key, self.now + BEAT);
        // While they waited, certificates and workloads may have changed: they are asked anew.
        self.send_back(waiting);
    }

    /// Links look for their way again.
    fn send_back(&mut self, links: Vec<Key>) {
        for key in links {
            if let Some(link) = self.links.get_mut(key) {
                link.far = Far::None;
                self.queues.retries.push(key);
            }
        }
    }

    /// Another process has the destination's port: TLS, for this call and for a while.
    fn not_recognised(&mut self, key: Key, io: &mut I) {
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        let waiting = std::mem::take(&mut lease.waiting);
        let pool = lease.pool.clone();
        tracing::debug!(next_hop = %pool.next_hop, "the destination's proxy is not this process: no same-node path");
        let now = self.now;
        self.not_ours.retain(|_, until| *until > now);
        self.not_ours.insert(pool, now + NOT_OURS);
        self.drop_lease(key, io);
        self.send_back(waiting);
    }

    /// Answers and takes heartbeats; notices the end of either socket.
    fn hear(&mut self, key: Key, io: &mut I) {
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        let Some(accepted) = &lease.accepted else {
            return;
        };
        let heard = drain(accepted, io).and_then(|asked| match asked {
            0 => Ok(0),
            _ => io.write(accepted, &[0]),
        });
        let answered = heard.and_then(|_| drain(&lease.dialled, io));
        match answered {
            Ok(0) => {}
            Ok(_) => lease.asked = None,
            Err(fault) => {
                let detail = format!("the same-node path is cut: {fault}");
                self.lose_lease(key, &Loss::new(Reason::TunnelLost, detail), io);
            }
        }
    }

    /// A lease's deadline has come.
    pub(super) fn lease_alarm(&mut self, key: Key, io: &mut I) {
        let now = self.now;
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        let next_hop = lease.pool.next_hop;
        let loss = match lease.phase {
            Phase::Dial => Loss::new(Reason::DialTimeout, format!("dial {next_hop}: timed out")),
            Phase::Offered => Loss::new(
                Reason::Tls,
                format!("{next_hop} did not take the same-node connection in time"),
            ),
            Phase::Open => {
                let unused = if self.draining.is_some() {
                    Duration::ZERO
                } else {
                    UNUSED
                };
                let idle = lease.members.is_empty() && lease.used + unused <= now;
                if idle {
                    return self.drop_lease(key, io);
                }
                match lease.asked {
                    // We were not running ourselves: that says nothing of the path.
                    Some(asked) if asked + SILENCE + BEAT <= now => return self.beat(key, io),
                    Some(asked) if asked + SILENCE <= now => Loss::new(
                        Reason::TunnelLost,
                        "the same-node path is cut: no heartbeat passes any more",
                    ),
                    Some(asked) => return self.set_lease_alarm(key, asked + SILENCE),
                    None => return self.beat(key, io),
                }
            }
        };
        self.lose_lease(key, &loss, io);
    }

    fn beat(&mut self, key: Key, io: &mut I) {
        let now = self.now;
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        match io.write(&lease.dialled, &[0]) {
            Ok(_) => {
                lease.asked = Some(now);
                self.set_lease_alarm(key, now + BEAT);
            }
            Err(fault) => {
                let detail = format!("the same-node path is cut: {fault}");
                self.lose_lease(key, &Loss::new(Reason::TunnelLost, detail), io);
            }
        }
    }

    /// The lease is over: nothing moves on it any more.
    pub(super) fn lose_lease(&mut self, key: Key, loss: &Loss, io: &mut I) {
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        let members = std::mem::take(&mut lease.members);
        let waiting = std::mem::take(&mut lease.waiting);
        tracing::debug!(next_hop = %lease.pool.next_hop, reason = ?loss.reason, detail = %loss.detail, "lease lost");
        self.drop_lease(key, io);
        for link in members.into_iter().chain(waiting) {
            self.end_link(link, loss.reason, Some(loss.detail.clone()), io);
        }
    }

    /// Removes a lease and closes its sockets.
    pub(super) fn drop_lease(&mut self, key: Key, io: &mut I) {
        let Some(lease) = self.leases.remove(key) else {
            return;
        };
        if self.lease_pool.get(&lease.pool) == Some(&key) {
            self.lease_pool.remove(&lease.pool);
        }
        for socket in [Some(lease.dialled), lease.accepted].into_iter().flatten() {
            io.close(socket, false);
        }
    }

    /// A link that the lease carried has ended.
    pub(super) fn leave_lease(&mut self, key: Key, member: usize) {
        let now = self.now;
        let Some(lease) = self.leases.get_mut(key) else {
            return;
        };
        lease.used = now;
        lease.members.swap_remove(member);
        let over = lease.members.is_empty() && self.draining.is_some();
        if let Some(moved) = lease.members.get(member).copied()
            && let Some(moved) = self.links.get_mut(moved)
        {
            moved.member = member as u32;
        }
        if over {
            self.set_lease_alarm(key, now);
        }
    }

    /// Leases that carry nothing end with the drain.
    pub(super) fn drain_leases(&mut self, io: &mut I) {
        for key in self
            .leases
            .keys(|lease| lease.members.is_empty() && lease.waiting.is_empty())
        {
            self.drop_lease(key, io);
        }
    }

    fn set_lease_alarm(&mut self, key: Key, due: Instant) {
        if let Some(lease) = self.leases.get_mut(key) {
            self.timers.set(&mut lease.alarm, lease_token(key), due);
        }
    }

    /// Whether the entry of `key` is really due.
    pub(super) fn lease_rings(&mut self, token: Token, at: Instant) -> bool {
        let now = self.now;
        self.leases
            .get_mut(token.key)
            .is_some_and(|lease| self.timers.rings(&mut lease.alarm, (token, at), now))
    }
}

fn lease_token(key: Key) -> Token {
    Token {
        kind: Kind::Lease,
        key,
    }
}

fn dial_reason(fault: &std::io::Error) -> Reason {
    match fault.kind() {
        std::io::ErrorKind::TimedOut => Reason::DialTimeout,
        _ => Reason::DialFailed,
    }
}

/// Reads what is there, and says how much it was. An end is an error: neither side of a lease ever ends it in order. So
/// is a flood: there is never more than a heartbeat on its way.
fn drain<I: Io>(socket: &I::Socket, io: &mut I) -> std::io::Result<usize> {
    let mut total = 0;
    let mut buffer = [0; 64];
    loop {
        match io.read(socket, &mut buffer) {
            Ok(0) => return Err(std::io::ErrorKind::ConnectionReset.into()),
            Ok(_) if total > buffer.len() => return Err(std::io::ErrorKind::InvalidData.into()),
            Ok(n) => total += n,
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => return Ok(total),
            Err(fault) => return Err(fault),
        }
    }
}

/// Uids by which the pods of this process are found from a route.
pub(super) type Workloads = std::collections::HashMap<Arc<str>, Key>;
