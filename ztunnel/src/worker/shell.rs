//! The thin epoll shell around [`Worker`]: real sockets, real time, the queues to and from control. One per thread;
//! called by `threads`.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use mesh::state::Snapshot;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Registry};
use sys::socket::{self, ConnectOptions};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};

use super::api::{Command, Notice, Pod, Settings};
use super::io::{Io, Ready, Token};
use super::share::{Neighbours, Parcel};
use super::state::{Next, Worker};

/// Token of the waker; no entity ever has it.
pub(super) const WAKER: mio::Token = mio::Token(usize::MAX);
/// Events per look.
const EVENTS: usize = 1024;
/// How soon a full notice queue is tried again.
const NOTICE_RETRY: Duration = Duration::from_millis(5);
/// Reports of connections may wait so long for others: each batch wakes control.
const NOTICE_BATCH: Duration = Duration::from_millis(5);
/// So many wait for nobody.
const NOTICES_WAITING: usize = 256;
/// How long a worker that ends tries to hand over its last notices.
const LAST_NOTICES: Duration = Duration::from_secs(1);

/// A parcel with real sockets.
pub(super) type RealParcel = Parcel<TcpStream>;

/// The way to another worker.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) parcels: mpsc::Sender<RealParcel>,
    pub(super) waker: Arc<mio::Waker>,
}

/// What control, the other workers and a worker share.
pub(super) struct Inbox {
    pub(super) neighbours: Neighbours,
    /// Of every worker, by index.
    pub(super) doors: Arc<[Door]>,
    pub(super) parcels: mpsc::Receiver<RealParcel>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) notices: mpsc::Sender<Vec<Notice>>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
}

/// The loop of one worker thread; returns when the worker has ended.
pub(super) fn run(mut poll: mio::Poll, mut inbox: Inbox, settings: Arc<Settings>) {
    let registry = poll
        .registry()
        .try_clone()
        .expect("an epoll descriptor can be duplicated at start");
    let mut io = Sockets {
        registry,
        settings: settings.clone(),
        doors: inbox.doors.clone(),
    };
    let rng = rand::make_rng();
    let mut worker = Worker::new(
        inbox.neighbours.clone(),
        settings,
        inbox.snapshot.load_full(),
        rng,
        Instant::now(),
    );
    let mut events = Events::with_capacity(EVENTS);
    let mut ready = Vec::with_capacity(EVENTS);
    let mut next = Next {
        at: None,
        busy: false,
    };
    let mut outbox = Outbox::default();
    let (spin, mut active) = (worker.settings.spin, Instant::now());
    loop {
        let timeout = match active.elapsed() < spin {
            true => Some(Duration::ZERO),
            false => timeout(next, !worker.notices.is_empty()),
        };
        if let Err(fault) = poll.poll(&mut events, timeout)
            && fault.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(%fault, "epoll failed, the worker ends");
            worker.force(&mut io);
            refuse_parcels(&mut worker, &mut inbox, &mut io);
            return last_notices(&mut worker, &inbox);
        }
        ready.clear();
        ready.extend(events.iter().filter_map(readiness));
        let now = Instant::now();
        if !ready.is_empty() {
            active = now;
        }
        let latest = inbox.snapshot.load();
        if !Arc::ptr_eq(&latest, &worker.snapshot) {
            worker.adopt(Arc::clone(&latest), now, &mut io);
        }
        drop(latest);
        if obey(&mut worker, &mut inbox, now, &mut io) {
            refuse_parcels(&mut worker, &mut inbox, &mut io);
            return last_notices(&mut worker, &inbox);
        }
        take_parcels(&mut worker, &mut inbox, now, &mut io);
        next = worker.step(&ready, now, &mut io);
        if worker.is_drained() {
            // What others pass on from here they keep; what they have passed on is ours.
            inbox.parcels.close();
            if take_parcels(&mut worker, &mut inbox, now, &mut io) > 0 {
                next.busy = true;
                continue;
            }
            worker.notices.push(Notice::Drained {
                worker: worker.neighbours.index,
            });
            return last_notices(&mut worker, &inbox);
        }
        outbox.tell(&mut worker, &inbox, now);
    }
}

