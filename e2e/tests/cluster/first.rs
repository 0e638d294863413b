//! Row 1: from nothing to mTLS: one `helm install`, a label, traffic between nodes and on one node, and a look at the packets.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed, stdout, until},
    echo, wire,
};

const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "first";

/// The case.
pub fn install() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let start = Instant::now();
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    let mut steps = Steps {
        last: Instant::now(),
        text: format!("cluster {:.1} s", start.elapsed().as_secs_f64()),
    };

    bed.install(&[])?;
    steps.done("helm install");
    for workload in [
        "deploy/causeway-control-plane",
        "ds/istio-cni-node",
        "ds/ztunnel",
    ] {
        bed.rollout(bed::SYSTEM, workload)?;
    }
    steps.done("ready");

    bed.apply(&echo::manifests(NAMESPACE))?;
    bed.rollout(NAMESPACE, "ds/web")?;
    let ready = [
        "wait",
        "-n",
        NAMESPACE,
        "--for=condition=Ready",
        "pod",
        "--all",
        "--timeout=60s",
    ];
    bed.kubectl(&ready)?;
    steps.done("applications");
    // Before the label, the look must be able to see plain text, or it would prove nothing.
    let plain = wire::looked_at(bed, || fetch_from_both(bed))?;
    ensure!(
        plain.plain > 0,
        "outside of the mesh no plain text was seen: the look at packets is blind"
    );

    bed.kubectl(&[
        "label",
        "namespace",
        NAMESPACE,
        "istio.io/dataplane-mode=ambient",
    ])?;
    until(LIMIT, "every pod is captured", || captured(bed, NAMESPACE))?;
    steps.done("label to captured");
    let meshed = wire::looked_at(bed, || fetch_from_both(bed))?;
    ensure!(
        meshed.plain == 0,
        "{} packets with plain text on a veth or between nodes",
        meshed.plain
    );
    ensure!(meshed.tls > 0, "no TLS between the nodes");
    steps.done("requests under the look");
    Ok(Outcome::Passed(format!(
        "{}; outside {} plain packets, in the mesh {} plain and {} of TLS",
        steps.text, plain.plain, meshed.plain, meshed.tls
    )))
}

/// Each client fetches until it has been answered by both nodes.
fn fetch_from_both(bed: &Bed) -> Result<()> {
    for client in ["client1", "client2"] {
        for node in ["node1", "node2"] {
            let address = bed.pod_address(NAMESPACE, "app=web", node)?;
            let url = format!("http://{address}:8080/");
            let pod = format!("{NAMESPACE}/{client}");
            let answer = until(LIMIT, "an answer", || {
                stdout(bed.exec(&pod, &["curl", "-sf", "-m", "5", &url])?)
            })?;
            ensure!(
                answer.trim() == format!("plainly from {node}"),
                "{client} to {node}: {answer}"
            );
        }
    }
    Ok(())
}

fn captured(bed: &Bed, namespace: &str) -> Result<()> {
    for (pod, captured) in bed.captured(namespace)? {
        ensure!(captured, "{pod} is not captured");
    }
    Ok(())
}

struct Steps {
    last: Instant,
    text: String,
}

impl Steps {
    fn done(&mut self, what: &str) {
        self.text += &format!(", {what} {:.1} s", self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}
