//! The sockets of one pod: packets in, answers out, questions of others passed on under budgets. Opened and ended by
//! `pods` with the pod's other listeners.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use mesh::state::Snapshot;
use mesh::workload::{Workload, pod_uid};
use runtime::Shutdown;
use runtime::accept::{self, Advice};
use sys::netns::Netns;
use sys::socket::{self, ListenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::answer::{Answer, Question, Zone, answer};
use super::forward::{Transport, Upstream, framed};
use super::metrics::{Cause, Labels, Metrics};
use super::wire::{self, MAX_QUERY, MAX_TCP, Request, Unusable};
use super::{Address, Listen, name};
use crate::worker::api::Pod;

/// Questions of one pod that wait for another server.
const POD_OUTSTANDING: usize = 256;
/// Of all pods. Each holds a descriptor.
const OUTSTANDING: usize = 4096;
/// Connections of one pod.
const POD_CONNECTIONS: usize = 64;
/// Packets that are taken from a socket before others have their turn.
const BATCH: usize = 32;
/// A connection is closed when nothing comes for so long,
const IDLE: Duration = Duration::from_secs(10);
/// and when a message that has begun does not go on.
const STALLED: Duration = Duration::from_secs(5);
const BACKLOG: u32 = 128;

/// What is known of the mesh at the time of a question.
pub type Look = dyn Fn() -> Arc<Snapshot> + Send + Sync;

/// The DNS proxy of all pods. Clones share it.
#[derive(Clone)]
pub struct Dns(Arc<Shared>);

struct Shared {
    listen: Listen,
    zone: Zone,
    look: Box<Look>,
    upstream: Upstream,
    metrics: Metrics,
    outstanding: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// The open sockets of a pod.
#[derive(Debug, Default)]
pub struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// A pod that is served until this is dropped.
#[derive(Debug)]
pub struct Served(Shutdown);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.force();
    }
}

impl Dns {
    /// Nothing is open yet.
    pub fn new(
        (listen, zone): (Listen, Zone),
        look: Box<Look>,
        upstream: Upstream,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Shared {
            listen,
            zone,
            look,
            upstream,
            metrics,
            outstanding: Arc::new(Semaphore::new(OUTSTANDING)),
            shutdown,
        }))
    }

    /// Opens a pod's sockets.
    ///
    /// # Errors
    /// Entering the namespace or binding failed; the text names the address. Nothing stays open then.
    pub fn open(&self, netns: &Netns) -> io::Result<Sockets> {
        netns.enter(|| self.0.listen.open())?
    }

    /// Answers on a pod's sockets, through a drain too: whoever comes after has sockets of its own on the same port.
    ///
    /// # Errors
    /// The sockets cannot be watched.
    pub fn serve(&self, pod: &Arc<Pod>, sockets: Sockets) -> io::Result<Served> {
        let part = self.0.shutdown.child();
        let asker = Arc::new(Asker {
            uid: pod_uid(&self.0.zone.cluster, &pod.namespace, &pod.name),
            pod: pod.clone(),
            dns: self.clone(),
            outstanding: Arc::new(Semaphore::new(POD_OUTSTANDING)),
            connections: Arc::new(Semaphore::new(POD_CONNECTIONS)),
            part: part.clone(),
        });
        for socket in sockets.udp {
            let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
            asker.spawn(asker.clone().packets(socket));
        }
        for listener in sockets.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            asker.spawn(asker.clone().connections(listener));
        }
        Ok(Served(part))
    }
}

impl Listen {
    /// Opens the sockets in the caller's own namespace.
    ///
    /// # Errors
    /// As [`Dns::open`].
    pub fn open(&self) -> io::Result<Sockets> {
        let mut sockets = Sockets::default();
        match self.address {
            Address::At(address) => self
                .open_at(address, &mut sockets)
                .map_err(|fault| named(address, &fault))?,
            Address::Localhost(port) => {
                let v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
                self.open_at(v4, &mut sockets)
                    .map_err(|fault| named(v4, &fault))?;
                let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
                if self.ipv6 {
                    match self.open_at(v6, &mut sockets) {
                        Err(fault) if is_no_family(&fault) => {}
                        other => other.map_err(|fault| named(v6, &fault))?,
                    }
                }
            }
        }
        Ok(sockets)
    }

