//! Who is behind a service account's token, by the API server's TokenReview. Called by `authenticate` for each call that
//! shows a token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use identity::Identity;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use kubernetes::words;
use tonic::Status;

use super::authenticate::Caller;

/// An answer counts this long; a proxy asks for many certificates with one token.
const KEEP: Duration = Duration::from_secs(10);
/// Answers that are kept.
const MOST: usize = 4096;
/// The API server may take this long.
const DEADLINE: Duration = Duration::from_secs(5);
/// Tokens of service accounts are about 1 KiB.
const LONGEST: usize = 16 << 10;
/// Which node the pod of the token is on (Kubernetes 1.30 and later).
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Of a token.
type Hash = [u8; 32];

/// Asks the API server.
#[derive(Clone)]
pub struct Review {
    api: Api<TokenReview>,
    audiences: Arc<[String]>,
    trust_domain: Arc<str>,
    /// By hash, so that no token lies in memory.
    known: Arc<Mutex<HashMap<Hash, (Instant, Caller)>>>,
}

impl Review {
    /// Accepts tokens for any of `audiences`.
    #[must_use]
    pub fn new(client: Client, audiences: Vec<String>, trust_domain: &str) -> Review {
        Review {
            api: Api::all(client),
            audiences: audiences.into(),
            trust_domain: trust_domain.into(),
            known: Arc::default(),
        }
    }

    /// The caller behind a token.
    ///
    /// # Errors
    /// `Unauthenticated` when the API server does not accept it, `Unavailable` when it cannot be asked.
    pub async fn caller(&self, token: &str) -> Result<Caller, Status> {
        if token.len() > LONGEST {
            return Err(Status::unauthenticated(
                "the bearer token is too long to be a service account's",
            ));
        }
        let hash = digest(&SHA256, token.as_bytes());
        let hash: Hash = hash.as_ref().try_into().unwrap_or_default();
        if let Some(caller) = self.kept(&hash, Instant::now()) {
            return Ok(caller);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(self.audiences.to_vec()),
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let asked = self.api.create(&parameters, &review);
        let why = match tokio::time::timeout(DEADLINE, asked).await {
            Ok(Ok(review)) => {
                let status = review.status.unwrap_or_default();
                let caller = read(status, &self.audiences, &self.trust_domain);
                let caller = caller.map_err(Status::unauthenticated)?;
                self.keep(hash, caller.clone(), Instant::now());
                return Ok(caller);
            }
            Ok(Err(error)) => words(&error),
            Err(_) => "the API server does not answer".to_owned(),
        };
        tracing::warn!("a token could not be reviewed: {why}");
        Err(Status::unavailable(format!(
            "the token cannot be reviewed now: {why}"
        )))
    }

    fn kept(&self, hash: &Hash, now: Instant) -> Option<Caller> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, caller) = known.get(hash)?;
        (now.duration_since(*at) < KEEP).then(|| caller.clone())
    }

    fn keep(&self, hash: Hash, caller: Caller, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (at, _)| now.duration_since(*at) < KEEP);
        }
        if known.len() < MOST {
            known.insert(hash, (now, caller));
        }
    }
}

impl std::fmt::Debug for Review {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Review")
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

/// What the API server's answer says.
fn read(
    status: TokenReviewStatus,
    audiences: &[String],
    trust_domain: &str,
) -> Result<Caller, String> {
    if status.authenticated != Some(true) {
        let why = status.error.unwrap_or_else(|| "it is not known".into());
        return Err(format!("the API server does not accept the token: {why}"));
    }
    // A server that knows no audiences answers without them: such a token may be meant for anybody.
    let meant = status.audiences.unwrap_or_default();
    if !meant.iter().any(|audience| audiences.contains(audience)) {
        let wanted = audiences.join(" or ");
        return Err(format!("the token is not for audience {wanted}"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    let Some((namespace, account)) = account else {
        return Err(format!(
            "the token is of {name:?}, which is no service account"
        ));
    };
    let identity = Identity::new(trust_domain, namespace, account);
    let identity = identity.map_err(|error| format!("{name:?} makes no identity: {error}"))?;
    let mut extra = user.extra.unwrap_or_default();
    let node = extra
        .remove(NODE)
        .and_then(|values| values.into_iter().next());
    let node = node.filter(|node| !node.is_empty());
    Ok(Caller { identity, node })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(username: &str, audience: &str) -> TokenReviewStatus {
        let node = (NODE.to_owned(), vec!["node1".to_owned()]);
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.into()]),
            error: None,
            user: Some(UserInfo {
                username: Some(username.into()),
                extra: Some([node].into()),
                ..UserInfo::default()
            }),
        }
    }

    fn said(status: TokenReviewStatus) -> Result<Caller, String> {
        read(status, &["istio-ca".to_owned()], "td")
    }

    #[test]
    fn a_token_stands_for_its_account_on_its_node() {
        let caller = said(status(
            "system:serviceaccount:istio-system:ztunnel",
            "istio-ca",
        ))
        .unwrap();
        assert_eq!(
            caller.identity.to_string(),
            "spiffe://td/ns/istio-system/sa/ztunnel"
        );
        assert_eq!(caller.node.as_deref(), Some("node1"));
        let mut without = status("system:serviceaccount:a:b", "istio-ca");
        without.user.as_mut().unwrap().extra = None;
        assert_eq!(said(without).unwrap().node, None);
    }

    #[test]
    fn what_is_no_proof_is_refused_with_the_reason() {
        let unknown = TokenReviewStatus {
            authenticated: None,
            error: Some("expired".into()),
            ..status("system:serviceaccount:a:b", "istio-ca")
        };
        let anybody = TokenReviewStatus {
            audiences: None,
            ..status("system:serviceaccount:a:b", "istio-ca")
        };
        let table = [
            (unknown, "the API server does not accept the token: expired"),
            (
                TokenReviewStatus::default(),
                "the API server does not accept the token: it is not known",
            ),
            (anybody, "the token is not for audience istio-ca"),
            (
                status("system:serviceaccount:a:b", "other"),
                "the token is not for audience istio-ca",
            ),
            (
                status("admin", "istio-ca"),
                "the token is of \"admin\", which is no service account",
            ),
            (
                status("system:serviceaccount:a", "istio-ca"),
                "the token is of \"system:serviceaccount:a\", which is no service account",
            ),
        ];
        for (status, why) in table {
            assert_eq!(said(status).unwrap_err(), why);
        }
        assert!(said(status("system:serviceaccount:a:b:c", "istio-ca")).is_err());
        assert!(said(status("system:serviceaccount:a:b/c", "istio-ca")).is_err());
    }
}
