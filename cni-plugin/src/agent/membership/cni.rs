//! The verbs of CNI as steps of membership. Called by `server`.
use std::net::IpAddr;
use std::path::PathBuf;

use sys::Netns;

use super::{EnrollError, Membership, Opening, Wanted};
use crate::agent::pods::{Entry, PodKey, arrived};
use crate::agent::watch::{Seen, Sight};
use crate::ask::Reply;
use crate::spec::{CniError, Code, PodRef};
use objects::enroll::Decision;

/// A pod that starts.
pub struct Arrival {
    /// Container id of the sandbox.
    pub container_id: String,
    /// Which pod.
    pub pod: PodRef,
    /// Its namespace.
    pub netns: Netns,
    /// Where the namespace is found again.
    pub netns_path: PathBuf,
    /// Its addresses, as the plugins before us gave them.
    pub ips: Vec<IpAddr>,
}

fn done(decision: Decision) -> Reply {
    match decision {
        Decision::In => Reply::Done {
            enrolled: true,
            why: String::new(),
        },
        Decision::Out(why) => Reply::Done {
            enrolled: false,
            why: why.to_string(),
        },
    }
}

fn key_of(pod: &PodRef) -> PodKey {
    (pod.namespace.clone(), pod.name.clone())
}

impl Membership {
    /// ADD: remembers the pod and, if the labels say so, puts it into the mesh. What fails leaves
    /// nothing behind.
    ///
    /// # Errors
    /// Code 11 for what may be tried again, 100 for what needs a look.
    pub async fn add(&self, arrival: Arrival) -> Result<Reply, CniError> {
        let key = key_of(&arrival.pod);
        let sight = self
            .sight(&key, &arrival.pod.uid, self.config.object_wait)
            .await;
        let seen = self.known(&arrival.pod, sight)?;
        let decision = seen.decision;
        if decision == Decision::In && !self.ztunnel_is_there(self.config.ztunnel_wait).await {
            let text = format!("no ztunnel is connected on node {}", self.config.node_name);
            return Err(CniError::new(Code::TryAgain, text).because(format!(
                "{}/{} is in the mesh and would have no network without it",
                key.0, key.1
            )));
        }
        let _turn = self.turn.lock().await;
        if self.is_uninstalling() {
            return Ok(Reply::Done {
                enrolled: false,
                why: "the mesh is being uninstalled".into(),
            });
        }
        let mut entry = arrived(
            key.clone(),
            arrival.container_id,
            arrival.netns,
            arrival.netns_path,
        );
        entry.service_account = seen.service_account;
        entry.ips = arrival.ips;
        entry.switches = seen.switches;
        // First what the kubelet calls it: the object of a pod from a file may be made anew, with another uid.
        let named = [arrival.pod.uid, seen.uid]
            .into_iter()
            .find(|uid| !uid.is_empty());
        entry.uid = named.unwrap_or(entry.uid);
        self.replace(entry.clone()).await;
        // A change of labels while we waited found no pod that it could apply to. From here on one finds it.
        let decision = match self.wanted(&entry) {
            Wanted::In(switches) => {
                entry.switches = switches.clone();
                self.pods.change(&key, |entry| entry.switches = switches);
                Decision::In
            }
            Wanted::Out(why) => Decision::Out(why),
            // Nothing is said of it (any more).
            Wanted::Gone => decision,
        };
        if let Decision::Out(_) = decision {
            return Ok(done(decision));
        }
        if let Err(error) = self.enroll(&entry, Opening::Starting).await {
            self.pods.remove(&key);
            return Err(refusal(&key, &error));
        }
        Ok(done(decision))
    }

    fn known(&self, pod: &PodRef, sight: Sight) -> Result<Seen, CniError> {
        let (namespace, name) = (&pod.namespace, &pod.name);
        match sight {
            Sight::Here(seen) => Ok(seen),
            Sight::Elsewhere(node) => {
                let text = format!("pod {namespace}/{name} is not of this node");
                let details = format!(
                    "it belongs to {node:?}, we serve {:?}",
                    self.config.node_name
                );
                Err(CniError::new(Code::NotCaptured, text).because(details))
            }
            Sight::Unknown => {
                let text = format!("pod {namespace}/{name} is not known");
                let wait = runtime::settings::format_duration(self.config.object_wait);
                let details = format!(
                    "waited {wait} for it; whether it belongs into the mesh cannot be told without"
                );
                Err(CniError::new(Code::TryAgain, text).because(details))
            }
        }
    }

    /// DEL: forgets the pod and takes back what ADD did. A container that we do not know (any
    /// more) is fine.
    pub async fn del(&self, container_id: &str, pod: &PodRef) -> Reply {
        let _turn = self.turn.lock().await;
        let key = key_of(pod);
        let gone = Reply::Done {
            enrolled: false,
            why: "it is removed".into(),
        };
        // The DEL of an older sandbox must not hit the pod that replaced it; a pod that was found running, whose sandbox we
        // do not know, is let go when the cluster says that it is gone.
        let ours = |entry: &Entry| entry.container_id == container_id;
        let Some(entry) = self.pods.find(&key).filter(ours) else {
            return gone;
        };
        self.pods.remove(&key);
        if entry.is_ztunnels() {
            self.unserve(&entry).await;
        }
        // The namespace may be gone with its rules, which is what we want.
        self.release_quietly(&entry).await;
        tracing::info!(namespace = key.0, pod = key.1, "removed");
        gone
    }

    /// CHECK: is a pod that belongs into the mesh there, with all its rules?
    ///
    /// # Errors
    /// Code 100, with the difference.
    pub async fn check(&self, container_id: &str, pod: &PodRef) -> Result<Reply, CniError> {
        let key = key_of(pod);
        // Of a pod that was found running we know no container.
        let ours =
            |entry: &Entry| entry.container_id.is_empty() || entry.container_id == container_id;
        let Some(entry) = self.pods.find(&key).filter(ours) else {
            let text = format!("pod {}/{} was never added here", key.0, key.1);
            return Err(CniError::new(Code::NotCaptured, text));
        };
        let Sight::Here(Seen { decision, .. }) = self.world.look(&key.0, &key.1) else {
            return Ok(Reply::Done {
                enrolled: entry.enrolled,
                why: String::new(),
            });
        };
        if decision == Decision::In {
            let bad = |error: EnrollError| refusal(&key, &error);
            self.verify(&entry).await.map_err(bad)?;
        }
        Ok(done(decision))
    }
}

fn refusal(key: &PodKey, error: &EnrollError) -> CniError {
    let code = match error {
        EnrollError::Ztunnel(_) | EnrollError::Stopping => Code::TryAgain,
        EnrollError::NoNetns | EnrollError::Apply(_) => Code::NotCaptured,
    };
    let mut details = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        details = format!("{details}: {cause}");
        source = cause.source();
    }
    let text = format!("pod {}/{} could not be put into the mesh", key.0, key.1);
    CniError::new(code, text).because(details)
}
