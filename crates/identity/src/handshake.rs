//! Mesh handshakes over any tokio stream: TLS, then who the peer is, within one deadline. Used by the
//! waypoint, the CLI and tests; ztunnel's workers drive rustls themselves.

use std::io;
use std::time::Duration;

use mesh::identity::Identity;
use rustls::CertificateError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::certificate::Certificate;
use crate::peer::{self, PeerError};
use crate::tls;

/// Why a handshake did not end in a known peer.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The deadline passed.
    #[error("TLS handshake took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The peer is not who it must be.
    #[error("{0}")]
    Peer(#[from] PeerError),
    /// TLS failed, on our side or with an alert of the peer.
    #[error("TLS handshake: {0}")]
    Tls(String),
    /// The connection broke.
    #[error("connection lost in the TLS handshake: {0}")]
    Io(#[source] io::Error),
}

/// Accepts a peer of our trust domain and says who it is.
pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    certificate: &Certificate,
    deadline: Duration,
) -> Result<(server::TlsStream<T>, Identity), HandshakeError> {
    let handshake = TlsAcceptor::from(certificate.server_config()).accept(stream);
    let stream = within(deadline, handshake).await?;
    let peer = peer::peer_identity(stream.get_ref().1.peer_certificates())?;
    Ok((stream, peer))
}

/// Dials a peer that must be one of `expected`; nothing of ours is sent to anybody else.
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    certificate: &Certificate,
    expected: &[Identity],
    deadline: Duration,
) -> Result<(client::TlsStream<T>, Identity), HandshakeError> {
    let connector = TlsConnector::from(certificate.client_config());
    let stream = within(deadline, connector.connect(tls::server_name(), stream)).await?;
    let peer = peer::expect(stream.get_ref().1.peer_certificates(), expected)?;
    Ok((stream, peer))
}

async fn within<T>(
    deadline: Duration,
    handshake: impl Future<Output = io::Result<T>>,
) -> Result<T, HandshakeError> {
    match tokio::time::timeout(deadline, handshake).await {
        Ok(outcome) => outcome.map_err(sort),
        Err(_) => Err(HandshakeError::Timeout(deadline)),
    }
}

/// tokio-rustls hands TLS errors out as I/O errors.
fn sort(error: io::Error) -> HandshakeError {
    let Some(cause) = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
    else {
        return HandshakeError::Io(error);
    };
    if let rustls::Error::InvalidCertificate(CertificateError::Other(refusal)) = cause
        && let Some(peer) = refusal.0.downcast_ref::<PeerError>()
    {
        return HandshakeError::Peer(peer.clone());
    }
    HandshakeError::Tls(tls::explain(cause))
}

#[cfg(test)]
mod tests;
