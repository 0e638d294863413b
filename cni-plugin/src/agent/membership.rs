//! Who is in the mesh: the steps that put a pod in and take it out, each undone in reverse when a
//! later one fails. Called by `server` (CNI) and `repair` (labels changed, restart).
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime::Shutdown;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use zds::server::{Handle, ServerError};

use super::config::Config;
use super::leave;
use super::pods::{Entry, PodKey, Store};
use super::watch::{Sight, World};
use crate::apply::{self, ApplyError};
use crate::rules::{self, Ruleset, Switches};
use objects::enroll::{Decision, Why};

mod cni;

pub use cni::Arrival;

/// Everything that membership needs.
pub struct Membership {
    /// What the labels say.
    pub world: Arc<World>,
    /// What the runtime told us.
    pub pods: Arc<Store>,
    /// The connected ztunnels.
    pub ztunnel: Handle,
    /// Settings.
    pub config: Config,
    /// For blocking work.
    pub shutdown: Shutdown,
    /// Held while a pod goes in or out, so that a CNI call and a label change never interleave.
    pub turn: Arc<Mutex<()>>,
    /// True once pods that the list lacks were looked for, if it was lost: before that, no ztunnel is told of any pod.
    pub found_once: watch::Sender<bool>,
    /// True once every pod was looked at: before that, nothing is known to be out.
    pub through_once: watch::Sender<bool>,
    /// True from the moment on at which the mesh leaves this node for good.
    pub uninstalling: AtomicBool,
}

/// Why a pod is not in the mesh although it should be.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Its namespace was lost; only a new ADD can bring it back.
    #[error("the pod's network namespace is not known")]
    NoNetns,
    /// Its rules could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// ztunnel did not take it.
    #[error(transparent)]
    Ztunnel(#[from] ServerError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

/// In which order a pod goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It has not started: rules first, so that no packet ever leaves uncaptured.
    Starting,
    /// It runs: ztunnel first, so that no connection finds its new way closed.
    Running,
}

impl Membership {
    /// Does the mesh leave this node? Look at it under `turn`.
    pub(super) fn is_uninstalling(&self) -> bool {
        self.uninstalling.load(Ordering::SeqCst)
    }

    /// The rules of a pod with these switches.
    #[must_use]
    pub fn rules(&self, switches: &Switches) -> Ruleset {
        Ruleset {
            writer: self.config.writer,
            ..rules::render_switched(self.config.rules, switches)
        }
    }

    /// Puts a pod into the mesh. After a failure it is as before. Hold `turn`.
    ///
    /// # Errors
    /// See [`EnrollError`]; all but `NoNetns` may be retried.
    pub async fn enroll(&self, entry: &Entry, opening: Opening) -> Result<(), EnrollError> {
        if entry.netns.is_none() {
            return Err(EnrollError::NoNetns);
        }
        let key = entry.key();
        // In the list before ztunnel hears of it: a ztunnel that connects just now gets it too.
        self.pods.set_enrolled(&key, true);
        let done = match opening {
            Opening::Starting => self.capture_then_serve(entry).await,
            Opening::Running => self.serve_then_capture(entry).await,
        };
        match &done {
            Ok(()) => {
                self.pods.change(&key, |entry| entry.served = true);
                tracing::info!(namespace = key.0, pod = key.1, "in the mesh");
            }
            // What is open through ztunnel goes on, as if nobody had tried.
            Err(_) => match entry.leaving_since {
                Some(since) => self.pods.set_leaving(&key, since),
                None => self.pods.set_enrolled(&key, false),
            },
        }
        done
    }

    async fn capture_then_serve(&self, entry: &Entry) -> Result<(), EnrollError> {
        self.capture(entry).await?;
        let served = self.ztunnel.add(&entry.for_ztunnel()).await;
        if served.is_err() {
            self.unserve(entry).await;
            self.release_quietly(entry).await;
        }
        Ok(served?)
    }

    async fn serve_then_capture(&self, entry: &Entry) -> Result<(), EnrollError> {
        let done = match self.ztunnel.add(&entry.for_ztunnel()).await {
            Ok(()) => self.join(entry).await,
            Err(refused) => Err(refused.into()),
        };
        if done.is_err() && entry.leaving_since.is_none() {
            self.unserve(entry).await;
        }
        done
    }

