//! What the agent writes to the API server, and what it asks besides its watches: marks on pods, and whether its own
//! DaemonSet is still wanted. Called by `annotate` and `uninstall`.
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::config::OwnPod;
use super::pods::PodKey;
use super::watch::REDIRECTION;

/// Longest wait for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(5);

/// The cluster that the agent's node belongs to.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    own: Option<OwnPod>,
}

/// Why something could not be written or asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server answered, and said no.
    #[error("the API server says: {message} ({code})")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// It did not answer.
    #[error("the API server does not answer: {0}")]
    Away(String),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                code: status.code,
                message: status.message.clone(),
            },
            other => Self::Away(kubernetes::words(&other)),
        }
    }
}

impl ClusterError {
    /// The HTTP status of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Away(_) => None,
        }
    }
}

/// What is to become of this node's capture when the agent stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Another agent comes: everything stays as it is.
    Stays(String),
    /// None comes: everything goes.
    Goes(String),
}

impl Cluster {
    /// A cluster behind this client.
    #[must_use]
    pub fn new(client: Client, own: Option<OwnPod>) -> Self {
        Self { client, own }
    }

    /// Writes the mark of a pod, or takes it away with `None`. A pod that is gone, or is another one by now, is fine.
    ///
    /// # Errors
    /// When the server refuses or does not answer; may be retried.
    pub async fn mark(
        &self,
        key: &PodKey,
        uid: &str,
        value: Option<&str>,
    ) -> Result<(), ClusterError> {
        const NOT_FOUND: u16 = 404;
        const CONFLICT: u16 = 409;
        const INVALID: u16 = 422;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
        // With the uid in it, a patch of another pod by this name is refused. The status is what a node agent may write; it
        // takes metadata too.
        let patch = json!({"metadata": {"uid": uid, "annotations": {REDIRECTION: value}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let asked = pods.patch_subresource("status", &key.1, &params, &patch);
        let answer = answered(asked).await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some(NOT_FOUND | CONFLICT | INVALID)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// May our DaemonSet be read? Asked at the start: one that cannot be read is never seen to be gone.
    ///
    /// # Errors
    /// What the server says.
    pub async fn may_read_own(&self) -> Result<(), ClusterError> {
        match &self.own {
            Some(own) => self.own_set(own).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Asks, a few times, whether our DaemonSet is still wanted.
    pub async fn fate(&self) -> Fate {
        const TRIES: usize = 3;
        let Some(own) = &self.own else {
            return Fate::Stays("POD_NAME is not set: which DaemonSet is ours is not known".into());
        };
        let mut last = Fate::Stays(String::new());
        for at in 0..TRIES {
            if at > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let answer = self.own_set(own).await;
            let is_final = !matches!(answer, Err(ClusterError::Away(_)));
            last = fate_of(own.daemon_set(), answer);
            if is_final {
                break;
            }
        }
        last
    }

    /// Is it being deleted?
    async fn own_set(&self, own: &OwnPod) -> Result<bool, ClusterError> {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &own.namespace);
        let set = answered(sets.get(own.daemon_set())).await?;
        Ok(set.metadata.deletion_timestamp.is_some())
    }
}

/// One request's answer, in time.
///
/// # Errors
/// What the server says, or that it says nothing.
pub async fn answered<T>(
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ClusterError::Away(format!(
            "not within {} s",
            ANSWER.as_secs()
        ))),
    }
}

/// What the answer about the DaemonSet means. Only what proves an uninstall is one: when in doubt, pods stay captured. A
/// refusal proves nothing: rights are edited by mistake, keys of tokens are exchanged, an older state is restored.
fn fate_of(name: &str, answer: Result<bool, ClusterError>) -> Fate {
    match answer {
        Ok(false) => Fate::Stays(format!(
            "DaemonSet {name} is there: this is an upgrade or a restart"
        )),
        Ok(true) => Fate::Goes(format!("DaemonSet {name} is being deleted")),
        Err(error) => match error.code() {
            Some(404) => Fate::Goes(format!("DaemonSet {name} is gone")),
            _ => Fate::Stays(format!("DaemonSet {name} cannot be asked for: {error}")),
        },
    }
}

#[cfg(test)]
mod tests;
