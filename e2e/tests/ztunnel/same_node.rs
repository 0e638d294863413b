//! Two pods of one node: what the wire shows, what cuts the short way, who reports it, and when TLS is used after all.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proto::security::{Action, Scope};
use sys::packet::Capture;
use testkit::echo::{self, Behaviour};
use testkit::mesh::{LIMIT, Mesh, Pod, local, principal};
use testkit::wait;

use crate::SECRET;

/// A node with two pods and an application that answers.
struct Node {
    mesh: Mesh,
    client: Pod,
    server: Pod,
}

impl Node {
    fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let mesh = Mesh::start_with(1, settings)?;
        let client = mesh.pod(0, "client", "client")?;
        let server = mesh.pod(0, "server", "server")?;
        mesh.settle()?;
        echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
        Ok(Self {
            mesh,
            client,
            server,
        })
    }

    fn call(&self) -> Result<TcpStream> {
        echo::connect(&self.client.net.ns, self.server.at(8080))
    }

    /// Calls until one was reported in this way: the first may come before both certificates.
    fn reported(&self, part: &str) -> Result<()> {
        wait::until("a call that is reported so", LIMIT, || {
            ensure!(echo::exchange(self.call()?, SECRET)? == SECRET, "no answer");
            let log = self.mesh.nodes[0].log();
            let complete = log
                .lines()
                .rfind(|line| line.contains("connection complete"));
            ensure!(
                complete.is_some_and(|line| line.contains(part)),
                "{complete:?}"
            );
            Ok(())
        })
    }

    /// A call under load: bytes go round until it breaks. Returns when that was.
    fn busy(&self) -> Result<thread::JoinHandle<Instant>> {
        let mut stream = self.call()?;
        ensure!(echo::ping(&mut stream, b"one")? == b"one");
        Ok(thread::spawn(move || {
            let (mut chunk, begin) = ([7; 4096], Instant::now());
            while begin.elapsed() < 2 * LIMIT
                && stream.write_all(&chunk).is_ok()
                && stream.read_exact(&mut chunk).is_ok()
            {}
            Instant::now()
        }))
    }
}

#[test]
fn both_sides_report_it_with_exact_counts_and_no_veth_shows_the_bytes() -> Result<()> {
    testkit::root_or_skip!();
    let node = Node::start(&[])?;
    node.reported("security=\"same_node\"")?;
    let bytes: Vec<u8> = SECRET.iter().copied().cycle().take(3_000_001).collect();
    let wires = [&node.client, &node.server].map(|pod| -> Result<Capture> {
        Ok(Capture::open(
            &sys::Netns::open(&pod.net.ns.path())?,
            "eth0",
        )?)
    });
    ensure!(
        echo::exchange(node.call()?, &bytes)? == bytes,
        "the bytes differ"
    );
    for wire in wires {
        let wire = wire?;
        // The lease's heartbeat crosses it each second: a tap that saw nothing would prove nothing.
        let mut next = wire.next(LIMIT)?;
        ensure!(next.is_some(), "nothing was captured at all");
        while let Some(frame) = next {
            let shown = frame.windows(16).any(|part| SECRET.starts_with(part));
            ensure!(!shown, "the bytes are readable on a veth");
            next = wire.next(Duration::ZERO)?;
        }
    }
    let counts = format!("bytes_sent={0} bytes_recv={0}", bytes.len());
    for direction in ["\"outbound\"", "\"inbound\""] {
        let line = node.mesh.nodes[0].log_line(&["connection complete", direction, &counts])?;
        for part in [
            format!("src.identity=\"{}\"", node.client.identity()),
            format!("dst.identity=\"{}\"", node.server.identity()),
            format!("dst.hbone_addr={}", node.server.at(8080)),
            "security=\"same_node\"".to_owned(),
        ] {
            ensure!(line.contains(&part), "{part} is not in: {line}");
        }
    }
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        let labels = [reporter, "connection_security_policy=\"same_node\""];
        let sent = node.mesh.nodes[0].metric("istio_tcp_sent_bytes_total", &labels)?;
        ensure!(sent >= bytes.len() as f64, "{reporter}: {sent}");
    }
    Ok(())
}

/// How soon is held by the simulation (`when_packets_to_15008_stop_it_is_cut_within_three_seconds`): time fails nothing here.
#[test]
fn a_packet_filter_on_15008_cuts_what_runs() -> Result<()> {
    testkit::root_or_skip!();
    let node = Node::start(&[])?;
    node.reported("same_node")?;
    let call = node.busy()?;
    node.server.net.ns.nft(
        "table inet filter {\n\
         chain in {\ntype filter hook input priority 0\ntcp dport 15008 drop\n}\n}\n",
    )?;
    let begin = Instant::now();
    let cut = call.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    let after = cut.saturating_duration_since(begin);
    println!("cut {after:?} after the rule");
    ensure!(after < LIMIT, "never cut");
    node.mesh.nodes[0].log_line(&["\"inbound\"", "same-node path is cut"])?;
    Ok(())
}

