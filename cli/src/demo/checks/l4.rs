//! Lines about L4 policy: who may connect, who may not, and which policy said so.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::demo::client;
use crate::demo::line::seconds;
use crate::demo::manifests;
use crate::demo::mesh::Mesh;
use crate::demo::plan::{self, ECHO_PORT, vip};

/// The manifest that the lines below add and take away.
const PENDING: &str = "62-pending.yaml";
/// A policy whose condition no L4 proxy knows: the control plane refuses the object and says why, the pods
/// that it selects still name it.
const PENDING_POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: pending, namespace: demo}
spec:
  selector: {matchLabels: {app: echo}}
  action: ALLOW
  rules: [{from: [{source: {ipBlocks: [not-an-address]}}]}]
";
/// Longest time until a change of manifests shows.
const EFFECT: Duration = Duration::from_secs(10);

/// The account that the policy names gets through.
pub fn allow(_: &mut Mesh) -> Result<String> {
    let back = client::echo(&plan::the("client").netns(), vip::ECHO, ECHO_PORT, b"hello")?;
    ensure!(back == b"hello", "the echo sent back {back:?}");
    Ok("client -> echo passes by policy demo/echo-from-client".to_owned())
}

/// Another account does not, and the node's log says why.
pub fn deny(mesh: &mut Mesh) -> Result<String> {
    let from = plan::the("ratings").netns();
    let back = client::echo(&from, vip::ECHO, ECHO_PORT, b"hello");
    ensure!(
        !matches!(&back, Ok(b) if b == b"hello"),
        "ratings reached echo, which no policy allows"
    );
    let node = plan::the("echo").on().name;
    let line = said(mesh, node, &["ns/demo/sa/ratings", "inbound"], EFFECT)?;
    Ok(format!("ratings -> echo refused: {}", reason(&line)))
}

/// The pod outside the mesh has no identity: it is refused where policy asks for one, served elsewhere.
pub fn outsider(mesh: &mut Mesh) -> Result<String> {
    let (from, echo) = (plan::the("outsider").netns(), plan::the("echo"));
    let back = client::echo(&from, echo.address, ECHO_PORT, b"hello");
    ensure!(
        !matches!(&back, Ok(b) if b == b"hello"),
        "the outsider reached echo, which no policy allows"
    );
    let source = plan::the("outsider").address.to_string();
    let line = said(mesh, echo.on().name, &[&source, "inbound"], EFFECT)?;
    Ok(format!(
        "outsider -> echo refused, it has no identity: {}",
        reason(&line)
    ))
}

/// A policy that a workload names and its node lacks denies after 1 s, naming it; then all is as before.
pub fn unknown_policy(mesh: &mut Mesh) -> Result<String> {
    let client = plan::the("client").netns();
    manifests::put(&mesh.manifests(), PENDING, PENDING_POLICY)?;
    let shown = (|| {
        let node = plan::the("echo").on().name;
        let interrupt = mesh.interrupt().clone();
        let ((line, took), _) =
            interrupt.until("a refusal that names demo/pending", EFFECT, || {
                let start = Instant::now();
                let back = client::echo(&client, vip::ECHO, ECHO_PORT, b"hello");
                let took = start.elapsed();
                let refused = !matches!(&back, Ok(b) if b == b"hello");
                let line = find(&mesh.log(&format!("ztunnel-{node}")), &["demo/pending"]);
                refused.then_some(line).flatten().map(|l| (l, took))
            })?;
        Ok(format!(
            "client -> echo refused after {}: {}",
            seconds(took),
            reason(&line)
        ))
    })();
    manifests::remove(&mesh.manifests(), PENDING)?;
    mesh.interrupt().until(
        "echo reachable again after the policy was taken away",
        EFFECT,
        || {
            client::echo(&client, vip::ECHO, ECHO_PORT, b"hello")
                .ok()
                .filter(|b| b == b"hello")
        },
    )?;
    shown
}

/// The newest line of a node's ztunnel log that holds every word and an error.
fn said(mesh: &Mesh, node: &str, words: &[&str], limit: Duration) -> Result<String> {
    let log = format!("ztunnel-{node}");
    let (line, _) =
        mesh.interrupt()
            .until(&format!("a line with {words:?} in {log}"), limit, || {
                let mut wanted = words.to_vec();
                wanted.push("error=");
                find(&mesh.log(&log), &wanted)
            })?;
    Ok(line)
}

fn find(log: &str, words: &[&str]) -> Option<String> {
    log.lines()
        .rev()
        .find(|l| words.iter().all(|w| l.contains(w)))
        .map(str::to_owned)
}

/// The error of an access log line.
fn reason(line: &str) -> String {
    line.split_once("error=")
        .map_or(line, |(_, e)| e)
        .trim_matches('"')
        .to_owned()
}
