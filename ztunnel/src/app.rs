//! Wires the parts together and runs them to the end. Called by `main`; holds no logic of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mesh::state::{Snapshot, State};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use runtime::Readiness;
use runtime::admin::Common;
use runtime::exit::Exit;
use runtime::logs::Logs;
use runtime::metrics::Registry;
use runtime::readiness::Pending;
use runtime::shutdown::{self, Shutdown};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Xds};
use crate::control::ca::{self, Certificates};
use crate::control::dns::forward::Upstream;
use crate::control::dns::names::{self, Asks};
use crate::control::dns::{self, Dns, resolv};
use crate::control::publish::Published;
use crate::control::{admin, dump, missing, xds};
use crate::pods::session::Session;
use crate::pods::{Enrolment, Pods};
use crate::report::dry_run::DryRun;
use crate::report::{Lines, Report};
use crate::worker::api::{Ask, Notice};
use crate::worker::{self, Workers};

/// After the drain deadline the workers still say what they cut; so long the end waits for them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often the worker threads are looked after.
const LOOK: Duration = Duration::from_secs(1);

/// What several parts hold.
struct Parts {
    shutdown: Shutdown,
    readiness: Readiness,
    registry: Registry,
    workers: Arc<Workers>,
    report: Report,
    certificates: Certificates,
    failed: Arc<AtomicBool>,
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// When a part cannot be started. Later failures of a part end the process with [`Exit::Failed`].
pub async fn run(config: Config, logs: &Logs) -> anyhow::Result<Exit> {
    let files = sys::limits::raise_open_files().context("file descriptor limit")?;
    tracing::info!(
        "version: {}; file descriptor limit {files}",
        dump::version()
    );
    tracing::info!("running with config: {}", config.dump);
    let shutdown = Shutdown::new();
    shutdown::signals(&shutdown)?;
    let readiness = Readiness::new();
    let synced = readiness.register("state manager");
    let enrolled = readiness.register("workload proxy manager");
    let registry = Registry::new();
    count_build(&registry);
    let servers = admin::Servers::bind(&config.admin).await?;

    let state = config
        .xds
        .local
        .as_deref()
        .map(xds::local)
        .transpose()?
        .unwrap_or_default();
    let (workers, notices) = start_workers(&config, state.snapshot())?;
    let published = Published::new(state.snapshot(), workers.clone());
    let report = Report::new(&registry, logs.lines(), config.logs.format);
    let (certificates, tasks) = ca::certificates(config.ca.clone())?;
    tasks.spawn(workers.clone(), &shutdown);
    let pods = Pods::new(config.own.cluster.clone());
    let failed = Arc::default();
    let parts = Parts {
        shutdown,
        readiness,
        registry,
        workers,
        report,
        certificates,
        failed,
    };

    let pages = pages(&parts, &config, (published.clone(), pods.clone()), logs);
    servers.serve(&pages);
    let watch = missing::watch(published.clone(), pods.clone(), parts.registry.clone());
    parts.shutdown.spawn_aside(watch);
    let upstream = upstream(&config.dns);
    let asks = parts.spawn_names(upstream.clone(), config.dns.zone.ipv6);
    parts.spawn_notices((notices, asks), &config, &published);
    let dns = parts.dns(&config, &published, upstream);
    let ready = parts.spawn_xds(&config, state, published, synced)?;
    parts.spawn_pods((&config, dns), pods, ready, enrolled);

    shutdown::run_to_end(
        &parts.shutdown,
        &parts.readiness,
        config.termination + LAST_WORDS,
    )
    .await;
    Ok(if parts.failed.load(Ordering::Relaxed) {
        Exit::Failed
    } else {
        Exit::Clean
    })
}

fn start_workers(
    config: &Config,
    snapshot: Arc<Snapshot>,
) -> anyhow::Result<(Arc<Workers>, mpsc::Receiver<Vec<Notice>>)> {
    let started = worker::start(config.worker.clone(), config.workers, snapshot);
    let (workers, notices) = started.context("worker threads")?;
    Ok((Arc::new(workers), notices))
}

fn pages(
    parts: &Parts,
    config: &Config,
    (published, pods): (Published, Pods),
    logs: &Logs,
) -> admin::Pages {
    admin::Pages {
        common: Common {
            readiness: parts.readiness.clone(),
            metrics: parts.registry.clone(),
            logs: logs.clone(),
            shutdown: parts.shutdown.clone(),
        },
        report: parts.report.clone(),
        published,
        certificates: parts.certificates.clone(),
        pods,
        config: config.dump.clone(),
    }
}

impl Parts {
    /// Takes what the workers tell until all of them have drained.
    fn spawn_notices(
        &self,
        (notices, names): (mpsc::Receiver<Vec<Notice>>, Asks),
        config: &Config,
        published: &Published,
    ) {
        let termination = config.termination;
        let pump = Pump {
            report: self.report.clone(),
            dry_run: DryRun::new(&self.registry, config.logs.policy_info),
            published: published.clone(),
            certificates: self.certificates.clone(),
            names,
            left: self.workers.count(),
        };
        let (workers, shutdown, failed) = (
            self.workers.clone(),
            self.shutdown.clone(),
            self.failed.clone(),
        );
        self.shutdown.spawn(async move {
            if !pump.run(notices, &workers, &shutdown, termination).await {
                tracing::error!("a worker has ended unexpectedly");
                failed.store(true, Ordering::Relaxed);
                shutdown.drain();
            }
        });
    }