    /// Takes a running pod out of the mesh: its new connections go their own way, and after a while ([`leave::settle`])
    /// ztunnel lets it go. Hold `turn`.
    ///
    /// # Errors
    /// When the rules cannot be changed; the pod is still in the mesh then. May be retried.
    pub async fn withdraw(&self, entry: &Entry, why: Why) -> Result<(), EnrollError> {
        self.ease(entry).await?;
        self.pods.set_leaving(&entry.key(), leave::now());
        let (namespace, pod) = entry.key();
        tracing::info!(namespace, pod, %why, "out of the mesh");
        Ok(())
    }

    /// Lets ztunnel go of a pod that is gone; its rules stay, so that nothing that may still run
    /// there speaks in the clear. Hold `turn`.
    pub async fn retire(&self, entry: &Entry) {
        self.pods.set_enrolled(&entry.key(), false);
        self.unserve(entry).await;
        let (namespace, pod) = entry.key();
        tracing::info!(namespace, pod, "gone");
    }

    /// Puts a pod into the list; ztunnel lets go of an older one of the same name whose DEL never came. Hold `turn`.
    pub(super) async fn replace(&self, entry: Entry) {
        let (uid, goes_on) = (entry.uid.clone(), entry.is_ztunnels());
        let before = self.pods.put(entry);
        let over = |old: &Entry| old.is_ztunnels() && !(goes_on && old.uid == uid);
        if let Some(before) = before.filter(over) {
            self.unserve(&before).await;
        }
    }

    /// Waits for ztunnel's answer; did it let go?
    pub(super) async fn unserve(&self, entry: &Entry) -> bool {
        let told = self.ztunnel.del(&entry.uid).await;
        if let Err(error) = &told {
            tracing::warn!(%error, uid = entry.uid, "ztunnel did not let go of a pod");
        }
        told.is_ok()
    }

    async fn capture(&self, entry: &Entry) -> Result<(), EnrollError> {
        let rules = self.rules(&entry.switches);
        self.in_netns(entry, move |netns| apply::install(netns, &rules))
            .await
    }

    /// Captures a pod that runs.
    async fn join(&self, entry: &Entry) -> Result<(), EnrollError> {
        let (eased, rules) = (self.eased(), self.rules(&entry.switches));
        // In one that was leaving, the kernel knows what is open, and a failure must not take away what that needs.
        let leaving = entry.leaving_since.is_some();
        self.in_netns(entry, move |netns| match leaving {
            true => apply::restore(netns, &rules),
            false => apply::join(netns, &eased, &rules),
        })
        .await
    }

    /// Writes the rules of a pod that is in the mesh anew, since its annotations say something else now. Hold `turn`.
    ///
    /// # Errors
    /// When they cannot be written; the older ones are in force then. May be retried.
    pub async fn switch(&self, entry: &Entry, switches: Switches) -> Result<(), EnrollError> {
        let rules = self.rules(&switches);
        self.in_netns(entry, move |netns| apply::restore(netns, &rules))
            .await?;
        let (namespace, pod) = entry.key();
        tracing::info!(namespace, pod, ?switches, "rules changed by annotations");
        self.pods
            .change(&entry.key(), |entry| entry.switches = switches);
        Ok(())
    }

    /// Are the rules as they should be?
    pub(super) async fn verify(&self, entry: &Entry) -> Result<(), EnrollError> {
        self.compare(entry, self.rules(&entry.switches)).await
    }

    async fn compare(&self, entry: &Entry, rules: Ruleset) -> Result<(), EnrollError> {
        self.in_netns(entry, move |netns| apply::check(netns, &rules))
            .await
    }

    /// Writes the rules of a pod that ztunnel serves again when they are not what they should be.
    pub(super) async fn repair(&self, entry: &Entry) -> Result<(), EnrollError> {
        let rules = match entry.leaving_since {
            Some(_) => self.eased(),
            None => self.rules(&entry.switches),
        };
        if let Err(error) = self.compare(entry, rules.clone()).await {
            let (namespace, pod) = entry.key();
            tracing::warn!(namespace, pod, %error, "rules are written again");
            self.in_netns(entry, move |netns| apply::restore(netns, &rules))
                .await?;
        }
        Ok(())
    }

