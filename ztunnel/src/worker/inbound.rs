//! Inbound links: from a CONNECT on 15008 or a captured plaintext connection on 15006 to the application, past the
//! policy. docs/paths.md, path b.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{ErrorCode, StreamId};
use mesh::authz::Decision;

use super::api::{Ask, Direction, Notice, Reason, Refused};
use super::facts::{authz_facts, baggage};
use super::io::{Io, Kind, Token};
use super::link::{Far, Half, Link, Phase};
use super::slots::Key;
use super::state::Worker;
use crate::route::{self, Inbound, Refusal};

impl<I: Io> Worker<I> {
    /// A CONNECT arrived on a server tunnel.
    pub(super) fn inbound_request(
        &mut self,
        on: Key,
        stream: StreamId,
        head: ConnectRequest,
        io: &mut I,
    ) {
        let Some(tunnel) = self.tunnels.get(on) else {
            return;
        };
        if tunnel.h2.as_ref().is_none_or(|h2| h2.key(stream).is_none()) {
            // Reset again within the same input: nobody waits for an answer.
            return;
        }
        if tunnel.is_expired(io.wall_clock()) {
            // Whoever it is may prove that anew. One that obeys GOAWAY was told before.
            self.drain_tunnel(on);
            return self.turn_away(on, stream);
        }
        if !self.may_accept() {
            // Nothing was done for it, and no notice is made either: control is behind with those that there are.
            return self.turn_away(on, stream);
        }
        let (pod, local, remote) = (tunnel.pod, tunnel.local, tunnel.remote);
        let own = self.own_workload(pod);
        let request = Inbound {
            workload: own.as_deref(),
            local,
            authority: &head.authority,
            ports: self.settings.ports,
        };
        let arrival = route::inbound(&self.snapshot, &request)
            .and_then(|arrival| self.within_limit(pod, io).map(|()| arrival));
        let arrival = match arrival {
            Ok(arrival) => arrival,
            Err(refusal) => return self.refuse_request(on, stream, (remote, local), refusal),
        };
        let mut link = Link::new(
            pod,
            Direction::Inbound,
            Half::new(None),
            Far::None,
            self.now,
        );
        link.captured = false;
        // The client as its proxy tells it; where it is called from decides nothing, its identity does.
        (link.source, link.destination) = (remote, arrival.destination);
        link.phase = Phase::Policy;
        let key = self.insert_link(link);
        self.join_tunnel(key, on, stream);
        let facts = self.stream_facts(on, head, (own, arrival.service), arrival.destination);
        self.announce(key, facts);
        // Registered first, then judged: a policy change finds it from here on.
        self.admit(key, io);
    }

    fn join_tunnel(&mut self, key: Key, on: Key, stream: StreamId) {
        let Some(tunnel) = self.tunnels.get_mut(on) else {
            return;
        };
        if let Some(h2) = &mut tunnel.h2 {
            h2.set_key(stream, key.to_bits());
        }
        let member = tunnel.members.len() as u32;
        tunnel.members.push(key);
        if let Some(link) = self.links.get_mut(key) {
            link.member = member;
            link.far = Far::Stream { tunnel: on, stream };
        }
    }

    fn turn_away(&mut self, on: Key, stream: StreamId) {
        let tunnel = self.tunnels.get_mut(on);
        if let Some(h2) = tunnel.and_then(|tunnel| tunnel.h2.as_mut()) {
            h2.reset(stream, ErrorCode::REFUSED_STREAM);
        }
        self.queue_tunnel(on);
    }

    fn refuse_request(
        &mut self,
        on: Key,
        stream: StreamId,
        ends: (SocketAddr, SocketAddr),
        refusal: Refusal,
    ) {
        if let Some(h2) = self
            .tunnels
            .get_mut(on)
            .and_then(|tunnel| tunnel.h2.as_mut())
        {
            h2.respond(stream, &ConnectResponse::status(refusal.status), true);
        }
        self.queue_tunnel(on);
        self.notices.push(Notice::Refused(Refused {
            direction: Direction::Inbound,
            source: ends.0,
            destination: ends.1,
            reason: refusal.reason,
            detail: Some(refusal.detail.into()),
        }));
    }

