//! Pods, their listeners and the commands of control.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::Certificate;
use mesh::identity::Identity;
use mesh::workload::{Workload, pod_uid};
use sys::socket::unmapped;

use super::api::{Direction, Notice, Pod, Reason, Refused};
use super::io::{Io, Kind, Token};
use super::listeners;
use super::slots::Key;
use super::sources::Sources;
use super::state::Worker;
use super::tunnel::Loss;

/// Connections accepted per listener and turn: events of others must not wait behind a burst.
const ACCEPTS: usize = 32;
/// One address may have this part of a pod's inbound tunnels.
const SHARE: u32 = 8;
/// Pause when descriptors or memory run out.
const PRESSURE_PAUSE: Duration = Duration::from_millis(100);

/// A pod with its listeners on this worker.
pub(super) struct PodState<L> {
    pub(super) pod: Arc<Pod>,
    /// Outbound, plain inbound, inbound.
    pub(super) listeners: [Option<L>; 3],
    /// Its own workload as last seen, and the generation of that look.
    own: Option<Arc<Workload>>,
    own_generation: Option<u64>,
    /// The last one known: by it live connections are judged after it has left the mesh.
    pub(super) last_own: Option<Arc<Workload>>,
    workload_uid: String,
    /// Links that it has here.
    pub(super) links: u32,
    /// Bytes that wait for applications, of its streams here.
    pub(super) held: usize,
    /// Inbound TLS handshakes in flight here.
    pub(super) handshakes: Sources,
    /// Inbound tunnels that have shaken hands and are not closed yet.
    pub(super) tunnels: Sources,
}

impl<L> PodState<L> {
    /// Whether tunnels to the pod come to this process.
    pub(super) fn has_inbound(&self) -> bool {
        self.listeners[2].is_some()
    }
}

const LISTENERS: [Kind; 3] = [Kind::Outbound, Kind::InboundPlain, Kind::Inbound];

impl<I: Io> Worker<I> {
    /// Serves a pod. `listeners`: outbound, plain inbound, inbound.
    pub(super) fn add_pod(
        &mut self,
        pod: Arc<Pod>,
        listeners: [Option<I::Listener>; 3],
        io: &mut I,
    ) {
        if self.uids.contains_key(&pod.uid) {
            self.remove_pod(&pod.uid.clone(), io);
        }
        let workload_uid = pod_uid(&self.settings.cluster, &pod.namespace, &pod.name);
        let uid = pod.uid.clone();
        let key = self.pods.insert(PodState {
            pod,
            listeners: [None, None, None],
            own: None,
            own_generation: None,
            last_own: None,
            workload_uid: workload_uid.clone(),
            links: 0,
            held: 0,
            handshakes: Sources::default(),
            tunnels: Sources::default(),
        });
        self.uids.insert(uid, key);
        self.workloads.insert(workload_uid.into(), key);
        if self.draining.is_some() {
            return;
        }
        for (index, listener) in listeners.into_iter().enumerate() {
            let Some(listener) = listener else { continue };
            let token = Token {
                kind: LISTENERS[index],
                key,
            };
            if let Err(fault) = io.register_listener(&listener, token) {
                tracing::error!(port = ?token.kind, %fault, "cannot watch a listener");
                continue;
            }
            let state = self.pods.get_mut(key).expect("inserted above");
            state.listeners[index] = Some(listener);
            // What waited in the backlog before we watched makes no edge.
            self.queues.accepts.push_back(token);
        }
    }

    /// Cuts everything of a pod.
    pub(super) fn remove_pod(&mut self, uid: &Arc<str>, io: &mut I) {
        if let Some(key) = self.uids.remove(uid) {
            self.cut_where(Reason::PodRemoved, io, |pod| pod == key);
            if let Some(state) = self.pods.remove(key)
                && self.workloads.get(&*state.workload_uid) == Some(&key)
            {
                self.workloads.remove(&*state.workload_uid);
            }
        }
    }

    /// Ends all links and tunnels of the pods that `wanted` picks.
    pub(super) fn cut_where(&mut self, reason: Reason, io: &mut I, wanted: impl Fn(Key) -> bool) {
        for link in self.links.keys(|link| wanted(link.pod)) {
            self.end_link(link, reason, None, io);
        }
        for tunnel in self.tunnels.keys(|tunnel| wanted(tunnel.pod)) {
            self.last_words(tunnel, io);
            self.drop_tunnel(tunnel, io);
        }
        for lease in self
            .leases
            .keys(|lease| wanted(lease.pool.pod) || wanted(lease.destination))
        {
            let loss = Loss::new(reason, "a pod of the same-node path is gone");
            self.lose_lease(lease, &loss, io);
        }
        self.not_ours.retain(|pool, _| !wanted(pool.pod));
    }

    /// A certificate came: those who wait go on, new handshakes use it.
    pub(super) fn certificate(&mut self, certificate: Arc<Certificate>, now: Instant, io: &mut I) {
        self.now = now;
        self.certificates
            .insert(certificate.identity().clone(), certificate);
        self.wake_certificate_waiters(io);
    }