    /// Captures nothing new, and leaves what is open through ztunnel its way.
    pub(super) async fn ease(&self, entry: &Entry) -> Result<(), EnrollError> {
        if entry.netns.is_none() {
            return Ok(());
        }
        let rules = self.eased();
        self.in_netns(entry, move |netns| apply::restore(netns, &rules))
            .await
    }

    fn eased(&self) -> Ruleset {
        Ruleset {
            writer: self.config.writer,
            ..rules::render_eased(self.config.rules)
        }
    }

    /// Looks whether an earlier agent left rules in a pod that is out of the mesh. A ztunnel may carry connections by them,
    /// so the pod leaves once more. Hold `turn`.
    pub(super) async fn clear(&self, entry: &Entry) -> Result<(), EnrollError> {
        let writer = self.config.writer;
        let looked = self.in_netns(entry, move |netns| apply::check_removed(netns, writer));
        match looked.await {
            Err(EnrollError::Apply(ApplyError::Differs(_))) => {
                // First, so that a ztunnel that connects just now keeps it.
                self.pods.set_leaving(&entry.key(), leave::now());
                self.ease(entry).await
            }
            done => done,
        }
    }

    pub(super) async fn release(&self, entry: &Entry) -> Result<(), EnrollError> {
        if entry.netns.is_none() {
            return Ok(());
        }
        self.in_netns(entry, apply::remove).await
    }

    async fn release_quietly(&self, entry: &Entry) {
        if let Err(error) = self.release(entry).await {
            tracing::warn!(%error, uid = entry.uid, "rules of a pod are left behind");
        }
    }

    async fn in_netns(
        &self,
        entry: &Entry,
        work: impl FnOnce(&sys::Netns) -> Result<(), ApplyError> + Send + 'static,
    ) -> Result<(), EnrollError> {
        let netns = entry.netns.clone().ok_or(EnrollError::NoNetns)?;
        let done = self.shutdown.spawn_blocking(move || work(&netns)).await;
        Ok(done.map_err(|_| EnrollError::Stopping)??)
    }

    /// Waits until the pod is known (and of the given uid, if one is given).
    async fn sight(&self, key: &PodKey, uid: &str, limit: Duration) -> Sight {
        let mut changes = self.world.changes();
        let look = || self.world.look(&key.0, &key.1);
        let fits = |sight: &Sight| match sight {
            // A pod of the same name with another uid is the one before; ours will come.
            Sight::Here(seen) => seen.uid.is_empty() || uid.is_empty() || seen.is(uid),
            Sight::Elsewhere(_) => true,
            Sight::Unknown => false,
        };
        let found = timeout(limit, async {
            loop {
                let sight = look();
                if fits(&sight) || changes.changed().await.is_err() {
                    return sight;
                }
            }
        });
        found.await.unwrap_or(Sight::Unknown)
    }

    /// Waits until a ztunnel is connected.
    async fn ztunnel_is_there(&self, limit: Duration) -> bool {
        let mut connected = self.ztunnel.connected();
        let there = timeout(limit, connected.wait_for(|count| *count > 0)).await;
        there.is_ok_and(|found| found.is_ok())
    }

    /// What should be, by the labels.
    pub(super) fn wanted(&self, entry: &Entry) -> Wanted {
        match self.world.look(&entry.namespace, &entry.name) {
            Sight::Here(seen) if !seen.uid.is_empty() && !seen.is(&entry.uid) => Wanted::Gone,
            Sight::Here(seen) => match seen.decision {
                Decision::In => Wanted::In(seen.switches),
                Decision::Out(why) => Wanted::Out(why),
            },
            Sight::Elsewhere(_) | Sight::Unknown => Wanted::Gone,
        }
    }
}

/// What the labels want of a known pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    In(Switches),
    Out(Why),
    /// The cluster does not know it any more.
    Gone,
}

#[cfg(test)]
pub(super) mod tests;
