//! What this crate's own tests share: the question whether we are root, and a namespace whose
//! loopback is up.
use std::io::Write as _;
use std::process::Command;

use crate::Netns;

/// False (with the reason printed) when the test needs root and we are not.
pub(crate) fn root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        // Past libtest's capture, so that `scripts/test` counts it.
        let _ = writeln!(std::io::stderr(), "skipped: {what} needs root");
    }
    root
}

/// Runs a command inside a namespace.
pub(crate) fn run_in(netns: &Netns, command: &str) {
    let mut words = command.split_whitespace();
    let mut run = Command::new(words.next().unwrap());
    let status = netns.enter(|| run.args(words).status()).unwrap().unwrap();
    assert!(status.success(), "{command}");
}

/// A new namespace with `lo` up.
pub(crate) fn pod() -> Netns {
    let netns = Netns::create().unwrap();
    run_in(&netns, "ip link set lo up");
    netns
}
