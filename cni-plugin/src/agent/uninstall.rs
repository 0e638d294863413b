//! What happens when the agent is asked to end: nothing, if another one follows; else everything that the mesh has put on
//! this node is taken away, and looked for again. Spawned by `run` when there is an API server.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sys::Netns;
use tokio::time::{Instant, sleep_until};

use super::cluster::{Cluster, ClusterError, Fate};
use super::membership::Membership;
use super::{host, install, leave};
use crate::apply;

mod release;

pub use release::Release;

/// How long what is open may last: a part of the time that the agent has for its end.
const OPEN: Duration = Duration::from_secs(10);

/// Waits for the drain, then decides. `host`: the node's namespace, if our rule stands there.
pub async fn at_end(members: Arc<Membership>, cluster: Cluster, host: Option<Netns>) {
    match fate(&members, &cluster).await {
        Fate::Stays(why) => tracing::info!(why, "capture and CNI configuration stay"),
        Fate::Goes(why) => {
            tracing::info!(
                why,
                "this is an uninstall: capture and CNI configuration are removed"
            );
            let left = remove(&members, &cluster, host, OPEN).await;
            report(&left);
        }
    }
}

async fn fate(members: &Membership, cluster: &Cluster) -> Fate {
    if members.config.leave_node {
        // Pods that nobody told us of are found by then.
        let mut through = members.through_once.subscribe();
        tokio::select! {
            _ = through.wait_for(|done| *done) => {}
            () = members.shutdown.draining() => {}
        }
        members.shutdown.drain();
        return Fate::Goes("LEAVE_NODE is set".into());
    }
    warn_unreadable(members, cluster).await;
    members.shutdown.draining().await;
    cluster.fate().await
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

/// Takes everything away, in an order in which nothing that is open in the mesh goes on in the clear; what could not be
/// removed is told, one text each. What is open may last for `open`.
async fn remove(
    members: &Arc<Membership>,
    cluster: &Cluster,
    host: Option<Netns>,
    open: Duration,
) -> Vec<String> {
    // Nobody puts anything back from here on.
    members.uninstalling.store(true, Ordering::SeqCst);
    // First of all, so that no new pod asks an agent that is about to end.
    let mut left = remove_plugin(members).await;
    let count = ease_all(members).await;
    left.extend(unmark(members, cluster).await);
    left.extend(let_all_go(members, open).await);
    left.extend(sweep(members).await);
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

async fn remove_plugin(members: &Membership) -> Vec<String> {
    let Some(options) = members.config.install.clone() else {
        return Vec::new();
    };
    let removal = members
        .shutdown
        .spawn_blocking(move || install::remove(&options));
    match removal.await {
        Ok(done) => done.err().unwrap_or_default(),
        Err(_) => vec!["the removal of the CNI configuration was cut short".into()],
    }
}

/// Nothing new is captured any more; how many pods that were.
async fn ease_all(members: &Membership) -> usize {
    let _turn = members.turn.lock().await;
    let mut pods = members.pods.all();
    pods.retain(|entry| entry.enrolled);
    for entry in &pods {
        if let Err(error) = members.ease(entry).await {
            // What is left of it in the end is told then.
            tracing::warn!(%error, uid = entry.uid, "a pod goes on to be captured for a moment");
        }
        members.pods.set_leaving(&entry.key(), leave::now());
    }
    pods.len()
}

async fn unmark(members: &Membership, cluster: &Cluster) -> Vec<String> {
    const TRIED: usize = 3;
    let mut left = Vec::new();
    let ours = members.world.ours();
    let marked = ours
        .into_iter()
        .filter(|(_, seen)| seen.redirection.is_some());
    for (key, seen) in marked {
        // Without its rights, which may be gone before us, the agent cannot; a later agent does at its start.
        if let Err(error) = cluster.mark(&key, &seen.uid, None).await {
            let (namespace, pod) = key;
            left.push(format!("annotation of pod {namespace}/{pod}: {error}"));
            if left.len() == TRIED {
                left.push("and perhaps of others: no more are tried".into());
                break;
            }
        }
    }
    left
}

/// Each pod when nothing is open in it any more, all when the time is over: ztunnel first, then the last rules.
async fn let_all_go(members: &Membership, open: Duration) -> Vec<String> {
    let end = Instant::now() + open;
    while !members.pods.leaving().is_empty() && Instant::now() < end {
        leave::settle(members, open).await;
        sleep_until((Instant::now() + leave::STEP).min(end)).await;
    }
    let _turn = members.turn.lock().await;
    let mut left = Vec::new();
    for entry in members.pods.all() {
        let key = entry.key();
        members.pods.set_enrolled(&key, false);
        if entry.is_ztunnels() {
            members.unserve(&entry).await;
        }
        if let Err(error) = members.release(&entry).await {
            left.push(format!("rules of pod {}/{}: {error}", key.0, key.1));
        }
    }
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

#[cfg(test)]
mod tests;
