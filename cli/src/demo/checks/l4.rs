//! Lines about L4 policy: who may connect, who may not, and which policy said so.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::demo::client;
use crate::demo::line::seconds;
use crate::demo::manifests;
use crate::demo::mesh::Mesh;
use crate::demo::plan::{self, ECHO_PORT, vip};

/// The pod that says which policy it must not run without, and how.
const ECHO_POD: &str = "16-echo.yaml";
const FREE: &str = "labels: {app: echo}";
const REQUIRING: &str =
    "labels: {app: echo}\n  annotations: {ambient.causeway.dev/required-policies: lockdown}";
/// The required policy, once it is there.
const LOCKDOWN: &str = "62-lockdown.yaml";
const LOCKDOWN_POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: lockdown, namespace: demo}
spec:
  selector: {matchLabels: {app: echo}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/demo/sa/client]}}]}]
";
/// What the log says of a refusal that a policy decided, and not, say, a dial that failed.
const BY_POLICY: &str = "policy rejection";
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
    let line = said(
        mesh,
        node,
        &["ns/demo/sa/ratings", "inbound", BY_POLICY],
        EFFECT,
    )?;
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
    let line = said(
        mesh,
        echo.on().name,
        &[&source, "inbound", BY_POLICY],
        EFFECT,
    )?;
    Ok(format!(
        "outsider -> echo refused, it has no identity: {}",
        reason(&line)
    ))
}

/// A policy that a workload names and its node lacks denies after 1 s, naming it; once it is there, it
/// decides.
pub fn unknown_policy(mesh: &mut Mesh) -> Result<String> {
    let directory = mesh.manifests();
    manifests::edit(&directory, ECHO_POD, FREE, REQUIRING)?;
    let shown = refused_then_served(mesh);
    if directory.join(LOCKDOWN).exists() {
        manifests::remove(&directory, LOCKDOWN)?;
    }
    manifests::edit(&directory, ECHO_POD, REQUIRING, FREE)?;
    reachable(mesh, "echo reachable again after the demand was taken away")?;
    shown
}

fn refused_then_served(mesh: &Mesh) -> Result<String> {
    let client = plan::the("client").netns();
    let log = format!("ztunnel-{}", plan::the("echo").on().name);
    let ((line, took), _) =
        mesh.interrupt()
            .until("a refusal that names demo/lockdown", EFFECT, || {
                let start = Instant::now();
                let back = client::echo(&client, vip::ECHO, ECHO_PORT, b"hello");
                let took = start.elapsed();
                let refused = !matches!(&back, Ok(b) if b == b"hello");
                let line = find(&mesh.log(&log), &["demo/lockdown", "error="]);
                refused.then_some(line).flatten().map(|l| (l, took))
            })?;
    manifests::put(&mesh.manifests(), LOCKDOWN, LOCKDOWN_POLICY)?;
    let arrived = reachable(mesh, "echo reachable once the policy is there")?;
    Ok(format!(
        "client -> echo refused after {}: {}; served {} after the policy was written",
        seconds(took),
        reason(&line),
        seconds(arrived)
    ))
}

fn reachable(mesh: &Mesh, what: &str) -> Result<Duration> {
    let client = plan::the("client").netns();
    let ((), took) = mesh.interrupt().until(what, EFFECT, || {
        client::echo(&client, vip::ECHO, ECHO_PORT, b"hello")
            .ok()
            .filter(|b| b == b"hello")
            .map(|_| ())
    })?;
    Ok(took)
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