    /// A plaintext connection was captured on its way in.
    pub(super) fn accept_plain(
        &mut self,
        pod: Key,
        socket: I::Socket,
        ends: (SocketAddr, SocketAddr),
        io: &mut I,
    ) {
        let mut link = Link::new(
            pod,
            Direction::Inbound,
            Half::new(Some(socket)),
            Far::None,
            self.now,
        );
        (link.source, link.destination) = ends;
        let key = self.insert_link(link);
        if self.settings.ports.contains(ends.1.port()) {
            let detail = format!("{} is a port of ztunnel itself", ends.1);
            return self.end_link(key, Reason::SelfCall, Some(detail), io);
        }
        if self.register_near(key, io) {
            self.set_link_alarm(key, self.settings.deadlines.workload);
            self.admit(key, io);
        }
    }

    /// Asks the policy for a link that is not connected yet; goes on, waits, or refuses.
    pub(super) fn admit(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let (pod, destination) = (link.pod, link.destination);
        let Some(own) = self.own_workload(pod) else {
            if link_waits_for_workload(self.links.get(key)) {
                self.await_workload(key, destination.ip());
            } else {
                let detail = "the pod's own workload is not known any more".to_owned();
                self.refuse(key, (503, Reason::UnknownWorkload, detail), io);
            }
            return;
        };
        if let Some(link) = self.links.get_mut(key)
            && link.phase == Phase::Workload
        {
            link.phase = Phase::Policy;
            link.missing_since = None;
        }
        if self.links.get(key).is_some_and(|link| link.facts.is_none()) {
            self.announce_plain(key, own.clone());
        }
        let Some(facts) = self.links.get(key).and_then(authz_facts) else {
            return;
        };
        match self.verdicts.authorize(&self.snapshot, &own, &facts) {
            Decision::Allow { .. } => self.dial_app(key, io),
            Decision::Missing { name } => {
                if self
                    .links
                    .get(key)
                    .is_some_and(|link| link.missing_since.is_none())
                {
                    self.await_policy(key, name.to_string().into());
                }
                self.await_snapshot(key);
            }
            denied @ Decision::Deny { .. } => {
                self.refuse(key, (401, Reason::PolicyDenied, denied.explain(&facts)), io);
            }
        }
    }

    fn await_policy(&mut self, key: Key, name: Arc<str>) {
        if let Some(link) = self.links.get_mut(key) {
            link.phase = Phase::Policy;
            link.missing_since = Some(self.now);
        }
        self.set_link_alarm(key, self.settings.deadlines.policy);
        self.notices.push(Notice::Ask(Ask::Policy { name }));
    }

    /// The policy did not arrive in time: denied, naming it.
    pub(super) fn policy_timeout(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let Some(facts) = authz_facts(link) else {
            return;
        };
        let pod = link.pod;
        let Some(own) = self.own_workload(pod) else {
            return self.refuse(
                key,
                (
                    503,
                    Reason::UnknownWorkload,
                    "the pod's workload is gone".to_owned(),
                ),
                io,
            );
        };
        let decision = self.verdicts.authorize(&self.snapshot, &own, &facts);
        if decision.is_allowed() {
            return self.dial_app(key, io);
        }
        self.refuse(
            key,
            (401, Reason::PolicyDenied, decision.explain(&facts)),
            io,
        );
    }

    /// Refuses a link that was not connected: by status on a stream, by reset on a socket.
    fn refuse(&mut self, key: Key, (status, reason, detail): (u16, Reason, String), io: &mut I) {
        self.answer(key, &ConnectResponse::status(status), io);
        self.end_link(key, reason, Some(detail), io);
    }

