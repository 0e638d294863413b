//! Who is calling: the account behind a bearer token, else the identity of the client certificate, else nobody.
//! Runs before every call; a call without credentials never reaches a service.

use std::{
    future::Future,
    net::IpAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use identity::Identity;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};
use xds::server::Authenticated;

use super::{incoming::Peer, review::Review};

/// A caller that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its identity.
    pub identity: Identity,
    /// The node that its token is bound to.
    pub node: Option<String>,
}

/// What bearer tokens stand for.
#[derive(Debug, Clone)]
pub enum Tokens {
    /// None are taken.
    Nothing,
    /// What this file says; read at each call, so that edits count at once.
    File(Arc<PathBuf>),
    /// What the API server says.
    Review(Box<Review>),
}

/// Checks credentials.
#[derive(Debug, Clone)]
pub struct Authenticator {
    tokens: Tokens,
    trust_domain: Arc<str>,
}

impl Authenticator {
    /// Besides tokens, client certificates of the trust domain are accepted.
    #[must_use]
    pub fn new(tokens: Tokens, trust_domain: &str) -> Authenticator {
        Authenticator {
            tokens,
            trust_domain: trust_domain.into(),
        }
    }

    /// Says, at the start, what of the tokens file cannot be used: whoever mistypes a line would else look for the fault at
    /// the caller's end, which only learns that its token is not known.
    pub fn report(&self) {
        let Tokens::File(path) = &self.tokens else {
            return;
        };
        match std::fs::read_to_string(&**path) {
            Ok(text) => {
                for line in slips(&text, &self.trust_domain) {
                    tracing::warn!(
                        "TOKENS_FILE {} line {line}: want `<token> <namespace>/<account> [node=<node>]`, it stands for nobody",
                        path.display()
                    );
                }
            }
            Err(error) => tracing::warn!("TOKENS_FILE {}: {error}", path.display()),
        }
    }

    async fn by_token(&self, token: &str, peer: Option<IpAddr>) -> Result<Caller, Status> {
        let path = match &self.tokens {
            Tokens::File(path) => path,
            Tokens::Review(review) => return review.caller(token, peer).await,
            Tokens::Nothing => {
                return Err(Status::unauthenticated(
                    "this control plane takes no tokens, only client certificates",
                ));
            }
        };
        let text = std::fs::read_to_string(&**path).map_err(|error| {
            tracing::error!("TOKENS_FILE {}: {error}", path.display());
            Status::unavailable("the tokens of this control plane cannot be read now")
        })?;
        find(&text, token, &self.trust_domain)
            .ok_or_else(|| Status::unauthenticated("the bearer token is not known"))
    }

    /// Who calls, by the headers of the call, and by the connection's certificate and address.
    async fn caller(
        &self,
        authorization: Option<String>,
        certified: Option<&Identity>,
        address: Option<IpAddr>,
    ) -> Result<Caller, Status> {
        if let Some(text) = authorization {
            let Some(token) = text.strip_prefix("Bearer ") else {
                return Err(Status::unauthenticated(
                    "`authorization` must be `Bearer <token>`",
                ));
            };
            let token = token.trim();
            return match self.by_token(token, address).await {
                Err(status) if status.code() == Code::Unavailable => {
                    self.without_review(token, certified).ok_or(status)
                }
                answer => answer,
            };
        }
        self.by_certificate(certified)
    }

    /// While the API server is away, whoever shows a good certificate of the identity that its token claims is taken for that
    /// one: else no proxy that starts anew would be told anything. The node is not proven by that, so that nobody gets
    /// certificates of others.
    fn without_review(&self, token: &str, certified: Option<&Identity>) -> Option<Caller> {
        let Tokens::Review(review) = &self.tokens else {
            return None;
        };
        let claimed = review.claimed(token)?;
        let caller = self.by_certificate(certified).ok()?;
        (caller.identity == claimed).then_some(caller)
    }

    fn by_certificate(&self, certified: Option<&Identity>) -> Result<Caller, Status> {
        let Some(identity) = certified.cloned() else {
            return Err(Status::unauthenticated(
                "neither a token nor a client certificate was shown",
            ));
        };
        if identity.trust_domain() != &*self.trust_domain {
            let text = format!("{identity} is not of trust domain {}", self.trust_domain);
            return Err(Status::unauthenticated(text));
        }
        Ok(Caller {
            identity,
            node: None,
        })
    }
}

/// A service behind an [`Authenticator`]; its calls carry [`Caller`] and [`Authenticated`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    service: S,
    authenticator: Authenticator,
}

