//! The server's own certificate, issued by its own authority and renewed long before it ends, and whenever the authority
//! signs with something else.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use identity::{
    Key,
    certificate::parse_pem,
    issue::{IssueError, Issuer},
    tls::{ALPN, KeyExchange, provider},
};
use rustls::{
    RootCertStore, ServerConfig,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::ca::Issuers;

/// Life of the server's certificate.
const TTL: Duration = Duration::from_secs(90 * 86_400);
/// Age at which a new one is made.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 86_400);
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Why there is no server certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It could not be signed.
    #[error("server certificate: {0}")]
    Issue(#[from] IssueError),
    /// It could not be used.
    #[error("server certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// Anything else that says the same.
    #[error("server certificate: {0}")]
    Other(String),
}

/// The TLS side of the port. Client certificates are asked for and, when shown, must be ours.
pub struct ServerTls {
    issuers: Issuers,
    names: Vec<String>,
    current: Mutex<Current>,
}

/// The certificate in use.
struct Current {
    issuer: Arc<Issuer>,
    made: SystemTime,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Issues the first certificate for `names` (DNS names and addresses).
    ///
    /// # Errors
    /// A name that no certificate can carry, or an authority that has expired.
    pub fn new(issuers: Issuers, names: Vec<String>) -> Result<ServerTls, TlsError> {
        let made = SystemTime::now();
        let issuer = issuers.borrow().clone();
        let config = build(&issuer, &names, made)?;
        let current = Mutex::new(Current {
            issuer,
            made,
            config,
        });
        Ok(ServerTls {
            issuers,
            names,
            current,
        })
    }

    /// The config for a new connection.
    ///
    /// # Errors
    /// When a due renewal fails and the certificate at hand is too old.
    pub fn current(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let now = SystemTime::now();
        let issuer = self.issuers.borrow().clone();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.duration_since(current.made).unwrap_or_default();
        if age > RENEW_AFTER || !Arc::ptr_eq(&issuer, &current.issuer) {
            match build(&issuer, &self.names, now) {
                Ok(config) => {
                    *current = Current {
                        issuer,
                        made: now,
                        config,
                    };
                }
                Err(error) if age > TTL - RENEW_AFTER => return Err(error),
                Err(error) => tracing::warn!("{error}; the old certificate is used on"),
            }
        }
        Ok(current.config.clone())
    }
}

fn build(
    issuer: &Issuer,
    names: &[String],
    now: SystemTime,
) -> Result<Arc<ServerConfig>, TlsError> {
    let key = Key::generate().map_err(|error| TlsError::Other(error.to_string()))?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut chain = issuer.sign_server(&key, &names, now - CLOCK_SKEW, TTL + CLOCK_SKEW)?;
    // The last entry holds the roots, which clients have.
    let roots = chain.pop().unwrap_or_default();
    let other = |error: &dyn std::fmt::Display| TlsError::Other(error.to_string());
    let certificates = parse_pem(&chain.concat()).map_err(|error| other(&error))?;
    let mut store = RootCertStore::empty();
    for root in parse_pem(&roots).map_err(|error| other(&error))? {
        store.add(root)?;
    }
    let provider = provider(KeyExchange::Standard);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| other(&error))?;
    let certified = CertifiedKey::new(certificates, Arc::new(key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
