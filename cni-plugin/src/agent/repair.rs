//! Keeps what is in step with what should be: once at start (rules of an earlier agent are looked
//! at), then whenever labels change, a ztunnel connects, or an attempt failed before. Pods that started while nobody
//! was there to be asked are found and put in.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use objects::enroll::Decision;
use runtime::readiness::Pending;
use tokio::time::{Instant, sleep_until};

use super::annotate::ENABLED;
use super::find::Found;
use super::leave;
use super::membership::{EnrollError, Membership, Opening, Wanted};
use super::pods::{Entry, PodKey, arrived};
use super::watch::Seen;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// Without any event, everything is looked at again after this.
const QUIET: Duration = Duration::from_secs(300);

/// Runs for ever; spawned by `run`. `first` is pending until the first round is through.
pub async fn run(members: Arc<Membership>, first: Pending) {
    let mut first = Some(first);
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
        let found = adopt_lost(&members).await;
        members.found_once.send_replace(true);
        verified = verified || verify_all(&members).await;
        let settled = reconcile(&members).await && verified && found;
        if first.take().is_some() {
            members.through_once.send_replace(true);
        }
        retry = if settled {
            FIRST_RETRY
        } else {
            (retry * 2).min(LAST_RETRY)
        };
        leave::settle(&members, members.config.withdraw_wait).await;
        let mut wait = if settled { QUIET } else { retry };
        if !members.pods.leaving().is_empty() {
            wait = wait.min(leave::STEP);
        }
        let next = Instant::now() + wait;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = connected.changed() => if changed.is_err() { return },
            () = sleep_until(next) => {}
        }
    }
}