impl<S> Guarded<S> {
    /// Puts the authenticator before the service.
    #[must_use]
    pub fn new(service: S, authenticator: Authenticator) -> Guarded<S> {
        Guarded {
            service,
            authenticator,
        }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that was polled ready takes the call.
        let fresh = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, fresh);
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            let header = request.headers().get("authorization");
            // What is no text is no token.
            let header = header.map(|value| value.to_str().unwrap_or_default().to_owned());
            let peer = request.extensions().get::<Peer>().cloned();
            let certified = peer.as_ref().and_then(|peer| peer.identity.as_ref());
            let address = peer.as_ref().map(|peer| peer.address);
            match authenticator.caller(header, certified, address).await {
                Ok(caller) => {
                    if let Some(peer) = peer {
                        peer.proven();
                    }
                    let authenticated = Authenticated(caller.identity.clone());
                    request.extensions_mut().insert(authenticated);
                    request.extensions_mut().insert(caller);
                    service.call(request).await
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// Looks a token up in the text of the tokens file. Every line is compared, in constant time, so that the time tells
/// nothing. A line that cannot be read stands for nobody.
fn find(text: &str, token: &str, trust_domain: &str) -> Option<Caller> {
    let mut found = None;
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        let (Some(known), Some(account)) = (words.next(), words.next()) else {
            continue;
        };
        if verify_slices_are_equal(known.as_bytes(), token.as_bytes()).is_err() {
            continue;
        }
        let Some((namespace, service_account)) = account.split_once('/') else {
            continue;
        };
        let node = words
            .find_map(|word| word.strip_prefix("node="))
            .map(str::to_owned);
        let identity = Identity::new(trust_domain, namespace, service_account).ok();
        found = identity.map(|identity| Caller { identity, node });
    }
    found
}

/// The numbers of lines that stand for nobody, from 1.
fn slips(text: &str, trust_domain: &str) -> Vec<usize> {
    let stands_for_nobody = |line: &str| {
        let token = line.split_whitespace().next();
        token.is_some_and(|token| {
            !token.starts_with('#') && find(line, token, trust_domain).is_none()
        })
    };
    let numbered = (1..).zip(text.lines());
    let slips = numbered.filter(|(_, line)| stands_for_nobody(line));
    slips.map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn while_the_api_server_is_away_a_certificate_of_the_tokens_account_is_proof() {
        let away = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("away"))
        });
        let client = kube::Client::new(away, "default");
        let review = Review::new(client, vec!["istio-ca".into()], "td");
        let authenticator = Authenticator::new(Tokens::Review(Box::new(review)), "td");
        let claims = serde_json::json!({"aud": "istio-ca", "sub": "system:serviceaccount:a:b"});
        let header = format!("Bearer {}", super::super::token::saying(&claims));
        let asked = async |certified: Option<&str>| {
            let certified = certified.map(|text| text.parse::<Identity>().unwrap());
            let answer = authenticator.caller(Some(header.clone()), certified.as_ref(), None);
            answer.await.map_err(|status| status.code())
        };
        let caller = asked(Some("spiffe://td/ns/a/sa/b")).await.expect("proven");
        assert_eq!(caller.identity.to_string(), "spiffe://td/ns/a/sa/b");
        assert_eq!(caller.node, None);
        for other in [
            None,
            Some("spiffe://td/ns/a/sa/c"),
            Some("spiffe://other/ns/a/sa/b"),
        ] {
            assert_eq!(asked(other).await, Err(Code::Unavailable), "{other:?}");
        }
    }

    #[test]
    fn lines_that_stand_for_nobody_are_known_by_number() {
        assert_eq!(slips(TOKENS, "cluster.local"), [5, 6]);
    }

    const TOKENS: &str = "# who is who\n\nsecret-1 istio-system/ztunnel node=node1\nsecret-2 app/wp\nbroken\nsecret-3 nobody\n";

    #[test]
    fn a_token_stands_for_its_account() {
        let caller = find(TOKENS, "secret-1", "cluster.local").unwrap();
        assert_eq!(
            caller.identity.to_string(),
            "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
        );
        assert_eq!(caller.node.as_deref(), Some("node1"));
        assert_eq!(find(TOKENS, "secret-2", "td").unwrap().node, None);
    }

    #[test]
    fn other_tokens_stand_for_nobody() {
        for token in [
            "",
            "secret",
            "secret-11",
            "broken",
            "secret-3",
            "#",
            "# who is who",
        ] {
            assert_eq!(find(TOKENS, token, "cluster.local"), None, "{token}");
        }
    }
}
