//! The certificate authority as a server: `ca::TestCa` behind TLS on a runtime of its own, so that a real ztunnel or
//! waypoint can ask it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::Server as Grpc;

use crate::ca::TestCa;
use crate::serve::Server;

/// The running authority; it stops on drop.
#[derive(Debug)]
pub struct Authority {
    server: Server,
}

impl Authority {
    /// Serves `ca` on `listener`.
    ///
    /// # Errors
    /// When the runtime cannot be made.
    pub fn start(listener: TcpListener, ca: &TestCa) -> Result<Self> {
        let tls = tls(ca, &[&listener.local_addr()?.ip().to_string()])?;
        let server = Server::start(listener, tls, Grpc::builder().add_service(ca.service()))?;
        Ok(Self { server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }
}

/// A server's TLS config with a certificate of `ca` for `names` (DNS names or addresses).
///
/// # Errors
/// When rustls refuses it.
pub fn tls(ca: &TestCa, names: &[&str]) -> Result<Arc<rustls::ServerConfig>> {
    let pem = ca.issue_server(names);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.chain.as_bytes())
        .collect::<Result<_, _>>()
        .context("chain")?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).context("key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
