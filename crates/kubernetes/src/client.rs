//! Which API server, and as whom. Called by `app` of the binaries that speak to one.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// A connection to the API server may take this long.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that was named cannot be used.
    #[error("KUBECONFIG {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// No file was named, and this process is in no pod that may speak to its API server.
    #[error(
        "no API server is known: {0} (outside a pod, KUBECONFIG names a file; inside, the service account's token must be mounted)"
    )]
    NotInCluster(#[source] Box<InClusterError>),
    /// The certificates or the address of the server cannot be used.
    #[error("API server {url}: {source}")]
    Unusable {
        /// Its address.
        url: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// A client for the server of `kubeconfig` (its current context), or without one for the server of the cluster that
/// this pod is in. Does not connect: a server that is away is no error here.
///
/// # Errors
/// See [`Error`].
#[allow(
    clippy::unused_async,
    reason = "a kubeconfig may name a command that prints the credentials"
)]
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(|source| Error::NotInCluster(Box::new(source)))?,
        Some(path) => {
            let unusable = |source| Error::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(unusable)?
        }
    };
    config.connect_timeout = Some(CONNECT_DEADLINE);
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| Error::Unusable {
        url,
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(path: &Path) -> String {
        client(Some(path))
            .await
            .err()
            .expect("a refusal")
            .to_string()
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text = refusal(&path).await;
        assert!(
            text.starts_with(&format!("KUBECONFIG {}: ", path.display())),
            "{text}"
        );
        std::fs::write(&path, "clusters: 3").unwrap();
        let text = refusal(&path).await;
        assert!(text.contains("failed to parse"), "{text}");
        std::fs::write(
            &path,
            "{apiVersion: v1, kind: Config, current-context: here, contexts: [{name: here, context: {cluster: gone, user: me}}]}",
        )
        .unwrap();
        let text = refusal(&path).await;
        assert!(text.contains("gone"), "{text}");
    }

    #[tokio::test]
    async fn outside_a_pod_and_without_a_file_the_way_out_is_said() {
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            println!("skipped: this test runs in a pod");
            return;
        }
        let text = client(None).await.err().expect("a refusal").to_string();
        assert!(text.contains("KUBECONFIG names a file"), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(
            &path,
            "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}], \
             contexts: [{name: c, context: {cluster: k, user: u}}], users: [{name: u, user: {}}]}",
        )
        .unwrap();
        assert!(client(Some(&path)).await.is_ok());
    }
}
