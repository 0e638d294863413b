//! Wiring: who is started in which order, and how it ends. Called by `main`.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use kube::Client;
use kubernetes::{Wanted, Watch};
use objects::{Directory, Source};
use runtime::{
    Readiness, Shutdown,
    admin::{self, Common, Router},
    logs::Logs,
    metrics::Registry,
    shutdown,
};

use tokio::time::Instant;

use crate::{
    ca::{
        self, Issuers,
        publish::publish,
        vault::{Place, Vault},
    },
    config::{Config, Origin},
    follow::Follower,
    serve::{
        self, Parts,
        authenticate::{Authenticator, Tokens},
        authority::{Authority, Grants},
        review::Review,
        root,
        tls::ServerTls,
    },
    status::Status,
    writing,
};

/// A change waits this long for others that come with it,
const GATHER: Duration = Duration::from_millis(10);
/// and this much time is at least between two publications.
const PACE: Duration = Duration::from_millis(100);

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

    let origin = tokio::select! {
        () = shutdown.draining() => return Ok(()),
        origin = open(&config, &shutdown) => origin?,
    };
    let Opened {
        mut source,
        issuers,
        tokens,
        client,
    } = origin;
    if let Some(path) = &config.ca.root_file {
        keep_root_file(issuers.clone(), path, &shutdown).context("ROOT_CERT_FILE")?;
    }
    let follower = Follower::new(config.mesh.clone(), status);
    let mut follower = match config.origin {
        Origin::Cluster { .. } => follower.of_cluster(),
        Origin::Directory(_) => follower,
    };
    // Nobody is served before the first list is in: an empty mesh would take everything away.
    tokio::select! {
        () = shutdown.draining() => return Ok(()),
        event = source.next() => follower.take(event),
    }
    if let Some(client) = client {
        let namespaces = follower.views().namespaces();
        let verdicts = follower.verdicts();
        let leader = writing::start(&client, config.writing.clone(), verdicts, &shutdown).watch();
        let roots = publish(
            client,
            issuers.clone(),
            namespaces,
            leader,
            shutdown.clone(),
        );
        shutdown.spawn(roots);
    }

    let authenticator = Authenticator::new(tokens, &config.mesh.trust_domain);
    authenticator.report();
    let grants = Grants {
        node_accounts: config.ca.node_accounts.clone(),
        default_ttl: config.ca.default_ttl,
        max_ttl: config.ca.max_ttl,
    };
    let parts = Parts {
        views: follower.views(),
        authenticator,
        authority: Authority::new(issuers.clone(), grants, follower.views(), &metrics),
        tls: ServerTls::new(issuers, config.ca.server_names.clone())?,
    };
    let listener = serve::bind(config.listen).await.context("XDS_LISTEN")?;
    let address = listener.local_addr()?;
    serve::serve(listener, parts, &shutdown);
    drop(starting);
    tracing::info!(%address, "serving ADS and the certificate authority");

    let part = shutdown.clone();
    shutdown.spawn(async move {
        tokio::select! {
            () = part.draining() => {}
            () = follow(source, follower) => {}
        }
    });
    shutdown::run_to_end(&shutdown, &readiness, config.drain).await;
    Ok(())
}

/// Writes the roots now, and anew with each step of a rotation.
fn keep_root_file(
    mut issuers: Issuers,
    path: &Path,
    shutdown: &Shutdown,
) -> Result<(), root::RootError> {
    root::publish(&issuers.borrow_and_update(), path)?;
    let (part, path) = (shutdown.clone(), path.to_owned());
    shutdown.spawn(async move {
        loop {
            tokio::select! {
                () = part.draining() => return,
                // An authority from files never changes.
                changed = issuers.changed() => if changed.is_err() { return },
            }
            if let Err(error) = root::publish(&issuers.borrow_and_update(), &path) {
                tracing::error!(
                    "ROOT_CERT_FILE: {error}; clients that read it do not learn of a new root"
                );
            }
        }
    });
    Ok(())
}

