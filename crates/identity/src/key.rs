//! P-256 private keys: generation, certificate requests, and signing in TLS handshakes.
//! A key lives inside aws-lc's own memory, which is wiped when it is freed; it has no `Debug` content.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING as P256, EcdsaKeyPair, KeyPair as _};
use mesh::identity::Identity;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::{Zeroize as _, Zeroizing};

/// A private key. Clones share the same key.
#[derive(Clone)]
pub struct Key(Arc<EcdsaKeyPair>);

/// Why there is no usable key or certificate request.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random source or the key generator failed.
    #[error("cannot generate a P-256 key")]
    Generate,
    /// The text holds no private key, or one that is not P-256.
    #[error("not a P-256 private key in PEM: {0}")]
    Parse(String),
    /// The request could not be encoded or signed.
    #[error("cannot build the certificate request")]
    Request(#[source] rcgen::Error),
}

impl Key {
    /// Makes a new random key.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&P256).map_err(|_| KeyError::Generate)?;
        Ok(Self(Arc::new(pair)))
    }

    /// Reads a PKCS#8 or SEC1 key. The caller's text is not wiped; hold it in a [`Zeroizing`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let mut der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| KeyError::Parse(e.to_string()))?;
        let pair = EcdsaKeyPair::from_private_key_der(&P256, der.secret_der())
            .map_err(|e| KeyError::Parse(e.to_string()));
        der.zeroize();
        Ok(Self(Arc::new(pair?)))
    }

    /// The key as PKCS#8 PEM, for a CA that must outlive its process. Never log it.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der = self.0.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(crate::issue::pem("PRIVATE KEY", der.as_ref()))
    }

    /// A certificate request (PEM) whose only name is the identity's URI.
    pub fn csr(&self, identity: &Identity) -> Result<String, KeyError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let uri = rcgen::string::Ia5String::try_from(identity.to_string());
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.map_err(KeyError::Request)?)];
        let request = params.serialize_request(self).map_err(KeyError::Request)?;
        request.pem().map_err(KeyError::Request)
    }

    fn sign_bytes(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signature = self.0.sign(&SystemRandom::new(), message).ok()?;
        Some(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(P-256, hidden)")
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let known = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        known.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.sign_bytes(message)
            .ok_or_else(|| rustls::Error::General("signing failed".to_owned()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_bytes(message)
            .ok_or(rcgen::Error::RingUnspecified)
    }
}
