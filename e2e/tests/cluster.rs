//! Real nodes: kubelets, containerd, kube-proxy and our charts, on a cluster of two nodes in namespaces of this machine
//! (e2e/kube). Run by `make e2e-cluster`; what could not run does not count as passed, therefore without libtest.

#[path = "cluster/bed.rs"]
mod bed;
#[path = "cluster/counts.rs"]
mod counts;
#[path = "cluster/echo.rs"]
mod echo;
#[path = "cluster/first.rs"]
mod first;
#[path = "cluster/labels.rs"]
mod labels;
#[path = "cluster/wire.rs"]
mod wire;

use std::process::ExitCode;

use e2e::cases::{self, Case};

fn main() -> ExitCode {
    let outcome = cases::run(
        "cluster",
        &[
            Case::new("install_label_and_mtls_between_nodes", first::install),
            Case::new("pods_in_and_out_while_they_serve", labels::in_and_out),
        ],
    );
    bed::end();
    outcome
}
