//! Outbound links: from accept on 15001 to a stream (or a plain dial) that answers. docs/paths.md, path a.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hbone::headers::{ConnectRequest, ConnectResponse, Forwarded, Traceparent};
use hbone::proto::OpenError;
use rand::RngExt;

use super::api::{Ask, Direction, Notice, Reason};
use super::facts::{baggage, plain_facts};
use super::io::{Io, Kind, Token};
use super::link::{Far, Half, Phase};
use super::slots::Key;
use super::state::Worker;
use crate::route::{self, Names, Outbound, Plain, Route};

/// How often a call may go to another tunnel: a dead one, then a full one, then it is over.
const ATTEMPTS: u8 = 3;

/// An unused tunnel that was silent for longer is asked whether it lives when it is used again,
const SILENT: Duration = Duration::from_secs(10);
/// and has so long to answer.
const REUSE_PONG: Duration = Duration::from_secs(5);

impl<I: Io> Worker<I> {
    /// A pod's connection was captured. `ends`: source and original destination.
    pub(super) fn accept_outbound(
        &mut self,
        pod: Key,
        socket: I::Socket,
        ends: (SocketAddr, SocketAddr),
        io: &mut I,
    ) {
        let (source, destination) = ends;
        let decided = self.decide(pod, destination);
        if let Route::Tunnel(route) = &decided
            && let Some(owner) = self.other_owner(pod, route)
        {
            return self.hand_over((pod, owner), (socket, self.now), ends, decided, io);
        }
        self.keep(pod, (socket, self.now), (source, destination), decided, io);
    }

    /// Watches a link's own socket. False: that failed and the link is gone.
    pub(super) fn register_near(&mut self, key: Key, io: &mut I) -> bool {
        let Some(socket) = self
            .links
            .get(key)
            .and_then(|link| link.near.socket.as_ref())
        else {
            return false;
        };
        if let Err(fault) = io.register(
            socket,
            Token {
                kind: Kind::Near,
                key,
            },
        ) {
            self.end_link(key, Reason::Overloaded, Some(format!("epoll: {fault}")), io);
            return false;
        }
        true
    }

    pub(super) fn decide(&mut self, pod: Key, destination: SocketAddr) -> Route {
        let own = self.own_workload(pod);
        let request = Outbound {
            source: own.as_deref(),
            destination,
            network: &self.settings.network,
            ports: self.settings.ports,
            names: (&self.names, self.now),
        };
        route::outbound(&self.snapshot, &request, &mut self.rng)
    }

    /// Decides where a link that had to wait goes, and starts.
    fn route_link(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let decided = self.decide(link.pod, link.destination);
        self.follow(key, decided, io);
    }

    /// Starts on a decided way.
    pub(super) fn follow(&mut self, key: Key, decided: Route, io: &mut I) {
        match decided {
            Route::Passthrough(plain) => self.dial_plain(key, plain, io),
            Route::Tunnel(tunnel) => {
                if let Some(link) = self.links.get_mut(key) {
                    link.alarm.clear();
                    link.route = Some(Box::new(tunnel));
                }
                self.attach(key, io);
            }
            Route::WaitForWorkload => {
                let source = self.links.get(key).map(|link| link.source.ip());
                if let Some(source) = source {
                    self.await_workload(key, source);
                }
            }
            Route::WaitForName(host) => self.await_name(key, host),
            Route::Reject { reason, detail } => self.end_link(key, reason, Some(detail), io),
        }
    }

    /// The pod's own workload is not here: ask for it once, look again with each snapshot.
    pub(super) fn await_workload(&mut self, key: Key, address: IpAddr) {
        self.await_snapshot(key);
        let now = self.now;
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if link.missing_since.replace(now).is_none() {
            let network = self.settings.network.clone();
            self.notices
                .push(Notice::Ask(Ask::Workload { network, address }));
        }
    }

    /// An endpoint's host name is to be resolved: ask for it, look again when names come.
    fn await_name(&mut self, key: Key, host: Arc<str>) {
        self.await_snapshot(key);
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let begin = link.phase != Phase::Name;
        link.phase = Phase::Name;
        if begin {
            self.set_link_alarm(key, self.settings.deadlines.name);
        }
        self.notices.push(Notice::Ask(Ask::Name { host }));
    }

    /// Names were resolved: links that wait for one are looked at again.
    pub(super) fn adopt_names(&mut self, names: Arc<Names>, now: Instant, io: &mut I) {
        self.now = now;
        self.names = names;
        self.wake_snapshot_waiters(io);
    }

    /// Puts a link among those that each new snapshot looks at.
    pub(super) fn await_snapshot(&mut self, key: Key) {
        self.queues.snapshot.push(key);
        let len = self.queues.snapshot.len();
        // While no snapshot comes, those that gave up must not pile up.
        if len >= 1024 && len.is_power_of_two() {
            let links = &self.links;
            self.queues.snapshot.retain(|key| links.get(*key).is_some());
        }
    }

    /// A new snapshot: links that waited for a workload or a policy are looked at again.
    pub(super) fn wake_snapshot_waiters(&mut self, io: &mut I) {
        for key in std::mem::take(&mut self.queues.snapshot) {
            match self.links.get(key).map(|link| (link.phase, link.direction)) {
                Some((Phase::Workload | Phase::Name, Direction::Outbound)) => {
                    self.route_link(key, io)
                }
                Some((Phase::Workload | Phase::Policy, Direction::Inbound)) => self.admit(key, io),
                _ => {}
            }
        }
    }

