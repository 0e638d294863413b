//! Signing: a CA's key and certificate, and what it certifies. Pure but for randomness; the times are
//! arguments. Used by the control plane's CA and by the tests' CA.

use std::time::{Duration, SystemTime};

use mesh::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;
use zeroize::{Zeroize as _, Zeroizing};

use crate::certificate::{CertificateError, LeafFacts, parse_pem};
use crate::key::{Key, KeyError};

/// A signing certificate with its key and what lies between it and the root.
pub struct Issuer {
    signer: rcgen::Issuer<'static, CaKey>,
    /// PEM of the signing certificate and the intermediates above it, the root excluded; empty when
    /// the signing certificate is the root.
    intermediates: Vec<String>,
    /// PEM, one or more roots.
    roots: String,
    not_after: SystemTime,
}

/// The files of a CA, PEM, named as in Istio's `cacerts` secret.
#[derive(Clone, Copy)]
pub struct CaFiles<'a> {
    /// `ca-cert.pem`: the signing certificate.
    pub certificate: &'a str,
    /// `ca-key.pem`.
    pub key: &'a str,
    /// `cert-chain.pem`: the signing certificate and the intermediates above it. May be empty when the
    /// signing certificate is the root.
    pub chain: &'a str,
    /// `root-cert.pem`.
    pub root: &'a str,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is not a well-formed, correctly signed PKCS#10.
    #[error("certificate request: {0}")]
    Request(String),
    /// The CA's own files do not fit.
    #[error("certificate authority: {0}")]
    Authority(String),
    /// A name that no certificate can carry.
    #[error("name {0:?} cannot stand in a certificate")]
    Name(String),
    /// The CA's certificate ends before the wanted one would begin.
    #[error("the certificate authority's own certificate has expired")]
    Expired,
    /// Signing failed.
    #[error("signing failed: {0}")]
    Sign(#[from] rcgen::Error),
    /// No key.
    #[error("{0}")]
    Key(#[from] KeyError),
}

impl From<CertificateError> for IssueError {
    fn from(error: CertificateError) -> Self {
        Self::Authority(error.to_string())
    }
}

impl Issuer {
    /// A new self-signed root for `name` (an organisation, usually the trust domain).
    pub fn new_root(name: &str, not_before: SystemTime, ttl: Duration) -> Result<Self, IssueError> {
        let key = Key::generate()?;
        let params = ca_params(name, not_before, not_before + ttl);
        let root = params.self_signed(&key)?.pem();
        let signer = rcgen::Issuer::new(params, CaKey::P256(key));
        Ok(Self {
            signer,
            intermediates: Vec::new(),
            roots: root,
            not_after: not_before + ttl,
        })
    }

    /// A new intermediate below this issuer.
    pub fn new_intermediate(
        &self,
        name: &str,
        not_before: SystemTime,
        ttl: Duration,
    ) -> Result<Self, IssueError> {
        let key = Key::generate()?;
        let not_after = self.end(not_before, ttl)?;
        let params = ca_params(name, not_before, not_after);
        let certificate = params.signed_by(&key, &self.signer)?.pem();
        let intermediates = [vec![certificate], self.intermediates.clone()].concat();
        let signer = rcgen::Issuer::new(params, CaKey::P256(key));
        Ok(Self {
            signer,
            intermediates,
            roots: self.roots.clone(),
            not_after,
        })
    }

    /// A CA from its files. The key may be P-256, P-384, Ed25519 or RSA.
    pub fn from_pem(files: &CaFiles<'_>) -> Result<Self, IssueError> {
        let certificate = parse_pem(files.certificate)?.swap_remove(0);
        let roots = parse_pem(files.root)?;
        let facts = LeafFacts::read(&certificate)?;
        let key = CaKey::from_pem(files.key)?;
        if facts.public_key != key.der_bytes() {
            let text = "ca-key.pem is not the key of ca-cert.pem";
            return Err(IssueError::Authority(text.to_owned()));
        }
        let mut intermediates = Vec::new();
        if !roots.contains(&certificate) {
            intermediates.push(pem("CERTIFICATE", &certificate).to_string());
            let above = if files.chain.is_empty() {
                Vec::new()
            } else {
                parse_pem(files.chain)?
            };
            let above = above
                .iter()
                .filter(|c| **c != certificate && !roots.contains(c));
            intermediates.extend(above.map(|c| pem("CERTIFICATE", c).to_string()));
        }
        let signer = rcgen::Issuer::from_ca_cert_der(&certificate, key)?;
        let roots = roots
            .iter()
            .map(|c| pem("CERTIFICATE", c).to_string())
            .collect();
        Ok(Self {
            signer,
            intermediates,
            roots,
            not_after: facts.not_after,
        })
    }

    /// Certifies the key of a request (PEM) for `identity`, whatever names the request asks for.
    /// Returns the chain as `IstioCertificateService` answers it: leaf, intermediates, and as the last
    /// entry the roots. The life is cut to that of the issuer.
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        identity: &Identity,
        not_before: SystemTime,
        ttl: Duration,
    ) -> Result<Vec<String>, IssueError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| IssueError::Request(e.to_string()))?;
        self.sign_key(&request.public_key, identity, not_before, ttl)
    }

    /// [`Issuer::sign_csr`] for a key at hand.
    pub fn sign_key(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        not_before: SystemTime,
        ttl: Duration,
    ) -> Result<Vec<String>, IssueError> {
        let name = SanType::URI(ia5(&identity.to_string())?);
        self.leaf(key, vec![name], not_before, ttl)
    }

    /// Certifies a server such as the control plane itself: DNS names and IP addresses.
    pub fn sign_server(
        &self,
        key: &Key,
        names: &[&str],
        not_before: SystemTime,
        ttl: Duration,
    ) -> Result<Vec<String>, IssueError> {
        let names: Result<Vec<_>, _> = names
            .iter()
            .map(|name| match name.parse() {
                Ok(ip) => Ok(SanType::IpAddress(ip)),
                Err(_) => ia5(name).map(SanType::DnsName),
            })
            .collect();
        self.leaf(key, names?, not_before, ttl)
    }

    /// The roots, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots
    }

    /// The CA's private key as PKCS#8 PEM, to be kept where only the CA can read it.
    pub fn key_pem(&self) -> Result<Zeroizing<String>, IssueError> {
        match self.signer.key() {
            CaKey::P256(key) => Ok(key.to_pem()?),
            CaKey::Other(key) => Ok(Zeroizing::new(key.serialize_pem())),
        }
    }

    /// End of life of the signing certificate.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn leaf(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        not_before: SystemTime,
        ttl: Duration,
    ) -> Result<Vec<String>, IssueError> {
        let mut params = base_params(not_before, self.end(not_before, ttl)?);
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let mut chain = vec![params.signed_by(key, &self.signer)?.pem()];
        chain.extend(self.intermediates.iter().cloned());
        chain.push(self.roots.clone());
        Ok(chain)
    }

    /// `not_before + ttl`, but never beyond the issuer's own end.
    fn end(&self, not_before: SystemTime, ttl: Duration) -> Result<SystemTime, IssueError> {
        let end = not_before
            .checked_add(ttl)
            .unwrap_or(self.not_after)
            .min(self.not_after);
        if end <= not_before {
            Err(IssueError::Expired)
        } else {
            Ok(end)
        }
    }
}

