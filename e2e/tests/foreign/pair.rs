//! Our real ztunnel with Envoy as the other end of HBONE: outbound to an Envoy that terminates CONNECT in the destination's
//! pod, inbound from an Envoy that opens CONNECT in the source's pod.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use anyhow::{Result, ensure};
use testkit::echo;
use testkit::mesh::{LIMIT, Mesh, Node, Pod};
use testkit::wait;
use tokio::net::TcpStream;

use crate::envoy::{Envoy, LIFE, ORIGINATOR, TERMINATOR};
use crate::ledger::Ledger;
use crate::traffic::{self, Count, Order};
use crate::tunnel::{local, require};
use e2e::cases::{self, Outcome};

/// Where the application of every pod listens.
pub const APPLICATION: u16 = 8080;

/// A TCP connection from inside a pod.
///
/// # Errors
/// When nobody takes it.
pub async fn connect(from: Rc<Pod>, to: SocketAddr) -> Result<TcpStream> {
    let stream = echo::connect(&from.net.ns, to)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

/// The address on which an application accepts everything.
pub fn application() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, APPLICATION))
}

/// Waits until a ztunnel of ours has reported the end of every connection that it opened (their lines contain `part`), which
/// are at least `least`; only aborted ones may be missing or have an error.
///
/// The source's ztunnel sees all tunnels. The destination's need not: what is aborted before the source's proxy has taken
/// it makes no CONNECT (upstream drops it when it cannot ask for the peer's address any more). It does see what arrived.
///
/// # Errors
/// When a report is missing, or an orderly connection is told as broken.
pub fn reported(node: &Node, part: &str, least: usize, count: Count) -> Result<()> {
    let lines = wait::until("a report of every connection", LIMIT, || {
        let log = node.log();
        let with = |what: &str| {
            let lines = log
                .lines()
                .filter(|line| line.contains(what) && line.contains(part));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let (opened, lines) = (with("connection opened").len(), with("connection complete"));
        ensure!(
            lines.len() == opened && (least..=count.tunnels).contains(&opened),
            "{} reports, {opened} opened, at least {least} of {count}",
            lines.len()
        );
        Ok(lines)
    })?;
    let missing = count.tunnels - lines.len();
    let mut broken = lines.iter().filter(|line| line.contains("error="));
    let (number, last) = (broken.clone().count(), broken.next_back());
    ensure!(
        number + missing <= count.aborted,
        "{number} errors and {missing} unseen of {count}, such as {last:?}"
    );
    Ok(())
}

/// A pod of the mesh whose proxy is an Envoy of its own, not the node's ztunnel.
fn pod_with_envoy(mesh: &Mesh, node: usize, name: &str) -> Result<Rc<Pod>> {
    let pod = mesh.bare_pod(node, name, name)?;
    mesh.publish(&pod.workload);
    Ok(Rc::new(pod))
}

/// Application → our ztunnel → Envoy → application.
pub fn ztunnel_to_envoy() -> Result<Outcome> {
    let binary = match require() {
        Ok(binary) => binary,
        Err(missing) => return Ok(Outcome::NotRun(missing)),
    };
    let mut mesh = Mesh::without_ztunnels(2, &[])?;
    mesh.start_ztunnel(0)?;
    let client = Rc::new(mesh.pod(0, "client", "client")?);
    let server = pod_with_envoy(&mesh, 1, "server")?;
    let pem = mesh.ca.issue_pem(&mesh.ca.identity("app", "server"), LIFE);
    let place = (&*binary, &server.net.ns);
    let _envoy = Envoy::start(place, TERMINATOR, &pem, &[("peer", &client.identity())])?;
    mesh.settle()?;
    let listener = server.net.ns.listen(application())?;
    let to = server.at(APPLICATION);
    let (count, figures) = local(async move {
        let ledger = Rc::new(Ledger::default());
        traffic::serve(listener, None, ledger.clone())?;
        let open = || connect(client.clone(), to);
        let count =
            traffic::near(ledger.clone(), (cases::budget(), Order::NearFirst), open).await?;
        Ok((count, format!("{count}, {}", ledger.close()?)))
    })?;
    let hbone = format!("dst.hbone_addr={to}");
    reported(&mesh.nodes[0], &hbone, count.tunnels, count)?;
    Ok(Outcome::Passed(figures))
}

/// Application → Envoy → our ztunnel → application.
pub fn envoy_to_ztunnel() -> Result<Outcome> {
    let binary = match require() {
        Ok(binary) => binary,
        Err(missing) => return Ok(Outcome::NotRun(missing)),
    };
    let mut mesh = Mesh::without_ztunnels(2, &[])?;
    mesh.start_ztunnel(1)?;
    let client = pod_with_envoy(&mesh, 0, "client")?;
    let server = mesh.pod(1, "server", "server")?;
    let pem = mesh.ca.issue_pem(&mesh.ca.identity("app", "client"), LIFE);
    let values = [
        ("peer", &*server.identity()),
        ("hbone", &server.net.ip.to_string()),
        ("authority", &server.at(APPLICATION).to_string()),
    ];
    let _envoy = Envoy::start((&binary, &client.net.ns), ORIGINATOR, &pem, &values)?;
    mesh.settle()?;
    let listener = server.net.ns.listen(application())?;
    let (count, figures) = local(async move {
        let ledger = Rc::new(Ledger::default());
        traffic::serve(listener, Some(client.net.ip), ledger.clone())?;
        let door = SocketAddr::from((Ipv4Addr::LOCALHOST, 9000));
        let open = || connect(client.clone(), door);
        let count = traffic::near(ledger.clone(), (cases::budget(), Order::Any), open).await?;
        Ok((count, format!("{count}, {}", ledger.close()?)))
    })?;
    let client = "src.workload=\"client\"";
    reported(&mesh.nodes[1], client, count.arrived, count)?;
    Ok(Outcome::Passed(figures))
}