    /// Follows the control plane. The returned token fires when the first state is there.
    fn spawn_xds(
        &self,
        config: &Config,
        state: State,
        published: Published,
        synced: Pending,
    ) -> anyhow::Result<CancellationToken> {
        let ready = CancellationToken::new();
        let Xds {
            grpc: Some(grpc), ..
        } = &config.xds
        else {
            drop(synced);
            ready.cancel();
            return Ok(ready);
        };
        let channel = identity::grpc::channel(grpc.clone()).context("XDS_ADDRESS")?;
        let (client, handle) = xds::client(&config.own, &self.registry, state, published);
        // Policy stays in force during a drain, so this ends only at force, which drops the task.
        self.shutdown
            .spawn_aside(client.run(channel, CancellationToken::new()));
        let done = ready.clone();
        self.shutdown.spawn_aside(async move {
            if handle.synced(&xds::TYPES).await {
                drop(synced);
                done.cancel();
            }
        });
        Ok(ready)
    }

    /// The DNS proxy, if it is wanted.
    fn dns(&self, config: &Config, published: &Published, upstream: Upstream) -> Option<Dns> {
        let listen = config.dns.listen?;
        tracing::info!(address = ?listen.address, "DNS proxy for captured pods");
        let published = published.clone();
        Some(Dns::new(
            (listen, config.dns.zone.clone()),
            Box::new(move || published.current()),
            upstream,
            dns::metrics::Metrics::new(&self.registry),
            self.shutdown.clone(),
        ))
    }

    /// Resolves the host names of workloads that workers ask for.
    fn spawn_names(&self, upstream: Upstream, ipv6: bool) -> Asks {
        let (asks, wanted) = names::asks();
        let workers = self.workers.clone();
        let publish = move |names| {
            let workers = workers.clone();
            async move {
                if let Err(gone) = workers.names(&names).await {
                    tracing::debug!("resolved names come too late: {gone}");
                }
            }
        };
        self.shutdown
            .spawn_aside(names::run(wanted, (upstream, ipv6), publish));
        asks
    }

