//! Row 4, second half: while the node agent is away, a pod that belongs into the mesh does not start; what needs no mesh does,
//! and what runs goes on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed, until},
    echo,
};

const NAMESPACE: &str = "away";
const LIMIT: Duration = Duration::from_secs(60);
/// On the agent's DaemonSet: no node is like that.
const NOWHERE: &str =
    r#"{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"nowhere"}}}}}"#;
const EVERYWHERE: &str =
    r#"{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":null}}}}}"#;

/// The case.
pub fn agent() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    bed.meshed()?;
    echo::start(bed, NAMESPACE)?;
    echo::join(bed, NAMESPACE)?;

    patch(bed, NOWHERE)?;
    until(LIMIT, "no agent runs", || {
        let left = agents(bed)?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    // What runs does not notice.
    echo::fetch(bed, NAMESPACE, "client1")?;
    bed.apply(&pod(NAMESPACE, "late", "node1"))?;
    bed.apply(&pod("kube-system", "exempt", "node1"))?;
    let told = until(LIMIT, "the reason stands in an event", || {
        let event = events(bed, "late")?;
        ensure!(event.contains("causeway-cni"), "{event}");
        Ok(event)
    })?;
    bed.kubectl(&[
        "wait",
        "-n",
        "kube-system",
        "--for=condition=Ready",
        "pod/exempt",
        "--timeout=60s",
    ])?;
    let address = field(bed, "late", "{.status.podIP}")?;
    let phase = field(bed, "late", "{.status.phase}")?;
    ensure!(
        address.is_empty() && phase == "Pending",
        "started without the agent: {phase} {address}"
    );

    patch(bed, EVERYWHERE)?;
    let back = Instant::now();
    bed.rollout(bed::SYSTEM, "ds/istio-cni-node")?;
    let agents_back = back.elapsed();
    bed.kubectl(&[
        "wait",
        "-n",
        NAMESPACE,
        "--for=condition=Ready",
        "pod/late",
        "--timeout=60s",
    ])?;
    let started = back.elapsed();
    let captured = bed.captured(NAMESPACE)?;
    let late = captured.iter().find(|(name, _)| name == "late");
    ensure!(
        late.is_some_and(|(_, captured)| *captured),
        "late is not captured"
    );
    echo::fetch(bed, NAMESPACE, "late")?;
    bed.kubectl(&["delete", "pod", "exempt", "-n", "kube-system", "--now"])?;
    let reason = told.split_once("causeway-cni").map_or("", |(_, text)| text);
    Ok(Outcome::Passed(format!(
        "not started, \"causeway-cni{}\"; agents back after {:.1} s, the pod after {:.1} s, captured",
        reason.lines().next().unwrap_or_default(),
        agents_back.as_secs_f64(),
        started.as_secs_f64()
    )))
}

fn patch(bed: &Bed, patch: &str) -> Result<()> {
    let agent = ["patch", "ds", "istio-cni-node", "-n", bed::SYSTEM];
    bed.kubectl(&[&agent[..], &["-p", patch]].concat())
        .map(drop)
}

fn agents(bed: &Bed) -> Result<String> {
    let query = ["get", "pod", "-n", bed::SYSTEM, "-o", "name", "-l"];
    bed.kubectl(&[&query[..], &["k8s-app=istio-cni-node"]].concat())
}

fn events(bed: &Bed, pod: &str) -> Result<String> {
    let which = format!("involvedObject.name={pod},reason=FailedCreatePodSandBox");
    let query = ["get", "event", "-n", NAMESPACE, "--field-selector", &which];
    let message = "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
    bed.kubectl(&[&query[..], &["-o", message]].concat())
}

fn field(bed: &Bed, pod: &str, path: &str) -> Result<String> {
    let path = format!("jsonpath={path}");
    bed.kubectl(&["get", "pod", "-n", NAMESPACE, pod, "-o", &path])
}

fn pod(namespace: &str, name: &str, node: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: "e2e.local/tools:1", imagePullPolicy: IfNotPresent}}]
"#
    )
}
