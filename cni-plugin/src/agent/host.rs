//! Keeps the rule of the node's own namespace, by which the kubelet's probes pass the capture of pods, in step with the
//! pods that are in the mesh. Spawned by `run`.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::readiness::Pending;
use sys::Netns;

use super::config::HostNetns;
use super::membership::Membership;
use crate::apply::{self, ApplyError};
use crate::rules::{self, HOST_TABLE, Ruleset};

/// A firewall of the node that starts anew may take every rule away: probes fail after tens of seconds.
const LOOK: Duration = Duration::from_secs(5);

/// The node's network namespace.
///
/// # Errors
/// When it cannot be opened.
pub fn open(members: &Membership, which: HostNetns) -> std::io::Result<Netns> {
    match which {
        HostNetns::Own => Netns::current(),
        HostNetns::Init => members.config.places.host_netns(),
    }
}

/// Runs until the agent drains; the rule stays then. `first` is pending until it is in place.
pub async fn run(members: Arc<Membership>, netns: Netns, first: Pending) {
    let mut first = Some(first);
    let mut changes = members.pods.changes();
    let (mut written, mut told) = (None, String::new());
    while !members.shutdown.is_draining() {
        changes.mark_unchanged();
        let addresses = probed(&members);
        let rules = ruleset(&members, &addresses);
        let anew = written.as_ref() != Some(&addresses);
        let netns = netns.clone();
        let work = members
            .shutdown
            .spawn_blocking(move || put(&netns, &rules, anew));
        match work.await {
            Ok(Ok(())) => {
                written = Some(addresses);
                first.take();
                told.clear();
            }
            Ok(Err(error)) => {
                written = None;
                let text = format!("{error}: {:?}", std::error::Error::source(&error));
                if text != told {
                    tracing::error!(
                        error = text,
                        "the node's probes of pods in the mesh may fail"
                    );
                    told = text;
                }
            }
            Err(_) => return,
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
            () = members.shutdown.draining() => return,
        }
    }
}

fn put(netns: &Netns, rules: &Ruleset, anew: bool) -> Result<(), ApplyError> {
    if !anew && apply::check(netns, rules).is_ok() {
        return Ok(());
    }
    apply::restore(netns, rules)
}

fn ruleset(members: &Membership, addresses: &BTreeSet<IpAddr>) -> Ruleset {
    let ipv6 = members.config.rules.ipv6;
    Ruleset {
        writer: members.config.writer,
        ..rules::host(ipv6, addresses.iter().copied())
    }
}

/// Addresses of the pods that are in the mesh.
fn probed(members: &Membership) -> BTreeSet<IpAddr> {
    let pods = members.pods.all().into_iter();
    let enrolled = pods.filter(|entry| entry.enrolled);
    enrolled.flat_map(|entry| entry.ips).collect()
}

/// Takes the rule away: the agent is uninstalled.
///
/// # Errors
/// What the kernel refused.
pub fn remove(netns: &Netns) -> Result<(), ApplyError> {
    apply::remove_table(netns, HOST_TABLE)
}
