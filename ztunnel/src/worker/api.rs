//! The border between control (tokio) and the workers (event loops that carry bytes).
//! Long because it is the whole border, and plain types with their meanings.
//!
//! Control calls [`start`](super::start) once, opens a pod's sockets with [`listeners::open`](super::listeners::open),
//! sends [`Command`]s, publishes snapshots through [`Workers::publish`](super::Workers::publish), and reads
//! [`Notice`]s. Nothing else crosses: no lock is shared, no worker ever waits for control.
//!
//! What travels how:
//! * a **snapshot** is published, not sent: each worker re-asks authorization for its own live connections when the
//!   generation changes, so a cut never sits in a queue that could drop it;
//! * a **command** goes into a bounded queue of each worker; a full queue makes control wait, nothing is dropped;
//! * a **notice** leaves in batches; when control is slow a worker stops accepting, it never drops a report.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use identity::Certificate;
use mesh::identity::Identity;
use mesh::service::Service;
use mesh::workload::Workload;
use sys::netns::Netns;
use sys::socket::Keepalive;

use crate::route::Names;
use crate::slots::Key;

/// What the workers need from the configuration; frozen at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Own network id (`NETWORK`), empty for the default network.
    pub network: Arc<str>,
    /// Cluster id (`CLUSTER_ID`), the first part of workload uids.
    pub cluster: Arc<str>,
    /// Ports of the captured listeners; calls to them are refused.
    pub ports: Ports,
    /// `SO_MARK` on every socket that a worker opens (`PACKET_MARK`), none in dedicated mode without one.
    pub mark: Option<u32>,
    /// Keep the original source address on inbound dials (`ENABLE_ORIG_SRC`): `None` = try, fall back.
    pub original_source: Option<bool>,
    /// TCP keepalive on accepted and dialled sockets; `None` = off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT` on dialled sockets; `None` = off.
    pub user_timeout: Option<Duration>,
    /// Largest HTTP/2 stream window in bytes (`HTTP2_STREAM_WINDOW_SIZE`); windows start smaller and grow by need.
    pub stream_window: u32,
    /// HTTP/2 connection window in bytes (`HTTP2_CONNECTION_WINDOW_SIZE`).
    pub connection_window: u32,
    /// Largest HTTP/2 frame that we accept, in bytes (`HTTP2_FRAME_SIZE`).
    pub frame_size: u32,
    /// Streams per tunnel before another is opened (`POOL_MAX_STREAMS_PER_CONNECTION`), min with the peer's.
    pub streams_per_tunnel: u32,
    /// An unused tunnel is closed after this time (`POOL_UNUSED_RELEASE_TIMEOUT`).
    pub tunnel_idle: Duration,
    /// A tunnel takes no new streams after this time (`POOL_MAX_AGE`), so that renewed certificates and new paths come
    /// into use.
    pub tunnel_age: Duration,
    /// A worker looks for events so long before it sleeps (`WORKER_SPIN`): lower latency for more CPU; zero = at once.
    pub spin: Duration,
    /// How pods of the same node reach each other (`SAME_NODE`).
    pub same_node: SameNode,
    /// Return `baggage` on the 200 (`ENABLE_RESPONSE_BAGGAGE`).
    pub response_baggage: bool,
    /// Deadlines of the single steps.
    pub deadlines: Deadlines,
    /// Budgets per pod and worker.
    pub limits: Limits,
}

/// How pods of the same node reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameNode {
    /// In memory, under a lease through the destination's HBONE port.
    Direct,
    /// Through a tunnel like any other.
    Tunnel,
}

/// Ports of the in-pod listeners.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Outbound capture (15001).
    pub outbound: u16,
    /// Inbound plaintext capture (15006).
    pub inbound_plain: u16,
    /// Inbound HBONE (15008).
    pub inbound: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            outbound: 15001,
            inbound_plain: 15006,
            inbound: 15008,
        }
    }
}

