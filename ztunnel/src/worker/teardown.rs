//! The end of a tunnel: its deadlines, silence, drain, the orderly goodbye and the loss.

use std::time::Duration;

use hbone::proto::ErrorCode;

use super::api::{Direction, Notice, Reason, Refused};
use super::io::Io;
use super::link;
use super::slots::Key;
use super::state::Worker;
use super::tunnel::{Loss, Phase, Role};

/// A tunnel that was silent for so long is asked whether it still lives.
const QUIET: Duration = Duration::from_secs(30);
/// As [`QUIET`], for one without streams: it costs nobody anything.
const UNUSED_QUIET: Duration = Duration::from_secs(300);
/// And has so long to answer.
const PONG: Duration = Duration::from_secs(20);
/// A tunnel is drained when one of its certificates ends within this time: longer than until it is looked at again.
const EXPIRY: Duration = Duration::from_secs(60);
/// An unused tunnel is released by the side that accepted it after so many times the time that the other side keeps it.
const SERVER_IDLE: u32 = 3;
/// Our last bytes may take so long, and then so long again while they move,
const CLOSING: Duration = Duration::from_secs(5);
/// but no longer than this after the last stream.
const LONGEST_CLOSING: Duration = Duration::from_secs(300);

impl<I: Io> Worker<I> {
    /// A tunnel's deadline has come.
    pub(super) fn tunnel_alarm(&mut self, key: Key, io: &mut I) {
        let Some(tunnel) = self.tunnels.get(key) else {
            return;
        };
        let (phase, remote) = (tunnel.phase, tunnel.remote);
        match phase {
            Phase::Certificate => {
                let why = "the pod's workload or certificate did not arrive in time";
                self.lose(key, Loss::new(Reason::NoCertificate, why), io);
            }
            Phase::Dial => {
                self.lose(
                    key,
                    Loss::new(Reason::DialTimeout, format!("dial {remote}: timed out")),
                    io,
                );
            }
            Phase::Handshake => {
                self.lose(
                    key,
                    Loss::new(
                        Reason::Tls,
                        format!("TLS handshake with {remote} timed out"),
                    ),
                    io,
                );
            }
            Phase::Open => self.quiet_tunnel(key, io),
            Phase::Closing => self.late_tunnel(key, io),
        }
    }

    /// Open and perhaps silent: release it when unused, ask it whether it lives when used.
    fn quiet_tunnel(&mut self, key: Key, io: &mut I) {
        let now = self.now;
        let soon = io.wall_clock() + EXPIRY;
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        if !tunnel.greeted {
            let why = "the peer sent no HTTP/2 SETTINGS in time";
            return self.lose(key, Loss::new(Reason::Http2, why), io);
        }
        if tunnel.is_expired(soon) {
            self.leave_pool(key);
            self.drain_tunnel(key);
        }
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        let unused = tunnel.members.is_empty();
        let release = tunnel.used + self.settings.tunnel_idle;
        if unused && tunnel.is_client() && release <= now {
            return self.close_tunnel(key, io);
        }
        let kept_up = tunnel.used + SERVER_IDLE * self.settings.tunnel_idle;
        if tunnel.is_unused_server() && kept_up <= now {
            return match tunnel.h2.as_ref().is_some_and(|h2| h2.is_open()) {
                true => self.drain_tunnel(key),
                false => self.close_tunnel(key, io),
            };
        }
        if tunnel.pinged {
            return self.lose(
                key,
                Loss::new(Reason::TunnelLost, "the peer does not answer"),
                io,
            );
        }
        let due = tunnel.heard + if unused { UNUSED_QUIET } else { QUIET };
        if now < due || (unused && tunnel.is_client()) {
            // A stream may come meanwhile: then it must be asked after `QUIET`.
            let due = match (unused, tunnel.is_client()) {
                (true, true) => release.min(now + QUIET),
                (true, false) => now + QUIET,
                (false, _) => due,
            };
            return self.set_tunnel_alarm(key, due);
        }
        tunnel.pinged = tunnel.h2.as_mut().is_some_and(|h2| h2.ping());
        self.set_tunnel_alarm(key, now + PONG);
        self.queue_tunnel(key);
    }

    /// No new streams; the rest may finish.
    pub(super) fn drain_tunnel(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        // A client's GOAWAY says nothing of what it may still ask of us.
        let told = tunnel.going_away && tunnel.is_client();
        if tunnel.phase == Phase::Open && !told {
            if let Some(h2) = &mut tunnel.h2 {
                h2.drain();
            }
            tunnel.going_away = tunnel.is_client();
            // One that never answers is looked at again, but not before it could.
            self.set_tunnel_alarm(key, self.now + PONG);
            self.queue_tunnel(key);
        }
        // One that is not open yet is drained by `established`.
    }

    /// An orderly end: our last words, then FIN. The socket stays until the peer has closed too: what comes for one that is
    /// closed, if only a WINDOW_UPDATE, makes the kernel drop all that it has not sent yet, and with it the last bytes of
    /// streams that have ended.
    pub(super) fn close_tunnel(&mut self, key: Key, io: &mut I) {
        self.leave_pool(key);
        self.last_words(key, io);
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        if tunnel.broken {
            return self.drop_tunnel(key, io);
        }
        tunnel.phase = Phase::Closing;
        self.set_tunnel_alarm(key, self.now + CLOSING);
        self.leave_taking(key, io);
    }

