//! Lines about the life of pods and nodes: opting a running pod out and in, and losing a ztunnel.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::demo::client::{self, Request};
use crate::demo::line::seconds;
use crate::demo::manifests;
use crate::demo::mesh::Mesh;
use crate::demo::plan::{self, HTTP_PORT, NODES};
use crate::demo::wire::Tap;

/// Longest time until a change shows.
const EFFECT: Duration = Duration::from_secs(10);
const FILE: &str = "14-ratings.yaml";
const IN: &str = "labels: {app: ratings}";
const OUT: &str = "labels: {app: ratings, istio.io/dataplane-mode: none}";

/// The running pod leaves the mesh: its traffic goes on, readable on the wire.
pub fn opt_out(mesh: &mut Mesh) -> Result<String> {
    change(mesh, IN, OUT, true)
}

/// The running pod comes back: the same traffic, unreadable again.
pub fn opt_in(mesh: &mut Mesh) -> Result<String> {
    change(mesh, OUT, IN, false)
}

/// `kill -9` of the client's node proxy: nothing leaks in plain text, and new connections work again.
pub fn kill_ztunnel(mesh: &mut Mesh) -> Result<String> {
    let secret = format!("killed-{}", std::process::id());
    let tap = Tap::start(&NODES[0], secret.as_bytes())?;
    let start = Instant::now();
    mesh.process("ztunnel-node1")?.kill_and_restart()?;
    let mut refused = 0;
    let recovered = mesh
        .interrupt()
        .until("new connections after the kill", EFFECT, || {
            let back = client::echo(
                &plan::the("client").netns(),
                plan::vip::ECHO,
                plan::ECHO_PORT,
                secret.as_bytes(),
            );
            let served = matches!(&back, Ok(b) if b == secret.as_bytes());
            refused += usize::from(!served);
            served.then_some(())
        });
    let seen = tap.finish()?;
    recovered?;
    ensure!(
        seen.readable == 0,
        "the secret was readable in {} packets while ztunnel was away",
        seen.readable
    );
    Ok(format!(
        "new connections work {} after kill -9; {refused} attempts failed in between, 0 packets in plain text",
        seconds(start.elapsed())
    ))
}

/// Edits the label of the running pod and waits until its traffic on the wire shows it.
fn change(mesh: &Mesh, from: &str, to: &str, plain: bool) -> Result<String> {
    let process = plan::the("ratings");
    manifests::edit(&mesh.manifests(), FILE, from, to)?;
    let mut asked = 0;
    let ((), took) = mesh
        .interrupt()
        .until("the label shows on the wire", EFFECT, || {
            let secret = format!("label-{}-{asked}-{plain}", std::process::id());
            asked += 1;
            let tap = Tap::start(&NODES[0], secret.as_bytes()).ok()?;
            let answer = get(&secret);
            let seen = tap.finish().ok()?;
            let served = answer.is_ok_and(|body| body.contains(&secret));
            (served && (seen.readable > 0) == plain).then_some(())
        })?;
    let state = if plain {
        "out of the mesh (readable)"
    } else {
        "in the mesh (unreadable)"
    };
    Ok(format!(
        "{} is {state} {} after the edit, the pod was not restarted",
        process.name,
        seconds(took)
    ))
}

/// From the client straight to the pod's address, so that no waypoint stands in between.
fn get(secret: &str) -> Result<String> {
    let path = format!("/{secret}");
    let request = Request {
        to: plan::the("ratings").address,
        port: HTTP_PORT,
        method: "GET",
        path: &path,
        host: "ratings",
        headers: &[],
    };
    Ok(client::http(&plan::the("client").netns(), &request)?.body)
}
