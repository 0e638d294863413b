//! Keeps what is in step with what should be: once at start (rules of an earlier agent are looked
//! at), then whenever labels change, a ztunnel connects, or an attempt failed before.
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::membership::{EnrollError, Membership, Opening, Wanted};
use super::pods::Entry;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// Without any event, everything is looked at again after this.
const QUIET: Duration = Duration::from_secs(300);

/// Runs for ever; spawned by `run`.
pub async fn run(members: Arc<Membership>) {
    let mut changes = members.world.changes();
    let mut connected = members.ztunnel.connected();
    // Nothing is known to be gone before the first list.
    while !members.world.is_listed() {
        if changes.changed().await.is_err() {
            return;
        }
    }
    let (mut retry, mut verified) = (FIRST_RETRY, false);
    loop {
        changes.mark_unchanged();
        connected.mark_unchanged();
        verified = verified || verify_all(&members).await;
        let settled = reconcile(&members).await && verified;
        retry = if settled {
            FIRST_RETRY
        } else {
            (retry * 2).min(LAST_RETRY)
        };
        let next = Instant::now() + if settled { QUIET } else { retry };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = connected.changed() => if changed.is_err() { return },
            () = sleep_until(next) => {}
        }
    }
}

/// Looks at the rules of every pod that an earlier agent enrolled, and writes them again where they
/// are not what they should be; false when that failed for one that only a later attempt can help.
async fn verify_all(members: &Membership) -> bool {
    let mut verified = true;
    for key in members.pods.all().iter().map(Entry::key) {
        let _turn = members.turn.lock().await;
        // Looked up under the turn, as below.
        let Some(entry) = members.pods.find(&key).filter(|entry| entry.enrolled) else {
            continue;
        };
        if let Err(error) = members.repair(&entry).await {
            report(&entry, &error);
            verified &= matches!(error, EnrollError::NoNetns);
        }
    }
    verified
}

/// One round over all pods; false when something is left to do.
pub(super) async fn reconcile(members: &Membership) -> bool {
    let mut settled = true;
    for key in members.pods.all().iter().map(Entry::key) {
        let _turn = members.turn.lock().await;
        // Looked up again under the turn: a CNI call may have changed it.
        let Some(entry) = members.pods.find(&key) else {
            continue;
        };
        let wanted = members.wanted(&entry);
        let step = match (wanted, entry.enrolled) {
            (Wanted::In, false) => members.enroll(&entry, Opening::Running).await,
            (Wanted::Out(why), true) => members.withdraw(&entry, why).await,
            (Wanted::Gone, true) => {
                members.retire(&entry).await;
                Ok(())
            }
            (Wanted::In, true) | (Wanted::Out(_) | Wanted::Gone, false) => Ok(()),
        };
        if wanted == Wanted::Gone && entry.is_orphan() {
            // Its DEL never reached us: without this its namespace would live as long as we do.
            members.pods.remove(&key);
        }
        match step {
            Ok(()) => {}
            // Only a new ADD can help: no retry.
            Err(error @ EnrollError::NoNetns) => report(&entry, &error),
            Err(error) => {
                report(&entry, &error);
                settled = false;
            }
        }
    }
    settled
}

fn report(entry: &Entry, error: &EnrollError) {
    let (namespace, pod) = entry.key();
    tracing::warn!(
        namespace,
        pod,
        error = error as &dyn std::error::Error,
        "a pod is not as its labels say"
    );
}
