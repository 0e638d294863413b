//! TLS between mesh members: one crypto provider, TLS 1.3 only, mutual certificates that chain to the
//! mesh's roots. `certificate` builds the configs once per certificate; ztunnel's workers and
//! `tokio-rustls` users share them.

use std::sync::{Arc, OnceLock};

use mesh::identity::Identity;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};

use crate::key::Key;
use crate::peer::{self, PeerError};

mod verified;

use verified::{Chain, Remembering};

/// The one application protocol of mesh connections.
pub const ALPN: &[u8] = b"h2";

/// Which key exchanges are offered and accepted (setting `COMPLIANCE_POLICY`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768 first, then X25519, P-256, P-384.
    #[default]
    Standard,
    /// `pqc`: X25519MLKEM768 alone.
    PostQuantumOnly,
}

/// The provider of every mesh handshake: two AES-GCM suites and the groups of `groups`.
pub fn provider(groups: KeyExchange) -> Arc<CryptoProvider> {
    static STANDARD: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    static POST_QUANTUM: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let (cell, kx_groups) = match groups {
        KeyExchange::Standard => (
            &STANDARD,
            &[
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ][..],
        ),
        KeyExchange::PostQuantumOnly => (&POST_QUANTUM, &[kx_group::X25519MLKEM768][..]),
    };
    let build = || {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_AES_128_GCM_SHA256,
            ],
            kx_groups: kx_groups.to_vec(),
            ..default_provider()
        })
    };
    cell.get_or_init(build).clone()
}

/// The name handed to rustls for a mesh connection. It is never sent (SNI is off) and never compared:
/// the peer is known by its SPIFFE identity, see [`peer::expect`].
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

/// Server side: client certificate mandatory, chain to `roots`, one strict SPIFFE URI of our own trust
/// domain.
pub(crate) fn server_config(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    own: &Identity,
    key: Arc<CertifiedKey>,
) -> Result<ServerConfig, Error> {
    let webpki = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .clear_root_hint_subjects()
        .build()
        .map_err(|e| Error::General(e.to_string()))?;
    let verifier = Arc::new(Client {
        chain: Remembering::new(Box::new(ClientChain(webpki.clone())), &roots, b"client"),
        webpki,
        own: own.clone(),
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // A worker's record layer takes the keys over when the handshake is done.
    config.enable_secret_extraction = true;
    Ok(config)
}

/// Client side: chain to `roots` and one strict SPIFFE URI; which identity is expected is the caller's
/// check right after the handshake.
pub(crate) fn client_config(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    key: Arc<CertifiedKey>,
) -> Result<ClientConfig, Error> {
    let chain = ServerChain {
        roots: roots.clone(),
        provider: provider.clone(),
    };
    let verifier = Arc::new(Server {
        chain: Remembering::new(Box::new(chain), &roots, b"server"),
        provider: provider.clone(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_secret_extraction = true;
    Ok(config)
}

/// TLS of a control plane's gRPC server: it shows `chain` (leaf first); a client may show a certificate
/// that chains to `client_roots`, or none (then it has a token). Ask [`peer::peer_identity`] who came.
pub fn grpc_server_config(
    key: Key,
    chain: Vec<CertificateDer<'static>>,
    client_roots: &[CertificateDer<'static>],
) -> Result<ServerConfig, Error> {
    let provider = provider(KeyExchange::Standard);
    let mut roots = RootCertStore::empty();
    for root in client_roots {
        roots.add(root.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .clear_root_hint_subjects()
        .build()
        .map_err(|e| Error::General(e.to_string()))?;
    let certified = CertifiedKey::new(chain, Arc::new(key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A TLS error in words for logs and users. rustls shows a refusal of ours only as a `Debug` text.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(refusal)) => refusal.0.to_string(),
        other => other.to_string(),
    }
}

/// A peer refusal in rustls' terms; see [`explain`].
fn refuse(error: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// From a server's leaf to a root.
#[derive(Debug)]
struct ServerChain {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Chain for ServerChain {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

/// From a client's leaf to a root.
#[derive(Debug)]
struct ClientChain(Arc<dyn ClientCertVerifier>);

impl Chain for ClientChain {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.0.verify_client_cert(leaf, intermediates, now)?;
        Ok(())
    }
}

/// Verifies the certificate of a server that we dialled.
#[derive(Debug)]
struct Server {
    chain: Remembering,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chain.verify(end_entity, intermediates, now)?;
        peer::leaf_identity(end_entity).map_err(refuse)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Verifies the certificate of a client that dialled us.
#[derive(Debug)]
struct Client {
    chain: Remembering,
    /// For everything but the chain.
    webpki: Arc<dyn ClientCertVerifier>,
    own: Identity,
}

impl ClientCertVerifier for Client {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain.verify(end_entity, intermediates, now)?;
        let peer = peer::leaf_identity(end_entity).map_err(refuse)?;
        peer::same_trust_domain(&peer, &self.own).map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