    fn open_at(&self, address: SocketAddr, sockets: &mut Sockets) -> io::Result<()> {
        let udp = socket::bind_udp(address, self.reuse_port, self.mark)?;
        let options = ListenOptions {
            backlog: BACKLOG,
            reuse_port: self.reuse_port,
            mark: self.mark,
            only_v6: true,
            ..ListenOptions::default()
        };
        sockets.tcp.push(socket::listen_tcp(address, &options)?);
        sockets.udp.push(udp);
        Ok(())
    }
}

fn named(address: SocketAddr, fault: &io::Error) -> io::Error {
    io::Error::new(
        fault.kind(),
        format!("listen for DNS on {address}: {fault}"),
    )
}

/// The pod has no IPv6: no such address, or no such family.
fn is_no_family(fault: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    fault.kind() == io::ErrorKind::AddrNotAvailable || fault.raw_os_error() == Some(EAFNOSUPPORT)
}

/// One pod.
struct Asker {
    pod: Arc<Pod>,
    /// Its workload's.
    uid: String,
    dns: Dns,
    outstanding: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Everything that runs for it ends with this.
    part: Shutdown,
}

/// What follows from a packet.
enum Step {
    Nothing,
    Reply(Vec<u8>),
    Forward(Box<Forward>),
}

/// A question for others.
struct Forward {
    request: Request,
    packet: Vec<u8>,
    transport: Transport,
    labels: Labels,
    source: Option<Arc<Workload>>,
    _budget: [OwnedSemaphorePermit; 2],
}

