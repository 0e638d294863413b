//! A captured connection goes to the worker that owns its tunnel: once, after routing and before its first byte. Called
//! by `outbound` and `state`; who owns what is decided in `share`.

use std::net::SocketAddr;
use std::time::Instant;

use super::api::{Direction, Notice, Reason, Refused};
use super::io::Io;
use super::link::{Far, Half, Link};
use super::share::{self, Captured, Parcel};
use super::slots::Key;
use super::state::Worker;
use crate::route::{self, Route};

impl<I: Io> Worker<I> {
    /// Serves a captured connection itself.
    pub(super) fn keep(
        &mut self,
        pod: Key,
        (socket, opened): (I::Socket, Instant),
        ends: (SocketAddr, SocketAddr),
        decided: Route,
        io: &mut I,
    ) {
        let near = Half::new(Some(socket));
        let mut link = Link::new(pod, Direction::Outbound, near, Far::None, opened);
        (link.source, link.destination) = ends;
        let key = self.insert_link(link);
        if self.register_near(key, io) {
            self.set_link_alarm(key, self.settings.deadlines.workload);
            self.follow(key, decided, io);
        }
    }

    /// The worker that should have a connection on this route, if it is another one.
    pub(super) fn other_owner(&self, pod: Key, route: &route::Tunnel) -> Option<usize> {
        if self.draining.is_some() {
            // Others may have ended.
            return None;
        }
        let pair = share::pair(&self.pods.get(pod)?.pod.uid, route.next_hop);
        let owner = self.neighbours.owner(pair, self.now);
        (owner != self.neighbours.index).then_some(owner)
    }

    /// The tunnels to a next hop have more to send than it takes: all workers may have some.
    pub(super) fn mark_hot(&self, pod: Key, next_hop: SocketAddr) {
        if let Some(state) = self.pods.get(pod) {
            let pair = share::pair(&state.pod.uid, next_hop);
            self.neighbours.heat.mark(pair, self.now);
        }
    }

    /// Gives a captured connection to its owner, once, before its first byte; keeps it if that one takes nothing.
    pub(super) fn hand_over(
        &mut self,
        (pod, owner): (Key, usize),
        (socket, opened): (I::Socket, Instant),
        ends: (SocketAddr, SocketAddr),
        decided: Route,
        io: &mut I,
    ) {
        let (Some(state), Route::Tunnel(route)) = (self.pods.get(pod), decided) else {
            return io.close(socket, true);
        };
        let captured = Captured {
            pod: state.pod.uid.clone(),
            socket,
            source: ends.0,
            destination: ends.1,
            opened,
            route,
            from: Some(self.neighbours.index),
        };
        if let Err(Parcel::Captured(captured)) =
            io.pass(owner, Parcel::Captured(Box::new(captured)))
        {
            let Captured { socket, route, .. } = *captured;
            self.keep(pod, (socket, opened), ends, Route::Tunnel(route), io);
        }
    }

    /// A connection that another worker has accepted and that belongs here.
    pub(super) fn take_captured(&mut self, mut captured: Captured<I::Socket>, io: &mut I) {
        if !self.uids.contains_key(&captured.pod)
            && let Some(acceptor) = captured.from.take()
        {
            // Control tells the workers of a pod one after the other: its acceptor knows it.
            let parcel = Parcel::Captured(Box::new(captured));
            match io.pass(acceptor, parcel) {
                Err(Parcel::Captured(back)) => captured = *back,
                _ => return,
            }
        }
        let Captured {
            pod,
            socket,
            source,
            destination,
            opened,
            route,
            from: _,
        } = captured;
        let limit = self.settings.limits.connections;
        let refused = match self.uids.get(&pod).copied() {
            None => Err((Reason::PodRemoved, None)),
            Some(pod) if self.pods.get(pod).is_none_or(|pod| pod.links >= limit) => {
                Err((Reason::Overloaded, Some("the pod has too many connections")))
            }
            Some(pod) => Ok(pod),
        };
        match refused {
            Ok(pod) => {
                let ends = (source, destination);
                self.keep(pod, (socket, opened), ends, Route::Tunnel(route), io);
            }
            Err((reason, detail)) => {
                io.close(socket, true);
                self.notices.push(Notice::Refused(Refused {
                    direction: Direction::Outbound,
                    source,
                    destination,
                    reason,
                    detail: detail.map(Box::from),
                }));
            }
        }
    }

    /// The worker ends: what others have passed on is refused, not left to look like an orderly end.
    pub(super) fn refuse_parcel(&mut self, parcel: Parcel<I::Socket>, io: &mut I) {
        match parcel {
            Parcel::Offer(offer) => io.close(offer.socket, true),
            Parcel::Captured(captured) => {
                io.close(captured.socket, true);
                self.notices.push(Notice::Refused(Refused {
                    direction: Direction::Outbound,
                    source: captured.source,
                    destination: captured.destination,
                    reason: Reason::Shutdown,
                    detail: None,
                }));
            }
        }
    }
}
