//! A small certificate authority for tests: a root, an intermediate below it, and leaves that name
//! SPIFFE identities. Certificates for our own code, PEM for foreign peers, and the gRPC service that
//! ztunnel asks. Signs through `identity::issue`, as the control plane does.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use identity::issue::{IssueError, Issuer};
use identity::tls::KeyExchange;
use identity::{Certificate, Identity, Key};
use prost_types::value::Kind;
use proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates begin a little in the past, as real ones do, so that clocks may differ.
const SKEW: Duration = Duration::from_secs(60);

/// The authority. Clones share the key and what was recorded.
#[derive(Clone)]
pub struct TestCa {
    trust_domain: Arc<str>,
    issuer: Arc<Issuer>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    refused: HashSet<String>,
}

/// A request that the gRPC service has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The `ImpersonatedIdentity`, empty if absent.
    pub identity: String,
    /// The header `authorization`.
    pub authorization: String,
    /// The header `clusterid`.
    pub cluster: String,
    /// Requested life, seconds.
    pub seconds: i64,
}

/// A certificate as files of a foreign peer.
#[derive(Clone, Debug)]
pub struct Pem {
    /// Leaf, then intermediates.
    pub chain: String,
    /// PKCS#8.
    pub key: String,
    /// What peers must chain to.
    pub roots: String,
}

impl TestCa {
    /// A new authority for `trust_domain`.
    pub fn new(trust_domain: &str) -> Self {
        let begin = SystemTime::now() - SKEW;
        let root = Issuer::new_root(trust_domain, begin, YEAR).expect("a root can be made");
        let issuer = root
            .new_intermediate(&format!("{trust_domain} intermediate"), begin, YEAR)
            .expect("an intermediate can be made");
        Self {
            trust_domain: trust_domain.into(),
            issuer: Arc::new(issuer),
            state: Arc::default(),
        }
    }

    /// The identity of an account in this trust domain.
    pub fn identity(&self, namespace: &str, service_account: &str) -> Identity {
        Identity::new(&self.trust_domain, namespace, service_account).expect("a valid identity")
    }

    /// A certificate valid from a minute ago until `ttl` from now.
    pub fn issue(&self, identity: &Identity, ttl: Duration) -> Arc<Certificate> {
        self.issue_from(identity, SystemTime::now() - SKEW, ttl + SKEW)
    }

    /// A certificate of any validity, for example one that has expired.
    pub fn issue_from(
        &self,
        identity: &Identity,
        not_before: SystemTime,
        ttl: Duration,
    ) -> Arc<Certificate> {
        let key = Key::generate().expect("a key can be made");
        let chain = self
            .issuer
            .sign_key(&key, identity, not_before, ttl)
            .expect("signed");
        let certificate = Certificate::from_chain(key, &chain, KeyExchange::Standard);
        Arc::new(certificate.expect("our own chain is usable"))
    }

    /// A certificate for a foreign peer (Envoy, an upstream ztunnel, the `h2` crate).
    pub fn issue_pem(&self, identity: &Identity, ttl: Duration) -> Pem {
        let key = Key::generate().expect("a key can be made");
        let begin = SystemTime::now() - SKEW;
        let chain = self.issuer.sign_key(&key, identity, begin, ttl + SKEW);
        Self::pem(&key, chain)
    }

    /// A certificate for a control plane's server: DNS names and IP addresses.
    pub fn issue_server(&self, names: &[&str]) -> Pem {
        let key = Key::generate().expect("a key can be made");
        let begin = SystemTime::now() - SKEW;
        let chain = self.issuer.sign_server(&key, names, begin, YEAR / 2);
        Self::pem(&key, chain)
    }

    /// The roots, PEM.
    pub fn roots_pem(&self) -> &str {
        self.issuer.roots_pem()
    }

    /// `IstioCertificateService` of this authority, for a tonic router.
    pub fn service(&self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self.clone())
    }

    /// Refuses (or serves again) requests for an identity.
    pub fn refuse(&self, identity: &Identity, refused: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if refused {
            state.refused.insert(identity.to_string());
        } else {
            state.refused.remove(&identity.to_string());
        }
    }

    /// The requests that the service has seen.
    pub fn asked(&self) -> Vec<Asked> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .asked
            .clone()
    }

    fn pem(key: &Key, chain: Result<Vec<String>, IssueError>) -> Pem {
        let mut chain = chain.expect("signed");
        let roots = chain.pop().expect("the last entry is the roots");
        let key = key.to_pem().expect("a key of our own").to_string();
        Pem {
            chain: chain.concat(),
            key,
            roots,
        }
    }

    fn record(&self, request: &Request<IstioCertificateRequest>) -> (Asked, bool) {
        let header = |name| {
            let value = request.metadata().get(name).and_then(|v| v.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let fields = request.get_ref().metadata.as_ref().map(|m| &m.fields);
        let named = fields
            .and_then(|f| f.get("ImpersonatedIdentity"))
            .and_then(|v| v.kind.clone());
        let identity = match named {
            Some(Kind::StringValue(identity)) => identity,
            _ => String::new(),
        };
        let asked = Asked {
            identity,
            authorization: header("authorization"),
            cluster: header("clusterid"),
            seconds: request.get_ref().validity_duration,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(asked.clone());
        let refused = state.refused.contains(&asked.identity);
        (asked, refused)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for TestCa {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let (asked, refused) = self.record(&request);
        if refused {
            return Err(Status::permission_denied(format!(
                "{} is refused",
                asked.identity
            )));
        }
        // A workload that asks for itself: its token says who it is.
        let own = asked
            .authorization
            .strip_prefix("Bearer ")
            .unwrap_or_default();
        let named = Some(asked.identity.as_str()).filter(|named| !named.is_empty());
        let identity: Identity = named
            .unwrap_or(own)
            .parse()
            .map_err(|e| Status::invalid_argument(format!("ImpersonatedIdentity: {e}")))?;
        let ttl = Duration::from_secs(asked.seconds.unsigned_abs());
        let csr = &request.get_ref().csr;
        let signed = self
            .issuer
            .sign_csr(csr, &identity, SystemTime::now() - SKEW, ttl + SKEW);
        let cert_chain = signed.map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
