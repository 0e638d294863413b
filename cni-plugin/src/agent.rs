//! The node agent: learns pods and labels, answers the CNI binary, and keeps rules and ztunnel in
//! step with what the labels say. On Kubernetes it also installs the plugin, lets probes pass, marks captured pods, and
//! takes everything away again when it is uninstalled. `bin/agent` calls [`run`]; docs/paths.md, path e, draws it.
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use runtime::exit::Exit;
use runtime::readiness::Pending;
use runtime::{Readiness, Shutdown};
use zds::server::{BindError, Listener};

/// Settings.
pub mod config;
/// Namespaces of pods that run already.
pub mod find;
/// The plugin on the node.
pub mod install;
/// Who is in: enrols and withdraws pods.
pub mod membership;
/// The pods that this node's runtime told us about, kept across restarts.
pub mod pods;
/// Brings rules and ztunnel back in step, at start and after each change.
pub mod repair;
/// Answers the CNI binary.
pub mod server;
/// What the cluster says about pods and namespaces.
pub mod watch;

mod admin;
mod annotate;
mod cluster;
mod host;
/// Pods that leave the mesh while they run.
pub mod leave;
mod socket;
/// The end of the agent, and of the mesh on its node.
pub mod uninstall;

pub use config::Config;

use cluster::Cluster;
use membership::Membership;
use pods::Store;
use watch::World;

/// How often a socket that another agent holds is tried again.
const TAKEOVER_STEP: Duration = Duration::from_millis(100);

/// Runs the agent until `shutdown` drains; rules stay in place then, so that pods stay in the mesh
/// while the next agent starts.
///
/// # Errors
/// With the exit code: another agent serves the sockets, or something cannot be opened.
pub async fn run(
    config: Config,
    admin: runtime::admin::Common,
) -> Result<(), (Exit, anyhow::Error)> {
    let failed = |error: anyhow::Error| (Exit::Failed, error);
    let (shutdown, readiness) = (admin.shutdown.clone(), admin.readiness.clone());
    let parts = Parts {
        listing: readiness.register("objects"),
        repairing: readiness.register("pods"),
        readiness: readiness.clone(),
    };
    admin::serve(&config, &admin).await.map_err(failed)?;
    let objects = source(&config).await.map_err(failed)?;
    // Both sockets before anything is touched: two agents never half-own a node.
    let zds_socket = bind(&config.zds_socket, &config, &shutdown).await?;
    let cni_socket = bind(&config.agent_socket, &config, &shutdown).await?;
    let pods = Store::open(&config.state_file(), &config.places).map_err(|e| failed(e.into()))?;
    let pods = Arc::new(pods);
    let world = Arc::new(World::new(&config.node_name, config.scope.clone()));
    let (ztunnel, serving) = zds::server::serve(zds_socket, Arc::clone(&pods) as _);
    admin::measure(&admin.metrics, &pods, &ztunnel);
    let deadline = if objects.cluster.is_some() {
        UNINSTALL
    } else {
        DRAIN
    };
    let members = Membership {
        found_once: tokio::sync::watch::Sender::new(!pods.was_lost()),
        world,
        pods,
        ztunnel,
        config,
        shutdown: shutdown.clone(),
        turn: Arc::default(),
        through_once: tokio::sync::watch::Sender::new(false),
        uninstalling: AtomicBool::new(false),
    };
    let members = Arc::new(members);
    announce(&members.config);
    let host = host_netns(&members).map_err(failed)?;
    spawn_parts(&members, parts, objects, (cni_socket, host));
    let fatal = shutdown.clone();
    let mut found = members.found_once.subscribe();
    shutdown.spawn_aside(async move {
        // What is missing in the first snapshot, ztunnel cuts off.
        let _ = found.wait_for(|done| *done).await;
        let error = serving.await;
        tracing::error!(%error, "the socket for ztunnel is unusable");
        fatal.drain();
    });
    runtime::shutdown::run_to_end(&shutdown, &readiness, deadline).await;
    Ok(())
}

/// What the parts say of their first round.
struct Parts {
    listing: Pending,
    repairing: Pending,
    readiness: Readiness,
}

