//! Row 3: drop-in: an unmodified istiod from its own chart; our node agent, ztunnel and waypoint under the names of Istio's objects.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed, stdout, until},
    echo, wire,
};

const NAMESPACE: &str = "drop-in";
const LIMIT: Duration = Duration::from_secs(60);

/// The case.
pub fn drop_in() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    if !bed.program("pilot-discovery").exists() {
        return Ok(Outcome::NotRun(
            "pilot-discovery is not built (e2e/kube/build makes it)".into(),
        ));
    }
    bed.gone()?;
    let start = Instant::now();
    install_istiod(bed)?;
    bed.install(&["--set", "controlPlane.enabled=false"])?;
    for daemon in ["ds/istio-cni-node", "ds/ztunnel"] {
        bed.rollout(bed::SYSTEM, daemon)?;
    }
    let installed = start.elapsed();
    echo::start(bed, NAMESPACE)?;
    echo::join(bed, NAMESPACE)?;
    let seen = encrypted(bed)?;
    let denied = by_waypoint(bed)?;
    bed.kubectl(&["delete", "namespace", NAMESPACE])?;
    bed.gone()?;
    for release in ["istiod", "istio-base"] {
        bed.helm(&["uninstall", release, "-n", bed::SYSTEM, "--wait"])?;
    }
    Ok(Outcome::Passed(format!(
        "istiod and ours ready after {:.0} s; {} packets of TLS, 0 plain; its waypoint from our image: route, \"{denied}\"; L4 policy",
        installed.as_secs_f64(),
        seen.tls
    )))
}

/// Both clients call both nodes, under a look at the packets.
fn encrypted(bed: &Bed) -> Result<wire::Seen> {
    let seen = wire::looked_at(bed, || {
        // Both clients until both nodes have answered.
        for client in ["client1", "client2"] {
            for node in ["node1", "node2"] {
                until(LIMIT, "the other node answers", || {
                    let answer = echo::fetch(bed, NAMESPACE, client)?;
                    ensure!(answer.contains(node), "{answer}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    })?;
    ensure!(
        seen.plain == 0 && seen.tls > 0,
        "{} packets of plain text, {} of TLS",
        seen.plain,
        seen.tls
    );
    Ok(seen)
}

/// The waypoint that istiod deploys from our image routes, and its policies decide; so do ztunnels. What a refused caller gets.
fn by_waypoint(bed: &Bed) -> Result<String> {
    bed.apply(WAYPOINT)?;
    bed.programmed(NAMESPACE, "waypoint")?;
    let label = "istio.io/use-waypoint=waypoint";
    bed.kubectl(&["label", "namespace", NAMESPACE, label])?;
    until(LIMIT, "requests pass the waypoint", || {
        let head = head(bed, &[])?;
        ensure!(head.contains("x-passed: waypoint"), "{head}");
        Ok(())
    })?;
    let denied = until(LIMIT, "its policy denies", || {
        let head = head(bed, &["-H", "x-deny: yes"])?;
        ensure!(head.starts_with("HTTP/1.1 403 "), "{head}");
        Ok(head.lines().next().unwrap_or_default().to_owned())
    })?;
    bed.apply(ONLY_CLIENTS)?;
    until(LIMIT, "its policy about accounts denies", || {
        let call = ["/bin/wget", "-q", "-T", "3", "-O", "-"];
        let web = bed.pod_address(NAMESPACE, "app=web", "node1")?;
        let url = format!("http://{web}:8080/");
        let pod = bed.kubectl(&["get", "pod", "-n", NAMESPACE, "-l", "app=web", "-o", "name"])?;
        let pod = pod
            .lines()
            .next()
            .context("a pod")?
            .trim_start_matches("pod/")
            .to_owned();
        let output = bed.exec(
            &format!("{NAMESPACE}/{pod}"),
            &[&call[..], &[&url]].concat(),
        )?;
        ensure!(!output.status.success(), "a server calls a server");
        Ok(())
    })?;
    echo::fetch(bed, NAMESPACE, "client1")?;
    Ok(denied)
}

/// The head of the service's answer to the client.
fn head(bed: &Bed, further: &[&str]) -> Result<String> {
    let url = format!("http://{}/", bed.service_address(NAMESPACE, "web")?);
    let mut command = vec!["curl", "-s", "-m", "3", "-o", "/dev/null", "-D", "-", &url];
    command.extend(further);
    stdout(bed.exec(&format!("{NAMESPACE}/client1"), &command)?)
}

fn install_istiod(bed: &Bed) -> Result<()> {
    let charts = module()?.join("manifests/charts");
    for node in [1, 2] {
        let tag = ["ctr", "-n", "k8s.io", "images", "tag", "--force"];
        let names = ["e2e.local/waypoint:1", "e2e.local/proxyv2:1"];
        bed.on_node(node, &[&tag[..], &names].concat())?;
    }
    for (release, chart, values) in [
        ("istio-base", "base", ""),
        ("istiod", "istio-control/istio-discovery", ISTIOD),
    ] {
        let chart = charts.join(chart);
        let chart = chart.to_str().context("a path of ours")?;
        let mut command = vec![
            "install",
            release,
            chart,
            "-n",
            bed::SYSTEM,
            "--create-namespace",
            // Definitions that an earlier mesh of ours has left.
            "--take-ownership",
        ];
        if !values.is_empty() {
            command.extend(["--set", values]);
        }
        bed.helm(&command)?;
    }
    bed.rollout(bed::SYSTEM, "deploy/istiod")
}

const ISTIOD: &str = "profile=ambient,global.hub=e2e.local,global.tag=1,global.variant=,global.imagePullPolicy=IfNotPresent,\
    resources.requests.cpu=50m,resources.requests.memory=128Mi,autoscaleEnabled=false";

/// Where the module is that istiod was built from; its charts are in it.
fn module() -> Result<PathBuf> {
    let pins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/istio");
    let list = ["list", "-m", "-f", "{{.Dir}}", "istio.io/istio"];
    let listed = Command::new("go").args(list).current_dir(pins).output()?;
    Ok(stdout(listed)?.trim().into())
}

const WAYPOINT: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: drop-in}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: drop-in}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-passed, value: waypoint}]}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-x-deny, namespace: drop-in}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]
  action: DENY
  rules: [{when: [{key: "request.headers[x-deny]", values: ["yes"]}]}]
"#;

const ONLY_CLIENTS: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-clients, namespace: drop-in}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/drop-in/sa/client", "cluster.local/ns/drop-in/sa/waypoint"]}}]
"#;