impl Ports {
    /// Whether `port` is one of ours.
    pub fn contains(&self, port: u16) -> bool {
        [self.outbound, self.inbound_plain, self.inbound].contains(&port)
    }
}

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// A TCP dial (10 s).
    pub dial: Duration,
    /// TLS handshake plus HTTP/2 preface, either role (10 s).
    pub handshake: Duration,
    /// From our CONNECT to its response (30 s: the far side dials for up to 10 s and may wait for policy).
    pub connect: Duration,
    /// Waiting for the pod's own workload to arrive (5 s).
    pub workload: Duration,
    /// Waiting for the host name of an endpoint to be resolved (10 s: two questions, over TCP too).
    pub name: Duration,
    /// Waiting for the pod's certificate (10 s).
    pub certificate: Duration,
    /// Waiting for a policy that is named but unknown (1 s, docs/decisions/0019-harmless-names.md).
    pub policy: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            dial: secs(10),
            handshake: secs(10),
            connect: secs(30),
            workload: secs(5),
            name: secs(10),
            certificate: secs(10),
            policy: secs(1),
        }
    }
}

/// Budgets; those of bytes are for all workers together, the others per pod and worker. Beyond them new work of that pod waits or is refused, other pods are untouched.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Inbound TLS handshakes in flight.
    pub handshakes: u32,
    /// Inbound tunnels that are open; one address may have an eighth of them.
    pub tunnels: u32,
    /// Application connections.
    pub connections: u32,
    /// Bytes that wait for applications that do not read; 256 MiB.
    pub held: usize,
    /// Of those, for one pod; 64 MiB.
    pub pod_held: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            tunnels: 4096,
            connections: 50_000,
            held: 256 << 20,
            pod_held: 64 << 20,
        }
    }
}

impl Limits {
    /// The part of one of `workers` workers: its share of the bytes, but enough for a few large windows.
    pub(crate) fn of_one(self, workers: usize) -> Self {
        let share = |bytes: usize, least: usize| bytes.min(least.max(bytes / workers.max(1)));
        Self {
            held: share(self.held, 32 << 20),
            pod_held: share(self.pod_held, 16 << 20),
            ..self
        }
    }
}

impl Settings {
    /// Upstream's defaults for the shared (in-pod) mode.
    pub fn shared(network: Arc<str>, cluster: Arc<str>) -> Self {
        let minutes_3 = Duration::from_secs(180);
        Self {
            network,
            cluster,
            ports: Ports::default(),
            mark: Some(1337),
            original_source: None,
            keepalive: Some(Keepalive {
                time: minutes_3,
                interval: minutes_3,
                retries: 9,
            }),
            user_timeout: None,
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            frame_size: 1 << 20,
            streams_per_tunnel: 100,
            tunnel_idle: Duration::from_secs(300),
            tunnel_age: Duration::from_secs(3600),
            spin: Duration::ZERO,
            same_node: SameNode::Direct,
            response_baggage: true,
            deadlines: Deadlines::default(),
            limits: Limits::default(),
        }
    }
}

/// A pod whose traffic we carry. Its workload (and with it its identity) is looked up in the snapshot.
#[derive(Debug)]
pub struct Pod {
    /// The ZDS uid (Kubernetes pod uid); key of [`Command::RemovePod`].
    pub uid: Arc<str>,
    /// Pod name.
    pub name: Arc<str>,
    /// Pod namespace.
    pub namespace: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
    /// The pod's network namespace; every dial of the pod's traffic is made inside.
    pub netns: Arc<Netns>,
}

/// One worker's share of a pod's listeners (each worker has its own socket on the same port by `SO_REUSEPORT`).
/// All are non-blocking. A part that is `None` is not served.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Outbound capture, 15001.
    pub outbound: Option<TcpListener>,
    /// Inbound plaintext capture, 15006.
    pub inbound_plain: Option<TcpListener>,
    /// Inbound HBONE, 15008.
    pub inbound: Option<TcpListener>,
}

