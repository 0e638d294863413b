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
    bed.ready(NAMESPACE)?;
    steps.done("applications");
    // Before the label, the look must be able to see plain text, or it would prove nothing.
    let plain = wire::looked_at(bed, || fetch_from_both(bed))?;
    ensure!(
        plain.plain > 0,
        "outside of the mesh no plain text was seen: the look at packets is blind"
    );

    echo::join(bed, NAMESPACE)?;
    steps.done("label to captured");
    let meshed = wire::looked_at(bed, || fetch_from_both(bed))?;
    ensure!(
        meshed.plain == 0,
        "{} packets with plain text on a veth or between nodes",
        meshed.plain
    );
    ensure!(meshed.tls > 0, "no TLS between the nodes");
    steps.done("requests under the look");

    // The short path off: then the veths of one node carry TLS too.
    bed.upgrade(&["--set", "ztunnel.env.SAME_NODE=tunnel"])?;
    bed.rollout(bed::SYSTEM, "ds/ztunnel")?;
    let tunnelled = wire::looked_at(bed, || fetch_on_one_node(bed))?;
    ensure!(
        tunnelled.plain == 0 && tunnelled.tls > 0,
        "short path off: {} packets of plain text, {} of TLS",
        tunnelled.plain,
        tunnelled.tls
    );
    bed.upgrade(&[])?;
    bed.rollout(bed::SYSTEM, "ds/ztunnel")?;
    let short = wire::looked_at(bed, || fetch_on_one_node(bed))?;
    ensure!(
        short.plain == 0,
        "short path on: {} packets with plain text",
        short.plain
    );
    steps.done("short path off and on");
    Ok(Outcome::Passed(format!(
        "{}; outside {} plain packets, in the mesh {} plain and {} of TLS; on one node, short path off: 0 plain, {} of TLS; on: 0 plain, {} of TLS",
        steps.text, plain.plain, meshed.plain, meshed.tls, tunnelled.tls, short.tls
    )))
}

/// Each client fetches until it has been answered by both nodes.
fn fetch_from_both(bed: &Bed) -> Result<()> {
    for client in [1, 2] {
        for node in [1, 2] {
            fetch(bed, client, node)?;
        }
    }
    Ok(())
}

fn fetch_on_one_node(bed: &Bed) -> Result<()> {
    fetch(bed, 1, 1)?;
    fetch(bed, 2, 2)
}

fn fetch(bed: &Bed, client: usize, node: usize) -> Result<()> {
    let address = bed.pod_address(NAMESPACE, "app=web", &format!("node{node}"))?;
    let url = format!("http://{address}:8080/");
    let pod = format!("{NAMESPACE}/client{client}");
    let answer = until(LIMIT, "an answer", || {
        stdout(bed.exec(&pod, &["curl", "-sf", "-m", "5", &url])?)
    })?;
    ensure!(
        answer.trim() == format!("plainly from node{node}"),
        "{pod} to node{node}: {answer}"
    );
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
