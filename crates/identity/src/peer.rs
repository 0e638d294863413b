//! Who the other end is: exactly one URI name in its leaf, in strict SPIFFE grammar, and nothing else
//! will do. On the handshake path of ztunnel and waypoint; reads hostile bytes, never panics.

use std::fmt;
use std::time::SystemTime;

use mesh::identity::Identity;
use rustls_pki_types::CertificateDer;

use crate::certificate;

mod san;

/// Why a peer is not accepted. The text goes to logs and to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The handshake yielded no certificate.
    #[error("peer sent no certificate")]
    NoCertificate,
    /// The leaf is not well-formed DER as far as its names.
    #[error("peer certificate is malformed: {0}")]
    Malformed(&'static str),
    /// No URI name.
    #[error("peer certificate has no URI name, want one SPIFFE identity")]
    NoUri,
    /// More than one URI name.
    #[error("peer certificate has {0} URI names, want exactly one")]
    SeveralUris(usize),
    /// The URI is not `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error(
        "peer certificate names {uri}, want spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    NotSpiffe {
        /// The name, quoted and cut to a readable length.
        uri: Quoted,
    },
    /// A peer of another trust domain.
    #[error("peer {peer} is of another trust domain, ours is {ours}")]
    TrustDomain {
        /// The peer.
        peer: Box<Identity>,
        /// Our trust domain.
        ours: String,
    },
    /// A valid peer, but not the one that was dialled.
    #[error("peer is {peer}, expected {}", Listed(.expected))]
    Unexpected {
        /// The peer.
        peer: Box<Identity>,
        /// Any of these would have been accepted.
        expected: Vec<Identity>,
    },
}

/// The identity of the peer whose certificates (leaf first) a handshake yielded.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Result<Identity, PeerError> {
    let leaf = certificates
        .and_then(<[_]>::first)
        .ok_or(PeerError::NoCertificate)?;
    leaf_identity(leaf)
}

/// Checks that the peer is one of `expected`; an empty list accepts nobody. To be called right after
/// the handshake, before any byte is sent.
pub fn expect(
    certificates: Option<&[CertificateDer<'_>]>,
    expected: &[Identity],
) -> Result<Identity, PeerError> {
    let peer = peer_identity(certificates)?;
    if expected.contains(&peer) {
        return Ok(peer);
    }
    Err(PeerError::Unexpected {
        peer: Box::new(peer),
        expected: expected.to_vec(),
    })
}

/// When the leaf of the certificates that a handshake yielded ends.
pub fn not_after(certificates: Option<&[CertificateDer<'_>]>) -> Result<SystemTime, PeerError> {
    let leaf = certificates
        .and_then(<[_]>::first)
        .ok_or(PeerError::NoCertificate)?;
    certificate::not_after(leaf).ok_or(PeerError::Malformed("no end of validity"))
}

/// The one identity that a leaf certificate names.
pub fn leaf_identity(leaf: &CertificateDer<'_>) -> Result<Identity, PeerError> {
    let uris = san::uris(leaf)?;
    let uri = match uris.count {
        0 => return Err(PeerError::NoUri),
        1 => uris.first,
        n => return Err(PeerError::SeveralUris(n)),
    };
    let refusal = || PeerError::NotSpiffe {
        uri: Quoted::new(uri),
    };
    let text = std::str::from_utf8(uri).map_err(|_| refusal())?;
    text.parse().map_err(|_| refusal())
}

/// Refuses a peer of another trust domain than ours.
pub fn same_trust_domain(peer: &Identity, ours: &Identity) -> Result<(), PeerError> {
    if peer.trust_domain() == ours.trust_domain() {
        return Ok(());
    }
    Err(PeerError::TrustDomain {
        peer: Box::new(peer.clone()),
        ours: ours.trust_domain().to_string(),
    })
}

/// Bytes of a peer made fit for a log line: escaped, at most 128 characters of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    fn new(bytes: &[u8]) -> Self {
        const SHOWN: usize = 128;
        let cut = &bytes[..bytes.len().min(SHOWN)];
        let dots = if bytes.len() > SHOWN { "…" } else { "" };
        Self(format!("{:?}{dots}", String::from_utf8_lossy(cut)))
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `a`, `a or b`; the list is at most a few names long.
struct Listed<'a>(&'a [Identity]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        for (i, identity) in self.0.iter().enumerate() {
            let join = if i == 0 { "" } else { " or " };
            write!(f, "{join}{identity}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
