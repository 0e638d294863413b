//! The worker: all its connections as plain state, and the one step that turns readiness into work. Driven by `shell`
//! over epoll and by the simulation over scripted sockets; it knows neither threads nor the clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use identity::Certificate;
use mesh::identity::Identity;
use mesh::state::Snapshot;
use rand::rngs::SmallRng;

use super::api::{Notice, Settings};
use super::buffers::Buffers;
use super::io::{Io, Kind, Ready, Token};
use super::judge::Judge;
use super::lease::{Lease, Workloads};
use super::link::Link;
use super::pods::PodState;
use super::share::{Neighbours, Parcel};
use super::slots::{Key, Slots};
use super::timers::Timers;
use super::tunnel::{Act, Phase, PoolKey, Pooled, Tunnel};
use super::verdicts::Verdicts;
use crate::route::Names;

/// Notices that may wait for control before this worker stops accepting.
pub(super) const MAX_NOTICES: usize = 65_536;
/// Handshake turns per step in which nobody else has anything to do; else it is one: each costs up to half a millisecond,
/// and bytes of others wait meanwhile.
const HANDSHAKES: usize = 4;

/// All state of one worker.
pub(super) struct Worker<I: Io> {
    pub(super) neighbours: Neighbours,
    pub(super) settings: Arc<Settings>,
    pub(super) now: Instant,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) names: Arc<Names>,
    pub(super) pods: Slots<PodState<I::Listener>>,
    pub(super) uids: HashMap<Arc<str>, Key>,
    /// The same pods by the uid of their workload.
    pub(super) workloads: Workloads,
    pub(super) tunnels: Slots<Tunnel<I::Socket>>,
    pub(super) links: Slots<Link<I::Socket>>,
    /// Client tunnels that may take new streams, or are being set up.
    pub(super) pool: HashMap<PoolKey, Pooled>,
    pub(super) leases: Slots<Lease<I::Socket>>,
    pub(super) lease_pool: HashMap<PoolKey, Key>,
    /// Pairs whose destination another process serves, until then.
    pub(super) not_ours: HashMap<PoolKey, Instant>,
    pub(super) certificates: HashMap<Identity, Arc<Certificate>>,
    pub(super) timers: Timers,
    pub(super) buffers: Buffers,
    /// Bytes that wait for applications, of all streams.
    pub(super) held: usize,
    pub(super) queues: Queues,
    pub(super) judge: Judge,
    pub(super) verdicts: Verdicts,
    pub(super) notices: Vec<Notice>,
    pub(super) rng: SmallRng,
    /// Set by a drain: when the rest is cut.
    pub(super) draining: Option<Instant>,
    /// Nothing is accepted before (out of descriptors).
    pub(super) accept_after: Option<Instant>,
}

/// Work that is due in this or the next step.
#[derive(Default)]
pub(super) struct Queues {
    /// Tunnels with something to read, open or send.
    pub(super) tunnels: VecDeque<Key>,
    /// Links between two sockets with something to move.
    pub(super) relays: VecDeque<Key>,
    /// Listeners that may have more to accept.
    pub(super) accepts: VecDeque<Token>,
    /// Links whose pooled tunnel died before it answered.
    pub(super) retries: Vec<Key>,
    /// Links that wait for a workload, a policy or a name: looked at on each new snapshot, and when names come.
    pub(super) snapshot: Vec<Key>,
    /// Tunnels that wait for a workload or a certificate.
    pub(super) certificate: Vec<Key>,
    /// Reused by each tunnel's turn.
    pub(super) acts: Vec<Act>,
    /// Links that ended or failed while a batch was filled.
    pub(super) settled: Vec<(Key, Option<std::io::Error>)>,
}

/// When the worker wants to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// At this time at the latest.
    pub(super) at: Option<Instant>,
    /// At once, after a look for new events: work was left so that events are not kept waiting.
    pub(super) busy: bool,
}

impl<I: Io> Worker<I> {
    pub(super) fn new(
        neighbours: Neighbours,
        settings: Arc<Settings>,
        snapshot: Arc<Snapshot>,
        rng: SmallRng,
        now: Instant,
    ) -> Self {
        Self {
            neighbours,
            settings,
            now,
            snapshot,
            names: Arc::default(),
            pods: Slots::default(),
            uids: HashMap::new(),
            workloads: HashMap::new(),
            tunnels: Slots::default(),
            links: Slots::default(),
            pool: HashMap::new(),
            leases: Slots::default(),
            lease_pool: HashMap::new(),
            not_ours: HashMap::new(),
            certificates: HashMap::new(),
            timers: Timers::default(),
            buffers: Buffers::new(),
            held: 0,
            queues: Queues::default(),
            judge: Judge::default(),
            verdicts: Verdicts::default(),
            notices: Vec::new(),
            rng,
            draining: None,
            accept_after: None,
        }
    }

    /// Adopts a new snapshot: those who wait for it are looked at, live connections are judged again in slices.
    pub(super) fn adopt(&mut self, snapshot: Arc<Snapshot>, now: Instant, io: &mut I) {
        self.now = now;
        self.snapshot = snapshot;
        self.judge.start(self.links.end());
        self.wake_snapshot_waiters(io);
        self.wake_certificate_waiters(io);
    }

