//! What happens when the agent is asked to end: nothing, if another one follows; else everything that the mesh has put on
//! this node is taken away, and looked for again. Spawned by `run` when there is an API server.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sys::Netns;

use super::cluster::{Cluster, ClusterError, Fate};
use super::membership::Membership;
use super::{host, install};
use crate::apply;

mod release;

pub use release::Release;

/// Waits for the drain, then decides. `host`: the node's namespace, if our rule stands there.
pub async fn at_end(members: Arc<Membership>, cluster: Cluster, host: Option<Netns>) {
    warn_unreadable(&members, &cluster).await;
    members.shutdown.draining().await;
    match cluster.fate().await {
        Fate::Stays(why) => tracing::info!(why, "capture and CNI configuration stay"),
        Fate::Goes(why) => {
            tracing::info!(
                why,
                "this is an uninstall: capture and CNI configuration are removed"
            );
            let left = remove(&members, &cluster, host).await;
            report(&left);
        }
    }
}

/// Says at the start what would only show at the end. Asked until the API server answers.
async fn warn_unreadable(members: &Membership, cluster: &Cluster) {
    const STEP: Duration = Duration::from_secs(15);
    loop {
        match cluster.may_read_own().await {
            Err(ClusterError::Away(_)) => {}
            Err(error @ ClusterError::Refused { .. }) => {
                return tracing::warn!(%error, "the agent's own DaemonSet cannot be read: an uninstall will not be noticed");
            }
            Ok(()) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(STEP) => {}
            () = members.shutdown.draining() => return,
        }
    }
}

fn report(left: &[String]) {
    if left.is_empty() {
        tracing::info!("uninstalled: nothing of the mesh is left on this node");
    }
    for text in left {
        tracing::error!("left behind: {text}");
    }
}

/// Takes everything away; what could not be is told, one text each.
async fn remove(members: &Arc<Membership>, cluster: &Cluster, host: Option<Netns>) -> Vec<String> {
    let mut left = Vec::new();
    // Nobody puts anything back from here on.
    members.uninstalling.store(true, Ordering::SeqCst);
    // First of all, so that no new pod asks an agent that is about to end.
    if let Some(options) = members.config.install.clone() {
        let removal = members
            .shutdown
            .spawn_blocking(move || install::remove(&options));
        match removal.await {
            Ok(done) => left.extend(done.err().into_iter().flatten()),
            Err(_) => left.push("the removal of the CNI configuration was cut short".into()),
        }
    }
    let _turn = members.turn.lock().await;
    let pods = members.pods.all();
    let count = pods.iter().filter(|entry| entry.enrolled).count();
    for entry in &pods {
        let (namespace, pod) = entry.key();
        if let Err(error) = members.release(entry).await {
            left.push(format!("rules of pod {namespace}/{pod}: {error}"));
        }
        members.pods.set_enrolled(&entry.key(), false);
        if entry.enrolled {
            members.unserve(entry).await;
        }
    }
    left.extend(sweep(members).await);
    let ours = members.world.ours();
    let marked = ours
        .into_iter()
        .filter(|(_, seen)| seen.redirection.is_some());
    let mut refused = 0;
    for (key, seen) in marked {
        // Without its rights, which may be gone before us, the agent cannot; a later agent does at its start.
        if let Err(error) = cluster.mark(&key, &seen.uid, None).await {
            refused += 1;
            let (namespace, pod) = key;
            left.push(format!("annotation of pod {namespace}/{pod}: {error}"));
            if refused == 3 {
                left.push("and perhaps of others: no more are tried".into());
                break;
            }
        }
    }
    if let Some(netns) = host {
        let removal = members
            .shutdown
            .spawn_blocking(move || host::remove(&netns));
        if let Ok(Err(error)) = removal.await {
            left.push(format!("rules of the node: {error}"));
        }
    }
    members.pods.discard();
    for socket in [&members.config.agent_socket, &members.config.zds_socket] {
        let mut lock = socket.clone().into_os_string();
        lock.push(".lock");
        let _ = std::fs::remove_file(lock);
    }
    tracing::info!(pods = count, "pods taken out of the mesh");
    left
}

/// Looks through every network namespace of the node for rules of ours, takes them out, and looks again.
async fn sweep(members: &Membership) -> Vec<String> {
    let (places, writer) = (members.config.places.clone(), members.config.writer);
    let known: Vec<Netns> = members
        .pods
        .all()
        .into_iter()
        .filter_map(|entry| entry.netns)
        .collect();
    let work = move || {
        let mut left = Vec::new();
        let others = places.all().into_iter().map(|found| found.netns);
        for netns in known.into_iter().chain(others) {
            let held = apply::check_removed(&netns, writer);
            if let Err(apply::ApplyError::Differs(_)) = held {
                // A failure shows in the second look.
                let _ = apply::remove(&netns);
                if let Err(error) = apply::check_removed(&netns, writer) {
                    left.push(format!("rules in {}: {error}", netns.id()));
                }
            }
        }
        left
    };
    let swept = members.shutdown.spawn_blocking(work).await;
    swept.unwrap_or_else(|_| vec!["the search through the node was cut short".into()])
}