    /// One turn of a closing tunnel: what is left to say, FIN behind it, and an eye on the peer's end.
    pub(super) fn leave_taking(&mut self, key: Key, io: &mut I) {
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        let Ok(flushed) = tunnel.flush(io) else {
            return self.drop_tunnel(key, io);
        };
        if flushed {
            tunnel.finish(io);
        }
        tunnel.peer_closed |= tunnel.discard(io, &mut self.buffers.rx);
        if flushed && tunnel.peer_closed {
            // Nothing can come any more that would disturb what the kernel has left to send.
            return self.drop_tunnel(key, io);
        }
        if tunnel.readable && !tunnel.peer_closed {
            self.queue_tunnel(key);
        }
    }

    /// The peer of a closing tunnel has not closed in time. While it still takes what was sent, it may go on.
    fn late_tunnel(&mut self, key: Key, io: &mut I) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        let unsent = tunnel
            .socket
            .as_ref()
            .map_or(0, |socket| io.unacknowledged(socket));
        let unsent = unsent + tunnel.backlog.pending().len();
        let moves = unsent > 0 && unsent < tunnel.unsent;
        if !moves || now >= tunnel.used + LONGEST_CLOSING {
            return self.drop_tunnel(key, io);
        }
        tunnel.unsent = unsent;
        self.set_tunnel_alarm(key, now + CLOSING);
    }

    /// Says GOAWAY and close_notify as far as the socket takes them now.
    pub(super) fn last_words(&mut self, key: Key, io: &mut I) {
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        if tunnel.phase == Phase::Open
            && let (Some(tls), Some(h2)) = (&mut tunnel.tls, &mut tunnel.h2)
        {
            h2.goaway(ErrorCode::NO_ERROR);
            let sealed = tls.seal(h2.output(), &mut tunnel.backlog);
            h2.output().clear();
            // A session that cannot send any more has nothing to close either.
            let _ = sealed.and_then(|()| tls.close(&mut tunnel.backlog));
        }
        let _ = tunnel.flush(io);
    }

    /// The tunnel is of no use any more: its links fail, or try another one.
    pub(super) fn lose(&mut self, key: Key, loss: Loss, io: &mut I) {
        // An alert may wait to be sent, or the GOAWAY that says why; whether they arrive does not matter.
        self.last_words(key, io);
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        let was_open = tunnel.phase == Phase::Open && tunnel.greeted;
        let remote = tunnel.remote;
        let members = std::mem::take(&mut tunnel.members);
        let waiting = std::mem::take(&mut tunnel.waiting);
        let refused = (!tunnel.is_client() && !was_open).then_some(tunnel.local);
        tracing::debug!(%remote, reason = ?loss.reason, detail = %loss.detail, "tunnel lost");
        self.drop_tunnel(key, io);
        for link in members {
            let untried = |link: &&mut link::Link<I::Socket>| {
                link.phase == link::Phase::Connect && !link.retried
            };
            if let Some(link_state) = self.links.get_mut(link).filter(untried) {
                link_state.retried = true;
                link_state.far = link::Far::None;
                link_state.alarm.clear();
                self.queues.retries.push(link);
            } else {
                let reason = if was_open {
                    Reason::TunnelLost
                } else {
                    loss.reason
                };
                self.end_link(link, reason, Some(loss.detail.clone()), io);
            }
        }
        for link in waiting {
            self.end_link(link, loss.reason, Some(loss.detail.clone()), io);
        }
        if let Some(destination) = refused {
            let detail = Some(loss.detail.into());
            let (direction, reason) = (Direction::Inbound, loss.reason);
            self.notices.push(Notice::Refused(Refused {
                direction,
                source: remote,
                destination,
                reason,
                detail,
            }));
        }
    }

    /// Removes a tunnel and closes its socket. Links that are still on it keep a stale key, which is harmless.
    pub(super) fn drop_tunnel(&mut self, key: Key, io: &mut I) {
        self.leave_pool(key);
        let Some(mut tunnel) = self.tunnels.remove(key) else {
            return;
        };
        if let Some(socket) = tunnel.socket.take() {
            io.close(socket, false);
        }
        let (pod, source) = (tunnel.pod, tunnel.remote.ip());
        if tunnel.shakes_hands() {
            self.handshake_ended(pod, source);
        } else if !tunnel.is_client()
            && let Some(state) = self.pods.get_mut(pod)
        {
            state.tunnels.end(source);
        }
    }

    /// A socket leaves a server tunnel that turned out to be none; what is left of that goes.
    pub(super) fn take_socket(&mut self, key: Key, io: &mut I) -> Option<I::Socket> {
        let socket = self.tunnels.get_mut(key)?.socket.take()?;
        self.drop_tunnel(key, io);
        match io.release(&socket) {
            Ok(()) => Some(socket),
            Err(_) => {
                io.close(socket, true);
                None
            }
        }
    }

    /// New streams go elsewhere.
    pub(super) fn leave_pool(&mut self, key: Key) {
        let Some(Role::Client(pool)) = self.tunnels.get(key).map(|tunnel| &tunnel.role) else {
            return;
        };
        if let Some(pooled) = self.pool.get_mut(pool) {
            pooled.tunnels.retain(|one| *one != key);
            if pooled.tunnels.is_empty() {
                self.pool.remove(pool);
                shrink(&mut self.pool);
            }
        }
    }
}

/// A map that was large once gives its memory back.
fn shrink<K: Eq + std::hash::Hash, V>(map: &mut std::collections::HashMap<K, V>) {
    if map.capacity() > 256 && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}
