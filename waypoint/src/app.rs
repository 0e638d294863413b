//! Wiring: settings → certificates, ADS, HBONE listener, admin, readiness, drain. Nothing is decided here.

use crate::admin::{self, Pages};
use crate::admission::{Admission, Limits};
use crate::config::{Config, subscriptions};
use crate::listener;
use crate::node;
use crate::proxy::{Proxy, Times};
use crate::report::{Metrics, Reporter};
use crate::settings::{Listening, Waypoint};
use crate::state::types;
use crate::upstream::Upstream;
use crate::upstream::dial::{Certificates, Dialer, Peers};
use anyhow::Context;
use identity::Store;
use identity::ca::CaClient;
use identity::store::{Change, Priority};
use runtime::admin::{Common, Router, Server};
use runtime::exit::Exit;
use runtime::logs::Logs;
use runtime::metrics::Registry;
use runtime::{Readiness, Shutdown};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use xds::trouble::{Tell, Trouble};

/// How often idle connections are let go of.
const SWEEP: Duration = Duration::from_secs(10);

/// Runs the waypoint until it is told to stop.
pub async fn run(mut settings: Waypoint, logs: &Logs) -> anyhow::Result<Exit> {
    let interfaces = runtime::interface_addresses().context("addresses of this pod")?;
    settings.own = settings.own.at(interfaces);
    let shutdown = Shutdown::new();
    runtime::shutdown::signals(&shutdown)?;
    let readiness = Readiness::new();
    let registry = Registry::new();
    let (synced, listening) = (
        readiness.register("control plane"),
        readiness.register("HBONE listener"),
    );
    let config = Config::default();
    let (certificates, store) = certificates(&settings, &shutdown)?;
    let common = Common {
        readiness: readiness.clone(),
        metrics: registry,
        logs: logs.clone(),
        shutdown: shutdown.clone(),
    };
    let proxy = proxy(&settings, &config, &certificates, &common)?;
    let pages = Pages {
        proxy: proxy.clone(),
        config: config.clone(),
        certificates: certificates.clone(),
        readiness: readiness.clone(),
        node: Arc::new(node::shown(&settings.own)),
        started: SystemTime::now(),
    };
    serve_operators(&settings.listening, common, &pages).await?;

    let client = xds::client::ClientConfig {
        node: node::node(&settings.own),
        subscriptions: subscriptions(),
        observer: Arc::new(()),
    };
    let channel = identity::grpc::channel(settings.xds.clone()).context("XDS_ADDRESS")?;
    let (client, handle) = xds::client::Client::new(client, Box::new(config.clone()));
    config.connect(handle.clone());
    drop(shutdown.spawn_aside(client.run(channel, CancellationToken::new())));

    let (inbound, identity, ready) = (
        settings.listening.inbound,
        settings.own.identity.clone(),
        shutdown.clone(),
    );
    drop(shutdown.spawn_aside(async move {
        if !handle.synced(&[types::CLUSTER, types::LISTENER]).await {
            return;
        }
        drop(synced);
        // A listener without a certificate would only refuse.
        let mut watch = store.watch(&identity, Priority::RealTime);
        let _ = watch.wait_for(|status| status.certificate.is_some()).await;
        match listen(&proxy, inbound).await {
            Ok(listeners) => {
                drop(listening);
                for listener in listeners {
                    drop(ready.spawn(listener::run(proxy.clone(), listener, certificates.clone())));
                }
                sweep(&proxy).await;
            }
            Err(error) => {
                tracing::error!("{error:#}");
                ready.drain();
            }
        }
    }));
    runtime::shutdown::run_to_end(&shutdown, &readiness, settings.drain.deadline).await;
    Ok(Exit::Clean)
}

fn certificates(settings: &Waypoint, shutdown: &Shutdown) -> anyhow::Result<(Certificates, Store)> {
    let channel = identity::grpc::channel(settings.ca.clone()).context("CA_ADDRESS")?;
    let client = CaClient::new(channel, settings.certificates);
    let trouble = Mutex::new(Trouble::default());
    let (store, driver) = Store::new(Arc::new(client), move |change| {
        tell(
            &change,
            &mut trouble.lock().unwrap_or_else(PoisonError::into_inner),
        );
    });
    let stop = shutdown.clone();
    drop(shutdown.spawn_aside(async move { driver.run(stop.forced()).await }));
    store.prefetch(&settings.own.identity);
    let (held, identity) = (store.clone(), settings.own.identity.clone());
    Ok((Arc::new(move || held.current(&identity)), store))
}