/// Looks at the rules of every pod that an earlier agent knew: writes them again where they are not what they should be, and
/// takes them away where it did not come to that; false when that failed for one that only a later attempt can help.
async fn verify_all(members: &Membership) -> bool {
    let mut verified = true;
    for key in members.pods.all().iter().map(Entry::key) {
        let _turn = members.turn.lock().await;
        // Looked up under the turn, as below.
        let known = members.pods.find(&key);
        let Some(entry) = known.filter(|_| !members.is_uninstalling()) else {
            continue;
        };
        let done = match (entry.is_ztunnels(), members.wanted(&entry)) {
            (true, _) => members.repair(&entry).await,
            // One that is gone keeps them: it may still run a moment.
            (false, Wanted::Out(_)) => members.clear(&entry).await,
            (false, _) => Ok(()),
        };
        if let Err(error) = done {
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
        if members.is_uninstalling() {
            return true;
        }
        // Looked up again under the turn: a CNI call may have changed it.
        let Some(entry) = members.pods.find(&key) else {
            continue;
        };
        let wanted = members.wanted(&entry);
        let gone = wanted == Wanted::Gone;
        let is_ztunnels = entry.is_ztunnels();
        let step = match (wanted, entry.enrolled) {
            (Wanted::In(switches), false) => {
                let entry = Entry {
                    switches,
                    ..entry.clone()
                };
                members
                    .pods
                    .change(&key, |held| held.switches.clone_from(&entry.switches));
                members.enroll(&entry, Opening::Running).await
            }
            (Wanted::In(switches), true) if switches != entry.switches => {
                members.switch(&entry, switches).await
            }
            (Wanted::Out(why), true) => members.withdraw(&entry, why).await,
            (Wanted::Gone, _) if is_ztunnels => {
                members.retire(&entry).await;
                Ok(())
            }
            (Wanted::In(_), true) | (Wanted::Out(_), false) | (Wanted::Gone, _) => Ok(()),
        };
        if gone && members.pods.is_orphan(&entry) {
            // Its DEL never reached us: without this its namespace would live as long as we do.
            members.pods.remove(&key);
        }
        match step {
            Ok(()) => {}
            // A new ADD can help, or a find: both bring us here again.
            Err(error @ EnrollError::NoNetns) => report(&entry, &error),
            Err(error) => {
                report(&entry, &error);
                settled = false;
            }
        }
    }
    settled
}

/// Looks for pods of whose namespace we have lost track, or never had one; false when some were not found.
async fn adopt_lost(members: &Membership) -> bool {
    let ours = members.world.ours();
    for (key, seen) in &ours {
        let moved =
            |entry: &Entry| seen.is(&entry.uid) && !seen.ips.is_empty() && entry.ips != seen.ips;
        if members.pods.find(key).as_ref().is_some_and(moved) {
            // Looked at again: a CNI call may have put another pod there meanwhile.
            members.pods.change(key, |entry| {
                if moved(entry) {
                    entry.ips.clone_from(&seen.ips);
                }
            });
        }
    }
    let mut lost = ours;
    lost.retain(|(key, seen)| is_lost(members.pods.find(key).as_ref(), seen));
    if lost.is_empty() {
        return true;
    }
    let pods = sought(&lost);
    let places = members.config.places.clone();
    let scan = members.shutdown.spawn_blocking(move || places.scan(&pods));
    let Ok(mut found) = scan.await else {
        return false;
    };
    let mut all = true;
    for (key, seen) in lost {
        let _turn = members.turn.lock().await;
        // A CNI call may have brought it meanwhile.
        if members.is_uninstalling() || !is_lost(members.pods.find(&key).as_ref(), &seen) {
            continue;
        }
        let one = seen
            .uids()
            .find_map(|uid| Some((uid.clone(), found.remove(uid)?)));
        match one {
            Some((uid, one)) => adopt(members, key, seen, uid, one).await,
            None if seen.decision == Decision::In => {
                all = false;
                let (namespace, pod) = key;
                tracing::warn!(
                    namespace,
                    pod,
                    "a pod of the mesh runs and no process of it is found in the node's /proc"
                );
            }
            None => {}
        }
    }
    all
}

/// The uids to look for in the node's /proc, with their addresses. What an annotation says must not hide the pod of that uid.
fn sought(lost: &[(PodKey, Seen)]) -> BTreeMap<String, Vec<IpAddr>> {
    let own = lost
        .iter()
        .map(|(_, seen)| (seen.uid.clone(), seen.ips.clone()));
    let mut sought: BTreeMap<_, _> = own.collect();
    for (_, seen) in lost {
        for uid in seen.uids() {
            sought
                .entry(uid.clone())
                .or_insert_with(|| seen.ips.clone());
        }
    }
    sought
}

/// Does this pod run without our knowing its namespace, and does it matter? A pod without addresses is just starting; one
/// that should be out matters when an agent before us said that it is in.
fn is_lost(entry: Option<&Entry>, seen: &Seen) -> bool {
    let known = entry.is_some_and(|entry| seen.is(&entry.uid) && entry.netns.is_some());
    let matters = seen.decision == Decision::In || seen.redirection.is_some();
    !known && matters && !seen.uid.is_empty() && !seen.ips.is_empty()
}

/// Takes a pod into the list, by the uid that its processes go by; the round that follows makes of it what the labels want.
async fn adopt(members: &Membership, key: PodKey, seen: Seen, uid: String, found: Found) {
    // As ztunnel knows it, if it does.
    let before = members.pods.find(&key).filter(|entry| entry.uid == uid);
    let mut entry = arrived(key, String::new(), found.netns, found.path);
    entry.uid = uid;
    entry.service_account = seen.service_account;
    entry.ips = seen.ips;
    entry.switches = seen.switches;
    let (enrolled, served, leaving) = before.map_or((false, false, None), |before| {
        (before.enrolled, before.served, before.leaving_since)
    });
    entry.leaving_since = leaving;
    let wanted = seen.decision == Decision::In;
    // The list was lost, and no ztunnel has heard of any pod yet: what was captured is in it again before one does, and its
    // rules are looked at next.
    let was_in =
        wanted && !*members.found_once.borrow() && seen.redirection.as_deref() == Some(ENABLED);
    // What should be out counts as in, so that whatever an earlier agent left there is taken out.
    entry.enrolled = enrolled || was_in || (!wanted && leaving.is_none());
    entry.served = served || was_in;
    tracing::info!(
        namespace = entry.namespace,
        pod = entry.name,
        "a running pod was found"
    );
    members.replace(entry).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Switches;
    use objects::enroll::Why;
    use sys::Netns;

    fn seen(decision: Decision) -> Seen {
        Seen {
            uid: "u-1".into(),
            service_account: "sa".into(),
            decision,
            ips: vec!["10.0.0.2".parse().unwrap()],
            redirection: None,
            switches: Switches::default(),
            static_uid: None,
        }
    }

    #[test]
    fn a_pod_from_a_file_is_sought_by_its_hash_which_hides_no_pod_of_that_uid() {
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let from_file = Seen {
            uid: "u-2".into(),
            static_uid: Some("hash".into()),
            ips: vec!["10.0.0.3".parse().unwrap()],
            ..seen(Decision::In)
        };
        let pretends = Seen {
            uid: "u-3".into(),
            static_uid: Some("u-1".into()),
            ..from_file.clone()
        };
        let lost = [
            (key("a"), pretends),
            (key("b"), from_file.clone()),
            (key("c"), seen(Decision::In)),
        ];
        let sought = sought(&lost);
        let uids: Vec<_> = sought.keys().map(String::as_str).collect();
        assert_eq!(uids, ["hash", "u-1", "u-2", "u-3"]);
        assert_eq!(sought["u-1"], seen(Decision::In).ips);
        let netns = Netns::current().unwrap();
        let mut known = arrived(key("b"), "c-1".into(), netns, "/x".into());
        known.uid = "hash".into();
        assert!(!is_lost(Some(&known), &from_file));
    }

    #[test]
    fn a_pod_is_lost_when_it_runs_unknown_and_that_matters() {
        let key = ("shop".to_owned(), "web".to_owned());
        let netns = Netns::current().unwrap();
        let mut known = arrived(key, "c-1".into(), netns, "/x".into());
        known.uid = "u-1".into();
        let without = Entry {
            netns: None,
            ..known.clone()
        };
        let older = Entry {
            uid: "u-0".into(),
            ..known.clone()
        };
        let out = Decision::Out(Why::NoLabel);
        let marked = Seen {
            redirection: Some("enabled".into()),
            ..seen(out)
        };
        let starting = Seen {
            ips: Vec::new(),
            ..seen(Decision::In)
        };
        for (entry, seen, expected) in [
            (None, seen(Decision::In), true),
            (Some(&without), seen(Decision::In), true),
            (Some(&older), seen(Decision::In), true),
            (Some(&known), seen(Decision::In), false),
            (None, starting, false),
            (None, seen(out), false),
            (None, marked.clone(), true),
            (Some(&known), marked, false),
        ] {
            assert_eq!(is_lost(entry, &seen), expected, "{entry:?} {seen:?}");
        }
    }
}