    /// A certificate cannot be had: those who wait for it fail.
    pub(super) fn certificate_failed(&mut self, identity: &Identity, why: &str, io: &mut I) {
        for key in std::mem::take(&mut self.queues.certificate) {
            match self.tunnels.get(key) {
                Some(tunnel) if tunnel.own.as_ref() == Some(identity) => {
                    let loss = Loss::new(Reason::NoCertificate, why);
                    self.lose(key, loss, io);
                }
                Some(_) => self.queues.certificate.push(key),
                None => {}
            }
        }
    }

    /// Stops accepting; what runs may finish until `deadline`.
    pub(super) fn drain(&mut self, deadline: Instant, now: Instant, io: &mut I) {
        self.now = now;
        // What the kernel has accepted for us already would be reset by closing the listeners.
        for key in self.pods.keys(|_| true) {
            for kind in LISTENERS {
                self.accept(Token { kind, key }, listeners::BACKLOG as usize, io);
            }
            if let Some(state) = self.pods.get_mut(key) {
                state.listeners = [None, None, None];
            }
        }
        self.queues.accepts.clear();
        self.draining = Some(deadline);
        for key in self.tunnels.keys(|_| true) {
            self.drain_tunnel(key);
        }
        self.drain_leases(io);
    }

    /// Whether a drain is complete.
    pub(super) fn is_drained(&self) -> bool {
        self.draining.is_some()
            && self.links.is_empty()
            && self.tunnels.is_empty()
            && self.leases.is_empty()
    }

    /// Cuts what the drain's deadline found alive.
    pub(super) fn drain_deadline(&mut self, io: &mut I) {
        if self.draining.is_some_and(|deadline| deadline <= self.now) {
            self.force(io);
        }
    }

    /// Cuts everything.
    pub(super) fn force(&mut self, io: &mut I) {
        self.cut_where(Reason::Shutdown, io, |_| true);
    }

    /// The pod's own workload, looked up once per snapshot. After its removal from the mesh the last one known is kept
    /// for judging live connections, but new ones wait.
    pub(super) fn own_workload(&mut self, pod: Key) -> Option<Arc<Workload>> {
        let state = self.pods.get_mut(pod)?;
        let generation = self.snapshot.generation();
        if state.own_generation != Some(generation) {
            let found = self.snapshot.workload(&state.workload_uid);
            let is_ours = |workload: &&Arc<Workload>| {
                workload.service_account() == &*state.pod.service_account
            };
            state.own = found.filter(is_ours).cloned();
            state.own_generation = Some(generation);
            if state.own.is_some() {
                state.last_own.clone_from(&state.own);
            }
        }
        state.own.clone()
    }

    pub(super) fn accept_some(&mut self, io: &mut I) {
        if self.accept_after.is_some_and(|after| after > self.now) || !self.may_accept() {
            return;
        }
        self.accept_after = None;
        for _ in 0..self.queues.accepts.len() {
            let Some(token) = self.queues.accepts.pop_front() else {
                break;
            };
            if self.accept(token, ACCEPTS, io) {
                self.queues.accepts.push_back(token);
            }
        }
    }

    /// Accepts up to `most` connections. True: there may be more.
    fn accept(&mut self, token: Token, most: usize, io: &mut I) -> bool {
        for _ in 0..most {
            if self.accept_after.is_some() {
                return true;
            }
            let Some(state) = self.pods.get(token.key) else {
                return false;
            };
            // The kernel's backlog holds what is beyond the limit; the end of a handshake looks again. Unless one source
            // holds it up: that must not keep the others out for a whole deadline.
            let limit = self.settings.limits.handshakes;
            if token.kind == Kind::Inbound
                && state.handshakes.len() >= limit
                && state.handshakes.greedy(limit).is_none()
            {
                return false;
            }
            let index = LISTENERS.iter().position(|kind| *kind == token.kind);
            let Some(listener) = index.and_then(|index| state.listeners[index].as_ref()) else {
                return false;
            };
            match io.accept(listener) {
                Ok((socket, source)) => self.accepted(token, socket, unmapped(source), io),
                Err(fault) => match accept_fault(&fault) {
                    AcceptFault::Empty => return false,
                    AcceptFault::ThisOne => {}
                    AcceptFault::Pressure => {
                        tracing::warn!(%fault, "cannot accept, pausing");
                        self.accept_after = Some(self.now + PRESSURE_PAUSE);
                        return true;
                    }
                },
            }
        }
        true
    }