/// What control tells one worker.
#[derive(Debug)]
pub enum Command {
    /// Serve this pod. A pod with the same uid is removed first.
    AddPod {
        /// The pod.
        pod: Arc<Pod>,
        /// This worker's sockets of the pod.
        listeners: Listeners,
    },
    /// The pod is gone: close its listeners and cut everything it has, at once. Answered by [`Notice::PodRemoved`].
    RemovePod {
        /// [`Pod::uid`].
        uid: Arc<str>,
    },
    /// A certificate of a pod's identity, first or renewed: new handshakes use it from now on. A pod without one
    /// waits and asks ([`Ask::Certificate`]).
    Certificate(Arc<Certificate>),
    /// A certificate could not be had; those who wait for it fail with this text.
    CertificateFailed {
        /// Whose.
        identity: Identity,
        /// The fault, for log and report.
        why: Arc<str>,
    },
    /// The identity has no pod here any more: forget its certificate.
    ForgetCertificate {
        /// Whose.
        identity: Identity,
    },
    /// All host names of workloads that are resolved: in force from now on. Links that wait for one ([`Ask::Name`]) are
    /// looked at again.
    Names(Arc<Names>),
    /// Stop accepting, GOAWAY on inbound tunnels, finish what runs until the deadline, then force.
    /// Answered by [`Notice::Drained`] when nothing is left.
    Drain {
        /// When the rest is cut.
        deadline: Instant,
    },
    /// Cut everything and end the worker thread.
    Force,
}

/// What a worker tells control, in order, in batches.
#[derive(Debug)]
pub enum Notice {
    /// A connection's facts are known and it is being set up: count it, log at debug.
    Opened(Arc<Connection>),
    /// An opened connection ended: count it, write the access log line.
    Closed(Closed),
    /// A connection ended before its facts were known: log only.
    Refused(Refused),
    /// The worker needs something.
    Ask(Ask),
    /// The answer to [`Command::RemovePod`].
    PodRemoved {
        /// [`Pod::uid`].
        uid: Arc<str>,
    },
    /// Draining is over: no connection is left on this worker. Its thread has ended or is about to; further commands
    /// to it fail as gone.
    Drained {
        /// Index of the worker.
        worker: usize,
    },
}

/// What a worker waits for. Asks may repeat; they are hints, the answer is a [`Command`] or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Fetch this certificate first: traffic waits for it.
    Certificate {
        /// Whose.
        identity: Identity,
    },
    /// Traffic waits for the workload at this address (on-demand xDS; with full xDS nothing is to be done).
    Workload {
        /// Network id.
        network: Arc<str>,
        /// Address.
        address: std::net::IpAddr,
    },
    /// Traffic waits for the addresses of a workload that is known by this host name only. The answer is
    /// [`Command::Names`].
    Name {
        /// As the workload has it.
        host: Arc<str>,
    },
    /// A workload names a policy that the snapshot lacks. The fault counter (30 s, docs/decisions/0019-harmless-names.md) starts here.
    Policy {
        /// `namespace/name`.
        name: Arc<str>,
    },
}

/// Which side of the pod the connection was captured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// What guards the bytes between the two proxies (`connection_security_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// HBONE with both certificates checked.
    MutualTls,
    /// Both pods are captured by this process, which holds both certificates: no TLS, the bytes never left the node's
    /// memory (`same_node`).
    SameNode,
    /// Plain TCP (`unknown` in metrics).
    Plain,
}

/// The facts of one application connection; made once, shared by [`Notice::Opened`] and [`Closed`]. Labels are
/// derived from the workloads by the control half; no label string is built by a worker.
#[derive(Debug)]
pub struct Connection {
    /// Captured on the way in or out.
    pub direction: Direction,
    /// mTLS or not.
    pub security: Security,
    /// The client's address as the destination should see it (`src.addr`).
    pub source: SocketAddr,
    /// The client's identity, only if proven by mTLS (inbound) or our own (outbound tunnel).
    pub source_identity: Option<Identity>,
    /// The client's workload, if known.
    pub source_workload: Option<Arc<Workload>>,
    /// What the client's proxy said of itself (`baggage`), where the workload is not known here.
    pub source_baggage: Option<Box<hbone::headers::Baggage>>,
    /// Where the bytes go (`dst.addr`): the address dialled or, through a tunnel, the tunnel's peer.
    pub destination: SocketAddr,
    /// The CONNECT authority (`dst.hbone_addr`).
    pub hbone: Option<hbone::headers::Authority>,
    /// The identity proven by the far proxy (outbound) or our pod's own (inbound), with mTLS.
    pub destination_identity: Option<Identity>,
    /// The destination's workload, if known.
    pub destination_workload: Option<Arc<Workload>>,
    /// The service it was addressed by, if any. Inbound, the caller's proxy tells it (`forwarded: host=`), and it counts
    /// only if the destination is one of its endpoints.
    pub service: Option<Arc<Service>>,
    /// The W3C trace parent that was sent or received.
    pub trace: Option<hbone::headers::Traceparent>,
    /// When it was accepted.
    pub opened: Instant,
    /// Bytes so far; may be read at any time.
    pub bytes: Bytes,
}