/// When the waiting notices are handed over.
#[derive(Default)]
struct Outbox {
    /// The oldest of them has waited since then.
    since: Option<Instant>,
    /// So many were looked at, and may wait.
    patient: usize,
}

impl Outbox {
    /// Hands over what happened, soon or now.
    fn tell(&mut self, worker: &mut Worker<Sockets>, inbox: &Inbox, now: Instant) {
        if worker.notices.is_empty() {
            return;
        }
        let since = *self.since.get_or_insert(now);
        let fresh = worker.notices.get(self.patient..).unwrap_or_default();
        let report = |notice: &Notice| {
            matches!(
                notice,
                Notice::Opened(_) | Notice::Closed(_) | Notice::Refused(_)
            )
        };
        let patient = fresh.iter().all(report);
        self.patient = worker.notices.len();
        let waited = now.saturating_duration_since(since);
        if patient && waited < NOTICE_BATCH && worker.notices.len() < NOTICES_WAITING {
            return;
        }
        tell(worker, inbox);
        *self = Self::default();
    }
}

fn timeout(next: Next, notices_wait: bool) -> Option<Duration> {
    if next.busy {
        return Some(Duration::ZERO);
    }
    // Rounded up: epoll counts in milliseconds, and waking early would spin until the deadline.
    let until = next
        .at
        .map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    match (until, notices_wait) {
        (Some(until), true) => Some(until.min(NOTICE_RETRY)),
        (None, true) => Some(NOTICE_RETRY),
        (until, false) => until,
    }
}

fn readiness(event: &mio::event::Event) -> Option<Ready> {
    let token = Token::from_bits(event.token().0 as u64)?;
    Some(Ready {
        token,
        readable: event.is_readable(),
        writable: event.is_writable(),
        ended: event.is_read_closed(),
        error: event.is_error(),
    })
}

/// Carries out what control said. True: the worker has ended.
fn obey(worker: &mut Worker<Sockets>, inbox: &mut Inbox, now: Instant, io: &mut Sockets) -> bool {
    loop {
        match inbox.commands.try_recv() {
            Ok(Command::AddPod { pod, listeners }) => {
                let listeners = [
                    listeners.outbound,
                    listeners.inbound_plain,
                    listeners.inbound,
                ];
                worker.add_pod(pod, listeners.map(|one| one.map(TcpListener::from_std)), io);
            }
            Ok(Command::RemovePod { uid }) => {
                worker.remove_pod(&uid, io);
                worker.notices.push(Notice::PodRemoved { uid });
            }
            Ok(Command::Certificate(certificate)) => worker.certificate(certificate, now, io),
            Ok(Command::CertificateFailed { identity, why }) => {
                worker.certificate_failed(&identity, &why, io)
            }
            Ok(Command::Names(names)) => worker.adopt_names(names, now, io),
            Ok(Command::ForgetCertificate { identity }) => {
                worker.certificates.remove(&identity);
            }
            Ok(Command::Drain { deadline }) => worker.drain(deadline, now, io),
            Ok(Command::Force) | Err(TryRecvError::Disconnected) => {
                worker.force(io);
                return true;
            }
            Err(TryRecvError::Empty) => return false,
        }
    }
}

/// Takes what other workers have passed on. Says how much that was.
fn take_parcels(
    worker: &mut Worker<Sockets>,
    inbox: &mut Inbox,
    now: Instant,
    io: &mut Sockets,
) -> usize {
    let mut count = 0;
    while let Ok(parcel) = inbox.parcels.try_recv() {
        worker.take(parcel, now, io);
        count += 1;
    }
    count
}

/// Nothing more is taken.
fn refuse_parcels(worker: &mut Worker<Sockets>, inbox: &mut Inbox, io: &mut Sockets) {
    inbox.parcels.close();
    while let Ok(parcel) = inbox.parcels.try_recv() {
        worker.refuse_parcel(parcel, io);
    }
}

/// Hands over what happened; keeps it when control is behind.
fn tell(worker: &mut Worker<Sockets>, inbox: &Inbox) {
    if worker.notices.is_empty() {
        return;
    }
    if let Err(TrySendError::Full(batch)) =
        inbox.notices.try_send(std::mem::take(&mut worker.notices))
    {
        worker.notices = batch;
    }
}

