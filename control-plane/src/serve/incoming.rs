//! Accepts connections and finishes their handshakes beside each other, so that a slow peer delays nobody. A
//! connection without a caller that proved who it is does not last.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use identity::{Identity, peer};
use runtime::{Shutdown, accept::Advice, accept::advice};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::tls::ServerTls;

/// A handshake may take this long.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// After the handshake, a first call with good credentials may take this long.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Connections at once that have not proved who they are; more wait in the backlog.
const MAX_UNPROVEN: usize = 256;
/// Those of one address, so that it leaves room for others; more are closed. A node's proxies prove themselves within a
/// round trip, and try again.
const MAX_UNPROVEN_OF_ONE: usize = 32;
/// Connections at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 16_384;
/// Those of one address, proven or not; more are closed. One account's credentials must not keep everybody out.
const MAX_CONNECTIONS_OF_ONE: usize = 1024;

/// A connection after its handshake.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Ends it unless it is proven by then; `None` once it is.
    deadline: Option<Pin<Box<Sleep>>>,
    _room: Room,
}

/// The room of a connection among all.
struct Room {
    _of_all: OwnedSemaphorePermit,
    _of_one: Place,
}

/// What is known about the peer; found in the extensions of each request.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// By its certificate, if it showed one.
    pub identity: Option<Identity>,
    pub address: IpAddr,
    proof: Arc<Proof>,
}

/// Whether some call on the connection had good credentials.
#[derive(Debug)]
struct Proof {
    given: AtomicBool,
    /// The room among those that have not.
    room: Mutex<Option<Unproven>>,
}

/// The room of a connection among those that have not proved who they are.
#[derive(Debug)]
struct Unproven {
    _of_all: OwnedSemaphorePermit,
    of_one: Place,
}

/// How many connections each address has, of those that are counted here.
#[derive(Debug)]
struct Addresses {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Addresses {
    fn new(most: usize) -> Arc<Self> {
        let counts = Mutex::default();
        Arc::new(Self { most, counts })
    }

    /// One more from there, if that is not too many.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        // Zero, if it is new, is not too many: no entry without a place.
        if *count >= self.most {
            return None;
        }
        *count += 1;
        let addresses = self.clone();
        Some(Place { addresses, address })
    }
}

/// A connection that counts while this lives.
#[derive(Debug)]
struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .addresses
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

impl Peer {
    fn new(identity: Option<Identity>, room: Unproven) -> Self {
        let address = room.of_one.address;
        let proof = Proof {
            given: AtomicBool::new(false),
            room: Mutex::new(Some(room)),
        };
        Self {
            identity,
            address,
            proof: Arc::new(proof),
        }
    }

    /// A call with good credentials has come: the connection may stay.
    pub fn proven(&self) {
        if !self.proof.given.swap(true, Ordering::Relaxed) {
            let room = self.proof.room.lock();
            room.unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    fn is_proven(&self) -> bool {
        self.proof.given.load(Ordering::Relaxed)
    }
}

/// The stream of connections; ends when drained.
pub(super) fn accept(
    listener: TcpListener,
    tls: ServerTls,
    shutdown: &Shutdown,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    let part = shutdown.clone();
    shutdown.spawn(async move {
        tokio::select! {
            () = part.draining() => {}
            () = accept_loop(listener, Arc::new(tls), sender, part.clone()) => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept_loop(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    done: mpsc::Sender<io::Result<Connection>>,
    shutdown: Shutdown,
) {
    let (all, unproven) = (
        Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        Arc::new(Semaphore::new(MAX_UNPROVEN)),
    );
    let (addresses, strangers) = (
        Addresses::new(MAX_CONNECTIONS_OF_ONE),
        Addresses::new(MAX_UNPROVEN_OF_ONE),
    );
    loop {
        let rooms = async {
            let all = all.clone().acquire_owned().await;
            Ok::<_, tokio::sync::AcquireError>((all?, unproven.clone().acquire_owned().await?))
        };
        let Ok((all, of_all)) = rooms.await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, address)) => {
                let Some(place) = addresses.admit(address.ip()) else {
                    let most = MAX_CONNECTIONS_OF_ONE;
                    tracing::warn!(peer = %address, "connection refused: its address has {most}");
                    continue;
                };
                let Some(of_one) = strangers.admit(address.ip()) else {
                    let most = MAX_UNPROVEN_OF_ONE;
                    tracing::info!(
                        peer = %address,
                        "connection refused: {most} of its address have not proved who they are"
                    );
                    continue;
                };
                let unproven = Unproven {
                    _of_all: of_all,
                    of_one,
                };
                let room = Room {
                    _of_all: all,
                    _of_one: place,
                };
                let rooms = (room, unproven);
                let (tls, done) = (tls.clone(), done.clone());
                shutdown.spawn(async move {
                    let shaking = handshake(stream, &tls, rooms);
                    let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, shaking).await;
                    match shaken.unwrap_or_else(|_| Err("no handshake within 10 s".to_owned())) {
                        // Fails only when the server has stopped taking connections.
                        Ok(connection) => drop(done.send(Ok(connection)).await),
                        Err(why) => tracing::warn!(peer = %address, "connection refused: {why}"),
                    }
                });
            }
            Err(error) => match advice(&error) {
                Advice::Next => {}
                Advice::Pause(time) => tokio::time::sleep(time).await,
                Advice::Stop => return tracing::error!(%error, "the ADS listener is unusable"),
            },
        }
    }
}

async fn handshake(
    stream: TcpStream,
    tls: &ServerTls,
    (room, unproven): (Room, Unproven),
) -> Result<Connection, String> {
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let config = tls.current().map_err(|error| error.to_string())?;
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let stream = acceptor
        .accept(stream)
        .await
        .map_err(|error| error.to_string())?;
    let certificates = stream.get_ref().1.peer_certificates();
    // A certificate that names no identity is refused rather than taken for none.
    let identity = match certificates {
        None => None,
        some => Some(peer::peer_identity(some).map_err(|error| error.to_string())?),
    };
    Ok(Connection {
        stream,
        peer: Peer::new(identity, unproven),
        deadline: Some(Box::pin(sleep(CALL_DEADLINE))),
        _room: room,
    })
}

impl Connection {
    /// The error with which a connection ends that proved nothing in time.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.deadline else {
            return Ok(());
        };
        if self.peer.is_proven() {
            self.deadline = None;
        } else if deadline.as_mut().poll(cx).is_ready() {
            let why = "no call with good credentials within 10 s";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_deadline(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
