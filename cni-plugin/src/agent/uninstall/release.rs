//! `cni-agent uninstall`: run once, in a hook before a release is deleted, while the agents still have their rights. It
//! deletes their DaemonSet, waits until every agent has cleaned its node and is gone, and looks whether any pod of the
//! cluster still says that it is captured. Called by `bin/agent`.
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use runtime::Settings;
use tokio::time::Instant;

use crate::agent::cluster::{ClusterError, answered};
use crate::agent::watch::REDIRECTION;

/// Between two looks.
const STEP: Duration = Duration::from_secs(1);
/// Pods in one answer of the API server.
const PAGE: u32 = 500;
/// Names in a text.
const NAMED: usize = 10;

/// What is uninstalled.
#[derive(Clone, Debug)]
pub struct Release {
    namespace: String,
    daemon_set: String,
    kubeconfig: Option<PathBuf>,
    wait: Duration,
}

impl Release {
    /// Reads the settings; faults are collected in `s`.
    pub fn read(s: &mut Settings<'_>) -> Self {
        Self {
            namespace: s.required("POD_NAMESPACE", "namespace of the agents' DaemonSet"),
            daemon_set: s.required("DAEMONSET_NAME", "name of the agents' DaemonSet"),
            kubeconfig: s.optional_path(
                "KUBECONFIG",
                "file that says which API server, and as whom; not set: that of the cluster",
            ),
            wait: s.duration(
                "UNINSTALL_WAIT",
                Duration::from_secs(120),
                "how long the agents may take to clean their nodes",
            ),
        }
    }

    /// Uninstalls; the text says what was proven.
    ///
    /// # Errors
    /// What is left, or why that cannot be told.
    pub async fn remove(&self) -> anyhow::Result<String> {
        let client = kubernetes::client(self.kubeconfig.as_deref()).await?;
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &self.namespace);
        let name = &self.daemon_set;
        // With its pods first: it is gone when all of them are.
        let deleted = answered(sets.delete(name, &DeleteParams::foreground())).await;
        if let Err(error) = deleted.map(|_| ())
            && error.code() != Some(404)
        {
            anyhow::bail!(
                "DaemonSet {}/{name} cannot be deleted: {error}",
                self.namespace
            );
        }
        let end = Instant::now() + self.wait;
        while self.is_there(&sets).await? {
            if Instant::now() >= end {
                let limit = runtime::settings::format_duration(self.wait);
                anyhow::bail!(
                    "after {limit} DaemonSet {}/{name} still has pods: some node does not end its agent (is it ready?); \
                     what the mesh put there stays until it does",
                    self.namespace
                );
            }
            tokio::time::sleep(STEP).await;
        }
        let marked = marked(client).await?;
        if marked.is_empty() {
            return Ok(format!(
                "uninstalled: DaemonSet {}/{name} and its pods are gone, and no pod of the cluster says that it is captured\n",
                self.namespace
            ));
        }
        anyhow::bail!("{}", left(&marked))
    }

    async fn is_there(&self, sets: &Api<DaemonSet>) -> anyhow::Result<bool> {
        match answered(sets.get_opt(&self.daemon_set)).await {
            Ok(set) => Ok(set.is_some()),
            // It will be back, or time is up.
            Err(ClusterError::Away(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Pods that carry the annotation, as `namespace/name`.
async fn marked(client: Client) -> Result<Vec<String>, ClusterError> {
    let pods: Api<Pod> = Api::all(client);
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = answered(pods.list_metadata(&params)).await?;
        for pod in page.items {
            let annotations = pod.metadata.annotations.unwrap_or_default();
            if annotations.contains_key(REDIRECTION) {
                let namespace = pod.metadata.namespace.unwrap_or_default();
                all.push(format!(
                    "{namespace}/{}",
                    pod.metadata.name.unwrap_or_default()
                ));
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(all),
        }
    }
}

fn left(marked: &[String]) -> String {
    let some = marked
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let more = marked.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "pods still say that they are captured: {some}{more}; see the log of the agent of their node, or remove their \
         annotation {REDIRECTION} and restart them"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_but_not_without_end() {
        let pods: Vec<String> = (0..12).map(|n| format!("shop/p{n}")).collect();
        let text = left(&pods);
        assert!(text.contains("shop/p9 and 2 more"), "{text}");
        assert!(!left(&pods[..1]).contains("more"), "{text}");
    }
}
