//! Who is behind a service account's token, by the API server's TokenReview. Called by `authenticate` for each call that
//! shows a token. Whoever reaches the port may show one, so that it is bounded how much we ask for strangers.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use identity::Identity;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use kubernetes::words;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::{authenticate::Caller, token};

/// An answer counts this long; a proxy asks for many certificates with one token.
const KEEP: Duration = Duration::from_secs(10);
/// A refusal counts this long: so often we ask for one who tries again and again.
const KEEP_REFUSAL: Duration = Duration::from_secs(3);
/// Answers that are kept, of each kind.
const MOST: usize = 4096;
/// Questions at once; more wait.
const MOST_QUESTIONS: usize = 64;
/// Those of one address. A proxy that starts asks for many certificates with one token: the first answer is that of all.
const MOST_QUESTIONS_OF_ONE: usize = 4;
/// The API server may take this long, and the wait before it.
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
    known: Arc<Kept<Caller>>,
    refused: Arc<Kept<String>>,
    questions: Arc<Semaphore>,
    shares: Arc<Shares>,
}

/// Answers by the hash of the token, so that no token lies in memory.
#[derive(Debug)]
struct Kept<T> {
    time: Duration,
    answers: Mutex<HashMap<Hash, (Instant, T)>>,
}

impl<T: Clone> Kept<T> {
    fn new(time: Duration) -> Arc<Kept<T>> {
        let answers = Mutex::default();
        Arc::new(Kept { time, answers })
    }

    fn find(&self, hash: &Hash, now: Instant) -> Option<T> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answer) = answers.get(hash)?;
        (now.duration_since(*at) < self.time).then(|| answer.clone())
    }

    fn keep(&self, hash: Hash, answer: T, now: Instant) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.retain(|_, (at, _)| now.duration_since(*at) < self.time);
        }
        if answers.len() < MOST {
            answers.insert(hash, (now, answer));
        }
    }
}

/// The rooms of the addresses that ask now.
#[derive(Debug, Default)]
struct Shares(Mutex<HashMap<IpAddr, Arc<Semaphore>>>);

/// What one address asks with, while it asks.
struct Share {
    shares: Arc<Shares>,
    address: IpAddr,
    room: Arc<Semaphore>,
}

impl Shares {
    fn of(self: &Arc<Self>, address: IpAddr) -> Share {
        let address = address.to_canonical();
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = rooms
            .entry(address)
            .or_insert_with(|| Arc::new(Semaphore::new(MOST_QUESTIONS_OF_ONE)))
            .clone();
        let shares = self.clone();
        Share {
            shares,
            address,
            room,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let rooms = self.shares.0.lock();
        let mut rooms = rooms.unwrap_or_else(PoisonError::into_inner);
        // The map's and ours: nobody else waits or asks, and nobody can begin to while the map is locked.
        if Arc::strong_count(&self.room) <= 2 {
            rooms.remove(&self.address);
        }
    }
}

impl Review {
    /// Accepts tokens for any of `audiences`.
    #[must_use]
    pub fn new(client: Client, audiences: Vec<String>, trust_domain: &str) -> Review {
        Review {
            api: Api::all(client),
            audiences: audiences.into(),
            trust_domain: trust_domain.into(),
            known: Kept::new(KEEP),
            refused: Kept::new(KEEP_REFUSAL),
            questions: Arc::new(Semaphore::new(MOST_QUESTIONS)),
            shares: Arc::default(),
        }
    }

    /// The caller behind a token; `peer` is who shows it.
    ///
    /// # Errors
    /// `Unauthenticated` when the API server does not accept it, `Unavailable` when it cannot be asked.
    pub async fn caller(&self, token: &str, peer: Option<IpAddr>) -> Result<Caller, Status> {
        if token.len() > LONGEST {
            return Err(Status::unauthenticated(
                "the bearer token is too long to be a service account's",
            ));
        }
        if let Some(why) = token::fault(token, &self.audiences, SystemTime::now()) {
            return Err(Status::unauthenticated(why));
        }
        let hash = digest(&SHA256, token.as_bytes());
        let hash: Hash = hash.as_ref().try_into().unwrap_or_default();
        if let Some(answer) = self.kept(&hash) {
            return answer;
        }
        let share = self
            .shares
            .of(peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let asked = async {
            let _room = self.room(&share).await;
            // Somebody may have asked while we waited.
            match self.kept(&hash) {
                Some(answer) => answer,
                None => self.ask(hash, token).await,
            }
        };
        let answer = tokio::time::timeout(DEADLINE, asked).await;
        answer.unwrap_or_else(|_| Err(unavailable("the API server does not answer")))
    }

    /// Waits until a question may be asked.
    async fn room(&self, share: &Share) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let of_one = share.room.clone().acquire_owned().await.ok()?;
        Some((of_one, self.questions.clone().acquire_owned().await.ok()?))
    }

    async fn ask(&self, hash: Hash, token: &str) -> Result<Caller, Status> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(self.audiences.to_vec()),
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let answer = self.api.create(&parameters, &review).await;
        let review = answer.map_err(|error| unavailable(&words(&error)))?;
        let status = review.status.unwrap_or_default();
        match read(status, &self.audiences, &self.trust_domain) {
            Ok(caller) => {
                self.known.keep(hash, caller.clone(), Instant::now());
                Ok(caller)
            }
            Err(why) => {
                self.refused.keep(hash, why.clone(), Instant::now());
                Err(Status::unauthenticated(why))
            }
        }
    }

    fn kept(&self, hash: &Hash) -> Option<Result<Caller, Status>> {
        let now = Instant::now();
        let known = self.known.find(hash, now).map(Ok);
        let refused = || {
            self.refused
                .find(hash, now)
                .map(|why| Err(Status::unauthenticated(why)))
        };
        known.or_else(refused)
    }

    /// The identity that a token claims, which nobody has proven.
    #[must_use]
    pub fn claimed(&self, token: &str) -> Option<Identity> {
        let (namespace, account) = token::claimed(token)?;
        Identity::new(&self.trust_domain, &namespace, &account).ok()
    }
}

fn unavailable(why: &str) -> Status {
    tracing::warn!("a token could not be reviewed: {why}");
    Status::unavailable(format!("the token cannot be reviewed now: {why}"))
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
mod tests;