/// What differs between a directory of manifests and a cluster.
struct Opened {
    source: Box<dyn Source>,
    issuers: Issuers,
    tokens: Tokens,
    client: Option<Client>,
}

async fn open(config: &Config, shutdown: &Shutdown) -> anyhow::Result<Opened> {
    let now = SystemTime::now();
    let trust_domain = &config.mesh.trust_domain;
    let file = config
        .tokens
        .clone()
        .map(|path| Tokens::File(Arc::new(path)));
    let from_files = |directory: &Path| -> anyhow::Result<Issuers> {
        let opened = root::open(directory, trust_domain, now);
        let issuer = opened.context("CA_DIR (the first start writes a new authority there)")?;
        Ok(ca::fixed(Arc::new(issuer)))
    };
    match &config.origin {
        Origin::Directory(manifests) => {
            // Before anything is made: a wrong directory must not leave a new root behind.
            std::fs::read_dir(manifests).with_context(|| {
                format!("MANIFESTS: cannot read directory {}", manifests.display())
            })?;
            Ok(Opened {
                source: Box::new(Directory::new(manifests)),
                issuers: from_files(config.ca.directory.as_deref().unwrap_or(Path::new("ca")))?,
                tokens: file.unwrap_or(Tokens::Nothing),
                client: None,
            })
        }
        Origin::Cluster { kubeconfig } => {
            let client = kubernetes::client(kubeconfig.as_deref());
            let client = client
                .await
                .context("objects come from an API server unless MANIFESTS names a directory")?;
            let issuers = match &config.ca.directory {
                Some(directory) => from_files(directory)?,
                None => from_secret(config, client.clone(), shutdown).await?,
            };
            let review = Review::new(client.clone(), config.ca.audiences.clone(), trust_domain);
            Ok(Opened {
                source: Box::new(Watch::new(client.clone(), Wanted::all())),
                issuers,
                tokens: file.unwrap_or(Tokens::Review(Box::new(review))),
                client: Some(client),
            })
        }
    }
}

async fn from_secret(
    config: &Config,
    client: Client,
    shutdown: &Shutdown,
) -> anyhow::Result<Issuers> {
    let place = Place {
        namespace: config.ca.namespace.clone(),
        secret: config.ca.secret.clone(),
        trust_domain: config.mesh.trust_domain.clone(),
        plan: config.ca.plan,
    };
    let vault = Vault::open(client, place).await?;
    let issuers = vault.issuers();
    shutdown.spawn(vault.run(shutdown.clone()));
    Ok(issuers)
}

/// Publishes what the source says. Changes that come close together are published together, because each publication
/// has a price of its own.
async fn follow(mut source: Box<dyn Source>, mut follower: Follower) {
    let mut last = Instant::now();
    loop {
        follower.store(source.next().await);
        let until = (Instant::now() + GATHER).max(last + PACE);
        while let Ok(event) = tokio::time::timeout_at(until, source.next()).await {
            follower.store(event);
        }
        follower.publish();
        last = Instant::now();
    }
}

async fn start_admin(config: &Config, common: &Common, status: &Arc<Status>) -> anyhow::Result<()> {
    let status = status.clone();
    let router = Router::new().common(common).route("/status", move |_| {
        let body = status.to_json();
        async move { admin::json_response(body) }
    });
    let server = admin::Server::bind(config.admin).await;
    let server = server.context("ADMIN_LISTEN")?;
    tracing::info!(address = %server.address()?, "admin server");
    server.serve(router, &common.shutdown);
    let Some(address) = config.monitoring else {
        return Ok(());
    };
    // Whoever reaches this one may see how the control plane is, but not end it or change its log.
    let router = Router::new()
        .readiness(&common.readiness)
        .metrics(&common.metrics);
    let server = admin::Server::bind(address).await?;
    tracing::info!(address = %server.address()?, "monitoring server");
    server.serve(router, &common.shutdown);
    Ok(())
}
