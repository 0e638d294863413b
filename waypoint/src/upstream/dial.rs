//! Byte streams to endpoints: HBONE tunnels from a pool, or plain TCP. The peer of a tunnel is checked
//! right after the handshake, before any byte is sent.

use crate::cluster::Live;
use crate::io::Io;
use crate::keepalive;
use crate::model::cluster::{PeerPrefix, Target};
use hbone::headers::{Authority, ConnectRequest, Host, IstioSource};
use hbone::tokio::pool::{CheckoutError, Limits, Pool};
use hbone::tokio::{Error as TunnelError, client};
use identity::Certificate;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Deadline of TCP connect plus TLS handshake of a carrier.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A limit of the cluster.
    #[error("overflow")]
    Overflow,
    /// The connect timeout ran out.
    #[error("connection timeout")]
    Timeout,
    /// TCP.
    #[error("{0}")]
    Connect(std::io::Error),
    /// TLS, or the HTTP handshake behind it.
    #[error("{0}")]
    Handshake(Arc<str>),
    /// The other end is not who it must be.
    #[error("the next hop is not who it must be: {0}")]
    Peer(String),
    /// We have no certificate, or do not know yet whom to accept.
    #[error("no identity for HBONE yet")]
    NoIdentity,
    /// The other end refused the tunnel; its status.
    #[error("tunnel refused with status {0}")]
    Refused(u16),
    /// The tunnel could not be opened.
    #[error("tunnel: {0}")]
    Tunnel(String),
}

/// The current certificate.
pub type Certificates = Arc<dyn Fn() -> Option<Arc<Certificate>> + Send + Sync>;
/// Prefixes of which a next hop's SPIFFE URI must have one; `None` while unknown.
pub type Peers = Arc<dyn Fn() -> Option<Vec<PeerPrefix>> + Send + Sync>;

/// Makes byte streams.
pub struct Dialer {
    certificates: Certificates,
    peers: Peers,
    port: u16,
    pool: Pool<(SocketAddr, u64), DialError>,
    shutdown: runtime::Shutdown,
}

impl Dialer {
    /// A dialer that goes to `port` for tunnels (15008 but in tests).
    pub fn new(
        certificates: Certificates,
        peers: Peers,
        port: u16,
        shutdown: runtime::Shutdown,
    ) -> Self {
        Self {
            certificates,
            peers,
            port,
            pool: Pool::new(Limits::default()),
            shutdown,
        }
    }

    /// A stream to an endpoint, within the cluster's connect timeout.
    pub async fn dial(
        &self,
        live: &Live,
        target: &Target,
        original: Option<SocketAddr>,
    ) -> Result<Io, DialError> {
        let work = async {
            match target {
                Target::Plain(address) => Ok(Box::new(connect(*address).await?) as Io),
                Target::Tunnel { address, via } => {
                    self.tunnel(authority(*address), via.unwrap_or(*address))
                        .await
                }
                Target::Original => {
                    let address = original
                        .ok_or_else(|| DialError::Tunnel("no address was asked for".into()))?;
                    self.tunnel(authority(address), address).await
                }
                Target::Double(..) => Err(DialError::Tunnel("networks are not bridged yet".into())),
            }
        };
        let limit = live.config.connect_timeout;
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or(Err(DialError::Timeout))
    }

    async fn tunnel(&self, authority: Authority, hop: SocketAddr) -> Result<Io, DialError> {
        let certificate = (self.certificates)().ok_or(DialError::NoIdentity)?;
        let peers = (self.peers)().ok_or(DialError::NoIdentity)?;
        let carrier = SocketAddr::new(hop.ip(), self.port);
        let key = (carrier, certificate.generation());
        let dial = || async { self.carrier(carrier, &certificate, &peers).await };
        let permit = self
            .pool
            .checkout(&key, Instant::now(), dial)
            .await
            .map_err(|error| match error {
                CheckoutError::Dial(error) => copy(&error),
                CheckoutError::NoStreams => {
                    DialError::Tunnel("the carrier allows no stream".into())
                }
            })?;
        let mut request = ConnectRequest::new(authority);
        request.istio_source = Some(IstioSource::Waypoint);
        let (stream, _) = permit.open(&request).await.map_err(|error| match error {
            TunnelError::Refused(response) => DialError::Refused(response.status),
            other => DialError::Tunnel(other.to_string()),
        })?;
        Ok(Box::new(stream))
    }

    async fn carrier(
        &self,
        address: SocketAddr,
        certificate: &Certificate,
        peers: &[PeerPrefix],
    ) -> Result<client::Handle, DialError> {
        let work = async {
            let tcp = connect(address).await?;
            let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
            let tls = TlsConnector::from(certificate.client_config())
                .connect(name, tcp)
                .await;
            tls.map_err(|error| DialError::Handshake(error.to_string().into()))
        };
        let tls = tokio::time::timeout(HANDSHAKE, work)
            .await
            .unwrap_or(Err(DialError::Timeout))?;
        check_peer(tls.get_ref().1.peer_certificates(), peers)?;
        let (handle, driver) = client::connect(tls, hbone::proto::Config::client());
        let lost = keepalive::lost(handle.pulse(), keepalive::DEFAULT);
        // It ends with its last stream, or when nobody holds it any more.
        drop(self.shutdown.spawn_aside(async move {
            tokio::select! {
                ended = driver => if let Err(error) = ended {
                    tracing::debug!(%error, %address, "carrier ended");
                },
                () = lost => tracing::info!(%address, "the next hop no longer answers"),
            }
        }));
        Ok(handle)
    }

    /// Lets go of carriers that are idle for long or of an older certificate.
    pub fn sweep(&self) {
        self.pool.sweep(Instant::now());
        if let Some(certificate) = (self.certificates)() {
            let current = certificate.generation();
            self.pool.release(|(_, generation)| *generation != current);
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    Ok(stream)
}

fn authority(address: SocketAddr) -> Authority {
    Authority {
        host: Host::Ip(address.ip()),
        port: address.port(),
    }
}

/// The other end must have one of the prefixes; no prefixes accept whoever chains to the roots.
pub fn check_peer(
    certificates: Option<&[rustls::pki_types::CertificateDer<'_>]>,
    peers: &[PeerPrefix],
) -> Result<identity::Identity, DialError> {
    let peer = identity::peer::peer_identity(certificates)
        .map_err(|error| DialError::Peer(error.to_string()))?;
    let accepted = peers.is_empty()
        || peers
            .iter()
            .any(|PeerPrefix(prefix)| peer.uri().starts_with(prefix.as_str()));
    if accepted {
        Ok(peer)
    } else {
        Err(DialError::Peer(format!(
            "{peer} has none of the accepted prefixes"
        )))
    }
}

/// Everybody who waited for one dial gets its error.
fn copy(error: &DialError) -> DialError {
    match error {
        DialError::Overflow => DialError::Overflow,
        DialError::Timeout => DialError::Timeout,
        DialError::Connect(error) => {
            DialError::Connect(std::io::Error::new(error.kind(), error.to_string()))
        }
        DialError::Handshake(text) => DialError::Handshake(text.clone()),
        DialError::Peer(text) => DialError::Peer(text.clone()),
        DialError::NoIdentity => DialError::NoIdentity,
        DialError::Refused(status) => DialError::Refused(*status),
        DialError::Tunnel(text) => DialError::Tunnel(text.clone()),
    }
}