    /// Takes what another worker has passed on.
    pub(super) fn take(&mut self, parcel: Parcel<I::Socket>, now: Instant, io: &mut I) {
        self.now = now;
        match parcel {
            Parcel::Captured(captured) => self.take_captured(*captured, io),
            Parcel::Offer(offer) => self.offered(offer, io),
        }
    }

    /// Takes readiness in, does a bounded amount of work, says when to come back.
    pub(super) fn step(&mut self, events: &[Ready], now: Instant, io: &mut I) -> Next {
        self.now = now;
        for event in events {
            self.dispatch(*event, io);
        }
        while let Some((token, at)) = self.timers.pop(now) {
            self.ring(token, at, io);
        }
        self.accept_some(io);
        self.judge_slice(io);
        self.retry_some(io);
        let mut moved = false;
        for _ in 0..self.queues.relays.len() {
            let Some(key) = self.queues.relays.pop_front() else {
                break;
            };
            self.run_relay(key, io);
            moved = true;
        }
        let shaking =
            |tunnel: &Tunnel<I::Socket>| tunnel.phase == Phase::Handshake && tunnel.readable;
        for _ in 0..self.queues.tunnels.len() {
            let Some(key) = self.queues.tunnels.pop_front() else {
                break;
            };
            if self.tunnels.get(key).is_some_and(shaking) {
                self.queues.tunnels.push_back(key);
            } else {
                self.run_tunnel(key, io);
                moved = true;
            }
        }
        // Public-key work comes last, and little of it while others want to copy: they are looked at again after it.
        let mut left = if moved { 1 } else { HANDSHAKES };
        for _ in 0..self.queues.tunnels.len() {
            let Some(key) = self.queues.tunnels.pop_front() else {
                break;
            };
            if left > 0 && self.tunnels.get(key).is_some_and(shaking) {
                left -= 1;
                self.run_tunnel(key, io);
            } else {
                self.queues.tunnels.push_back(key);
            }
        }
        self.drain_deadline(io);
        self.next()
    }

    fn next(&self) -> Next {
        let queues = &self.queues;
        let may_accept =
            !queues.accepts.is_empty() && self.accept_after.is_none() && self.may_accept();
        let busy = may_accept
            || !queues.tunnels.is_empty()
            || !queues.relays.is_empty()
            || !queues.retries.is_empty()
            || self.judge.is_active();
        let at = [self.timers.next(), self.draining, self.accept_after]
            .into_iter()
            .flatten()
            .min();
        Next { at, busy }
    }

    fn dispatch(&mut self, event: Ready, io: &mut I) {
        match event.token.kind {
            Kind::Outbound | Kind::InboundPlain | Kind::Inbound => {
                if !self.queues.accepts.contains(&event.token) {
                    self.queues.accepts.push_back(event.token);
                }
            }
            Kind::Tunnel => self.tunnel_event(event, io),
            Kind::Near => self.near_event(event, io),
            Kind::Far => self.far_event(event, io),
            Kind::Lease => self.lease_event(event, io),
        }
    }

    fn ring(&mut self, token: Token, at: Instant, io: &mut I) {
        let now = self.now;
        match token.kind {
            Kind::Tunnel => {
                let Some(tunnel) = self.tunnels.get_mut(token.key) else {
                    return;
                };
                if self.timers.rings(&mut tunnel.alarm, (token, at), now) {
                    self.tunnel_alarm(token.key, io);
                }
            }
            Kind::LINK => {
                let Some(link) = self.links.get_mut(token.key) else {
                    return;
                };
                if self.timers.rings(&mut link.alarm, (token, at), now) {
                    self.link_alarm(token.key, io);
                }
            }
            Kind::Lease if self.lease_rings(token, at) => self.lease_alarm(token.key, io),
            _ => {}
        }
    }

    /// Whether control keeps up with our notices.
    pub(super) fn may_accept(&self) -> bool {
        self.notices.len() < MAX_NOTICES
    }

    pub(super) fn queue_tunnel(&mut self, key: Key) {
        if let Some(tunnel) = self.tunnels.get_mut(key)
            && !tunnel.queued
        {
            tunnel.queued = true;
            self.queues.tunnels.push_back(key);
        }
    }

    /// Sets a link's deadline, `after` from now.
    pub(super) fn set_link_alarm(&mut self, key: Key, after: std::time::Duration) {
        let due = self.now + after;
        if let Some(link) = self.links.get_mut(key) {
            self.timers.set(
                &mut link.alarm,
                Token {
                    kind: Kind::LINK,
                    key,
                },
                due,
            );
        }
    }

    /// Sets a tunnel's deadline.
    pub(super) fn set_tunnel_alarm(&mut self, key: Key, due: Instant) {
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            self.timers.set(
                &mut tunnel.alarm,
                Token {
                    kind: Kind::Tunnel,
                    key,
                },
                due,
            );
        }
    }
}
