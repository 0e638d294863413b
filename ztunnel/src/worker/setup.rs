//! From nothing to an open tunnel, both roles: certificate, dial, handshake, identity check.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hbone::proto::{Config, Connection};
use identity::{Certificate, peer};
use rustls::pki_types::ServerName;
use sys::socket::unmapped;

use super::api::{Ask, Notice, Reason};
use super::io::{Io, Kind, Ready, Token};
use super::link;
use super::slots::Key;
use super::state::Worker;
use super::tls::Tls;
use super::tunnel::{Loss, Phase, PoolKey, Role, Tunnel};

impl<I: Io> Worker<I> {
    /// A peer dialled the pod's HBONE port.
    pub(super) fn accept_tunnel(
        &mut self,
        pod: Key,
        socket: I::Socket,
        source: SocketAddr,
        io: &mut I,
    ) {
        let Ok(local) = io.local_address(&socket).map(unmapped) else {
            return io.close(socket, true);
        };
        let mut tunnel = Tunnel::new(pod, Role::Server, local, source, self.now);
        tunnel.socket = Some(socket);
        let key = self.tunnels.insert(tunnel);
        if let Some(state) = self.pods.get_mut(pod) {
            state.handshakes.begin(source.ip());
        }
        self.set_tunnel_alarm(key, self.now + self.settings.deadlines.handshake);
        self.register_tunnel(key, io);
        self.try_certificate(key, io);
    }

    /// Begins a tunnel that this link waits for, if any, and others may.
    pub(super) fn dial_tunnel(&mut self, pool: PoolKey, link: Option<Key>, io: &mut I) {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut tunnel = Tunnel::new(
            pool.pod,
            Role::Client(pool.clone()),
            nowhere,
            pool.next_hop,
            self.now,
        );
        // Before the dial: one that fails at once tells those who wait why.
        tunnel.waiting.extend(link);
        let key = self.tunnels.insert(tunnel);
        if let Some(link) = link.and_then(|link| self.links.get_mut(link)) {
            link.phase = link::Phase::Tunnel;
            link.far = link::Far::Waiting(key);
        }
        self.pool.entry(pool).or_default().tunnels.push(key);
        self.set_tunnel_alarm(key, self.now + self.settings.deadlines.certificate);
        self.try_certificate(key, io);
    }

    /// Goes on if the pod's workload and certificate are here, else waits for them.
    fn try_certificate(&mut self, key: Key, io: &mut I) {
        let Some(tunnel) = self.tunnels.get(key) else {
            return;
        };
        let (pod, local, is_client) = (tunnel.pod, tunnel.local.ip(), tunnel.is_client());
        let own = self.own_workload(pod);
        let identity = own.as_ref().and_then(|workload| workload.identity.clone());
        let certificate = identity
            .as_ref()
            .and_then(|identity| self.certificates.get(identity))
            .cloned();
        if let Some(certificate) = certificate {
            let begun = if is_client {
                self.begin_dial(key, io)
            } else {
                self.begin_server(key, &certificate)
            };
            if let Err(loss) = begun {
                self.lose(key, loss, io);
            }
            return;
        }
        self.await_certificate(key);
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        if tunnel.asked && tunnel.own == identity {
            return;
        }
        tunnel.asked = true;
        tunnel.own.clone_from(&identity);
        self.notices.push(Notice::Ask(match identity {
            Some(identity) => Ask::Certificate { identity },
            None => Ask::Workload {
                network: self.settings.network.clone(),
                address: local,
            },
        }));
    }

    fn await_certificate(&mut self, key: Key) {
        self.queues.certificate.push(key);
        let len = self.queues.certificate.len();
        // While none comes, those that gave up must not pile up.
        if len >= 1024 && len.is_power_of_two() {
            let tunnels = &self.tunnels;
            let waits = |key: &Key| tunnels.get(*key).is_some();
            self.queues.certificate.retain(waits);
        }
    }

    /// A snapshot or a certificate arrived.
    pub(super) fn wake_certificate_waiters(&mut self, io: &mut I) {
        for key in std::mem::take(&mut self.queues.certificate) {
            self.try_certificate(key, io);
        }
    }

