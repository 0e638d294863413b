//! Row 5: every part is rolled again and again while HTTP clients that keep their connections call: no request fails and no
//! connection is refused; those that were cut are counted, by how.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed},
    counts::Counts,
    echo,
};

const NAMESPACE: &str = "upgrades";
/// Rollouts of each part.
const ROUNDS: usize = 10;
/// Longer than all rollouts of one part can take.
const SECONDS: &str = "900";

/// The case.
pub fn under_load() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    bed.meshed()?;
    // The clients' connections never end by themselves: a drain always takes all of its time, and cuts what is left.
    bed.upgrade(&["--set", "ztunnel.terminationGracePeriodSeconds=10"])?;
    bed.rollout(bed::SYSTEM, "ds/ztunnel")?;
    echo::start(bed, NAMESPACE)?;
    echo::join(bed, NAMESPACE)?;
    bed.apply(WAYPOINT)?;
    bed.programmed(NAMESPACE, "waypoint")?;
    let mut told = Vec::new();
    for (part, namespace, workload, bound) in [
        ("ztunnel", bed::SYSTEM, "ds/ztunnel", false),
        ("node agent", bed::SYSTEM, "ds/istio-cni-node", false),
        (
            "control plane",
            bed::SYSTEM,
            "deploy/causeway-control-plane",
            false,
        ),
        ("waypoint", NAMESPACE, "deploy/waypoint", true),
    ] {
        let label = if bound {
            "istio.io/use-waypoint=waypoint"
        } else {
            "istio.io/use-waypoint-"
        };
        bed.kubectl(&["label", "namespace", NAMESPACE, label])?;
        told.push(format!("{part}: {}", rolled(bed, namespace, workload)?));
    }
    bed.upgrade(&[])?;
    Ok(Outcome::Passed(format!(
        "{ROUNDS} rollouts each, 0 failed; {}",
        told.join("; ")
    )))
}

/// Rolls a part `ROUNDS` times under load; what the clients saw.
fn rolled(bed: &Bed, namespace: &str, workload: &str) -> Result<String> {
    let url = format!("http://{}/", bed.service_address(NAMESPACE, "web")?);
    for client in ["client1", "client2"] {
        bed.exec(&format!("{NAMESPACE}/{client}"), &["rm", "-f", "/stop"])?;
    }
    let mut callers = Vec::new();
    for (client, mode) in [
        ("client1", "keep"),
        ("client1", "new"),
        ("client2", "keep"),
        ("client2", "new"),
    ] {
        let command = ["/bin/pod", "call", mode, &url, SECONDS];
        let pod = format!("{NAMESPACE}/{client}");
        callers.push((format!("{client} {mode}"), bed.begin_exec(&pod, &command)?));
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        bed.kubectl(&["rollout", "restart", "-n", namespace, workload])?;
        bed.rollout(namespace, workload)?;
    }
    // The old ones are still draining: their end belongs to it.
    let took = start.elapsed();
    bed::until(Duration::from_secs(90), "the old ones are gone", || {
        let query = ["get", "pod", "-n", namespace, "-o"];
        let path = "jsonpath={range .items[*]}{.metadata.deletionTimestamp}{end}";
        let ending = bed.kubectl(&[&query[..], &[path]].concat())?;
        ensure!(ending.is_empty(), "pods end since {ending}");
        Ok(())
    })?;
    for client in ["client1", "client2"] {
        bed.exec(&format!("{NAMESPACE}/{client}"), &["touch", "/stop"])?;
    }
    let (mut told, mut good) = (Vec::new(), true);
    for (who, caller) in callers {
        let counts = Counts::parse(&bed::stdout(caller.wait_with_output()?)?)?;
        told.push(format!(
            "{who} {} requests, {} failed, {}",
            counts.requests, counts.failed, counts.cuts
        ));
        good &= counts.requests > 100 && counts.failed == 0;
    }
    let told = told.join(", ");
    ensure!(good, "{workload}: {told}");
    Ok(format!("{:.0} s, {}", took.as_secs_f64(), told))
}

const WAYPOINT: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: upgrades}
spec:
  gatewayClassName: causeway-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
"#;
