//! `istio.v1.auth.IstioCertificateService`: who may have a certificate of whom.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::Identity;
use prometheus_client::metrics::counter::Counter;
use prost_types::value::Kind;
use proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::IstioCertificateService,
};
use runtime::metrics::Registry;
use tonic::{Request, Response, Status};

use super::authenticate::Caller;
use crate::{ca::Issuers, follow::Views};

/// Certificates are valid this much earlier, because clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// What is granted.
#[derive(Debug, Clone)]
pub struct Grants {
    /// Accounts (namespace, name) of node proxies.
    pub node_accounts: Vec<(String, String)>,
    /// Life when the request names none.
    pub default_ttl: Duration,
    /// Longest life.
    pub max_ttl: Duration,
}

/// The service.
pub struct Authority {
    issuers: Issuers,
    grants: Grants,
    views: Arc<Views>,
    issued: Counter,
    refused: Counter,
}

impl Authority {
    /// Signs with what `issuers` says at the time; where identities run is asked of `views`.
    #[must_use]
    pub fn new(
        issuers: Issuers,
        grants: Grants,
        views: Arc<Views>,
        registry: &Registry,
    ) -> Authority {
        let issued = registry.register(
            "causeway_certificates_issued",
            "Certificates issued",
            Counter::default(),
        );
        let refused = registry.register(
            "causeway_certificates_refused",
            "Requests refused",
            Counter::default(),
        );
        Authority {
            issuers,
            grants,
            views,
            issued,
            refused,
        }
    }

    fn answer(
        &self,
        caller: &Caller,
        request: &IstioCertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let identity = match impersonated(request)? {
            None => caller.identity.clone(),
            Some(wanted) => {
                may_impersonate(caller, &wanted, &self.grants, |node, ns, sa| {
                    self.views.runs_on(node, ns, sa)
                })?;
                wanted
            }
        };
        let ttl = life(request.validity_duration, &self.grants) + CLOCK_SKEW;
        let not_before = SystemTime::now() - CLOCK_SKEW;
        let issuer = self.issuers.borrow().clone();
        let chain = issuer.sign_csr(&request.csr, &identity, not_before, ttl);
        chain.map_err(|error| match error {
            identity::issue::IssueError::Request(_) => Status::invalid_argument(error.to_string()),
            _ => Status::internal(error.to_string()),
        })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::unauthenticated(
                "neither a token nor a client certificate was shown",
            ));
        };
        match self.answer(&caller, request.get_ref()) {
            Ok(cert_chain) => {
                self.issued.inc();
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(status) => {
                self.refused.inc();
                tracing::warn!(caller = %caller.identity, "certificate refused: {}", status.message());
                Err(status)
            }
        }
    }
}

/// The identity that a node proxy asks for, if it asks for another's.
fn impersonated(request: &IstioCertificateRequest) -> Result<Option<Identity>, Status> {
    let field = request
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
    let text = match field.map(|value| &value.kind) {
        None => return Ok(None),
        Some(Some(Kind::StringValue(text))) if text.is_empty() => return Ok(None),
        Some(Some(Kind::StringValue(text))) => text,
        Some(_) => {
            return Err(Status::invalid_argument(
                "ImpersonatedIdentity must be a string",
            ));
        }
    };
    let parsed = text.parse().map_err(|error| {
        Status::invalid_argument(format!(
            "ImpersonatedIdentity {text:?} is no identity: {error}"
        ))
    });
    parsed.map(Some)
}

/// A node proxy may ask for what runs on its own node; nobody else for anybody else.
fn may_impersonate(
    caller: &Caller,
    wanted: &Identity,
    grants: &Grants,
    runs_on: impl Fn(&str, &str, &str) -> bool,
) -> Result<(), Status> {
    let denied = |why: String| Err(Status::permission_denied(why));
    let who = &caller.identity;
    let is_node_proxy = grants.node_accounts.iter().any(|(namespace, account)| {
        namespace == who.namespace() && account == who.service_account()
    });
    if !is_node_proxy {
        return denied(format!(
            "{who} may not ask for {wanted}: it is no node proxy (CA_TRUSTED_NODE_ACCOUNTS)"
        ));
    }
    let Some(node) = &caller.node else {
        return denied(format!(
            "{who} may not ask for {wanted}: its credential is bound to no node"
        ));
    };
    if wanted.trust_domain() != who.trust_domain() {
        return denied(format!(
            "{wanted} is not of trust domain {}",
            who.trust_domain()
        ));
    }
    if !runs_on(node, wanted.namespace(), wanted.service_account()) {
        return denied(format!(
            "{who} may not ask for {wanted}: no pod of it is on node {node}"
        ));
    }
    Ok(())
}