/// Byte counters of a live connection: one writer (its worker), any readers.
#[derive(Debug, Default)]
pub struct Bytes {
    to_source: AtomicU64,
    from_source: AtomicU64,
    /// Under which key the report counts them.
    place: AtomicU64,
}

impl Bytes {
    /// Whoever counts them remembers where, as a [`Key`]; 0 is nowhere.
    pub(crate) fn remember(&self, place: Option<Key>) {
        let bits = place.map_or(0, Key::to_bits);
        self.place.store(bits, Ordering::Relaxed);
    }

    /// What was remembered last.
    pub(crate) fn place(&self) -> Key {
        Key::from_bits(self.place.load(Ordering::Relaxed))
    }

    /// Bytes carried from the destination to the connection's initiator (`tcp_sent_bytes`).
    pub fn sent(&self) -> u64 {
        self.to_source.load(Ordering::Relaxed)
    }

    /// Bytes carried from the connection's initiator to the destination (`tcp_received_bytes`).
    pub fn received(&self) -> u64 {
        self.from_source.load(Ordering::Relaxed)
    }

    /// Only the owning worker calls this: a plain load and store, no read-modify-write across cores.
    pub(crate) fn add_sent(&self, n: usize) {
        self.to_source
            .store(self.sent() + n as u64, Ordering::Relaxed);
    }

    /// As [`Bytes::add_sent`], for the other way.
    pub(crate) fn add_received(&self, n: usize) {
        self.from_source
            .store(self.received() + n as u64, Ordering::Relaxed);
    }
}

/// The end of a connection that was reported as opened.
#[derive(Debug)]
pub struct Closed {
    /// Its facts, with the final byte counts.
    pub connection: Arc<Connection>,
    /// From accept to the end.
    pub duration: Duration,
    /// Why it ended.
    pub reason: Reason,
    /// The text behind the reason (policy and rule, status, I/O error), for the log.
    pub detail: Option<Box<str>>,
}

/// A connection that ended before its facts were known.
#[derive(Debug)]
pub struct Refused {
    /// Captured on the way in or out.
    pub direction: Direction,
    /// Who called.
    pub source: SocketAddr,
    /// Whom; the local address where nothing better is known.
    pub destination: SocketAddr,
    /// Why not.
    pub reason: Reason,
    /// The text behind the reason.
    pub detail: Option<Box<str>>,
}

/// Why a connection ended. Closed; matched exhaustively where it becomes flag and text (`report`), only there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Both sides closed in order.
    Complete,
    /// The source's TCP or stream was reset.
    SourceReset,
    /// The destination's TCP or stream was reset.
    DestinationReset,
    /// The tunnel under the stream died.
    TunnelLost,
    /// Authorization refused it at the start (`DENY`).
    PolicyDenied,
    /// Authorization refused it while it lived: policy or workload changed (`DENY`).
    PolicyCut,
    /// The peer proved an identity other than the expected ones (`IDENTITY_ERROR`).
    Identity,
    /// Our own certificate could not be had in time.
    NoCertificate,
    /// The TLS handshake failed or took too long (`TLS_FAILURE`).
    Tls,
    /// The HTTP/2 layer failed (`H2_HANDSHAKE_FAILURE`).
    Http2,
    /// The dial failed (`CONNECT`).
    DialFailed,
    /// The dial timed out (`CONNECT`; towards 15008 it is `NETWORK_POLICY`, see [`Closed::connection`]).
    DialTimeout,
    /// The far proxy answered CONNECT with something other than 200, or not in time (`CONNECT`).
    TunnelRefused,
    /// A call to one of our own ports.
    SelfCall,
    /// The pod's own workload did not arrive in time.
    UnknownWorkload,
    /// The service has no usable endpoint.
    NoEndpoint,
    /// A waypoint is named but cannot be found.
    NoWaypoint,
    /// The way needs something that this version does not do.
    Unsupported,
    /// The CONNECT request was malformed or is not for this pod.
    BadRequest,
    /// A budget of the pod is used up.
    Overloaded,
    /// The pod was removed.
    PodRemoved,
    /// We are shutting down and the deadline has passed.
    Shutdown,
}