/// Where objects come from, and what else a cluster can be asked.
struct Objects {
    source: Box<dyn objects::Source>,
    cluster: Option<Cluster>,
}

async fn source(config: &Config) -> anyhow::Result<Objects> {
    let kubeconfig = match &config.source {
        config::Source::Manifests(path) => {
            return Ok(Objects {
                source: Box::new(objects::Directory::new(path)),
                cluster: None,
            });
        }
        config::Source::Cluster(kubeconfig) => kubeconfig.as_deref(),
    };
    let client = kubernetes::client(kubeconfig).await?;
    let kinds = [objects::Kind::Pod, objects::Kind::Namespace];
    let wanted = kubernetes::Wanted::kinds(kinds).pods_of(&config.node_name);
    Ok(Objects {
        source: Box::new(kubernetes::Watch::new(client.clone(), wanted)),
        cluster: Some(Cluster::new(client, config.own_pod.clone())),
    })
}

fn host_netns(members: &Membership) -> anyhow::Result<Option<sys::Netns>> {
    let Some(which) = members.config.probes else {
        return Ok(None);
    };
    let opened = host::open(members, which);
    let place = match which {
        config::HostNetns::Own => "our own".to_owned(),
        config::HostNetns::Init => format!("{}/1/ns/net", members.config.places.proc().display()),
    };
    let text = format!(
        "cannot open the node's network namespace ({place}); HOST_PROBES=false does without"
    );
    Ok(Some(opened.with_context(|| text)?))
}

fn announce(config: &Config) {
    tracing::info!(
        node = config.node_name,
        agent_socket = %config.agent_socket.display(),
        zds_socket = %config.zds_socket.display(),
        "serving"
    );
    let config::Source::Manifests(manifests) = &config.source else {
        return;
    };
    if let Err(error) = std::fs::read_dir(manifests) {
        let path = manifests.display();
        tracing::warn!("MANIFESTS: cannot read directory {path}: {error}; waiting for it");
    }
}

/// Requests of the CNI binary that are under way when we are stopped may end.
const DRAIN: Duration = Duration::from_secs(5);

/// An uninstall waits a while for what is open and takes a moment for each pod; the kubelet gives 30 s.
const UNINSTALL: Duration = Duration::from_secs(25);

fn spawn_parts(
    members: &Arc<Membership>,
    parts: Parts,
    objects: Objects,
    (cni_socket, host): (Listener, Option<sys::Netns>),
) {
    let shutdown = members.shutdown.clone();
    let world = Arc::clone(&members.world);
    shutdown.spawn_aside(watch::follow(objects.source, world, parts.listing));
    shutdown.spawn_aside(repair::run(Arc::clone(members), parts.repairing));
    shutdown.spawn(server::run(cni_socket, Arc::clone(members)));
    if let Some(netns) = host.clone() {
        let first = parts.readiness.register("rules of the node");
        shutdown.spawn_aside(host::run(Arc::clone(members), netns, first));
    }
    if let Some(options) = members.config.install.clone()
        && !members.config.leave_node
    {
        let part = shutdown.clone();
        // Awaited at the end: it must not put back what an uninstall takes away.
        shutdown.spawn(install::run(options, parts.readiness, part));
    }
    if let Some(cluster) = objects.cluster {
        shutdown.spawn_aside(annotate::run(Arc::clone(members), cluster.clone()));
        shutdown.spawn(uninstall::at_end(Arc::clone(members), cluster, host));
    }
}

/// Binds a socket; waits a while for an older agent that is about to stop.
async fn bind(
    path: &std::path::Path,
    config: &Config,
    shutdown: &Shutdown,
) -> Result<Listener, (Exit, anyhow::Error)> {
    let started = tokio::time::Instant::now();
    let mut told = false;
    loop {
        match Listener::bind(path) {
            Ok(listener) => return Ok(listener),
            Err(error @ BindError::Io { .. }) => return Err((Exit::Failed, error.into())),
            Err(taken) if started.elapsed() >= config.takeover_wait || shutdown.is_draining() => {
                return Err((Exit::AlreadyRunning, taken.into()));
            }
            Err(taken) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%taken, "waiting for it to stop");
                }
                tokio::time::sleep(TAKEOVER_STEP).await;
            }
        }
    }
}