/// The asked life in seconds, cut to what is granted; none or nonsense means the default.
fn life(asked: i64, grants: &Grants) -> Duration {
    let asked = u64::try_from(asked)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    asked.unwrap_or(grants.default_ttl).min(grants.max_ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants() -> Grants {
        Grants {
            node_accounts: vec![("istio-system".into(), "ztunnel".into())],
            default_ttl: Duration::from_secs(100),
            max_ttl: Duration::from_secs(1000),
        }
    }

    fn caller(account: &str, node: Option<&str>) -> Caller {
        let identity = format!("spiffe://cluster.local/ns/istio-system/sa/{account}");
        Caller {
            identity: identity.parse().unwrap(),
            node: node.map(str::to_owned),
        }
    }

    #[test]
    fn node_proxies_get_what_runs_on_their_node_and_nothing_else() {
        let echo = "spiffe://cluster.local/ns/app/sa/echo";
        let table = [
            (caller("ztunnel", Some("node1")), echo, None),
            (
                caller("ztunnel", Some("node2")),
                echo,
                Some(
                    "spiffe://cluster.local/ns/istio-system/sa/ztunnel may not ask for spiffe://cluster.local/ns/app/sa/echo: no pod of it is on node node2",
                ),
            ),
            (
                caller("ztunnel", None),
                echo,
                Some(
                    "spiffe://cluster.local/ns/istio-system/sa/ztunnel may not ask for spiffe://cluster.local/ns/app/sa/echo: its credential is bound to no node",
                ),
            ),
            (
                caller("other", Some("node1")),
                echo,
                Some(
                    "spiffe://cluster.local/ns/istio-system/sa/other may not ask for spiffe://cluster.local/ns/app/sa/echo: it is no node proxy (CA_TRUSTED_NODE_ACCOUNTS)",
                ),
            ),
            (
                caller("ztunnel", Some("node1")),
                "spiffe://evil/ns/app/sa/echo",
                Some("spiffe://evil/ns/app/sa/echo is not of trust domain cluster.local"),
            ),
            (
                caller("ztunnel", Some("node1")),
                "spiffe://cluster.local/ns/app/sa/other",
                Some(
                    "spiffe://cluster.local/ns/istio-system/sa/ztunnel may not ask for spiffe://cluster.local/ns/app/sa/other: no pod of it is on node node1",
                ),
            ),
        ];
        for (caller, wanted, refusal) in table {
            let runs = |node: &str, ns: &str, sa: &str| (node, ns, sa) == ("node1", "app", "echo");
            let answer = may_impersonate(&caller, &wanted.parse().unwrap(), &grants(), runs);
            assert_eq!(
                answer
                    .err()
                    .map(|status| status.message().to_owned())
                    .as_deref(),
                refusal
            );
        }
    }

    #[test]
    fn life_is_cut_to_what_is_granted() {
        for (asked, seconds) in [
            (0, 100),
            (-5, 100),
            (10, 10),
            (5000, 1000),
            (i64::MAX, 1000),
        ] {
            assert_eq!(
                life(asked, &grants()),
                Duration::from_secs(seconds),
                "{asked}"
            );
        }
    }

    #[test]
    fn the_impersonated_identity_is_strict() {
        let request = |kind| IstioCertificateRequest {
            metadata: Some(prost_types::Struct {
                fields: [(
                    "ImpersonatedIdentity".to_owned(),
                    prost_types::Value { kind: Some(kind) },
                )]
                .into(),
            }),
            ..Default::default()
        };
        assert!(impersonated(&request(Kind::NumberValue(1.0))).is_err());
        assert!(
            impersonated(&request(Kind::StringValue(
                "spiffe://td/ns/a/sa/b/../c".into()
            )))
            .is_err()
        );
        assert_eq!(
            impersonated(&request(Kind::StringValue(String::new()))).unwrap(),
            None
        );
        assert_eq!(
            impersonated(&IstioCertificateRequest::default()).unwrap(),
            None
        );
    }
}
