//! The election carried out: looks at the lease every few seconds and tells whether this replica is the one that
//! writes. The only part that talks to the API server about leases.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use runtime::Shutdown;
use tokio::sync::watch;

use super::{Act, Election, Lease, Times};

/// Who stands for election, and where.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub lease: String,
    /// Our name; nobody else's.
    pub me: String,
    /// The times.
    pub times: Times,
}

/// Whether this replica writes now. Clones watch the same election.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Outside a cluster, and in tests: always, or never.
    #[must_use]
    pub fn fixed(leads: bool) -> Leadership {
        Leadership(watch::channel(leads).1)
    }

    /// The answer as a channel, for who watches it beside other things.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Whether this replica is the one that writes.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until this replica is (or is no longer) the one that writes. Never ends if the election has ended
    /// otherwise. Cancel safe.
    pub async fn until(&mut self, leads: bool) {
        if self.0.wait_for(|now| *now == leads).await.is_err() && self.leads() != leads {
            std::future::pending::<()>().await;
        }
    }
}

/// Stands for election until the drain, then gives the lease back so that the next one need not wait.
#[must_use]
pub fn campaign(client: Client, candidate: Candidate, shutdown: &Shutdown) -> Leadership {
    let (sender, receiver) = watch::channel(false);
    let part = shutdown.clone();
    shutdown.spawn(async move {
        let mut campaign = Campaign {
            api: Api::namespaced(client, &candidate.namespace),
            election: Election::new(&candidate.me, candidate.times),
            candidate,
            leads: sender,
            trouble: false,
        };
        loop {
            tokio::select! {
                () = part.draining() => break,
                () = campaign.round() => {}
            }
        }
        campaign.leads.send_replace(false);
        campaign.give_back().await;
    });
    Leadership(receiver)
}

struct Campaign {
    api: Api<Object>,
    election: Election,
    candidate: Candidate,
    leads: watch::Sender<bool>,
    /// Whether the last round failed, so that trouble is told once.
    trouble: bool,
}

impl Campaign {
    /// One look, perhaps one write, then a pause. Leadership ends in the pause if its time is up.
    async fn round(&mut self) {
        let times = self.candidate.times;
        // A call that hangs must not keep us from noticing that our time is up.
        let begun = Instant::now();
        let outcome = match tokio::time::timeout(times.retry, self.step(begun)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", times.retry)),
        };
        match outcome {
            Ok(()) => self.trouble = false,
            Err(why) if !self.trouble => {
                self.trouble = true;
                tracing::warn!(
                    lease = self.candidate.lease,
                    why,
                    "the election cannot go on"
                );
            }
            Err(_) => {}
        }
        self.publish();
        let next = Instant::now() + times.retry;
        while let Some(end) = self
            .election
            .leads_until(Instant::now())
            .filter(|end| *end < next)
        {
            tokio::time::sleep_until(end.into()).await;
            self.publish();
        }
        tokio::time::sleep_until(next.into()).await;
    }

    async fn step(&mut self, begun: Instant) -> Result<(), String> {
        let object = self.api.get_opt(&self.candidate.lease).await;
        let object = object.map_err(|error| error.to_string())?;
        let act = self
            .election
            .look(object.as_ref().map(read), Instant::now());
        let written = match act {
            Act::Wait => return Ok(()),
            Act::Create => {
                self.api
                    .create(&PostParams::default(), &self.lease(None, 0))
                    .await
            }
            Act::Write { transitions } => {
                let lease = self.lease(object.as_ref(), transitions);
                self.api
                    .replace(&self.candidate.lease, &PostParams::default(), &lease)
                    .await
            }
        };
        match written {
            Ok(lease) => {
                // What we wrote is what we saw last, so that only others' changes count as changes.
                self.election.look(Some(read(&lease)), Instant::now());
                self.election.written(begun);
                Ok(())
            }
            // Another was faster; the next look tells who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Tells who asks, when it differs.
    fn publish(&self) {
        let leads = self.election.leads_until(Instant::now()).is_some();
        let changed = self
            .leads
            .send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            let lease = &self.candidate.lease;
            tracing::info!(
                lease,
                leads,
                "this replica {} writes",
                if leads { "now" } else { "no longer" }
            );
        }
    }

    fn lease(&self, old: Option<&Object>, transitions: i32) -> Object {
        let now = MicroTime(Timestamp::now());
        let old_spec = old.and_then(|old| old.spec.as_ref());
        let kept =
            old_spec.filter(|spec| spec.holder_identity.as_deref() == Some(&self.candidate.me));
        let acquired = kept.and_then(|spec| spec.acquire_time.clone());
        let seconds = self.candidate.times.duration.as_secs().max(1);
        Object {
            metadata: old.map_or_else(
                || ObjectMeta {
                    name: Some(self.candidate.lease.clone()),
                    namespace: Some(self.candidate.namespace.clone()),
                    ..ObjectMeta::default()
                },
                |old| old.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.candidate.me.clone()),
                acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
                renew_time: Some(now),
                lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Best effort: the lease ends by itself if this fails.
    async fn give_back(&mut self) {
        let Some(held) = self.election.held().cloned() else {
            return;
        };
        let attempt = async {
            let mut object = self.api.get_opt(&self.candidate.lease).await.ok()??;
            // Only what we hold, and only as we left it.
            (read(&object) == held).then_some(())?;
            let spec = object.spec.as_mut()?;
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.api
                .replace(&self.candidate.lease, &PostParams::default(), &object)
                .await
                .ok()
        };
        let _ = tokio::time::timeout(self.candidate.times.retry, attempt).await;
    }
}

fn read(object: &Object) -> Lease {
    let spec = object.spec.clone().unwrap_or_default();
    let renewed = spec.renew_time.map(|time| time.0.to_string());
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    Lease {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: renewed.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default(),
        duration: seconds.map(Duration::from_secs),
        version: object.metadata.resource_version.clone().unwrap_or_default(),
    }
}
