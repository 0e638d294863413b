//! A certificate with everything that a handshake needs, built once when it is issued and shared by
//! all connections of its identity. Made by `ca` (issued by a control plane) or from PEM.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use mesh::identity::Identity;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::key::Key;
use crate::peer::{self, PeerError};
use crate::tls::{self, KeyExchange};

/// An issued certificate and its cached TLS configs. Cheap to share behind an [`Arc`].
pub struct Certificate {
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    generation: u64,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Why a certificate chain cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// An entry is not PEM or holds no certificate.
    #[error("certificate chain: {0}")]
    Pem(String),
    /// The chain lacks a leaf or its last entry, the roots.
    #[error("certificate chain of {0} entries: want a leaf and, last, the roots")]
    Incomplete(usize),
    /// The leaf is not X.509 that can be read.
    #[error("leaf certificate: {0}")]
    Leaf(String),
    /// The leaf does not name a SPIFFE identity.
    #[error("leaf certificate: {0}")]
    Identity(#[from] PeerError),
    /// None of the roots can be used.
    #[error("certificate chain: its last entry holds no usable root")]
    NoRoots,
    /// The leaf's life is over, by our clock.
    #[error("leaf certificate: expired on arrival; do the clocks agree?")]
    Expired,
    /// TLS refuses the chain, key or roots.
    #[error("certificate is not usable for TLS")]
    Tls(#[source] rustls::Error),
}

impl Certificate {
    /// Builds a certificate from a key and a chain as `IstioCertificateService` answers it: leaf,
    /// intermediates, and as the last entry one or more roots (each entry PEM).
    pub fn from_chain(
        key: Key,
        chain: &[String],
        groups: KeyExchange,
    ) -> Result<Self, CertificateError> {
        let Some((roots, issued)) = chain.split_last().filter(|(_, issued)| !issued.is_empty())
        else {
            return Err(CertificateError::Incomplete(chain.len()));
        };
        let mut certificates = Vec::new();
        for entry in issued {
            certificates.extend(parse_pem(entry)?);
        }
        Self::from_der(key, certificates, parse_pem(roots)?, groups)
    }

    /// Builds a certificate from DER: `chain` is leaf then intermediates.
    pub fn from_der(
        key: Key,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
        groups: KeyExchange,
    ) -> Result<Self, CertificateError> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let leaf = chain.first().ok_or(CertificateError::Incomplete(0))?;
        let identity = peer::leaf_identity(leaf)?;
        let facts = LeafFacts::read(leaf)?;
        let mut store = RootCertStore::empty();
        // A bundle of many roots may hold one that cannot be read; none at all is a fault.
        if store.add_parsable_certificates(roots.iter().cloned()).0 == 0 {
            return Err(CertificateError::NoRoots);
        }
        let store = Arc::new(store);
        let provider = tls::provider(groups);
        let certified = Arc::new(CertifiedKey::new(chain.clone(), Arc::new(key.clone())));
        if facts.public_key != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(CertificateError::Leaf(
                "its public key is not ours".to_owned(),
            ));
        }
        let server = tls::server_config(
            provider.clone(),
            store.clone(),
            &identity,
            certified.clone(),
        );
        let client = tls::client_config(provider, store, certified);
        Ok(Self {
            identity,
            chain,
            roots,
            serial: facts.serial,
            not_before: facts.not_before,
            not_after: facts.not_after,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            server: Arc::new(server.map_err(CertificateError::Tls)?),
            client: Arc::new(client.map_err(CertificateError::Tls)?),
        })
    }

    /// Whose certificate this is (the leaf's one URI name).
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The config for accepting mesh connections. Expected trust domain: our own.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The config for dialling mesh peers. Check [`peer::expect`] right after the handshake.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// Leaf, then intermediates, DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The roots that peers must chain to, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Serial number of the leaf, decimal as upstream's dump shows it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Start of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A number that no other certificate of this process has; later ones are greater.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// True while `now` lies within the validity.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

#[cfg(test)]
impl Certificate {
    /// The same certificate with configs that the product would not build.
    pub(crate) fn with_configs(self, server: ServerConfig, client: ClientConfig) -> Self {
        Self {
            server: Arc::new(server),
            client: Arc::new(client),
            ..self
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.identity.to_string())
            .field("serial", &self.serial)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// What config dumps and the CLI show of one certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFacts {
    /// Decimal serial number.
    pub serial: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// The subject's public key bits.
    pub public_key: Vec<u8>,
}

impl LeafFacts {
    /// Reads the facts of any X.509 certificate. Allocates: not for the handshake path.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der)
            .map_err(|e| CertificateError::Leaf(e.to_string()))?;
        let validity = parsed.validity();
        Ok(Self {
            serial: parsed.tbs_certificate.serial.to_string(),
            not_before: system_time(validity.not_before.timestamp()),
            not_after: system_time(validity.not_after.timestamp()),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
        })
    }
}

/// When a certificate ends; `None` if it is malformed. Once per handshake.
pub(crate) fn not_after(der: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(system_time(parsed.validity().not_after.timestamp()))
}

fn system_time(unix_seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(unix_seconds.unsigned_abs());
    let time = if unix_seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// All certificates of a PEM text; an empty text is an error.
pub fn parse_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(CertificateError::Pem("no certificate in PEM".to_owned()))
        }
        Ok(found) => Ok(found),
        Err(e) => Err(CertificateError::Pem(e.to_string())),
    }
}
