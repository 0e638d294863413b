//! The Secret on the API server: opened or made at the start, read again and again, and taken through rotations. Every
//! replica runs one; the API server lets only one of them make or change a Secret, the others read what it wrote.
//! Started by `app`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::issue::Issuer;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Error,
    api::{ObjectMeta, PostParams},
};
use kubernetes::words;
use runtime::Shutdown;
use tokio::{sync::watch, time::sleep};

use super::{
    Issuers,
    crossing::Crossing,
    rotation::{self, Plan, Step},
    secret::{self, Fields, SecretError},
};

/// An authority that users bring, as upstream knows it; it wins over ours and is never changed.
const BROUGHT: &str = "cacerts";
/// On our Secret: asks for a rotation of the root; removed when that begins.
pub const ROTATE: &str = "causeway/rotate-root";
/// Type of our Secret, upstream's for a self-signed root.
const TYPE: &str = "istio.io/ca-root";
/// Time between two looks at the Secret.
const LOOK: Duration = Duration::from_secs(30);
/// Time between two attempts to open it while the API server does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Life of an intermediate, at most that of its root; a new one is made at half of it.
const INTERMEDIATE_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Certificates are valid this much earlier, because clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The API server cannot be asked, or refuses.
    #[error("Secret {secret}: {}", words(source))]
    Api {
        /// `namespace/name`.
        secret: String,
        /// Why.
        source: Error,
    },
    /// The Secret is there and makes no authority. It is never written over.
    #[error("Secret {secret}: {source}")]
    Unusable {
        /// `namespace/name`.
        secret: String,
        /// Why.
        source: SecretError,
    },
}

/// Where the authority is kept and how it is rotated.
#[derive(Debug, Clone)]
pub struct Place {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of our Secret.
    pub secret: String,
    /// Name that stands in roots that are made.
    pub trust_domain: String,
    /// How rotations go.
    pub plan: Plan,
}

/// The authority as it was last read.
pub struct Vault {
    api: Api<Secret>,
    place: Place,
    /// Our Secret as it was read last, if it was there.
    own: Option<Fields>,
    crossing: Crossing,
    /// What was made of it, and signs now.
    fields: Fields,
    /// When the intermediate was made that signs now.
    made: SystemTime,
    sender: watch::Sender<Arc<Issuer>>,
}

/// One look at the API server.
enum Found {
    /// The Secret of the user.
    Brought(Fields),
    /// Ours.
    Own(Box<Secret>, Fields),
    /// Neither.
    Nothing,
}