impl Asker {
    /// For as long as the pod is served.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.part.spawn_aside(work));
    }

    async fn packets(self: Arc<Self>, socket: Arc<tokio::net::UdpSocket>) {
        loop {
            let Err(error) = (match socket.readable().await {
                Ok(()) => self.take_packets(&socket),
                Err(error) => Err(error),
            }) else {
                tokio::task::yield_now().await;
                continue;
            };
            match accept::advice(&error) {
                Advice::Next => tokio::task::yield_now().await,
                Advice::Pause(time) => tokio::time::sleep(time).await,
                Advice::Stop => {
                    let pod = &self.pod;
                    tracing::error!(uid = %pod.uid, "the DNS socket of the pod is unusable: {error}");
                    return;
                }
            }
        }
    }

    /// Here and not in the future, so that a quiet pod holds no buffer.
    fn take_packets(self: &Arc<Self>, socket: &Arc<tokio::net::UdpSocket>) -> io::Result<()> {
        let mut buffer = [0; MAX_QUERY + 1];
        for _ in 0..BATCH {
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            match self.step(&buffer[..length], Transport::Udp) {
                Step::Nothing => {}
                // A client that cannot take an answer now asks again.
                Step::Reply(bytes) => drop(socket.try_send_to(&bytes, from)),
                Step::Forward(question) => {
                    let (asker, socket) = (self.clone(), socket.clone());
                    self.spawn(async move {
                        let bytes = asker.forward(*question).await;
                        drop(socket.send_to(&bytes, from).await);
                    });
                }
            }
        }
        Ok(())
    }

    async fn connections(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Beyond the limit it is closed, and the client asks again.
                    if let Ok(permit) = self.connections.clone().try_acquire_owned() {
                        let asker = self.clone();
                        self.spawn(async move {
                            let _its_end = asker.connection(stream).await;
                            drop(permit);
                        });
                    }
                }
                Err(error) => match accept::advice(&error) {
                    Advice::Next => {}
                    Advice::Pause(time) => tokio::time::sleep(time).await,
                    Advice::Stop => {
                        let pod = &self.pod;
                        tracing::error!(uid = %pod.uid, "the DNS listener of the pod is unusable: {error}");
                        return;
                    }
                },
            }
        }
    }

    /// One question after the other, until the client has no more.
    async fn connection(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = timeout(IDLE, stream.read_u16()).await??;
            if usize::from(length) > MAX_QUERY {
                return Ok(());
            }
            let mut packet = vec![0; length.into()];
            timeout(STALLED, stream.read_exact(&mut packet)).await??;
            let bytes = match self.step(&packet, Transport::Tcp) {
                Step::Nothing => return Ok(()),
                Step::Reply(bytes) => bytes,
                Step::Forward(question) => self.forward(*question).await,
            };
            timeout(STALLED, stream.write_all(&framed(&bytes))).await??;
        }
    }

    /// One packet: the answer, or a question for others with its place in the budgets.
    fn step(&self, packet: &[u8], transport: Transport) -> Step {
        let shared = &self.dns.0;
        let request = match wire::read(packet) {
            Ok(request) => request,
            Err(fault) => {
                shared.metrics.refused(Cause::Malformed);
                return match fault {
                    Unusable::Ignore => Step::Nothing,
                    Unusable::Fault(bytes) => Step::Reply(bytes),
                };
            }
        };
        let snapshot = (shared.look)();
        let source = snapshot.workload(&self.uid).cloned();
        let labels = Labels::new(request.kind, transport, source.as_ref());
        shared.metrics.asked(&labels);
        let host = name::host(&request.name);
        let question = host.as_deref().map(|host| Question {
            host,
            kind: request.kind,
            namespace: &self.pod.namespace,
        });
        let found = question.map_or(Answer::Forward, |question| {
            answer(&snapshot, &shared.zone, &question, &mut rand::rng())
        });
        let told = |result: &str, count| tell(source.as_ref(), &request, result, count);
        match found {
            Answer::Addresses { meant, addresses } => {
                told("success", addresses.len());
                let limit = match transport {
                    Transport::Udp => request.udp_limit(),
                    Transport::Tcp => MAX_TCP,
                };
                Step::Reply(request.addresses(meant, &addresses, limit))
            }
            Answer::NoRecord => {
                told("no records", 0);
                Step::Reply(request.no_record())
            }
            Answer::Refused(refused) => {
                told(&format!("{} was refused: {}", refused.name, refused.why), 0);
                shared.metrics.refused(Cause::Resource);
                Step::Reply(request.empty(ResponseCode::ServFail))
            }
            Answer::Forward => match self.budget() {
                Ok(budget) => Step::Forward(Box::new(Forward {
                    request,
                    packet: packet.to_vec(),
                    transport,
                    labels,
                    source,
                    _budget: budget,
                })),
                Err(cause) => {
                    told("too many questions wait for other servers", 0);
                    shared.metrics.refused(cause);
                    Step::Reply(request.empty(ResponseCode::ServFail))
                }
            },
        }
    }

    fn budget(&self) -> Result<[OwnedSemaphorePermit; 2], Cause> {
        let own = self.outstanding.clone().try_acquire_owned();
        let own = own.map_err(|_| Cause::PodLimit)?;
        let all = self.dns.0.outstanding.clone().try_acquire_owned();
        Ok([own, all.map_err(|_| Cause::Limit)?])
    }

    /// Asks others; the answer is what they say, or SERVFAIL.
    async fn forward(&self, question: Forward) -> Vec<u8> {
        let Forward {
            request,
            packet,
            transport,
            labels,
            source,
            _budget,
        } = question;
        let shared = &self.dns.0;
        shared.metrics.forwarded(&labels);
        let begin = Instant::now();
        let place = Some(self.pod.netns.clone());
        let asked = shared.upstream.ask(&place, transport, &request, &packet);
        let answered = asked.await;
        shared
            .metrics
            .answered(&labels, begin.elapsed(), answered.is_err());
        match answered {
            Ok(bytes) => {
                tell(
                    source.as_ref(),
                    &request,
                    "forwarded",
                    wire::answers(&bytes),
                );
                bytes
            }
            Err(failure) => {
                let result = format!("forwarding failed ({failure})");
                tell(source.as_ref(), &request, &result, 0);
                request.empty(ResponseCode::ServFail)
            }
        }
    }
}

/// Upstream's log line of a question.
fn tell(source: Option<&Arc<Workload>>, request: &Request, result: &str, endpoints: usize) {
    let text = |of: fn(&Workload) -> &Arc<str>| source.map_or("unknown", |one| &**of(one));
    tracing::event!(
        target: "dns",
        tracing::Level::DEBUG,
        src.workload = text(|one| &one.name),
        src.namespace = text(|one| &one.namespace),
        query = %request.kind,
        domain = %request.name,
        result,
        endpoints,
    );
}

#[cfg(test)]
mod tests;
