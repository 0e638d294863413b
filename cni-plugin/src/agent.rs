//! The node agent: learns pods and labels, answers the CNI binary, and keeps rules and ztunnel in
//! step with what the labels say. `bin/agent` calls [`run`]; docs/paths.md, path e, draws it.
use std::sync::Arc;
use std::time::Duration;

use runtime::exit::Exit;
use runtime::{Readiness, Shutdown};
use zds::server::{BindError, Listener};

/// Settings.
pub mod config;
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
mod socket;

pub use config::Config;

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
    let listing = readiness.register("objects");
    admin::serve(&config, &admin).await.map_err(failed)?;
    // Both sockets before anything is touched: two agents never half-own a node.
    let zds_socket = bind(&config.zds_socket, &config, &shutdown).await?;
    let cni_socket = bind(&config.agent_socket, &config, &shutdown).await?;
    let pods = Arc::new(Store::open(&config.state_file()).map_err(|e| failed(e.into()))?);
    let world = Arc::new(World::new(&config.node_name));
    let (ztunnel, serving) = zds::server::serve(zds_socket, Arc::clone(&pods) as _);
    admin::measure(&admin.metrics, &pods, &ztunnel);
    let members = Membership {
        world,
        pods,
        ztunnel,
        config,
        shutdown: shutdown.clone(),
        turn: Arc::default(),
    };
    let members = Arc::new(members);
    announce(&members.config);
    spawn_parts(&members, listing, &shutdown, cni_socket);
    let fatal = shutdown.clone();
    shutdown.spawn_aside(async move {
        let error = serving.await;
        tracing::error!(%error, "the socket for ztunnel is unusable");
        fatal.drain();
    });
    runtime::shutdown::run_to_end(&shutdown, &Readiness::clone(&readiness), DRAIN).await;
    Ok(())
}

fn announce(config: &Config) {
    tracing::info!(
        node = config.node_name,
        agent_socket = %config.agent_socket.display(),
        zds_socket = %config.zds_socket.display(),
        "serving"
    );
    if let Err(error) = std::fs::read_dir(&config.manifests) {
        let path = config.manifests.display();
        tracing::warn!("MANIFESTS: cannot read directory {path}: {error}; waiting for it");
    }
}

/// Requests of the CNI binary that are under way when we are stopped may end.
const DRAIN: Duration = Duration::from_secs(5);

fn spawn_parts(
    members: &Arc<Membership>,
    listing: runtime::readiness::Pending,
    shutdown: &Shutdown,
    cni_socket: Listener,
) {
    let source = Box::new(objects::Directory::new(&members.config.manifests));
    shutdown.spawn_aside(watch::follow(source, Arc::clone(&members.world), listing));
    shutdown.spawn_aside(repair::run(Arc::clone(members)));
    shutdown.spawn(server::run(cni_socket, Arc::clone(members)));
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
