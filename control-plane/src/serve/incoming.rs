//! Accepts connections and finishes their handshakes beside each other, so that a slow peer delays nobody.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use identity::{Identity, peer};
use runtime::{Shutdown, accept::Advice, accept::advice};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::tls::ServerTls;

/// A handshake may take this long.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait in the backlog.
const MAX_HANDSHAKES: usize = 256;

/// A connection after its handshake.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// What the handshake told about the peer; found in the extensions of each request.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// By its certificate, if it showed one.
    pub identity: Option<Identity>,
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
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, address)) => {
                let (tls, done) = (tls.clone(), done.clone());
                shutdown.spawn(async move {
                    let shaken =
                        tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(stream, &tls)).await;
                    drop(permit);
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

async fn handshake(stream: TcpStream, tls: &ServerTls) -> Result<Connection, String> {
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
        peer: Peer { identity },
    })
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
