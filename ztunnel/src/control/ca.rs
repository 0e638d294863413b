//! Certificates on their way to the workers: the store fetches and renews, each result is handed to every worker.
//! Which identities are wanted is decided by `pods` (those on this node) and by workers that wait. Called by `app`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use identity::ca::CaClient;
use identity::store::{Change, Driver, Priority};
use identity::{Identity, Store};
use runtime::Shutdown;
use tokio::sync::mpsc;

use crate::config::Ca;
use crate::worker::api::Command;
use crate::worker::{Gone, Workers};

/// The certificates of this node. Clones share them.
#[derive(Clone)]
pub struct Certificates {
    store: Store,
    /// Accounts that have a pod here; nothing is fetched for others, whoever asks.
    accounts: Arc<Mutex<BTreeSet<Account>>>,
}

/// Namespace and service account.
type Account = (Arc<str>, Arc<str>);

/// What `app` has to run for [`Certificates`] to work.
pub struct Tasks {
    driver: Driver,
    changes: mpsc::UnboundedReceiver<Change>,
    store: Store,
}

/// Sets the client up; nothing is fetched yet.
///
/// # Errors
/// When the address or a header cannot be used.
pub fn certificates(config: Ca) -> anyhow::Result<(Certificates, Tasks)> {
    let channel = identity::grpc::channel(config.grpc).context("CA_ADDRESS")?;
    let client = CaClient::new(channel, config.request);
    let (report, changes) = mpsc::unbounded_channel();
    // The queue holds at most one entry for each attempt, and attempts are few and backed off.
    let tell = move |change| drop(report.send(change));
    let (store, driver) = Store::new(Arc::new(client), tell);
    let certificates = Certificates {
        store: store.clone(),
        accounts: Arc::default(),
    };
    Ok((
        certificates,
        Tasks {
            driver,
            changes,
            store,
        },
    ))
}

impl Certificates {
    /// A pod of this account has come: have its certificate ready before its first connection.
    pub fn pod_added(&self, identity: &Identity) {
        self.lock().insert(account(identity));
        self.store.prefetch(identity);
    }

    /// The last pod of this account has left. Returns the identities that workers should forget.
    pub fn account_left(&self, namespace: &str, service_account: &str) -> Vec<Identity> {
        self.lock()
            .remove(&(namespace.into(), service_account.into()));
        let held = self
            .store
            .statuses()
            .into_iter()
            .map(|(identity, _)| identity);
        let left: Vec<Identity> = held
            .filter(|identity| {
                identity.namespace() == namespace && identity.service_account() == service_account
            })
            .collect();
        left.iter().for_each(|identity| self.store.forget(identity));
        left
    }

    /// A connection waits for this certificate.
    pub fn wanted_now(&self, identity: &Identity) {
        if self.lock().contains(&account(identity)) {
            drop(self.store.watch(identity, Priority::RealTime));
        } else {
            tracing::warn!(%identity, "a connection waits for a certificate of an account that has no pod here");
        }
    }

    /// The store, for dumps.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The set is plain data: a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    /// Fetches, renews and hands over until the process ends (renewals go on during a drain).
    pub fn spawn(self, workers: Arc<Workers>, shutdown: &Shutdown) {
        let Self {
            driver,
            mut changes,
            store,
        } = self;
        let stop = shutdown.clone();
        shutdown.spawn_aside(async move { driver.run(stop.forced()).await });
        let stop = shutdown.clone();
        shutdown.spawn_aside(async move {
            while let Some(change) = changes.recv().await {
                if let Err(gone) = hand_over(&workers, &store, change).await {
                    tracing::error!("{gone}");
                    return stop.drain();
                }
            }
        });
    }
}

async fn hand_over(workers: &Workers, store: &Store, change: Change) -> Result<(), Gone> {
    match change {
        Change::Issued(certificate) => {
            let identity = certificate.identity();
            tracing::info!(%identity, "certificate issued");
            workers.certificate(&certificate).await?;
            // The last pod of its account may have left meanwhile, and `forget` have come to the workers first.
            match store.current(identity) {
                Some(_) => Ok(()),
                None => forget(workers, std::slice::from_ref(identity)).await,
            }
        }
        Change::Failed { identity, reason } => {
            tracing::warn!(%identity, "certificate not issued: {reason}");
            // With a valid one at hand a failed renewal is nobody's failure.
            if store.current(&identity).is_some() {
                return Ok(());
            }
            workers
                .certificate_failed(&identity, &reason.to_string().into())
                .await
        }
    }
}

/// Tells the workers to forget identities.
///
/// # Errors
/// A worker has ended.
pub async fn forget(workers: &Workers, identities: &[Identity]) -> Result<(), Gone> {
    for identity in identities {
        workers
            .send_all(|| Command::ForgetCertificate {
                identity: identity.clone(),
            })
            .await?;
    }
    Ok(())
}

fn account(identity: &Identity) -> Account {
    (
        identity.namespace().into(),
        identity.service_account().into(),
    )
}
