//! Asks a control plane for certificates over `istio.v1.auth.IstioCertificateService`.
//! `store` calls it through [`Authority`]; tests and other sources of identity implement that too.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mesh::identity::Identity;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::ca::IstioCertificateRequest;
use proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;

use crate::certificate::{Certificate, CertificateError};
use crate::grpc::GrpcChannel;
use crate::key::{Key, KeyError};
use crate::tls::KeyExchange;

/// One answer of the CA may take this long, connection set-up included.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A fetch in flight.
pub type Issuing = Pin<Box<dyn Future<Output = Result<Certificate, CaError>> + Send>>;

/// A source of certificates.
pub trait Authority: Send + Sync + 'static {
    /// Makes a key and has it certified for `identity`.
    fn issue(&self, identity: &Identity) -> Issuing;
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// No key or request could be made.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The CA could not be reached or refused.
    #[error("certificate authority: {0}")]
    Refused(String),
    /// No answer in time.
    #[error("certificate authority: no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The answer is not a usable certificate.
    #[error("certificate authority: {0}")]
    Unusable(#[from] CertificateError),
    /// The answer certifies somebody else.
    #[error("certificate authority: asked for {asked}, got a certificate of {got}")]
    WrongIdentity {
        /// The request.
        asked: Identity,
        /// The answer.
        got: Identity,
    },
}

/// How certificates are asked for.
#[derive(Clone, Copy, Debug)]
pub struct CaConfig {
    /// Requested life (setting `SECRET_TTL`).
    pub ttl: Duration,
    /// Key exchanges of the TLS configs that are built (setting `COMPLIANCE_POLICY`).
    pub key_exchange: KeyExchange,
    /// Send `ImpersonatedIdentity`: true for a node proxy, false for a workload that asks for itself.
    pub impersonate: bool,
}

/// The client of a CA. Clones share the channel.
#[derive(Clone)]
pub struct CaClient {
    service: IstioCertificateServiceClient<GrpcChannel>,
    config: CaConfig,
}

impl CaClient {
    /// A client over a channel of [`crate::grpc::channel`]. Connects at the first request.
    pub fn new(channel: GrpcChannel, config: CaConfig) -> Self {
        Self {
            service: IstioCertificateServiceClient::new(channel),
            config,
        }
    }

    async fn fetch(mut self, identity: Identity) -> Result<Certificate, CaError> {
        let key = Key::generate()?;
        let request = IstioCertificateRequest {
            csr: key.csr(&identity)?,
            validity_duration: i64::try_from(self.config.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: self.config.impersonate.then(|| impersonated(&identity)),
        };
        let answer =
            tokio::time::timeout(ANSWER_DEADLINE, self.service.create_certificate(request))
                .await
                .map_err(|_| CaError::Timeout(ANSWER_DEADLINE))?
                .map_err(|status| CaError::Refused(proto::explain(&status)))?;
        let chain = answer.into_inner().cert_chain;
        let certificate = Certificate::from_chain(key, &chain, self.config.key_exchange)?;
        if *certificate.identity() != identity {
            let got = certificate.identity().clone();
            return Err(CaError::WrongIdentity {
                asked: identity,
                got,
            });
        }
        Ok(certificate)
    }
}

impl Authority for CaClient {
    fn issue(&self, identity: &Identity) -> Issuing {
        Box::pin(self.clone().fetch(identity.clone()))
    }
}

/// The metadata by which a node proxy asks for one of its workloads.
fn impersonated(identity: &Identity) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(identity.to_string())),
    };
    Struct {
        fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
    }
}