    /// Follows the node agent, from the moment at which the mesh is known until the drain.
    fn spawn_pods(
        &self,
        (config, dns): (&Config, Option<Dns>),
        pods: Pods,
        ready: CancellationToken,
        enrolled: Pending,
    ) {
        let own = (&config.own, config.listeners, dns);
        let enrolment = Enrolment::new(
            pods,
            self.workers.clone(),
            self.certificates.clone(),
            own,
            &self.registry,
        );
        let session = Session::new(
            config.zds.clone(),
            enrolment,
            self.readiness.clone(),
            enrolled,
        );
        let (shutdown, failed) = (self.shutdown.clone(), self.failed.clone());
        self.shutdown.spawn(async move {
            let work = async {
                ready.cancelled().await;
                session.run().await
            };
            tokio::select! {
                () = shutdown.draining() => {}
                error = work => {
                    tracing::error!("{error}");
                    failed.store(true, Ordering::Relaxed);
                    shutdown.drain();
                }
            }
        });
    }
}

/// Who is asked what the mesh does not know.
fn upstream(config: &config::Dns) -> Upstream {
    let file = config.resolv_conf.display();
    let text = std::fs::read_to_string(&config.resolv_conf).unwrap_or_else(|error| {
        tracing::warn!("DNS_RESOLV_CONF {file}: {error}: only names of the mesh will resolve");
        String::new()
    });
    let servers = resolv::servers(&text);
    for server in resolv::out_of_reach(&servers) {
        tracing::warn!(%server, %file, "pods cannot reach this name server, whose address means the pod itself: names \
            outside of the mesh will not resolve through it");
    }
    tracing::info!(?servers, "name servers for names outside of the mesh");
    Upstream::new(&servers, config.mark)
}

/// The reader of the workers' notices.
struct Pump {
    report: Report,
    dry_run: DryRun,
    published: Published,
    certificates: Certificates,
    names: Asks,
    /// Workers that have not drained.
    left: usize,
}

impl Pump {
    /// True when all workers have drained, false when one was lost.
    async fn run(
        mut self,
        mut notices: mpsc::Receiver<Vec<Notice>>,
        workers: &Workers,
        shutdown: &Shutdown,
        termination: Duration,
    ) -> bool {
        let mut asked = false;
        let mut look = tokio::time::interval(LOOK);
        while self.left > 0 {
            tokio::select! {
                _ = look.tick(), if !asked => {
                    if workers.ended().is_some() {
                        return false;
                    }
                }
                () = shutdown.draining(), if !asked => {
                    asked = true;
                    if workers.drain(Instant::now() + termination).await.is_err() {
                        return false;
                    }
                }
                batch = notices.recv() => match batch {
                    Some(batch) => {
                        let mut lines = Lines::default();
                        batch.into_iter().for_each(|notice| self.take(notice, &mut lines));
                        self.report.write(lines);
                    }
                    None => return false,
                },
            }
        }
        true
    }

    fn take(&mut self, notice: Notice, lines: &mut Lines) {
        match notice {
            Notice::Opened(connection) => {
                self.report.opened(&connection, lines);
                self.dry_run.opened(&self.published.current(), &connection);
            }
            Notice::Closed(closed) => self.report.closed(&closed, lines),
            Notice::Refused(refused) => self.report.refused(&refused, lines),
            Notice::Ask(Ask::Certificate { identity }) => self.certificates.wanted_now(&identity),
            Notice::Ask(Ask::Name { host }) => self.names.wanted(host),
            // All workloads and policies are subscribed to; what is missing comes by itself, and `missing` watches.
            Notice::Ask(Ask::Workload { .. } | Ask::Policy { .. }) => {}
            Notice::PodRemoved { uid } => tracing::debug!(%uid, "a worker let go of the pod"),
            Notice::Drained { worker } => {
                tracing::debug!(worker, "drained");
                self.left -= 1;
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    component: &'static str,
    tag: &'static str,
}

fn count_build(registry: &Registry) {
    let build: Family<Build, Gauge> = registry.register(
        "istio_build",
        "Istio component build info",
        Family::default(),
    );
    build
        .get_or_create(&Build {
            component: "ztunnel",
            tag: env!("CARGO_PKG_VERSION"),
        })
        .set(1);
}
