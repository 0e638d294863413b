//! Puts the rules into a pod's network namespace through netlink, and takes them out again without
//! a rest. Blocking and short: call it from a blocking thread. Called by the agent.
use std::io;
use std::path::Path;

use sys::Netns;

use crate::rules::{Returns, Ruleset, TABLE, Writer};

mod iptables;
mod netlink;
mod nft;
mod open;
mod route;

use route::Family;

/// Why rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The namespace cannot be entered: the pod is gone, or we lack CAP_SYS_ADMIN. Retrying helps
    /// only in the second case.
    #[error("cannot enter the pod's network namespace")]
    Netns(#[source] io::Error),
    /// The kernel refused the rules (it may lack nf_tables or NAT).
    #[error("the kernel refused the nftables rules")]
    Rules(#[source] io::Error),
    /// The iptables binaries are missing, or refused the rules.
    #[error("iptables did not take the rules")]
    Iptables(#[source] io::Error),
    /// The kernel refused the policy routing.
    #[error("the kernel refused the policy routing for marked replies")]
    Route(#[source] io::Error),
    /// What was read back is not what was written; somebody else changes our table.
    #[error("rules in the pod differ from what they should be: {0}")]
    Differs(String),
}

/// Writes the rules, replacing older ones of ours at once, and reads them back. On failure
/// everything of ours is removed.
///
/// # Errors
/// See [`ApplyError`]; may be retried.
pub fn install(netns: &Netns, rules: &Ruleset) -> Result<(), ApplyError> {
    inside(netns, || {
        let done = write(rules).and_then(|()| compare(rules));
        if done.is_err() {
            // The first failure is what matters; this is its undo.
            let _ = erase(rules.table);
        }
        done
    })
}

/// As [`install`], for a pod that runs: its open connections go on outside of the mesh until they end. `eased` are the rules
/// under which the kernel gets to know them ([`crate::rules::render_eased`]).
///
/// # Errors
/// See [`ApplyError`]; may be retried.
pub fn join(netns: &Netns, eased: &Ruleset, rules: &Ruleset) -> Result<(), ApplyError> {
    let known = inside(netns, || {
        let done = write(eased).map(|()| open::acquaint());
        if done.is_err() {
            let _ = erase(rules.table);
        }
        done
    })?;
    match known {
        Ok(0) => {}
        Ok(known) => tracing::info!(known, "connections from before stay outside of the mesh"),
        // Without the kernel's help (nf_conntrack_netlink) they end, as with Istio's CNI: no reason to stay outside.
        Err(error) => tracing::warn!(%error, "connections from before will be reset"),
    }
    install(netns, rules)
}

/// As [`install`], for a pod that is in the mesh already: on failure what was there stays, since without any rule its
/// traffic would go out in the clear.
///
/// # Errors
/// See [`ApplyError`]; may be retried.
pub fn restore(netns: &Netns, rules: &Ruleset) -> Result<(), ApplyError> {
    inside(netns, || write(rules).and_then(|()| compare(rules)))
}

/// Removes everything that [`install`] wrote into a pod, by whatever means. Fine when nothing is there.
///
/// # Errors
/// [`ApplyError::Netns`] when the pod is gone, or what the kernel refused.
pub fn remove(netns: &Netns) -> Result<(), ApplyError> {
    inside(netns, || erase(TABLE))
}

/// As [`remove`], for another table of ours: the node's.
///
/// # Errors
/// As [`remove`].
pub fn remove_table(netns: &Netns, table: &str) -> Result<(), ApplyError> {
    inside(netns, || erase(table))
}

/// Is nothing of [`install`] left in the pod? Changes nothing. Rules of iptables count only where we write them.
///
/// # Errors
/// [`ApplyError::Differs`] names what is there.
pub fn check_removed(netns: &Netns, writer: Writer) -> Result<(), ApplyError> {
    inside(netns, || {
        if let Some(rule) = nft::held(TABLE).map_err(ApplyError::Rules)?.first() {
            return Err(ApplyError::Differs(format!("found {rule:?} still")));
        }
        match writer {
            Writer::Nftables => Ok(()),
            Writer::Iptables(binary) => iptables::check_removed(binary),
        }
    })
}

/// Are the rules in place? Changes nothing.
///
/// # Errors
/// [`ApplyError::Differs`] names the first difference.
pub fn check(netns: &Netns, rules: &Ruleset) -> Result<(), ApplyError> {
    inside(netns, || {
        compare(rules)?;
        for family in families(rules) {
            if !route::present(family).map_err(ApplyError::Route)? {
                return Err(ApplyError::Differs(format!(
                    "policy routing {family:?} is missing"
                )));
            }
        }
        Ok(())
    })
}

fn inside<T>(netns: &Netns, work: impl FnOnce() -> Result<T, ApplyError>) -> Result<T, ApplyError> {
    netns.enter(work).map_err(ApplyError::Netns)?
}

fn write(rules: &Ruleset) -> Result<(), ApplyError> {
    // Routes first: once a packet carries the mark its way must exist.
    for family in families(rules) {
        route::add(family).map_err(ApplyError::Route)?;
    }
    match rules.writer {
        Writer::Nftables => {
            nft::replace(rules).map_err(ApplyError::Rules)?;
            // Of Istio's CNI, or of ourselves before the setting changed: the new rules are in force already.
            iptables::remove_leftovers(rules.table)
        }
        Writer::Iptables(binary) => {
            iptables::replace(binary, rules)?;
            nft::remove(rules.table).map_err(ApplyError::Rules)
        }
    }
}

fn erase(table: &str) -> Result<(), ApplyError> {
    nft::remove(table).map_err(ApplyError::Rules)?;
    iptables::remove_leftovers(table)?;
    if table != TABLE {
        return Ok(());
    }
    for family in [Family::V4, Family::V6] {
        route::remove(family).map_err(ApplyError::Route)?;
    }
    Ok(())
}

fn compare(rules: &Ruleset) -> Result<(), ApplyError> {
    if let Writer::Iptables(binary) = rules.writer {
        return iptables::compare(binary, rules);
    }
    let held = nft::held(rules.table).map_err(ApplyError::Rules)?;
    let expected = nft::expected(rules);
    if held == expected {
        return Ok(());
    }
    let at = held
        .iter()
        .zip(&expected)
        .take_while(|(a, b)| a == b)
        .count();
    let text = match (held.get(at), expected.get(at)) {
        (Some(found), Some(wanted)) => format!("found {found:?} instead of {wanted:?}"),
        (Some(found), None) => format!("found {found:?} beyond ours"),
        (None, Some(wanted)) => format!("{wanted:?} is missing"),
        (None, None) => "no difference".into(),
    };
    Err(ApplyError::Differs(text))
}

/// IPv6 only where the namespace has it: `disable_ipv6` forbids even a route over `lo`.
fn families(rules: &Ruleset) -> impl Iterator<Item = Family> {
    let v4 = (rules.returns != Returns::None).then_some(Family::V4);
    let v6 = (rules.returns == Returns::Both && has_ipv6()).then_some(Family::V6);
    v4.into_iter().chain(v6)
}

fn has_ipv6() -> bool {
    let path = Path::new("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0")
}

#[cfg(test)]
mod tests;
