//! Dials a control plane: TCP with keepalive, then TLS with freshly read roots, all within one
//! deadline. Called by the channel whenever it has no connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;

use super::{GrpcConfig, RootsError};
use crate::tls::{self, KeyExchange};

/// Name lookup, TCP and TLS together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Either kind of byte stream.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why there is no connection to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address has no host, or one that no certificate can name.
    #[error("{0} is not an address to connect to")]
    Address(String),
    /// No roots to check the server by.
    #[error("{0}")]
    Roots(#[from] RootsError),
    /// TCP failed.
    #[error("cannot connect to {0}: {1}")]
    Tcp(String, #[source] io::Error),
    /// The handshake failed; the text names the reason.
    #[error("TLS with {0}: {1}")]
    Tls(String, #[source] io::Error),
    /// TLS could not be set up.
    #[error("TLS settings: {0}")]
    Config(#[source] Error),
    /// The deadline passed.
    #[error("connecting to {0} took longer than 5 s")]
    Timeout(String),
}

pub(super) struct Connector {
    pub(super) config: GrpcConfig,
    pub(super) tls: bool,
}

impl Connector {
    /// Connects to the host of `uri`.
    pub(super) async fn connect(&self, uri: Uri) -> Result<Box<dyn Io>, ConnectError> {
        let target = uri.to_string();
        tokio::time::timeout(CONNECT_DEADLINE, self.establish(&uri))
            .await
            .unwrap_or(Err(ConnectError::Timeout(target)))
    }

    async fn establish(&self, uri: &Uri) -> Result<Box<dyn Io>, ConnectError> {
        let bad = || ConnectError::Address(uri.to_string());
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if self.tls { 443 } else { 80 });
        let shown = format!("{host}:{port}");
        let tcp = self
            .dial(host, port)
            .await
            .map_err(|e| ConnectError::Tcp(shown.clone(), e))?;
        if !self.tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        let roots = self.config.root.load()?;
        let config = client_config(roots, self.config.alt_hostname.as_deref())?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await;
        Ok(Box::new(stream.map_err(|e| ConnectError::Tls(shown, e))?))
    }

    /// Tries each address of the name in turn.
    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host((host, port)).await? {
            let socket = if address.is_ipv4() {
                tokio::net::TcpSocket::new_v4()?
            } else {
                tokio::net::TcpSocket::new_v6()?
            };
            if let Some(mark) = self.config.mark {
                SockRef::from(&socket).set_mark(mark)?;
            }
            match socket.connect(address).await {
                Ok(stream) => return keep_alive(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn keep_alive(stream: TcpStream) -> io::Result<TcpStream> {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(300))
        .with_interval(Duration::from_secs(75))
        .with_retries(9);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn client_config(
    roots: RootCertStore,
    alt_hostname: Option<&str>,
) -> Result<ClientConfig, ConnectError> {
    let provider = tls::provider(KeyExchange::Standard);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ConnectError::Config)?;
    let mut config = match alt_hostname {
        None => builder.with_root_certificates(roots).with_no_client_auth(),
        Some(alternative) => {
            let name = ServerName::try_from(alternative.to_owned())
                .map_err(|_| ConnectError::Address(alternative.to_owned()))?;
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| ConnectError::Config(Error::General(e.to_string())))?;
            let verifier = Arc::new(EitherName {
                inner,
                alternative: name,
            });
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    Ok(config)
}

/// The usual check, with a second name that will do as well.
#[derive(Debug)]
struct EitherName {
    inner: Arc<WebPkiServerVerifier>,
    alternative: ServerName<'static>,
}

impl ServerCertVerifier for EitherName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let check = |name| {
            self.inner
                .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        check(server_name).or_else(|error| check(&self.alternative).map_err(|_| error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
