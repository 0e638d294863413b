//! Wiring: who is started in which order, and how it ends. Called by `main`.

use std::{sync::Arc, time::SystemTime};

use anyhow::Context as _;
use objects::{Directory, Source};
use runtime::{
    Readiness, Shutdown,
    admin::{self, Common, Router},
    logs::Logs,
    metrics::Registry,
    shutdown,
};

use crate::{
    config::Config,
    follow::Follower,
    serve::{
        self, Parts,
        authenticate::Authenticator,
        authority::{Authority, Grants},
        root,
        tls::ServerTls,
    },
    status::Status,
};

/// Runs until SIGTERM.
///
/// # Errors
/// What keeps the control plane from starting, in words for the operator.
pub async fn run(config: Config, logs: &Logs) -> anyhow::Result<()> {
    let (shutdown, readiness, metrics) = (Shutdown::new(), Readiness::new(), Registry::new());
    shutdown::signals(&shutdown).context("cannot watch for signals")?;
    let starting = readiness.register("start");
    let status = Arc::new(Status::new(&metrics));
    let common = Common {
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        logs: logs.clone(),
        shutdown: shutdown.clone(),
    };
    start_admin(&config, &common, &status).await?;

    // Before anything is made: a wrong directory must not leave a new root behind.
    std::fs::read_dir(&config.manifests).with_context(|| {
        format!(
            "MANIFESTS: cannot read directory {}",
            config.manifests.display()
        )
    })?;
    let issuer = Arc::new(root::open(
        &config.ca.directory,
        &config.mesh.trust_domain,
        SystemTime::now(),
    )?);
    if let Some(path) = &config.ca.root_file {
        root::publish(&issuer, path)?;
    }
    let mut source = Directory::new(&config.manifests);
    let mut follower = Follower::new(config.mesh.clone(), status);
    // Nobody is served before the first list is in: an empty mesh would take everything away.
    follower.take(source.next().await);

    let authenticator = Authenticator::new(config.tokens.clone(), &config.mesh.trust_domain);
    authenticator.report();
    let grants = Grants {
        node_accounts: config.ca.node_accounts.clone(),
        default_ttl: config.ca.default_ttl,
        max_ttl: config.ca.max_ttl,
    };
    let parts = Parts {
        views: follower.views(),
        authenticator,
        authority: Authority::new(issuer.clone(), grants, follower.views(), &metrics),
        tls: ServerTls::new(issuer, config.ca.server_names.clone())?,
    };
    let listener = serve::bind(config.listen).await?;
    let address = listener.local_addr()?;
    serve::serve(listener, parts, &shutdown);
    drop(starting);
    tracing::info!(%address, "serving ADS and the certificate authority");

    let part = shutdown.clone();
    shutdown.spawn(async move {
        loop {
            tokio::select! {
                () = part.draining() => return,
                event = source.next() => follower.take(event),
            }
        }
    });
    shutdown::run_to_end(&shutdown, &readiness, config.drain).await;
    Ok(())
}

async fn start_admin(config: &Config, common: &Common, status: &Arc<Status>) -> anyhow::Result<()> {
    let status = status.clone();
    let router = Router::new().common(common).route("/status", move |_| {
        let body = status.to_json();
        async move { admin::json_response(body) }
    });
    let server = admin::Server::bind(config.admin).await?;
    tracing::info!(address = %server.address()?, "admin server");
    server.serve(router, &common.shutdown);
    Ok(())
}