    /// Links whose tunnel died under their unanswered CONNECT go to a fresh one.
    pub(super) fn retry_some(&mut self, io: &mut I) {
        for key in std::mem::take(&mut self.queues.retries) {
            let Some(link) = self.links.get_mut(key) else {
                continue;
            };
            if link.attempts >= ATTEMPTS {
                let detail = "no tunnel to the next hop takes the stream".to_owned();
                self.end_link(key, Reason::TunnelRefused, Some(detail), io);
                continue;
            }
            link.attempts += 1;
            self.attach(key, io);
        }
    }

    /// Sends CONNECT for a link.
    pub(super) fn open_stream(&mut self, key: Key, on: Key) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let Some(route) = &link.route else { return };
        let mut request = ConnectRequest::new(route.authority.clone());
        let host = route
            .service
            .as_ref()
            .map(|service| Box::from(&*service.key.hostname));
        request.forwarded = Some(Forwarded {
            source: Some(link.source),
            host,
        });
        request.baggage = self.own_workload(link.pod).map(|own| baggage(&own));
        request.traceparent = Some(Traceparent::from_random(
            self.rng.random(),
            self.rng.random(),
        ));
        let Some(tunnel) = self.tunnels.get_mut(on) else {
            return;
        };
        let Some(h2) = &mut tunnel.h2 else { return };
        let stream = match h2.open(&request) {
            Ok(stream) => stream,
            Err(fault) => return self.not_opened(key, on, fault),
        };
        h2.set_key(stream, key.to_bits());
        let member = tunnel.members.len() as u32;
        tunnel.members.push(key);
        // A tunnel from the pool may have lost its peer without a word (a node that died, an address used again). Ask it
        // along with the request, so that the call can go to a fresh one in time.
        let silence = self.now.saturating_duration_since(tunnel.heard);
        if member == 0 && silence > SILENT && h2.ping() {
            tunnel.pinged = true;
            self.set_tunnel_alarm(on, self.now + REUSE_PONG);
        }
        if let Some(link) = self.links.get_mut(key) {
            link.member = member;
            link.phase = Phase::Connect;
            link.far = Far::Stream { tunnel: on, stream };
        }
        if self.links.get(key).is_some_and(|link| link.facts.is_none()) {
            self.announce_outbound(key, request.traceparent);
        }
        self.set_link_alarm(key, self.settings.deadlines.connect);
        self.queue_tunnel(on);
    }

    /// The tunnel was full or going away: look again, there or on a fresh one; a second time is the end.
    fn not_opened(&mut self, key: Key, on: Key, fault: OpenError) {
        if fault != OpenError::StreamLimit {
            self.peer_goes_away(on);
        }
        if let Some(link) = self.links.get_mut(key) {
            link.far = Far::None;
            self.queues.retries.push(key);
        }
    }

    /// The far proxy answered our CONNECT.
    pub(super) fn outbound_response(&mut self, key: Key, head: &ConnectResponse, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if link.phase != Phase::Connect {
            return;
        }
        if !head.is_ok() {
            let detail = match head.status {
                401 => "the destination's policy denied it (status 401)".to_owned(),
                status => format!("the far proxy answered CONNECT with status {status}"),
            };
            return self.end_link(key, Reason::TunnelRefused, Some(detail), io);
        }
        link.phase = Phase::Copy;
        link.alarm.clear();
        link.route = None;
        self.queue_reading(key);
    }

    /// Plain TCP to where the route says.
    fn dial_plain(&mut self, key: Key, plain: Plain, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let (pod, source, opened) = (link.pod, link.source, link.opened);
        let Plain {
            destination,
            workload,
            service,
        } = plain;
        let own = self.own_workload(pod);
        let facts = plain_facts(source, destination, opened, (own, workload, service));
        self.announce(key, facts);
        self.dial_far(key, destination, None, io);
    }

    /// Starts the dial of a link's second socket.
    pub(super) fn dial_far(&mut self, key: Key, to: SocketAddr, from: Option<IpAddr>, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let pod = link.pod;
        let dialled = self.dial(pod, to, from, io).and_then(|socket| {
            io.register(
                &socket,
                Token {
                    kind: Kind::Far,
                    key,
                },
            )?;
            Ok(socket)
        });
        match dialled {
            Err(fault) => self.end_link(
                key,
                Reason::DialFailed,
                Some(format!("dial {to}: {fault}")),
                io,
            ),
            Ok(socket) => {
                let Some(link) = self.links.get_mut(key) else {
                    return;
                };
                let mut half = Half::new(Some(socket));
                half.blocked = true;
                link.far = Far::Plain(Box::new(half));
                link.phase = Phase::Dial;
                self.set_link_alarm(key, self.settings.deadlines.dial);
            }
        }
    }

    /// A link's deadline has come.
    pub(super) fn link_alarm(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let (reason, detail) = match link.phase {
            Phase::Workload => (
                Reason::UnknownWorkload,
                "the pod's own workload did not arrive in time".to_owned(),
            ),
            Phase::Name => (
                Reason::NoEndpoint,
                "the endpoint's host name was not resolved in time".to_owned(),
            ),
            Phase::Connect => (
                Reason::TunnelRefused,
                "the far proxy did not answer CONNECT in time".to_owned(),
            ),
            Phase::Dial if !link.captured => return self.app_dial_timeout(key, io),
            Phase::Dial => (
                Reason::DialTimeout,
                format!("dial {}: timed out", link.destination),
            ),
            Phase::Policy => return self.policy_timeout(key, io),
            Phase::Copy => {
                self.judge_link(key, io);
                return self.ending_alarm(key, io);
            }
            Phase::Tunnel => return,
        };
        self.end_link(key, reason, Some(detail), io);
    }
}
