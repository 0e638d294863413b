//! Bytes between a link's own socket and its stream, both ways, with half-close, reset and flow control.

use std::io::{self, IoSlice};

use hbone::proto::{ErrorCode, StreamId};

use super::api::{Closed, Notice, Reason, Refused};
use super::io::{Io, Ready};
use super::link::{Far, Link, Phase};
use super::slots::Key;
use super::state::Worker;

impl<I: Io> Worker<I> {
    /// Readiness of a link's own socket.
    pub(super) fn near_event(&mut self, event: Ready, io: &mut I) {
        let key = event.token.key;
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Some(socket) = &link.near.socket else {
            return;
        };
        if link.phase == Phase::Dial && !link.captured {
            link.near.announced(event);
            if event.writable || event.error || event.ended {
                self.app_dialled(key, io);
            }
            return;
        }
        if event.error
            && let Some(fault) = io.take_error(socket)
        {
            return self.near_broken(key, &fault, io);
        }
        link.near.announced(event);
        if event.writable {
            self.near_writable(key, io);
        }
        self.queue_reading(key);
    }

    /// The near socket takes bytes again: pending ones leave, and the far side gets credit for them.
    pub(super) fn near_writable(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        link.near.blocked = false;
        if link.near.pending.is_empty() {
            return;
        }
        let (pod, before) = (link.pod, link.near.pending.len());
        let flushed = link.near.flush(io);
        // Some may have left before it failed.
        let after = link.near.pending.len();
        let taken = before - after;
        link.count_to_near(taken);
        if taken > 0 && matches!(link.far, Far::Finished) {
            // It reads: see `linger`.
            link.looks = 0;
        }
        let far = match link.far {
            Far::Stream { tunnel, stream } => Some((tunnel, stream)),
            _ => None,
        };
        self.hold(pod, before, after);
        if let Err(fault) = flushed {
            return self.near_broken(key, &fault, io);
        }
        match far {
            Some((tunnel, stream)) => self.consumed(tunnel, stream, taken),
            None => self.queue_other(key),
        }
        self.far_end_reached(key, io);
    }

    /// Bytes that arrived for a stream go to its socket, or wait for it (at most a stream window of them).
    pub(super) fn deliver(
        &mut self,
        tunnel: Key,
        to: Option<(StreamId, Key)>,
        slices: &[IoSlice<'_>],
        io: &mut I,
    ) {
        let Some((stream, key)) = to else { return };
        // A link that ended has reset its stream; what was on the way is dropped.
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let before = link.near.pending.len();
        let taken = match link.near.deliver(io, slices) {
            Ok(taken) => taken,
            Err(fault) => return self.near_broken(key, &fault, io),
        };
        link.count_to_near(taken);
        let (pod, after) = (link.pod, link.near.pending.len());
        self.consumed(tunnel, stream, taken);
        if after > before {
            self.hold(pod, before, after);
            self.relieve(pod, io);
        }
    }

    /// Bytes left for the application: credit for the peer, which goes out at the end of the tunnel's turn.
    fn consumed(&mut self, tunnel: Key, stream: StreamId, n: usize) {
        if n == 0 {
            return;
        }
        if let Some(h2) = self
            .tunnels
            .get_mut(tunnel)
            .and_then(|tunnel| tunnel.h2.as_mut())
        {
            h2.consumed(stream, n);
        }
        self.queue_tunnel(tunnel);
    }

    /// The far side of the stream sends no more.
    pub(super) fn far_end(&mut self, key: Key, io: &mut I) {
        if let Some(link) = self.links.get_mut(key) {
            link.far_ended = true;
        }
        self.far_end_reached(key, io);
    }

    /// Passes the far side's end on once all bytes before it are written.
    pub(super) fn far_end_reached(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if link.far_ended && link.phase == Phase::Copy && !matches!(link.far, Far::Plain(_)) {
            if link.near.eof && link.end_sent && link.near.pending.is_empty() {
                // Both ways are over: closing the socket, which follows, sends the FIN.
                link.near.fin_sent = true;
            }
            link.near.finish(io);
            if matches!(link.far, Far::Finished) && !link.near.eof {
                self.look_again(key);
            }
        }
        self.finish_link(key, io);
    }

    /// The far side reset the stream, or the codec did because the peer broke its rules.
    pub(super) fn far_reset(&mut self, key: Key, code: ErrorCode, io: &mut I) {
        self.leave_tunnel(key);
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if link.phase == Phase::Connect && code == ErrorCode::REFUSED_STREAM {
            // Nobody has seen it: as often as there are attempts. The tunnel knows its peer's limit by now.
            link.far = Far::None;
            link.alarm.clear();
            return self.queues.retries.push(key);
        }
        if link.far_ended && code.is_end_of_file() {
            // It has sent everything and wants nothing more from us: an end, not a failure.
            link.end_sent = true;
            link.far = Far::Finished;
            self.far_end_reached(key, io);
            return self.queue_reading(key);
        }
        let reason = match (link.phase, link.captured) {
            (Phase::Connect, _) => Reason::TunnelRefused,
            (_, true) => Reason::DestinationReset,
            (_, false) => Reason::SourceReset,
        };
        link.far = Far::Finished;
        self.end_link(
            key,
            reason,
            Some(format!("the stream was reset: {code}")),
            io,
        );
    }

    /// The near socket failed: the far side learns it as a reset.
    pub(super) fn near_failed(&mut self, key: Key, fault: &io::Error, io: &mut I) {
        let Some(link) = self.links.get(key) else {
            return;
        };
        let reason = if link.captured {
            Reason::SourceReset
        } else {
            Reason::DestinationReset
        };
        self.end_link(key, reason, Some(fault.to_string()), io);
    }

    /// Puts a link that has bytes for its stream into its tunnel's list.
    pub(super) fn queue_reading(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if link.phase != Phase::Copy || link.queued || !link.near.readable || link.near.eof {
            return;
        }
        match link.far {
            Far::Stream { tunnel, .. } => {
                if let Some(tunnel_state) = self.tunnels.get_mut(tunnel) {
                    link.queued = true;
                    tunnel_state.ready.push_back(key);
                    self.queue_tunnel(tunnel);
                }
            }
            Far::Plain(_) => self.queue_relay(key),
            Far::Local { .. } => self.queue_local(key),
            Far::Finished => self.queue_relay(key),
            Far::None | Far::Waiting(_) | Far::Leased(_) => {}
        }
    }

    /// Lets go of what has ended: the stream when both halves have, the link when its socket has too.
    pub(super) fn finish_link(&mut self, key: Key, io: &mut I) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if link.end_sent && link.far_ended && matches!(link.far, Far::Stream { .. }) {
            self.leave_tunnel(key);
        }
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if matches!(link.far, Far::Finished) && link.near.is_done() {
            self.end_link(key, Reason::Complete, None, io);
        }
    }

