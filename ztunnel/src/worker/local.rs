//! Two links joined in memory: the caller's, and the one that a CONNECT would have made in the destination's pod. Both
//! go through the same steps as over a tunnel (`outbound`, `inbound`, `judge`); only the stream between them is missing.
//! Called by `lease`, `copy`, `inbound`, `state`.

use std::net::SocketAddr;

use hbone::headers::{ConnectResponse, Traceparent};
use rand::RngExt as _;

use super::api::{Bytes, Connection, Direction, Notice, Reason, Refused, Security};
use super::io::Io;
use super::link::{Far, Half, Link, Phase};
use super::relay::pour;
use super::slots::Key;
use super::state::Worker;
use crate::route::{self, Inbound, Refusal};

impl<I: Io> Worker<I> {
    /// Does for an outbound link what CONNECT does over a tunnel: asks the destination's pod for it.
    pub(super) fn join_lease(&mut self, key: Key, on: Key, io: &mut I) {
        let Some(trace) = self.enter_lease(key, on) else {
            return;
        };
        let (Some(lease), Some(link)) = (self.leases.get(on), self.links.get(key)) else {
            return;
        };
        let Some(route) = &link.route else { return };
        let (pod, remote, local) = (lease.destination, lease.remote, lease.pool.next_hop);
        if link
            .facts
            .as_ref()
            .is_none_or(|facts| facts.source_identity.is_none())
        {
            // Nobody's call: a policy would take it for one from outside of the mesh.
            let detail = Some("the pod's own workload is not known any more".to_owned());
            return self.end_link(key, Reason::UnknownWorkload, detail, io);
        }
        let (authority, called) = (route.authority.clone(), route.service.clone());
        let caller = link.facts.clone();
        let own = self.own_workload(pod);
        let request = Inbound {
            workload: own.as_deref(),
            local,
            authority: &authority,
            ports: self.settings.ports,
        };
        let arrival = route::inbound(&self.snapshot, &request)
            .and_then(|arrival| self.within_limit(pod, io).map(|()| arrival));
        let arrival = match arrival {
            Ok(arrival) => arrival,
            Err(refusal) => return self.refuse_local(key, (remote, local), refusal, io),
        };
        let facts = Connection {
            direction: Direction::Inbound,
            security: Security::SameNode,
            source: remote,
            source_identity: caller
                .as_ref()
                .and_then(|facts| facts.source_identity.clone()),
            source_workload: caller.and_then(|facts| facts.source_workload.clone()),
            source_baggage: None,
            destination: arrival.destination,
            hbone: Some(authority),
            destination_identity: own.as_ref().and_then(|own| own.identity.clone()),
            destination_workload: own,
            service: arrival.service.or(called),
            trace: Some(trace),
            opened: self.now,
            bytes: Bytes::default(),
        };
        self.meet(key, (pod, on), facts, io);
    }

    /// Makes an outbound link a member of the lease, as one with a CONNECT under way. Gives its trace parent.
    fn enter_lease(&mut self, key: Key, on: Key) -> Option<Traceparent> {
        let lease = self.leases.get_mut(on)?;
        let link = self.links.get_mut(key)?;
        link.member = lease.members.len() as u32;
        lease.members.push(key);
        link.phase = Phase::Connect;
        link.far = Far::Local {
            other: None,
            lease: on,
        };
        let unannounced = link.facts.is_none();
        let trace = Traceparent::from_random(self.rng.random(), self.rng.random());
        if unannounced {
            self.announce_outbound(key, Some(trace));
        }
        self.set_link_alarm(key, self.settings.deadlines.connect);
        Some(trace)
    }

    /// Makes the link in the destination's pod and joins the caller's to it.
    fn meet(&mut self, key: Key, (pod, lease): (Key, Key), facts: Connection, io: &mut I) {
        let far = Far::Local {
            other: Some(key),
            lease,
        };
        let mut link = Link::new(pod, Direction::Inbound, Half::new(None), far, self.now);
        link.captured = false;
        (link.source, link.destination) = (facts.source, facts.destination);
        link.phase = Phase::Policy;
        let inbound = self.insert_link(link);
        if let Some(link) = self.links.get_mut(key) {
            link.far = Far::Local {
                other: Some(inbound),
                lease,
            };
        }
        self.announce(inbound, facts);
        // Registered first, then judged: a policy change finds it from here on.
        self.admit(inbound, io);
    }

