//! Real nodes: kubelets, containerd, kube-proxy and our charts, on a cluster of two nodes in namespaces of this machine
//! (e2e/kube). `make e2e-cluster` runs all, `make test` the first two; what could not run does not count as passed, therefore
//! without libtest.

#[path = "cluster/accounts.rs"]
mod accounts;
#[path = "cluster/away.rs"]
mod away;
#[path = "cluster/bed.rs"]
mod bed;
#[path = "cluster/conformance.rs"]
mod conformance;
#[path = "cluster/counts.rs"]
mod counts;
#[path = "cluster/echo.rs"]
mod echo;
#[path = "cluster/first.rs"]
mod first;
#[path = "cluster/istiod.rs"]
mod istiod;
#[path = "cluster/kinds.rs"]
mod kinds;
#[path = "cluster/labels.rs"]
mod labels;
#[path = "cluster/pages.rs"]
mod pages;
#[path = "cluster/removal.rs"]
mod removal;
#[path = "cluster/trouble.rs"]
mod trouble;
#[path = "cluster/upgrades.rs"]
mod upgrades;
#[path = "cluster/wire.rs"]
mod wire;

use std::{env, process::ExitCode};

use e2e::cases::{self, Case};

/// Part of `make test` where the programs are there.
const SMOKE: [Case; 2] = [
    Case::new("install_label_and_mtls_between_nodes", first::install),
    Case::new("pods_in_and_out_while_they_serve", labels::in_and_out),
];

/// With CLUSTER=all; in this order, since the last ones remove the mesh.
const FURTHER: [Case; 9] = [
    Case::new("no_start_without_the_agent", away::agent),
    Case::new("gateway_api_conformance", conformance::suite),
    Case::new("waypoint_per_account", accounts::waypoints),
    Case::new("upgrades_under_load", upgrades::under_load),
    Case::new("trouble", trouble::each),
    Case::new("kinds_of_workloads", kinds::each),
    Case::new("drop_in_under_istiod", istiod::drop_in),
    Case::new("uninstall_leaves_nothing", removal::uninstall),
    Case::new("commands_of_the_pages", pages::commands),
];

fn main() -> ExitCode {
    let mut cases = SMOKE.to_vec();
    if env::var("CLUSTER").is_ok_and(|which| which == "all") {
        cases.extend(FURTHER);
    }
    let outcome = cases::run("two nodes", &cases);
    bed::end();
    outcome
}
