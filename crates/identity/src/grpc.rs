//! The gRPC channel to a control plane (xDS and CA): our own TLS connector, so that roots are read
//! again at every connect and the token at every request. Used by ztunnel and waypoint.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

mod connector;
mod roots;

pub use connector::ConnectError;
pub use roots::{RootSource, RootsError};

const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel that adds our credentials to each request. Clones share the connection, which is made at
/// the first request and again after it is lost.
pub type GrpcChannel = InterceptedService<Channel, Credentials>;

/// Where a control plane is and how both sides prove themselves.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// `https://host:port`, or `http://host:port` for plaintext (tests, loopback).
    pub address: String,
    /// What the server's certificate must chain to. Read again at each connect.
    pub root: RootSource,
    /// A second name that the server's certificate may carry (`ALT_XDS_HOSTNAME`, `ALT_CA_HOSTNAME`).
    pub alt_hostname: Option<String>,
    /// Who we are.
    pub token: Token,
    /// Sent as `clusterid`, unless empty.
    pub cluster_id: String,
    /// More request headers (`XDS_HEADER_*`, `CA_HEADER_*`).
    pub headers: Vec<(String, String)>,
    /// Firewall mark of the socket, so that capture rules let it pass.
    pub mark: Option<u32>,
}

/// A bearer token.
#[derive(Clone)]
pub enum Token {
    /// None is sent.
    None,
    /// The file is read again at each request, since the kubelet replaces it.
    File(PathBuf),
    /// The token itself.
    Literal(String),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Literal(_) => f.write_str("Literal(hidden)"),
        }
    }
}

/// Why a channel cannot be set up at all. (Failures to connect come with each request.)
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// Not a URI, or neither http nor https.
    #[error("address {0:?}: want https://host:port (or http:// for plaintext)")]
    Address(String),
    /// A header that HTTP/2 cannot carry.
    #[error("header {0:?} cannot be sent")]
    Header(String),
}

impl GrpcConfig {
    /// Everything for which [`channel`] would refuse this, so that settings can tell all of it at once.
    #[must_use]
    pub fn check(&self) -> Vec<GrpcError> {
        let address = target(&self.address).err();
        let header = |(name, value): &(String, String)| {
            header(name, value.clone())
                .is_none()
                .then(|| GrpcError::Header(name.clone()))
        };
        let headers = self.headers.iter().filter_map(header);
        address.into_iter().chain(headers).collect()
    }
}

/// What an address says: the whole of it, the same for the connector, and whether TLS is to be spoken.
fn target(address: &str) -> Result<(Uri, Uri, bool), GrpcError> {
    let bad = || GrpcError::Address(address.to_owned());
    let target: Uri = address.parse().map_err(|_| bad())?;
    let authority = target.authority().ok_or_else(bad)?;
    let tls = match target.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad()),
    };
    // The connector does the TLS; tonic, when built with TLS of its own, refuses an https target.
    let plain = format!("http://{authority}").parse().map_err(|_| bad())?;
    Ok((target, plain, tls))
}

fn header(name: &str, value: String) -> Option<(AsciiMetadataKey, AsciiMetadataValue)> {
    let key = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes()).ok()?;
    Some((key, AsciiMetadataValue::try_from(value).ok()?))
}

/// Sets up a channel; nothing is dialled yet. Must be called within a tokio runtime.
pub fn channel(config: GrpcConfig) -> Result<GrpcChannel, GrpcError> {
    let (target, plain, tls) = target(&config.address)?;
    let endpoint = Endpoint::from(plain)
        .origin(target)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let credentials = Credentials::new(&config)?;
    let connector = Arc::new(connector::Connector { config, tls });
    let dial = tower::service_fn(move |uri: Uri| {
        let connector = connector.clone();
        async move { connector.connect(uri).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector_lazy(dial);
    Ok(InterceptedService::new(channel, credentials))
}

/// Adds the token, the cluster and the extra headers to each request.
#[derive(Clone, Debug)]
pub struct Credentials {
    token: Token,
    fixed: Arc<[(AsciiMetadataKey, AsciiMetadataValue)]>,
}

impl Credentials {
    fn new(config: &GrpcConfig) -> Result<Self, GrpcError> {
        let cluster = Some(("clusterid".to_owned(), config.cluster_id.clone()));
        let cluster = cluster.filter(|(_, id)| !id.is_empty());
        let mut fixed = Vec::new();
        for (name, value) in config.headers.iter().cloned().chain(cluster) {
            fixed.push(header(&name, value).ok_or(GrpcError::Header(name))?);
        }
        Ok(Self {
            token: config.token.clone(),
            fixed: fixed.into(),
        })
    }

    fn bearer(&self) -> Result<Option<AsciiMetadataValue>, Status> {
        let token = match &self.token {
            Token::None => return Ok(None),
            Token::Literal(token) => token.clone(),
            // A small file in memory (a projected volume), read a few times a minute.
            Token::File(path) => std::fs::read_to_string(path).map_err(|e| {
                Status::unauthenticated(format!("cannot read token {}: {e}", path.display()))
            })?,
        };
        let mut value =
            AsciiMetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| {
                Status::unauthenticated("the token holds bytes that no header can carry")
            })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let bearer = self.bearer()?;
        let metadata = request.metadata_mut();
        for (key, value) in self.fixed.iter() {
            metadata.insert(key.clone(), value.clone());
        }
        if let Some(bearer) = bearer {
            metadata.insert("authorization", bearer);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