    /// Takes a link off its tunnel's list of members; its stream is finished.
    pub(super) fn leave_tunnel(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Far::Stream { tunnel, .. } = link.far else {
            return;
        };
        let member = link.member as usize;
        link.far = Far::Finished;
        // Its place among the tunnel's readers is void, see `fill`.
        link.queued = false;
        let Some(tunnel_state) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        if tunnel_state.members.get(member) == Some(&key) {
            tunnel_state.members.swap_remove(member);
            if let Some(moved) = tunnel_state
                .members
                .get(member)
                .and_then(|moved| self.links.get_mut(*moved))
            {
                moved.member = member as u32;
            }
        }
        if tunnel_state.members.is_empty() {
            tunnel_state.used = self.now;
            self.queue_tunnel(tunnel);
        }
    }

    /// Ends a link for good: sockets closed (in order only when complete), stream reset if it still lives, reported.
    pub(super) fn end_link(
        &mut self,
        key: Key,
        reason: Reason,
        detail: Option<String>,
        io: &mut I,
    ) {
        if self
            .links
            .get(key)
            .is_some_and(|link| link.facts.is_none() && link.route.is_some())
        {
            self.announce_outbound(key, None);
        }
        if let Some(Far::Stream { tunnel, stream }) = self.links.get(key).map(|link| &link.far) {
            let (tunnel, stream) = (*tunnel, *stream);
            self.leave_tunnel(key);
            if let Some(h2) = self
                .tunnels
                .get_mut(tunnel)
                .and_then(|tunnel| tunnel.h2.as_mut())
            {
                // Never CANCEL: upstream reads that as an orderly end, and a cut must not look like one.
                h2.reset(stream, ErrorCode::CONNECT_ERROR);
            }
            self.queue_tunnel(tunnel);
        }
        let Some(link) = self.links.remove(key) else {
            return;
        };
        let orderly = reason == Reason::Complete;
        self.hold(link.pod, link.pending(), 0);
        let Link { near, far, .. } = link;
        let (far, other) = self.detach(key, far, link.captured.then_some(link.member));
        for socket in [near.socket, far].into_iter().flatten() {
            io.close(socket, !orderly);
        }
        if let Some(pod) = self.pods.get_mut(link.pod) {
            pod.links = pod.links.saturating_sub(1);
        }
        let told = other.and(detail.clone());
        let detail = detail.map(String::into_boxed_str);
        self.notices.push(match link.facts {
            Some(connection) => {
                let duration = self.now.saturating_duration_since(link.opened);
                Notice::Closed(Closed {
                    connection,
                    duration,
                    reason,
                    detail,
                })
            }
            None => Notice::Refused(Refused {
                direction: link.direction,
                source: link.source,
                destination: link.destination,
                reason,
                detail,
            }),
        });
        if let Some(other) = other {
            self.end_other(other, (reason, told), io);
        }
    }

    /// Takes an ended link off what carried its other half. Gives the second socket and the joined link, if it had one;
    /// `member`: its place among those of a lease.
    fn detach(
        &mut self,
        key: Key,
        far: Far<I::Socket>,
        member: Option<u32>,
    ) -> (Option<I::Socket>, Option<Key>) {
        match far {
            Far::Plain(half) => return (half.socket, None),
            Far::Waiting(tunnel) => {
                if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
                    tunnel.waiting.retain(|one| *one != key);
                }
            }
            Far::Leased(lease) => {
                if let Some(lease) = self.leases.get_mut(lease) {
                    lease.waiting.retain(|one| *one != key);
                }
            }
            Far::Local { other, lease } => {
                if let Some(member) = member {
                    self.leave_lease(lease, member as usize);
                }
                return (None, other);
            }
            Far::None | Far::Stream { .. } | Far::Finished => {}
        }
        (None, None)
    }

    /// Adds a link and counts it for its pod.
    pub(super) fn insert_link(&mut self, link: Link<I::Socket>) -> Key {
        if let Some(pod) = self.pods.get_mut(link.pod) {
            pod.links += 1;
        }
        self.links.insert(link)
    }
}
