//! Tells the cluster which pods are captured: the annotation by which a control plane tells peers to speak HBONE to them.
//! It follows the fact, not the wish. Spawned by `run` when there is an API server.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::cluster::Cluster;
use super::membership::Membership;
use super::pods::Entry;
use super::watch::Seen;

/// What the annotation says of a pod that is captured; upstream's word.
pub const ENABLED: &str = "enabled";

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// Without any event, everything is looked at again after this.
const QUIET: Duration = Duration::from_secs(300);

/// What has to be written of a pod; `None` when what stands there is true.
fn correction(entry: Option<&Entry>, seen: &Seen) -> Option<Option<&'static str>> {
    let is_captured = entry.is_some_and(|entry| entry.served && seen.is(&entry.uid));
    match (is_captured, seen.redirection.as_deref()) {
        (true, Some(ENABLED)) | (false, None) => None,
        (true, _) => Some(Some(ENABLED)),
        (false, Some(_)) => Some(None),
    }
}

/// Runs for ever.
pub async fn run(members: Arc<Membership>, cluster: Cluster) {
    // An earlier agent's marks stay until each pod was looked at.
    let mut through = members.through_once.subscribe();
    if through.wait_for(|done| *done).await.is_err() {
        return;
    }
    let (mut pods, mut world) = (members.pods.changes(), members.world.changes());
    let mut retry = FIRST_RETRY;
    let mut told = BTreeMap::new();
    loop {
        pods.mark_unchanged();
        world.mark_unchanged();
        let settled = round(&members, &cluster, &mut told).await;
        retry = if settled {
            FIRST_RETRY
        } else {
            (retry * 2).min(LAST_RETRY)
        };
        let next = Instant::now() + if settled { QUIET } else { retry };
        if !settled {
            // Changes wait too: a server that is away or refuses is not asked at every one of them.
            sleep_until(next).await;
            continue;
        }
        tokio::select! {
            changed = pods.changed() => if changed.is_err() { return },
            changed = world.changed() => if changed.is_err() { return },
            () = sleep_until(next) => {}
        }
    }
}

/// One look at every pod; false when something could not be written. `told`: refusals that stand in the log already.
async fn round(
    members: &Membership,
    cluster: &Cluster,
    told: &mut BTreeMap<String, String>,
) -> bool {
    let mut settled = true;
    let mut refusals = BTreeMap::new();
    for (key, seen) in members.world.ours() {
        let Some(value) = correction(members.pods.find(&key).as_ref(), &seen) else {
            continue;
        };
        if members.is_uninstalling() {
            return true;
        }
        match cluster.mark(&key, &seen.uid, value).await {
            Ok(()) => {
                members.world.written(&key, &seen.uid, value);
                tracing::debug!(
                    namespace = key.0,
                    pod = key.1,
                    ?value,
                    "redirection annotation"
                );
            }
            Err(error) => {
                settled = false;
                let text = error.to_string();
                if told.get(&seen.uid) != Some(&text) {
                    tracing::warn!(
                        namespace = key.0,
                        pod = key.1,
                        error = text,
                        "cannot say in the cluster whether a pod is captured; this is tried again"
                    );
                }
                refusals.insert(seen.uid, text);
            }
        }
    }
    *told = refusals;
    settled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pods::arrived;
    use crate::rules::Switches;
    use objects::enroll::Decision;

    #[test]
    fn the_annotation_follows_what_is() {
        let key = ("shop".to_owned(), "web".to_owned());
        let netns = sys::Netns::current().unwrap();
        let mut entry = arrived(key, "c".into(), netns, "/x".into());
        entry.uid = "u-1".into();
        let entry = |enrolled, served| Entry {
            enrolled,
            served,
            ..entry.clone()
        };
        let (captured, half) = (entry(true, true), entry(true, false));
        let older = Entry {
            uid: "u-0".into(),
            ..captured.clone()
        };
        for (entry, said, expected) in [
            (Some(&captured), None, Some(Some("enabled"))),
            (Some(&captured), Some("pending"), Some(Some("enabled"))),
            (Some(&captured), Some("enabled"), None),
            (Some(&half), None, None),
            (Some(&half), Some("enabled"), Some(None)),
            (Some(&older), Some("enabled"), Some(None)),
            (None, Some("enabled"), Some(None)),
            (None, None, None),
        ] {
            let seen = Seen {
                uid: "u-1".into(),
                service_account: String::new(),
                decision: Decision::In,
                ips: Vec::new(),
                redirection: said.map(str::to_owned),
                switches: Switches::default(),
                static_uid: None,
            };
            assert_eq!(correction(entry, &seen), expected, "{entry:?} {said:?}");
        }
    }
}