#[test]
fn a_policy_that_comes_while_it_runs_cuts_it() -> Result<()> {
    testkit::root_or_skip!();
    let node = Node::start(&[])?;
    node.reported("same_node")?;
    let call = node.busy()?;
    node.mesh
        .policy("no", Scope::Namespace, Action::Deny, principal("client"));
    let begin = Instant::now();
    let cut = call.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    let after = cut.saturating_duration_since(begin);
    println!("cut {after:?} after the policy");
    ensure!(after < LIMIT, "never cut");
    node.mesh.nodes[0].log_line(&["\"inbound\"", "app/no", "same_node"])?;
    Ok(())
}

#[test]
fn switched_off_it_is_a_tunnel() -> Result<()> {
    testkit::root_or_skip!();
    let node = Node::start(&[("SAME_NODE", "tunnel")])?;
    ensure!(echo::exchange(node.call()?, SECRET)? == SECRET, "no answer");
    node.mesh.nodes[0].log_line(&["connection complete", "\"inbound\""])?;
    ensure!(
        !node.mesh.nodes[0].log().contains("same_node"),
        "it took the short way"
    );
    let labels = ["connection_security_policy=\"mutual_tls\""];
    wait::until("both sides are counted", LIMIT, || {
        let opened = node.mesh.nodes[0].metric("istio_tcp_connections_opened_total", &labels)?;
        ensure!(opened >= 2.0, "{opened}");
        Ok(())
    })
}

#[test]
fn while_another_process_takes_over_calls_go_on_by_tls() -> Result<()> {
    testkit::root_or_skip!();
    let mut node = Node::start(&[("CONNECTION_TERMINATION_DEADLINE", "20s")])?;
    node.reported("same_node")?;
    let mut kept = node.call()?;
    ensure!(echo::ping(&mut kept, b"one")? == b"one");
    let others = others(&node.mesh)?;
    let before = by_tls(&node.mesh, 15020)?;
    let ports = [
        ("ADMIN_PORT", "16000"),
        ("STATS_PORT", "16020"),
        ("READINESS_PORT", "16021"),
    ];
    let mut second = node.mesh.spawn_ztunnel(0, &ports)?;
    second.wait_ready(&node.mesh.nodes[0].net.ns, local(16021), LIMIT)?;
    // Both listen on each port now; the kernel gives a lease to either.
    for call in 0..200 {
        let to = &others[call % others.len()];
        for stream in [
            node.call()?,
            echo::connect(&node.client.net.ns, to.at(8080))?,
        ] {
            let answer = echo::exchange(stream, SECRET).with_context(|| format!("call {call}"))?;
            ensure!(answer == SECRET, "call {call} has no answer");
        }
    }
    wait::until("calls that went by TLS", LIMIT, || {
        let now = by_tls(&node.mesh, 15020)? + by_tls(&node.mesh, 16020)?;
        ensure!(now > before, "{now} after {before}");
        Ok(())
    })?;
    ensure!(echo::ping(&mut kept, b"two")? == b"two");
    node.mesh.nodes[0]
        .ztunnel()
        .signal(nix::sys::signal::Signal::SIGTERM)?;
    node.mesh.nodes[0].agent.connected(1, LIMIT)?;
    for call in 0..50 {
        let answer =
            echo::exchange(node.call()?, SECRET).with_context(|| format!("call {call}"))?;
        ensure!(answer == SECRET, "call {call} has no answer");
    }
    ensure!(!ended_now(&mut kept)?, "the drain cut what ran");
    drop(kept);
    let status = node.mesh.nodes[0].ztunnel().wait(LIMIT)?;
    ensure!(status.success(), "{status}");
    wait::until("the successor takes the short way", LIMIT, || {
        ensure!(echo::exchange(node.call()?, SECRET)? == SECRET, "no answer");
        ensure!(second.log().contains("security=\"same_node\""), "not yet");
        Ok(())
    })
}

/// So many more servers that some of their leases end at the other process, whichever sockets the kernel picks.
fn others(mesh: &Mesh) -> Result<Vec<Pod>> {
    (0..8)
        .map(|number| {
            let pod = mesh.pod(0, &format!("other{number}"), "other")?;
            echo::serve(&pod.net.ns, 8080, Behaviour::Echo)?;
            Ok(pod)
        })
        .collect()
}

/// How many connections the ztunnel whose metrics are at `port` of the node has reported as mutual TLS.
fn by_tls(mesh: &Mesh, port: u16) -> Result<f64> {
    mesh.nodes[0].metric_at(
        port,
        "istio_tcp_connections_opened_total",
        &["connection_security_policy=\"mutual_tls\""],
    )
}

fn ended_now(stream: &mut TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let over = echo::ended(stream);
    stream.set_nonblocking(false)?;
    Ok(over)
}