    /// The destination's pod does not take the call.
    fn refuse_local(
        &mut self,
        key: Key,
        ends: (SocketAddr, SocketAddr),
        refusal: Refusal,
        io: &mut I,
    ) {
        self.notices.push(Notice::Refused(Refused {
            direction: Direction::Inbound,
            source: ends.0,
            destination: ends.1,
            reason: refusal.reason,
            detail: Some(refusal.detail.into()),
        }));
        let answer = ConnectResponse::status(refusal.status);
        self.outbound_response(key, &answer, io);
    }

    /// The destination's link answers the caller's, as a response to CONNECT would.
    pub(super) fn answer_local(&mut self, key: Key, response: &ConnectResponse, io: &mut I) {
        let Some(Far::Local { other, .. }) = self.links.get(key).map(|link| &link.far) else {
            return;
        };
        let Some(caller) = *other else { return };
        if !response.is_ok() {
            // A refusal is told to each side by itself, not as the end of the other.
            self.part(caller);
            self.part(key);
        }
        self.outbound_response(caller, response, io);
    }

    /// Takes a link off its lease and from its other half.
    fn part(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if let Far::Local { lease, .. } = std::mem::replace(&mut link.far, Far::Finished)
            && link.captured
        {
            let member = link.member as usize;
            self.leave_lease(lease, member);
        }
    }

    /// One of two joined links has been removed: the other learns it as a reset, or as the common end.
    pub(super) fn end_other(
        &mut self,
        other: Key,
        (reason, detail): (Reason, Option<String>),
        io: &mut I,
    ) {
        let Some(link) = self.links.get(other) else {
            return;
        };
        let reset = |side: &str| Some(format!("the {side}'s side was reset"));
        let (reason, detail) = match (reason, link.captured) {
            (Reason::Complete | Reason::TunnelLost | Reason::Shutdown, _) => (reason, detail),
            (_, true) => (Reason::DestinationReset, reset("destination")),
            (_, false) => (Reason::SourceReset, reset("source")),
        };
        self.end_link(other, reason, detail, io);
    }

    /// Puts a link that is not on a stream into the list, by what carries its other half.
    pub(super) fn queue_other(&mut self, key: Key) {
        match self.links.get(key).map(|link| &link.far) {
            Some(Far::Plain(_)) => self.queue_relay(key),
            Some(Far::Local { .. }) => self.queue_local(key),
            _ => {}
        }
    }

    /// Puts a pair that may have something to move into the list.
    pub(super) fn queue_local(&mut self, key: Key) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let caller = match (&link.far, link.captured) {
            (_, true) => Some(key),
            (Far::Local { other, .. }, false) => *other,
            _ => None,
        };
        if let Some(caller) = caller {
            self.queue_relay(caller);
        }
    }

    /// One turn of a joined pair: both directions.
    pub(super) fn run_local(&mut self, key: Key, other: Key, io: &mut I) {
        let pods = [key, other].map(|link| self.links.get(link).map(|link| link.pod));
        let [Some(pod), Some(other_pod)] = pods else {
            return;
        };
        let limit = self.portion(pod).min(self.portion(other_pod));
        let Some((caller, called)) = self.links.get_two_mut(key, other) else {
            return;
        };
        if called.phase != Phase::Copy {
            return;
        }
        let before = (caller.near.pending.len(), called.near.pending.len());
        let buffer = &mut self.buffers.rx[..limit];
        let went = pour(&mut caller.near, &mut called.near, buffer, io);
        caller.count_from_near(went.read);
        called.count_to_near(went.written);
        let came = pour(&mut called.near, &mut caller.near, buffer, io);
        called.count_from_near(came.read);
        caller.count_to_near(came.written);
        let done = caller.near.is_done() && called.near.is_done();
        let (near, far) = (&caller.near, &called.near);
        let by_caller = near.lost(far).map(|kind| (key, kind));
        let lost = by_caller.or(far.lost(near).map(|kind| (other, kind)));
        let broken = [near.broken.map(|_| key), far.broken.map(|_| other)];
        let after = (caller.near.pending.len(), called.near.pending.len());
        self.hold(pod, before.0, after.0);
        self.hold(other_pod, before.1, after.1);
        if let Some((side, kind)) = lost {
            return self.near_failed(side, &kind.into(), io);
        }
        if done {
            return self.end_link(key, Reason::Complete, None, io);
        }
        if went.more || came.more {
            self.queue_relay(key);
        }
        for broken in broken.into_iter().flatten() {
            self.look_again(broken);
        }
        self.relieve(pod, io);
        self.relieve(other_pod, io);
    }
}