fn base_params(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut serial = [0; 16];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut serial);
    serial[0] = serial[0] & 0x7f | 0x40; // positive, of full length
    let mut params = CertificateParams::default();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params
}

fn ca_params(name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = base_params(not_before, not_after);
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
    // Certificates of one name with different keys (a root that was made again) must not be confused.
    let serial = params
        .serial_number
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {serial}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn ia5(name: &str) -> Result<rcgen::string::Ia5String, IssueError> {
    name.try_into()
        .map_err(|_| IssueError::Name(name.to_owned()))
}

/// A CA's key: ours, or one of the kinds that users bring.
enum CaKey {
    P256(Key),
    Other(Box<rcgen::KeyPair>),
}

impl CaKey {
    fn from_pem(text: &str) -> Result<Self, IssueError> {
        if let Ok(key) = Key::from_pem(text) {
            return Ok(Self::P256(key));
        }
        let pair = rcgen::KeyPair::from_pem(text)
            .map_err(|e| IssueError::Authority(format!("ca-key.pem: {e}")))?;
        Ok(Self::Other(Box::new(pair)))
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        if let Self::Other(pair) = self {
            pair.zeroize();
        }
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::P256(key) => key.der_bytes(),
            Self::Other(key) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256(key) => PublicKeyData::algorithm(key),
            Self::Other(key) => PublicKeyData::algorithm(key.as_ref()),
        }
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Self::P256(key) => SigningKey::sign(key, message),
            Self::Other(key) => SigningKey::sign(key.as_ref(), message),
        }
    }
}

/// PEM of `der`, 64 columns as RFC 7468 has it.
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    use base64::Engine as _;
    let body = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    // One allocation: a key must not be left behind in an outgrown buffer.
    let mut text = Zeroizing::new(String::with_capacity(
        body.len() * 66 / 64 + 2 * label.len() + 40,
    ));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// PEM of a certificate.
pub fn certificate_pem(der: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", der).to_string()
}

#[cfg(test)]
mod tests;