impl Vault {
    /// Opens the authority: what the user brought, else ours, which is made if it is not there. Waits for an API server
    /// that is away, and says so.
    ///
    /// # Errors
    /// When the Secret makes no authority.
    pub async fn open(client: Client, place: Place) -> Result<Vault, VaultError> {
        let api = Api::namespaced(client, &place.namespace);
        let mut last = String::new();
        loop {
            let opened = match find(&api, &place).await {
                Ok(Found::Brought(fields)) => Ok((BROUGHT, fields)),
                Ok(Found::Own(_, fields)) => Ok((place.secret.as_str(), fields)),
                Ok(Found::Nothing) => match create(&api, &place).await {
                    Ok(Some(fields)) => Ok((place.secret.as_str(), fields)),
                    // Another replica was first: its root is ours.
                    Ok(None) => continue,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            match opened {
                Ok((name, fields)) => {
                    let now = SystemTime::now();
                    let unusable = |source| unusable(&place, name, source);
                    let issuer = signing(&fields, &place.trust_domain, now).map_err(unusable)?;
                    tracing::info!("the authority of Secret {}/{name} signs", place.namespace);
                    let sender = watch::Sender::new(Arc::new(issuer));
                    let own = (name != BROUGHT).then(|| fields.clone());
                    return Ok(Vault {
                        api,
                        place,
                        own,
                        crossing: Crossing::new(fields.clone()),
                        fields,
                        made: now,
                        sender,
                    });
                }
                Err(error @ VaultError::Unusable { .. }) => return Err(error),
                Err(error) => {
                    let text = error.to_string();
                    if text != last {
                        tracing::warn!("{text}; waiting for it");
                        last = text;
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// What signs, now and later.
    #[must_use]
    pub fn issuers(&self) -> Issuers {
        self.sender.subscribe()
    }

    /// Follows the Secret until drained.
    pub async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = sleep(LOOK.mul_f64(0.75 + rand::random::<f64>() / 2.0)) => {}
            }
            if let Err(error) = self.look(SystemTime::now()).await {
                tracing::warn!("{error}; the authority that was read before signs on");
            }
        }
    }

    /// Reads the Secret, does the step that is due, and signs with what is there now.
    ///
    /// # Errors
    /// When it cannot be read or written, or makes no authority; what signed before signs on.
    pub async fn look(&mut self, now: SystemTime) -> Result<(), VaultError> {
        let found = match find(&self.api, &self.place).await? {
            Found::Brought(fields) => Some((BROUGHT.to_owned(), fields)),
            Found::Own(own, fields) => {
                let fields = self.rotate(*own, fields, now).await?;
                self.own = Some(fields.clone());
                Some((self.place.secret.clone(), fields))
            }
            Found::Nothing => {
                self.put_back().await?;
                None
            }
        };
        let was_under_way = self.crossing.is_under_way();
        let name = match found {
            Some((name, fields)) => {
                let taken = self.crossing.take(&fields, now, self.place.plan.overlap);
                taken.map_err(|source| unusable(&self.place, &name, source))?;
                name
            }
            None => self.place.secret.clone(),
        };
        if self.crossing.is_under_way() && !was_under_way {
            let Place {
                namespace, plan, ..
            } = &self.place;
            tracing::warn!(
                "Secret {namespace}/{name} holds another root than the one that signs: it is announced from now on and signs \
                 in {} s (CA_ROOT_OVERLAP); if that is a slip, put the former Secret back",
                plan.overlap.as_secs()
            );
        }
        let unusable = |source| unusable(&self.place, &name, source);
        let fields = self.crossing.fields().map_err(unusable)?;
        let aged = now.duration_since(self.made).unwrap_or_default() >= INTERMEDIATE_LIFE / 2;
        if fields == self.fields && !aged {
            return Ok(());
        }
        let issuer = signing(&fields, &self.place.trust_domain, now).map_err(unusable)?;
        (self.fields, self.made) = (fields, now);
        tracing::info!(
            "the authority of Secret {}/{name} was renewed",
            self.place.namespace
        );
        self.sender.send_replace(Arc::new(issuer));
        Ok(())
    }

    /// A slip must not change the root of a running mesh: a Secret that is gone is made again, as it was. Who means a new
    /// root at once ends every replica first.
    async fn put_back(&self) -> Result<(), VaultError> {
        let place = &self.place;
        let Some(own) = &self.own else {
            tracing::warn!(
                "Secret {}/{BROUGHT} is gone: the authority that was in it signs until this process ends",
                place.namespace
            );
            return Ok(());
        };
        if make(&self.api, place, own).await? {
            tracing::warn!(
                "Secret {}/{} was gone and is made again as it was: another root would cut the mesh in two",
                place.namespace,
                place.secret
            );
        }
        Ok(())
    }

    /// Does the step that is due. When another replica was first, its step counts, and is seen at the next look.
    async fn rotate(
        &self,
        mut own: Secret,
        fields: Fields,
        now: SystemTime,
    ) -> Result<Fields, VaultError> {
        let (place, name) = (&self.place, &self.place.secret);
        let unusable = |source| unusable(place, name, source);
        let phase = secret::phase(&fields).map_err(unusable)?;
        let ends = secret::issuer(&fields).map_err(unusable)?.not_after();
        let annotations = own.metadata.annotations.get_or_insert_default();
        let asked = annotations.contains_key(ROTATE);
        let step = rotation::due(phase, ends, asked, now, &place.plan);
        if step == Step::Rest {
            return Ok(fields);
        }
        let after = secret::after(&fields, step, &place.trust_domain, now, &place.plan);
        let after = after.map_err(unusable)?;
        if step == Step::Announce {
            annotations.remove(ROTATE);
        }
        own.data = Some(data(&after));
        // Carries the version that was read: the API server refuses it if another replica has written since.
        match self.api.replace(name, &PostParams::default(), &own).await {
            Ok(_) => {
                let text = match step {
                    Step::Announce => {
                        "a new root is trusted from now on, and will sign after the overlap"
                    }
                    Step::Activate => {
                        "the new root signs; the old one is trusted until the overlap has passed"
                    }
                    Step::Retire | Step::Rest => "the old root is trusted no more",
                };
                tracing::info!("Secret {}/{name}: {text}", place.namespace);
                Ok(after)
            }
            Err(Error::Api(status)) if status.code == 409 => Ok(fields),
            Err(source) => Err(api_error(place, name, source)),
        }
    }
}

/// The authority that signs: the root itself where somebody brought an intermediate, else an intermediate of ours below
/// it, so that the key that signs every day is not the root's.
fn signing(fields: &Fields, trust_domain: &str, now: SystemTime) -> Result<Issuer, SecretError> {
    let issuer = secret::issuer(fields)?;
    if !secret::is_root(fields)? {
        return Ok(issuer);
    }
    Ok(issuer.new_intermediate(trust_domain, now - CLOCK_SKEW, INTERMEDIATE_LIFE)?)
}

async fn find(api: &Api<Secret>, place: &Place) -> Result<Found, VaultError> {
    let failed = |name: &str, source| api_error(place, name, source);
    let brought = api
        .get_opt(BROUGHT)
        .await
        .map_err(|source| failed(BROUGHT, source))?;
    if let Some(secret) = brought {
        return Ok(Found::Brought(fields(&secret)));
    }
    let name = place.secret.as_str();
    let own = api
        .get_opt(name)
        .await
        .map_err(|source| failed(name, source))?;
    Ok(own.map_or(Found::Nothing, |secret| {
        let fields = fields(&secret);
        Found::Own(Box::new(secret), fields)
    }))
}

/// Makes our Secret; `None` if it is there by now.
async fn create(api: &Api<Secret>, place: &Place) -> Result<Option<Fields>, VaultError> {
    let name = place.secret.as_str();
    let new = secret::create(&place.trust_domain, SystemTime::now(), &place.plan);
    let new = new.map_err(|source| unusable(place, name, source))?;
    let made = make(api, place, &new).await?;
    if made {
        tracing::info!("made a new root in Secret {}/{name}", place.namespace);
    }
    Ok(made.then_some(new))
}

/// Makes our Secret; false if it is there by now.
async fn make(api: &Api<Secret>, place: &Place, fields: &Fields) -> Result<bool, VaultError> {
    let name = place.secret.as_str();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data(fields)),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 => Ok(false),
        Err(source) => Err(api_error(place, name, source)),
    }
}

fn fields(secret: &Secret) -> Fields {
    let data = secret.data.iter().flatten();
    data.map(|(name, value)| (name.clone(), value.0.clone()))
        .collect()
}

fn data(fields: &Fields) -> BTreeMap<String, ByteString> {
    let pairs = fields.iter();
    pairs
        .map(|(name, value)| (name.clone(), ByteString(value.clone())))
        .collect()
}

fn api_error(place: &Place, name: &str, source: Error) -> VaultError {
    VaultError::Api {
        secret: format!("{}/{name}", place.namespace),
        source,
    }
}

fn unusable(place: &Place, name: &str, source: SecretError) -> VaultError {
    VaultError::Unusable {
        secret: format!("{}/{name}", place.namespace),
        source,
    }
}