    /// Answers a link's CONNECT, if it has one. A refused stream is finished with that.
    fn answer(&mut self, key: Key, response: &ConnectResponse, io: &mut I) {
        let (tunnel, stream) = match self.links.get(key).map(|link| &link.far) {
            Some(Far::Stream { tunnel, stream }) => (*tunnel, *stream),
            Some(Far::Local { .. }) => return self.answer_local(key, response, io),
            _ => return,
        };
        let end = !response.is_ok();
        if let Some(h2) = self
            .tunnels
            .get_mut(tunnel)
            .and_then(|tunnel| tunnel.h2.as_mut())
        {
            h2.respond(stream, response, end);
        }
        if end {
            self.leave_tunnel(key);
        }
        self.queue_tunnel(tunnel);
    }

    /// The policy allows it: dial the application, as the client if that is possible.
    fn dial_app(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        link.missing_since = None;
        link.phase = Phase::Dial;
        let (pod, captured) = (link.pod, link.captured);
        let (source, destination) = (link.source.ip(), link.destination);
        // Nothing is written to the application before its dial is done.
        link.near.blocked = !captured;
        let from = self.source_for(source, destination.ip());
        if captured {
            return self.dial_far(key, destination, from, io);
        }
        match self.dial(pod, destination, from, io) {
            Err(fault) => self.app_failed(key, &fault, io),
            Ok(socket) => {
                if let Err(fault) = io.register(
                    &socket,
                    Token {
                        kind: Kind::Near,
                        key,
                    },
                ) {
                    return self.app_failed(key, &fault, io);
                }
                if let Some(link) = self.links.get_mut(key) {
                    link.near.socket = Some(socket);
                }
                self.set_link_alarm(key, self.settings.deadlines.dial);
            }
        }
    }

    /// The address to dial the application from: the client's, unless it is the application's own or of another family.
    fn source_for(&self, source: IpAddr, destination: IpAddr) -> Option<IpAddr> {
        let wanted = self.settings.original_source != Some(false);
        (wanted && source != destination && source.is_ipv4() == destination.is_ipv4())
            .then_some(source)
    }

    /// The application's socket became ready while it was dialled.
    pub(super) fn app_dialled(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Some(socket) = &link.near.socket else {
            return;
        };
        if let Some(fault) = io.take_error(socket) {
            return self.app_failed(key, &fault, io);
        }
        link.phase = Phase::Copy;
        link.alarm.clear();
        let mut response = ConnectResponse::ok();
        if self.settings.response_baggage {
            let own = link
                .facts
                .as_ref()
                .and_then(|facts| facts.destination_workload.as_ref());
            response.baggage = own.map(|own| baggage(own));
        }
        self.answer(key, &response, io);
        // Bytes that came early, and an end that came early.
        self.near_writable(key, io);
        self.far_end_reached(key, io);
        self.queue_reading(key);
        self.judge_again(key, io);
    }

    /// A policy vanished while the dial ran: its grace goes on.
    pub(super) fn judge_again(&mut self, key: Key, io: &mut I) {
        if self
            .links
            .get(key)
            .is_some_and(|link| link.missing_since.is_some())
        {
            self.judge_link(key, io);
        }
    }

    fn app_failed(&mut self, key: Key, fault: &std::io::Error, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let reason = match fault.kind() {
            std::io::ErrorKind::TimedOut => Reason::DialTimeout,
            _ => Reason::DialFailed,
        };
        let detail = format!("dial {}: {fault}", link.destination);
        self.refuse(key, (503, reason, detail), io);
    }

    /// The application did not answer the dial in time.
    pub(super) fn app_dial_timeout(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let detail = format!("dial {}: timed out", link.destination);
        self.refuse(key, (503, Reason::DialTimeout, detail), io);
    }
}

/// A captured connection waits for the pod's workload; a CONNECT was already checked against it.
fn link_waits_for_workload<S>(link: Option<&Link<S>>) -> bool {
    link.is_some_and(|link| link.phase == Phase::Workload)
}