/// An authority that is away is told of once, and remembered now and then.
fn tell(change: &Change, trouble: &mut Trouble) {
    match change {
        Change::Issued(certificate) => {
            trouble.over();
            tracing::info!(identity = %certificate.identity(), serial = certificate.serial(), "certificate issued");
        }
        Change::Failed { identity, reason } => {
            let why = reason.to_string();
            match trouble.failed(&why, Instant::now()) {
                Tell::New => {
                    tracing::warn!(%identity, reason = why, "no certificate, will try again")
                }
                Tell::Still(failed) => {
                    tracing::warn!(%identity, reason = why, "still no certificate after {failed} attempts");
                }
                Tell::Nothing => tracing::debug!(%identity, reason = why, "no certificate"),
            }
        }
    }
}

fn proxy(
    settings: &Waypoint,
    config: &Config,
    certificates: &Certificates,
    common: &Common,
) -> anyhow::Result<Arc<Proxy>> {
    let shutdown = &common.shutdown;
    let files = runtime::raise_open_files().context("file descriptor limit")?;
    let snapshot = config.snapshot();
    let peers: Peers = {
        let snapshot = snapshot.clone();
        Arc::new(move || snapshot.load().tunnel_peers().map(<[_]>::to_vec))
    };
    let dialer = Dialer::new(
        certificates.clone(),
        peers,
        settings.listening.hbone_port,
        shutdown.clone(),
    );
    Ok(Arc::new(Proxy {
        snapshot,
        changes: config.changes(),
        upstream: Upstream::new(dialer, shutdown.clone()),
        reporter: Reporter {
            metrics: Metrics::register(&common.metrics),
            lines: common.logs.lines(),
            told: Arc::default(),
        },
        shutdown: shutdown.clone(),
        times: Times {
            linger: settings.drain.linger,
            ..Times::default()
        },
        admission: Admission::new(Limits::within(files)),
        started: Instant::now(),
    }))
}

async fn serve_operators(
    listening: &Listening,
    common: Common,
    pages: &Pages,
) -> anyhow::Result<()> {
    let shutdown = common.shutdown.clone();
    let readiness = Router::new().readiness(&common.readiness);
    let operators = admin::routes(Router::new().common(&common), pages);
    serve(listening.readiness, readiness, &shutdown).await?;
    let metrics = Router::new().metrics(&common.metrics);
    for address in [Some(listening.stats), listening.envoy_stats]
        .into_iter()
        .flatten()
    {
        serve(address, metrics.clone(), &shutdown).await?;
    }
    serve(listening.admin, operators, &shutdown).await
}

async fn serve(address: SocketAddr, router: Router, shutdown: &Shutdown) -> anyhow::Result<()> {
    let server = Server::bind(address).await?;
    let (address, paths) = (
        server.address()?,
        router.paths().collect::<Vec<_>>().join(" "),
    );
    tracing::info!(%address, paths, "serving operators");
    server.serve(router, shutdown);
    Ok(())
}

/// Binds where LDS says, or where the setting says.
async fn listen(proxy: &Proxy, inbound: Option<SocketAddr>) -> anyhow::Result<Vec<TcpListener>> {
    let terminate = loop {
        // Synced, but the listener itself may have been refused: wait for a good one.
        if let Some(terminate) = proxy.snapshot.load().terminate.clone() {
            break terminate;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // LDS names an address of each family, so that one of IPv6 takes no IPv4.
    let only_v6 = inbound.is_none();
    let addresses = inbound.map_or_else(|| terminate.addresses.clone(), |address| vec![address]);
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = runtime::accept::listen(address, only_v6).context("HBONE listener")?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "listening for HBONE");
        listeners.push(listener);
    }
    Ok(listeners)
}

async fn sweep(proxy: &Proxy) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        proxy.upstream.sweep();
    }
}
