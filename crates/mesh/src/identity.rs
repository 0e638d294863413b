//! SPIFFE identities in the one form that the mesh knows: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
//! Called by the certificate code (peer check, CSR), by WDS conversion and by `authz`.

use std::{cmp::Ordering, fmt, hash, str::FromStr, sync::Arc};

/// The scheme of every identity URI.
pub const SCHEME: &str = "spiffe://";
/// Longest URI that the SPIFFE specification allows, in bytes (SPIFFE-ID §2.3).
const MAX_URI: usize = 2048;
/// Longest trust domain, in bytes (SPIFFE-ID §2.3).
const MAX_TRUST_DOMAIN: usize = 255;

/// Who a workload is. Cheap to clone (one reference count); holds the URI once and slices it.
#[derive(Clone)]
pub struct Identity {
    uri: Arc<str>,
    /// Where the namespace starts and ends in `uri`; the account starts 4 bytes (`/sa/`) behind its end.
    namespace: (u16, u16),
}

impl Identity {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// Names the part that breaks the SPIFFE grammar.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        check_trust_domain(trust_domain)?;
        check_segment("namespace", namespace)?;
        check_segment("service account", service_account)?;
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        if uri.len() > MAX_URI {
            return Err(IdentityError::TooLong { length: uri.len() });
        }
        Ok(Self::checked(
            uri.into(),
            trust_domain.len(),
            namespace.len(),
        ))
    }

    /// `uri` was checked; its trust domain and namespace have these lengths.
    fn checked(uri: Arc<str>, trust_domain: usize, namespace: usize) -> Self {
        let start = SCHEME.len() + trust_domain + "/ns/".len();
        let offset = |at: usize| u16::try_from(at).expect("an offset into at most 2048 bytes");
        Self {
            uri,
            namespace: (offset(start), offset(start + namespace)),
        }
    }

    /// The trust domain, e.g. `cluster.local`.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.namespace.0) - 4]
    }

    /// The Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.uri[usize::from(self.namespace.0)..usize::from(self.namespace.1)]
    }

    /// The Kubernetes service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace.1) + 4..]
    }

    /// The URI as it stands in a certificate.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI without its scheme: what policies call a principal.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let (trust_domain, namespace) = check_uri(uri)?;
        Ok(Self::checked(uri.into(), trust_domain, namespace))
    }
}

impl TryFrom<Arc<str>> for Identity {
    type Error = IdentityError;

    /// As [`FromStr`], keeping the given instance of the string.
    fn try_from(uri: Arc<str>) -> Result<Self, Self::Error> {
        let (trust_domain, namespace) = check_uri(&uri)?;
        Ok(Self::checked(uri, trust_domain, namespace))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.uri)
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.uri, &other.uri) || self.uri == other.uri
    }
}

impl Eq for Identity {}

impl hash::Hash for Identity {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl Ord for Identity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uri.cmp(&other.uri)
    }
}

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a string is no identity of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Does not start with `spiffe://`.
    #[error("does not start with {SCHEME}")]
    Scheme,
    /// The path is not `/ns/NAMESPACE/sa/ACCOUNT`.
    #[error("is not of the form {SCHEME}TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT")]
    Shape,
    /// Longer than SPIFFE allows.
    #[error("is {length} bytes long, SPIFFE allows {MAX_URI}")]
    TooLong {
        /// Length of the URI in bytes.
        length: usize,
    },
    /// One part is empty or holds what SPIFFE does not allow.
    #[error("{part} {value:?} is not allowed: {why}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What it was.
        value: Box<str>,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Lengths of trust domain and namespace of a good URI.
fn check_uri(uri: &str) -> Result<(usize, usize), IdentityError> {
    if uri.len() > MAX_URI {
        return Err(IdentityError::TooLong { length: uri.len() });
    }
    let rest = uri.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
    let mut parts = rest.split('/');
    let mut next = || parts.next().ok_or(IdentityError::Shape);
    let (trust_domain, ns, namespace, sa, service_account) =
        (next()?, next()?, next()?, next()?, next()?);
    if ns != "ns" || sa != "sa" || parts.next().is_some() {
        return Err(IdentityError::Shape);
    }
    check_trust_domain(trust_domain)?;
    check_segment("namespace", namespace)?;
    check_segment("service account", service_account)?;
    Ok((trust_domain.len(), namespace.len()))
}

/// SPIFFE-ID §2.1: lower-case letters, digits, dots, dashes, underscores; no port, no user.
fn check_trust_domain(value: &str) -> Result<(), IdentityError> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    let why = if value.is_empty() {
        "it is empty"
    } else if value.len() > MAX_TRUST_DOMAIN {
        "it is longer than 255 bytes"
    } else if !value.bytes().all(allowed) {
        "only a-z, 0-9, '.', '-' and '_' may stand there"
    } else {
        return Ok(());
    };
    Err(part("trust domain", value, why))
}

/// SPIFFE-ID §2.2: letters, digits, dots, dashes, underscores; never empty, `.` or `..`; no percent signs.
fn check_segment(name: &'static str, value: &str) -> Result<(), IdentityError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let why = match value {
        "" => "it is empty",
        "." | ".." => "it is a relative path",
        _ if !value.bytes().all(allowed) => {
            "only letters, digits, '.', '-' and '_' may stand there"
        }
        _ => return Ok(()),
    };
    Err(part(name, value, why))
}

fn part(part: &'static str, value: &str, why: &'static str) -> IdentityError {
    // A hostile certificate may carry kilobytes here; an error text need not.
    let value = value.chars().take(64).collect::<String>().into();
    IdentityError::Part { part, value, why }
}

#[cfg(test)]
mod tests;
