//! Rules through the iptables binaries, for nodes that need them, and the removal of what Istio's CNI left in a pod that
//! we take over. Called by `apply`, inside the namespace: a child process is born where its thread is.
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use super::{ApplyError, has_ipv6};
use crate::rules::iptables::{lines, removal};
use crate::rules::{HOST_TABLE, Returns, Ruleset};

/// Brings the namespace to `rules`.
pub(super) fn replace(binary: &str, rules: &Ruleset) -> Result<(), ApplyError> {
    for ipv6 in families(rules) {
        let text = lines(rules, ipv6).install(&save(binary, ipv6)?);
        restore(binary, ipv6, &text)?;
    }
    Ok(())
}

/// Are they there?
pub(super) fn compare(binary: &str, rules: &Ruleset) -> Result<(), ApplyError> {
    for ipv6 in families(rules) {
        let difference = lines(rules, ipv6).difference(&save(binary, ipv6)?);
        if let Some(difference) = difference {
            return Err(ApplyError::Differs(difference));
        }
    }
    Ok(())
}

/// Removes our chains, whoever wrote them, by each kind of iptables that the machine has.
pub(super) fn remove_leftovers(table: &str) -> Result<(), ApplyError> {
    for (binary, ipv6) in kinds() {
        let text = match save(binary, ipv6) {
            Ok(saved) => removal_for(table, &saved),
            // A binary that is missing, or a kernel without this kind of tables, has left nothing.
            Err(_) => continue,
        };
        if !text.is_empty() {
            restore(binary, ipv6, &text)?;
        }
    }
    Ok(())
}

/// The node's own namespace has more chains of Istio than ours: only the probes' goes.
fn removal_for(table: &str, saved: &str) -> String {
    if table == HOST_TABLE
        && !saved.contains("169.254.7.127")
        && !saved.contains("fd16:9254:7127:1337")
    {
        return String::new();
    }
    removal(saved)
}

/// Is none of our chains there?
pub(super) fn check_removed(binary: &str) -> Result<(), ApplyError> {
    for ipv6 in [false, true] {
        let left = removal(&save(binary, ipv6)?);
        if !left.is_empty() {
            return Err(ApplyError::Differs(format!("{binary} still has: {left}")));
        }
    }
    Ok(())
}

fn kinds() -> impl Iterator<Item = (&'static str, bool)> {
    // The plain name is one of the other two, where those have names of their own.
    let binaries = ["iptables", "iptables-nft", "iptables-legacy"];
    binaries
        .into_iter()
        .flat_map(|binary| [(binary, false), (binary, true)])
}

fn families(rules: &Ruleset) -> impl Iterator<Item = bool> {
    let ipv6 = match rules.returns {
        Returns::V4 => false,
        Returns::None => rules.sets.iter().any(|set| set.ipv6),
        Returns::Both => true,
    };
    std::iter::once(false).chain((ipv6 && has_ipv6()).then_some(true))
}

/// `iptables-nft` + `-save` of IPv6 = `ip6tables-nft-save`.
fn program(binary: &str, ipv6: bool, verb: &str) -> String {
    let name = if ipv6 {
        binary.replacen("iptables", "ip6tables", 1)
    } else {
        binary.to_owned()
    };
    format!("{name}-{verb}")
}

fn save(binary: &str, ipv6: bool) -> Result<String, ApplyError> {
    let name = program(binary, ipv6, "save");
    let out = Command::new(&name).stdin(Stdio::null()).output();
    let out = out.map_err(|e| failed(&name, &e.to_string()))?;
    said(&name, &out)?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn restore(binary: &str, ipv6: bool, text: &str) -> Result<(), ApplyError> {
    let name = program(binary, ipv6, "restore");
    // -w waits for another's lock, which only the legacy tables have.
    let mut command = Command::new(&name);
    command.args(["--noflush", "-w", "5"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let run = command.spawn().and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        child.wait_with_output()
    });
    said(&name, &run.map_err(|e| failed(&name, &e.to_string()))?)
}

fn said(name: &str, out: &Output) -> Result<(), ApplyError> {
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    Err(failed(name, &format!("{}: {}", out.status, text.trim())))
}

fn failed(name: &str, why: &str) -> ApplyError {
    ApplyError::Iptables(io::Error::other(format!("{name}: {why}")))
}