    fn begin_server(&mut self, key: Key, certificate: &Arc<Certificate>) -> Result<(), Loss> {
        let tls = Tls::server(certificate.server_config())
            .map_err(|fault| Loss::new(Reason::Tls, fault.to_string()))?;
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.own = Some(certificate.identity().clone());
            tunnel.expires = Some(certificate.not_after());
            tunnel.tls = Some(Box::new(tls));
            tunnel.phase = Phase::Handshake;
        }
        self.queue_tunnel(key);
        Ok(())
    }

    fn begin_dial(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return Ok(());
        };
        let (pod, next_hop) = (tunnel.pod, tunnel.remote);
        tunnel.phase = Phase::Dial;
        tunnel.blocked = true;
        let socket = self
            .dial(pod, next_hop, None, io)
            .map_err(|fault| dial_failed(next_hop, &fault))?;
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.socket = Some(socket);
        }
        self.set_tunnel_alarm(key, self.now + self.settings.deadlines.dial);
        self.register_tunnel(key, io);
        Ok(())
    }

    /// Dials from inside the pod's namespace.
    pub(super) fn dial(
        &mut self,
        pod: Key,
        to: SocketAddr,
        source: Option<IpAddr>,
        io: &mut I,
    ) -> std::io::Result<I::Socket> {
        let Some(state) = self.pods.get(pod) else {
            return Err(std::io::Error::new(
                std::io::ErrorKind::NotFound,
                "the pod is gone",
            ));
        };
        io.dial(&state.pod, to, source)
    }

    fn register_tunnel(&mut self, key: Key, io: &mut I) {
        let socket = self
            .tunnels
            .get(key)
            .and_then(|tunnel| tunnel.socket.as_ref());
        let registered = socket.map(|socket| {
            io.register(
                socket,
                Token {
                    kind: Kind::Tunnel,
                    key,
                },
            )
        });
        if let Some(Err(fault)) = registered {
            self.lose(
                key,
                Loss::new(Reason::TunnelLost, format!("epoll: {fault}")),
                io,
            );
        }
    }

    /// Readiness of a tunnel's socket.
    pub(super) fn tunnel_event(&mut self, event: Ready, io: &mut I) {
        let key = event.token.key;
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        tunnel.readable |= event.readable || event.ended;
        tunnel.ended |= event.ended;
        tunnel.blocked &= !event.writable;
        if event.error && tunnel.phase == Phase::Open {
            tunnel.failed();
            return self.queue_tunnel(key);
        }
        if event.error && tunnel.phase == Phase::Closing {
            return self.drop_tunnel(key, io);
        }
        let Some(socket) = &tunnel.socket else { return };
        let fault = if event.error {
            io.take_error(socket)
        } else {
            None
        };
        if tunnel.phase == Phase::Dial && (event.writable || event.error || event.ended) {
            // An event without an error and without a connection does not exist; SO_ERROR has the last word.
            let next_hop = tunnel.remote;
            return match fault.or_else(|| io.take_error(socket)) {
                Some(fault) => self.lose(key, dial_failed(next_hop, &fault), io),
                None => {
                    if let Err(loss) = self.begin_client(key, io) {
                        self.lose(key, loss, io);
                    }
                }
            };
        }
        if let Some(fault) = fault {
            return self.lose(key, Loss::new(Reason::TunnelLost, fault.to_string()), io);
        }
        self.queue_tunnel(key);
    }

    fn begin_client(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        let Some(tunnel) = self.tunnels.get(key) else {
            return Ok(());
        };
        let (pod, next_hop) = (tunnel.pod, tunnel.remote);
        let identity = self
            .own_workload(pod)
            .and_then(|workload| workload.identity.clone());
        let certificate = identity
            .and_then(|identity| self.certificates.get(&identity))
            .cloned();
        let Some(certificate) = certificate else {
            return Err(Loss::new(
                Reason::NoCertificate,
                "the pod's certificate is gone",
            ));
        };
        // SNI is off, but the API wants a name: the next hop's address.
        let name = ServerName::IpAddress(next_hop.ip().into());
        let tls_fault = |fault: super::tls::TlsError| Loss::new(Reason::Tls, fault.to_string());
        let tls = Tls::client(certificate.client_config(), name).map_err(tls_fault)?;
        let deadline = self.now + self.settings.deadlines.handshake;
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return Ok(());
        };
        tunnel.own = Some(certificate.identity().clone());
        tunnel.expires = Some(certificate.not_after());
        if let Some(socket) = &tunnel.socket
            && let Ok(local) = io.local_address(socket)
        {
            tunnel.local = unmapped(local);
        }
        tunnel.phase = Phase::Handshake;
        let tls = tunnel.tls.insert(Box::new(tls));
        // The first flight comes out without any input.
        tls.open(&mut [], &mut 0, &mut tunnel.backlog)
            .map_err(tls_fault)?;
        self.set_tunnel_alarm(key, deadline);
        self.queue_tunnel(key);
        Ok(())
    }

    /// TLS is done: who is it? Before any byte is sent or believed.
    pub(super) fn established(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return Ok(());
        };
        let certificates = tunnel
            .tls
            .as_mut()
            .and_then(|tls| tls.take_peer_certificates());
        let certificates = certificates.as_deref();
        let wrong = |fault: identity::PeerError| Loss::new(Reason::Identity, fault.to_string());
        let ends = peer::not_after(certificates).map_err(wrong)?;
        tunnel.expires = tunnel.expires.map_or(Some(ends), |own| Some(own.min(ends)));
        let settings = &self.settings;
        let config = |base: Config| Config {
            stream_window: settings.stream_window,
            connection_window: settings.connection_window,
            max_frame_size: settings.frame_size,
            assumed_streams: settings.streams_per_tunnel,
            ..base
        };
        let h2 = match &tunnel.role {
            Role::Client(pool) => {
                tunnel.peer = Some(peer::expect(certificates, &pool.accepted).map_err(wrong)?);
                Connection::client(config(Config::client()))
            }
            Role::Server => {
                let identity = peer::peer_identity(certificates).map_err(wrong)?;
                if let Some(own) = &tunnel.own {
                    peer::same_trust_domain(&identity, own).map_err(wrong)?;
                }
                tunnel.peer = Some(identity);
                Connection::server(config(Config::server()))
            }
        };
        tunnel.h2 = Some(Box::new(h2));
        tunnel.phase = Phase::Open;
        tunnel.heard = self.now;
        let (pod, is_client, remote) = (tunnel.pod, tunnel.is_client(), tunnel.remote.ip());
        let waiting = std::mem::take(&mut tunnel.waiting);
        // The handshake's deadline stays: it is for the peer's SETTINGS too.
        if !is_client {
            self.handshake_ended(pod, remote);
            self.count_tunnel(key, io)?;
        }
        for link in waiting {
            self.open_stream(link, key);
        }
        if self.draining.is_some() {
            self.drain_tunnel(key);
        }
        Ok(())
    }
}

fn dial_failed(to: SocketAddr, fault: &std::io::Error) -> Loss {
    let reason = match fault.kind() {
        std::io::ErrorKind::TimedOut => Reason::DialTimeout,
        _ => Reason::DialFailed,
    };
    Loss::new(reason, format!("dial {to}: {fault}"))
}