    fn accepted(&mut self, token: Token, socket: I::Socket, source: SocketAddr, io: &mut I) {
        let Some(state) = self.pods.get(token.key) else {
            return;
        };
        if token.kind == Kind::Inbound {
            return match self.make_room(token.key, source.ip(), io) {
                true => self.accept_tunnel(token.key, socket, source, io),
                false => io.close(socket, true),
            };
        }
        let direction = match token.kind {
            Kind::Outbound => Direction::Outbound,
            _ => Direction::Inbound,
        };
        let original = io.original_destination(&socket);
        let ports = self.settings.ports;
        let local = match original {
            Some(original) if !ports.contains(original.port()) => None,
            _ => io.local_address(&socket).map(unmapped).ok(),
        };
        let Some(destination) = original.or(local) else {
            // The peer is gone already.
            return io.close(socket, true);
        };
        // Not redirected, but called by its number: a dial to there would come back here, for ever.
        let direct = Some(destination) == local && ports.contains(destination.port());
        let refused = if direct {
            let detail = format!("{destination} is a port of ztunnel itself");
            Some((Reason::SelfCall, detail))
        } else if state.links >= self.settings.limits.connections {
            let detail = "the pod has too many connections".to_owned();
            Some((Reason::Overloaded, detail))
        } else {
            None
        };
        if let Some((reason, detail)) = refused {
            io.close(socket, true);
            self.notices.push(Notice::Refused(Refused {
                direction,
                source,
                destination,
                reason,
                detail: Some(detail.into()),
            }));
            return;
        }
        match direction {
            Direction::Outbound => {
                self.accept_outbound(token.key, socket, (source, destination), io)
            }
            Direction::Inbound => self.accept_plain(token.key, socket, (source, destination), io),
        }
    }

    /// Whether a handshake with `source` may begin. When all are taken, the source that holds the most gives up its oldest,
    /// or gets no more.
    fn make_room(&mut self, pod: Key, source: IpAddr, io: &mut I) -> bool {
        let limit = self.settings.limits.handshakes;
        let Some(state) = self.pods.get(pod) else {
            return true;
        };
        if state.handshakes.len() < limit {
            return true;
        }
        let greedy = state.handshakes.greedy(limit);
        let Some(greedy) = greedy.filter(|greedy| *greedy != source) else {
            return false;
        };
        let unfinished = self.tunnels.keys(|tunnel| {
            tunnel.pod == pod && tunnel.shakes_hands() && tunnel.remote.ip() == greedy
        });
        let heard = |key: &Key| self.tunnels.get(*key).map(|tunnel| tunnel.heard);
        if let Some(oldest) = unfinished.into_iter().min_by_key(heard) {
            let detail = "gave way: its address holds most of the pod's handshakes";
            self.lose(oldest, Loss::new(Reason::Overloaded, detail), io);
        }
        true
    }

    /// Counts an inbound tunnel that has just opened. When the pod or the peer's address has too many, the one that has
    /// been without streams for longest is closed for it.
    ///
    /// # Errors
    /// All of them are in use.
    pub(super) fn count_tunnel(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        let Some((pod, source)) = self
            .tunnels
            .get(key)
            .map(|tunnel| (tunnel.pod, tunnel.remote.ip()))
        else {
            return Ok(());
        };
        let limit = self.settings.limits.tunnels;
        let Some(state) = self.pods.get_mut(pod) else {
            return Ok(());
        };
        state.tunnels.begin(source);
        let of_source = state.tunnels.of(source) > (limit / SHARE).max(1);
        if !of_source && state.tunnels.len() <= limit {
            return Ok(());
        }
        let unused = self.tunnels.keys(|tunnel| {
            tunnel.pod == pod
                && tunnel.is_unused_server()
                && (!of_source || tunnel.remote.ip() == source)
        });
        // The last bytes of a stream that has just ended may still be on their way: such a tunnel only if there is no other.
        let mut used = |key: &Key| {
            let tunnel = self.tunnels.get(*key)?;
            let socket = tunnel.socket.as_ref();
            let speaks = !tunnel.backlog.is_empty()
                || socket.is_some_and(|socket| io.unacknowledged(socket) > 0);
            Some((speaks, tunnel.used))
        };
        let others = unused.into_iter().filter(|one| *one != key);
        match others.min_by_key(&mut used) {
            Some(oldest) => {
                // Gone at once, not when its peer has closed too: else the limit would not hold.
                self.last_words(oldest, io);
                self.drop_tunnel(oldest, io);
                Ok(())
            }
            None => {
                let why = "the pod has too many inbound tunnels, all of them in use";
                Err(Loss::new(Reason::Overloaded, why))
            }
        }
    }

    /// A handshake of the pod ended: another may begin.
    pub(super) fn handshake_ended(&mut self, pod: Key, source: IpAddr) {
        let Some(state) = self.pods.get_mut(pod) else {
            return;
        };
        state.handshakes.end(source);
        let token = Token {
            kind: Kind::Inbound,
            key: pod,
        };
        if state.listeners[2].is_some() && !self.queues.accepts.contains(&token) {
            self.queues.accepts.push_back(token);
        }
    }
}

/// What an accept error means for the loop.
enum AcceptFault {
    Empty,
    ThisOne,
    Pressure,
}

fn accept_fault(fault: &std::io::Error) -> AcceptFault {
    use std::io::ErrorKind;
    match fault.kind() {
        ErrorKind::WouldBlock => AcceptFault::Empty,
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted => {
            AcceptFault::ThisOne
        }
        // EMFILE, ENFILE, ENOBUFS, ENOMEM and whatever else is not about one peer.
        _ => AcceptFault::Pressure,
    }
}
