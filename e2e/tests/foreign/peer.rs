//! A pair of ztunnels where the second is any binary with upstream's interface: its settings, ZDS, xDS, CA, readiness. Only
//! that interface is used. Traffic, policy and the source's address are looked at in both directions.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use proto::security::{Action, Scope};
use testkit::echo;
use testkit::mesh::{self, LIMIT, Mesh, Pod, local as loopback};
use testkit::process::{self, Process};
use testkit::topology;

use crate::ledger::Ledger;
use crate::pair::{APPLICATION, application, connect, reported};
use crate::traffic::{self, Order};
use crate::tunnel::local;
use e2e::cases::{self, Outcome};

/// Our own binary in the peer's place: shows that the harness works.
pub fn ours() -> Result<Outcome> {
    match topology::supported() {
        Ok(()) => pair(&process::binary("ztunnel")?),
        Err(missing) => Ok(Outcome::NotRun(missing)),
    }
}

/// The binary that `ZTUNNEL_PEER` names.
pub fn given() -> Result<Outcome> {
    match topology::supported().and_then(|()| cases::binary("ZTUNNEL_PEER")) {
        Ok(peer) => pair(&peer),
        Err(missing) => Ok(Outcome::NotRun(missing)),
    }
}

fn pair(peer: &Path) -> Result<Outcome> {
    let mut mesh = Mesh::without_ztunnels(2, &[])?;
    mesh.start_ztunnel(0)?;
    let logs = tempfile::tempdir()?;
    start_peer(&mut mesh, peer, &logs.path().join("peer.log"))?;
    let (mut near, mut far) = (mesh.pod(0, "near", "near")?, mesh.pod(1, "far", "far")?);
    let vip = |last| IpAddr::V4(Ipv4Addr::new(10, 96, 0, last));
    mesh.service("near", vip(1), (80, APPLICATION), &mut [&mut near]);
    mesh.service("far", vip(2), (80, APPLICATION), &mut [&mut far]);
    mesh.settle()?;
    let outcome = both_ways(&mesh, near, far, [vip(1), vip(2)]);
    outcome.with_context(|| {
        let log = mesh.nodes[1].log();
        let lines: Vec<&str> = log.lines().rev().take(40).collect();
        format!("log of the peer, newest first:\n{}", lines.join("\n"))
    })
}

fn start_peer(mesh: &mut Mesh, binary: &Path, log: &Path) -> Result<()> {
    let node = &mut mesh.nodes[1];
    let settings = node.environment();
    let mut process = Process::start(&node.net.ns, binary, &["proxy", "ztunnel"], settings, log)?;
    process.wait_ready(&node.net.ns, loopback(15021), LIMIT)?;
    node.ztunnel = Some(process);
    Ok(())
}

fn both_ways(mesh: &Mesh, near: Pod, far: Pod, vips: [IpAddr; 2]) -> Result<Outcome> {
    let listeners = [
        near.net.ns.listen(application())?,
        far.net.ns.listen(application())?,
    ];
    let (near, far) = (Rc::new(near), Rc::new(far));
    let [near_listener, far_listener] = listeners;
    let (to_near, to_far) = (
        [near.at(APPLICATION), SocketAddr::new(vips[0], 80)],
        [far.at(APPLICATION), SocketAddr::new(vips[1], 80)],
    );
    let (there, here, figures) = local(async {
        let (out, back) = (Rc::new(Ledger::default()), Rc::new(Ledger::default()));
        traffic::serve(far_listener, Some(near.net.ip), out.clone())?;
        traffic::serve(near_listener, Some(far.net.ip), back.clone())?;
        let half = (cases::budget() / 2, Order::Any);
        let (there, here) = tokio::join!(
            traffic::near(out.clone(), half, opener(near.clone(), to_far)),
            traffic::near(back.clone(), half, opener(far.clone(), to_near)),
        );
        let (there, here) = (
            there.context("ours to peer")?,
            here.context("peer to ours")?,
        );
        let figures = format!(
            "ours to peer: {there}, {}; peer to ours: {here}, {}",
            out.close().context("ours to peer")?,
            back.close().context("peer to ours")?
        );
        Ok((there, here, figures))
    })?;
    reported(&mesh.nodes[0], "\"outbound\"", there.tunnels, there)?;
    reported(&mesh.nodes[0], "\"inbound\"", here.arrived, here)?;
    refused(mesh, &near, &far, "ours to peer")?;
    refused(mesh, &far, &near, "peer to ours")?;
    Ok(Outcome::Passed(figures))
}

/// Opens connections to the pod's address and to the service's in turn.
fn opener(
    from: Rc<Pod>,
    to: [SocketAddr; 2],
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<tokio::net::TcpStream>>>> {
    let turn = Cell::new(0);
    move || {
        turn.set(1 - turn.get());
        Box::pin(connect(from.clone(), to[turn.get()]))
    }
}

/// A policy that denies the source is enforced by the destination's ztunnel, and its end too.
fn refused(mesh: &Mesh, from: &Pod, to: &Pod, what: &str) -> Result<()> {
    let port = 8081;
    echo::serve(&to.net.ns, port, echo::Behaviour::Echo)?;
    let ask = || echo::exchange(echo::connect(&from.net.ns, to.at(port))?, b"let me in");
    let matched = mesh::principal(&from.workload.service_account);
    mesh.policy("no", Scope::Namespace, Action::Deny, matched);
    mesh.settle()?;
    let answer = ask().unwrap_or_default();
    ensure!(answer.is_empty(), "{what}: a denied source got {answer:?}");
    mesh.remove_policy("no");
    mesh.settle()?;
    let answer = ask().with_context(|| format!("{what}: after the policy"))?;
    ensure!(answer == b"let me in", "{what}: {answer:?}");
    Ok(())
}
