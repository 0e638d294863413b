//! The TLS port: ADS and the certificate authority behind one authentication. Started by `app`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use proto::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use runtime::Shutdown;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use xds::server::Ads;

use crate::follow::Views;

pub mod authenticate;
pub mod authority;
mod incoming;
pub mod review;
pub mod root;
pub mod tls;
mod token;

use authenticate::{Authenticator, Guarded};
use authority::Authority;
use tls::ServerTls;

/// Keepalive of the streams; as istiod's, so that a peer that vanished is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one connection; a proxy needs a handful.
const MAX_STREAMS: u32 = 256;

/// What the port serves with.
pub struct Parts {
    /// What subscribers see.
    pub views: Arc<Views>,
    /// Who callers are.
    pub authenticator: Authenticator,
    /// The certificate authority.
    pub authority: Authority,
    /// Our own certificate.
    pub tls: ServerTls,
}

/// Binds.
///
/// # Errors
/// When the address is taken; the text names it.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let named = |error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    TcpListener::bind(address).await.map_err(named)
}

/// Serves until drained.
pub fn serve(listener: TcpListener, parts: Parts, shutdown: &Shutdown) {
    let stop = CancellationToken::new();
    let (part, token) = (shutdown.clone(), stop.clone());
    shutdown.spawn(async move {
        part.draining().await;
        token.cancel();
    });
    let incoming = incoming::accept(listener, parts.tls, shutdown);
    let ads = Guarded::new(
        Ads::new(parts.views, stop.clone()).into_service(),
        parts.authenticator.clone(),
    );
    let ca = Guarded::new(
        IstioCertificateServiceServer::new(parts.authority),
        parts.authenticator,
    );
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(ads)
        .add_service(ca)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
    shutdown.spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the ADS port ended");
        }
    });
}

#[cfg(test)]
mod tests;