fn last_notices(worker: &mut Worker<Sockets>, inbox: &Inbox) {
    let deadline = Instant::now() + LAST_NOTICES;
    loop {
        tell(worker, inbox);
        if worker.notices.is_empty() || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(NOTICE_RETRY);
    }
}

/// [`Io`] over the kernel.
pub(super) struct Sockets {
    registry: Registry,
    settings: Arc<Settings>,
    doors: Arc<[Door]>,
}

impl Io for Sockets {
    type Socket = TcpStream;
    type Listener = TcpListener;

    fn accept(&mut self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept()
    }

    fn local_address(&mut self, socket: &TcpStream) -> io::Result<SocketAddr> {
        socket.local_addr()
    }

    fn original_destination(&mut self, socket: &TcpStream) -> Option<SocketAddr> {
        socket::original_dst(socket).ok()
    }

    fn dial(
        &mut self,
        pod: &Pod,
        destination: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<TcpStream> {
        let options = ConnectOptions {
            source: source.map(|address| SocketAddr::new(address, 0)),
            mark: self.settings.mark,
            keepalive: self.settings.keepalive,
            user_timeout: self.settings.user_timeout,
            nodelay: true,
        };
        let may_fall_back = source.is_some() && self.settings.original_source.is_none();
        let dialled = pod
            .netns
            .enter(|| match socket::connect_tcp(destination, &options) {
                Err(_) if may_fall_back => socket::connect_tcp(
                    destination,
                    &ConnectOptions {
                        source: None,
                        ..options.clone()
                    },
                ),
                dialled => dialled,
            })?;
        dialled.map(TcpStream::from_std)
    }

    fn take_error(&mut self, socket: &TcpStream) -> Option<io::Error> {
        socket.take_error().ok().flatten()
    }

    fn register(&mut self, socket: &TcpStream, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(
            &mut SourceFd(&socket.as_raw_fd()),
            mio_token(token),
            interest,
        )
    }

    fn register_listener(&mut self, listener: &TcpListener, token: Token) -> io::Result<()> {
        self.registry.register(
            &mut SourceFd(&listener.as_raw_fd()),
            mio_token(token),
            Interest::READABLE,
        )
    }

    fn release(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()))
    }

    fn pass(&mut self, to: usize, parcel: RealParcel) -> Result<(), RealParcel> {
        let Some(door) = self.doors.get(to) else {
            return Err(parcel);
        };
        door.parcels.try_send(parcel).map_err(|fault| match fault {
            TrySendError::Full(parcel) | TrySendError::Closed(parcel) => parcel,
        })?;
        // It fails only when the eventfd is gone, and with it the worker.
        let _ = door.waker.wake();
        Ok(())
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::now()
    }

    fn read(&mut self, mut socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| socket.read(into))
    }

    fn read_vectored(
        &mut self,
        mut socket: &TcpStream,
        into: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize> {
        uninterrupted(|| socket.read_vectored(into))
    }

    fn write(&mut self, mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| socket.write(bytes))
    }

    fn write_vectored(
        &mut self,
        mut socket: &TcpStream,
        bytes: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        uninterrupted(|| socket.write_vectored(bytes))
    }

    fn end(&mut self, socket: &TcpStream) {
        // It fails only when the peer has reset already, which the next read tells.
        let _ = socket.shutdown(Shutdown::Write);
    }

    fn is_at_end(&mut self, socket: &TcpStream) -> io::Result<bool> {
        match uninterrupted(|| socket.peek(&mut [0])) {
            Ok(n) => Ok(n == 0),
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    fn unacknowledged(&mut self, socket: &TcpStream) -> usize {
        // It fails only for a descriptor that is no TCP socket.
        socket::unacknowledged(socket).unwrap_or(0)
    }

    fn close(&mut self, socket: TcpStream, reset: bool) {
        if reset {
            // Fails only for a descriptor that is no socket.
            let _ = socket::set_linger_reset(&socket);
        }
        // Closing the last descriptor also removes it from epoll.
    }
}

fn mio_token(token: Token) -> mio::Token {
    mio::Token(token.to_bits() as usize)
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
