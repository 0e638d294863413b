//! What a control plane's certificate must chain to: a file, the system's roots, or PEM in the setting
//! itself. Read again by the connector at each connect.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;

use crate::certificate::parse_pem;

/// Where distributions keep their bundle of roots: Debian, Red Hat, SUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A source of roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// A PEM file.
    File(PathBuf),
    /// The operating system's roots.
    System,
    /// PEM text.
    Pem(String),
}

/// No roots.
#[derive(Debug, thiserror::Error)]
#[error("roots from {origin}: {reason}")]
pub struct RootsError {
    origin: String,
    reason: String,
}

impl RootSource {
    /// Upstream's reading of `XDS_ROOT_CA` and `CA_ROOT_CA`: `SYSTEM`, PEM text, otherwise a path. (A
    /// path need not exist yet: it is looked at when connecting.)
    pub fn parse(setting: &str) -> Self {
        match setting {
            "SYSTEM" => Self::System,
            text if text.contains("-----BEGIN") => Self::Pem(text.to_owned()),
            path => Self::File(path.into()),
        }
    }

    /// Reads the roots now.
    pub fn load(&self) -> Result<RootCertStore, RootsError> {
        let fail = |reason: String| RootsError {
            origin: self.to_string(),
            reason,
        };
        let text = match self {
            Self::File(path) => std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?,
            Self::Pem(text) => text.clone(),
            Self::System => {
                let found = SYSTEM_BUNDLES
                    .iter()
                    .map(Path::new)
                    .find(|path| path.exists());
                let path = found.ok_or_else(|| fail("no bundle found".to_owned()))?;
                std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?
            }
        };
        let mut store = RootCertStore::empty();
        let found = parse_pem(&text).map_err(|e| fail(e.to_string()))?;
        // A bundle may hold a few roots that cannot be read; none at all is a fault.
        let (added, _) = store.add_parsable_certificates(found);
        if added == 0 {
            return Err(fail("no usable certificate".to_owned()));
        }
        Ok(store)
    }
}

impl std::fmt::Display for RootSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::System => f.write_str("the system"),
            Self::Pem(_) => f.write_str("inline PEM"),
        }
    }
}
