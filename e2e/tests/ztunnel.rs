//! Two real ztunnels in two nodes (network namespaces), real pods, a control plane that the test scripts: what only
//! the kernel and the whole process can show. Needs root and the release binaries (`make test` builds them).

#[path = "ztunnel/mesh.rs"]
mod mesh;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh::{LIMIT, Mesh, local, principal};
use nix::sys::signal::Signal;
use proto::security::{Action, Match, Scope};
use testkit::echo::{self, Behaviour};
use testkit::{process, wait};

const SECRET: &[u8] = b"a sentence that must not be readable between the nodes";

#[test]
fn bytes_flow_between_nodes_over_mtls_and_the_source_address_is_kept() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    let peer = echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let wire =
        sys::packet::Capture::open(&sys::Netns::open(&mesh.nodes[0].net.ns.path())?, "eth0")?;
    let answer = echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?;
    assert_eq!(answer, SECRET);
    assert_eq!(peer.accepted.recv_timeout(LIMIT)?.ip(), client.net.ip);

    let mut frames = 0;
    while let Some(frame) = wire.next(Duration::ZERO)? {
        frames += 1;
        assert!(
            !frame.windows(16).any(|part| SECRET.starts_with(part)),
            "the secret is readable on the wire"
        );
    }
    assert!(frames > 0, "nothing was captured at all");

    let hbone = format!("dst.hbone_addr={}", server.at(8080));
    let (out, inside) = (
        ["access\tconnection complete", "\"outbound\""],
        ["access\tconnection complete", "\"inbound\""],
    );
    for (node, direction) in [(0, out), (1, inside)] {
        let line = mesh.nodes[node].log_line(&direction)?;
        for part in [
            format!("src.identity=\"{}\"", client.identity()),
            format!("dst.identity=\"{}\"", server.identity()),
            hbone.clone(),
            "src.workload=\"client\" src.namespace=\"app\"".to_owned(),
            "dst.workload=\"server\" dst.namespace=\"app\"".to_owned(),
            format!("bytes_sent={0} bytes_recv={0}", SECRET.len()),
        ] {
            assert!(line.contains(&part), "{part} is not in: {line}");
        }
    }
    Ok(())
}

#[test]
fn large_transfers_arrive_whole_in_both_directions() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let bytes: Vec<u8> = (0..32_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let answer = echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, &bytes)?;
    assert_eq!(answer.len(), bytes.len());
    assert!(answer == bytes, "the bytes differ");
    Ok(())
}

#[test]
fn those_outside_the_mesh_are_reached_and_reach_in_as_plain_tcp() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(1)?;
    let pod = mesh.pod(0, "pod", "pod")?;
    mesh.settle()?;
    let outside = echo::serve(mesh.topology.control(), 9000, Behaviour::Echo)?;
    let stranger = SocketAddr::new(mesh.topology.control_ip(), 9000);
    assert_eq!(
        echo::exchange(echo::connect(&pod.net.ns, stranger)?, SECRET)?,
        SECRET
    );
    outside.accepted.recv_timeout(LIMIT)?;
    let line = mesh.nodes[0].log_line(&[
        "connection complete",
        "\"outbound\"",
        &format!("dst.addr={stranger}"),
    ])?;
    assert!(!line.contains("identity"), "{line}");

    let inside = echo::serve(&pod.net.ns, 8080, Behaviour::Echo)?;
    assert_eq!(
        echo::exchange(
            echo::connect(mesh.topology.control(), pod.at(8080))?,
            SECRET
        )?,
        SECRET
    );
    assert_eq!(
        inside.accepted.recv_timeout(LIMIT)?.ip(),
        mesh.topology.control_ip()
    );
    Ok(())
}

#[test]
fn a_service_is_balanced_over_its_endpoints() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let client = mesh.pod(0, "client", "client")?;
    let (mut near, mut far) = (
        mesh.pod(0, "near", "server")?,
        mesh.pod(1, "far", "server")?,
    );
    let vip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
    mesh.service("echo", vip, (80, 8080), &mut [&mut near, &mut far]);
    mesh.settle()?;
    echo::serve(&near.net.ns, 8080, Behaviour::Greet(b'n'))?;
    echo::serve(&far.net.ns, 8080, Behaviour::Greet(b'f'))?;
    let mut greetings = BTreeSet::new();
    // With equal weights the chance to miss one of two in 64 draws is 2^-63.
    for _ in 0..64 {
        let answer = echo::exchange(
            echo::connect(&client.net.ns, SocketAddr::new(vip, 80))?,
            b"x",
        )?;
        assert_eq!(answer.len(), 2);
        greetings.insert(answer[0]);
    }
    assert_eq!(greetings, BTreeSet::from([b'f', b'n']));
    let service = "dst.service=\"echo.app.svc.cluster.local\"";
    mesh.nodes[0].log_line(&["\"outbound\"", service])?;
    mesh.nodes[1].log_line(&["\"inbound\"", service])?;
    Ok(())
}

#[test]
fn a_deny_policy_refuses_and_the_log_names_it() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (good, bad) = (mesh.pod(0, "good", "good")?, mesh.pod(0, "bad", "bad")?);
    let server = mesh.pod(1, "server", "server")?;
    mesh.policy("no-bad", Scope::Namespace, Action::Deny, principal("bad"));
    mesh.settle()?;
    let peer = echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    assert!(
        refused(echo::connect(&bad.net.ns, server.at(8080))?),
        "the deny policy let bytes through"
    );
    assert!(
        peer.accepted.try_recv().is_err(),
        "the application was reached"
    );
    let line = mesh.nodes[1].log_line(&["error", "app/no-bad"])?;
    assert!(line.contains("policy rejection"), "{line}");
    assert_eq!(
        echo::exchange(echo::connect(&good.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    let denied = ["reporter=\"destination\"", "response_flags=\"DENY\""];
    wait::until("the refusal in the metrics", LIMIT, || {
        let count = mesh.nodes[1].metric("istio_tcp_connections_failed_total", &denied)?;
        ensure!(count >= 1.0, "{count}");
        Ok(())
    })
}

#[test]
fn a_new_policy_cuts_a_live_connection_and_spares_the_others() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (good, bad) = (mesh.pod(0, "good", "good")?, mesh.pod(0, "bad", "bad")?);
    let server = mesh.pod(1, "server", "server")?;
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut kept = echo::connect(&good.net.ns, server.at(8080))?;
    let mut cut = echo::connect(&bad.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut kept, b"one")?, b"one");
    assert_eq!(echo::ping(&mut cut, b"one")?, b"one");
    mesh.policy("no-bad", Scope::Namespace, Action::Deny, principal("bad"));
    // Nothing is sent: the end must come by itself.
    assert!(
        ended(&mut cut),
        "the connection that policy forbids lives on"
    );
    assert_eq!(echo::ping(&mut kept, b"two")?, b"two");
    mesh.nodes[1].log_line(&["policy change", "app/no-bad"])?;
    mesh.remove_policy("no-bad");
    mesh.settle()?;
    assert_eq!(
        echo::exchange(echo::connect(&bad.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    Ok(())
}

#[test]
fn a_workload_that_comes_under_a_policy_loses_what_it_forbids() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let client = mesh.pod(0, "client", "client")?;
    let mut server = mesh.pod(1, "server", "server")?;
    mesh.policy(
        "nobody",
        Scope::WorkloadSelector,
        Action::Deny,
        principal("client"),
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut live = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut live, b"one")?, b"one");
    // The policy has been there all along; only the workload changes.
    server
        .workload
        .authorization_policies
        .push("app/nobody".to_owned());
    mesh.publish(&server.workload);
    assert!(
        ended(&mut live),
        "the connection outlived the workload's new policy"
    );
    Ok(())
}

#[test]
fn a_policy_that_is_named_but_unknown_denies_until_it_comes() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let client = mesh.pod(0, "client", "client")?;
    let mut server = mesh.bare_pod(1, "server", "server")?;
    server
        .workload
        .authorization_policies
        .push("app/late".to_owned());
    mesh.publish(&server.workload);
    mesh.enrol(&server)?;
    mesh.settle()?;
    let peer = echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let begin = Instant::now();
    assert!(
        refused(echo::connect(&client.net.ns, server.at(8080))?),
        "an unknown policy let bytes through"
    );
    assert!(
        begin.elapsed() >= Duration::from_millis(900),
        "it was not waited for: {:?}",
        begin.elapsed()
    );
    assert!(
        peer.accepted.try_recv().is_err(),
        "the application was reached"
    );
    mesh.nodes[1].log_line(&["error", "app/late"])?;

    let mut waiting = echo::connect(&client.net.ns, server.at(8080))?;
    mesh.policy(
        "late",
        Scope::WorkloadSelector,
        Action::Allow,
        principal("client"),
    );
    assert_eq!(echo::ping(&mut waiting, b"in time")?, b"in time");
    Ok(())
}

#[test]
fn a_killed_ztunnel_lets_nothing_through_in_plain() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    let peer = echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut live = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut live, b"one")?, b"one");
    peer.accepted.recv_timeout(LIMIT)?;
    mesh.nodes[0].ztunnel = None;
    assert!(ended(&mut live));
    let again = echo::connect(&client.net.ns, server.at(8080));
    assert!(again.is_err(), "a connection was made without a ztunnel");
    assert!(
        peer.accepted.try_recv().is_err(),
        "the application was reached"
    );

    mesh.start_ztunnel(0)?;
    assert_eq!(
        echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    Ok(())
}

#[test]
fn without_a_certificate_nothing_leaves_in_plain() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let identity = mesh.ca.identity(mesh::NAMESPACE, "client");
    mesh.ca.refuse(&identity, true);
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    let peer = echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    assert!(refused(echo::connect(&client.net.ns, server.at(8080))?));
    assert!(
        peer.accepted.try_recv().is_err(),
        "the application was reached"
    );
    mesh.nodes[0].log_line(&["error", "certificate"])?;
    mesh.ca.refuse(&identity, false);
    // The next attempt comes after the back-off; connections wait for it.
    wait::until(
        "a connection after the authority has come round",
        LIMIT,
        || {
            let answer = echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?;
            ensure!(answer == SECRET, "refused");
            Ok(())
        },
    )
}

#[test]
fn sigterm_drains_what_runs_and_refuses_what_is_new() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start_with(2, &[("CONNECTION_TERMINATION_DEADLINE", "20s")])?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut live = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut live, b"one")?, b"one");
    mesh.nodes[0].ztunnel().signal(Signal::SIGTERM)?;
    wait::until("readiness goes", LIMIT, || {
        let answer = process::get(&mesh.nodes[0].net.ns, local(15021), "/healthz/ready")?;
        ensure!(
            answer.status == 500 && answer.body.contains("draining"),
            "{answer:?}"
        );
        Ok(())
    })?;
    wait::until("the listeners close", LIMIT, || {
        ensure!(
            echo::connect(&client.net.ns, server.at(8080)).is_err(),
            "a new connection was accepted"
        );
        Ok(())
    })?;
    assert_eq!(echo::ping(&mut live, b"two")?, b"two");
    assert!(mesh.nodes[0].ztunnel().running());
    drop(live);
    let status = mesh.nodes[0].ztunnel().wait(LIMIT)?;
    assert!(status.success(), "{status}: {}", mesh.nodes[0].log());
    Ok(())
}

#[test]
fn the_drain_deadline_cuts_what_still_runs() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start_with(2, &[("CONNECTION_TERMINATION_DEADLINE", "500ms")])?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut live = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut live, b"one")?, b"one");
    mesh.nodes[1].ztunnel().signal(Signal::SIGTERM)?;
    assert!(ended(&mut live));
    let status = mesh.nodes[1].ztunnel().wait(LIMIT)?;
    assert!(status.success(), "{status}");
    let log = mesh.nodes[1].log();
    assert!(
        log.contains("connection closed due to connection drain"),
        "{log}"
    );
    Ok(())
}

#[test]
fn a_second_ztunnel_takes_over_without_a_refused_connection() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start_with(2, &[("CONNECTION_TERMINATION_DEADLINE", "20s")])?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let ports = [
        ("ADMIN_PORT", "16000"),
        ("STATS_PORT", "16020"),
        ("READINESS_PORT", "16021"),
    ];
    let mut second = mesh.spawn_ztunnel(1, &ports)?;
    second.wait_ready(&mesh.nodes[1].net.ns, local(16021), LIMIT)?;
    mesh.nodes[1].agent.connected(2, LIMIT)?;
    mesh.nodes[1].ztunnel().signal(Signal::SIGTERM)?;
    mesh.nodes[1].agent.connected(1, LIMIT)?;
    for _ in 0..20 {
        assert_eq!(
            echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?,
            SECRET
        );
    }
    let status = mesh.nodes[1].ztunnel().wait(LIMIT)?;
    assert!(status.success(), "{status}");
    assert_eq!(
        echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    assert!(second.running());
    Ok(())
}

#[test]
fn without_a_control_plane_traffic_and_policy_go_on_and_new_ztunnels_wait() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start(2)?;
    let (client, bad) = (mesh.pod(0, "client", "client")?, mesh.pod(0, "bad", "bad")?);
    let server = mesh.pod(1, "server", "server")?;
    mesh.policy("no-bad", Scope::Namespace, Action::Deny, principal("bad"));
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    mesh.ads.refuse(true);
    wait::until_true("streams are cut", LIMIT, || mesh.ads.streams() == 0)?;
    assert_eq!(
        echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    assert!(refused(echo::connect(&bad.net.ns, server.at(8080))?));

    mesh.nodes[0].ztunnel = None;
    let mut waiting = mesh.spawn_ztunnel(0, &[])?;
    let pending = wait::until("readiness answers", LIMIT, || {
        process::get(&mesh.nodes[0].net.ns, local(15021), "/healthz/ready")
    })?;
    assert_eq!(pending.status, 500);
    assert_eq!(
        pending.body,
        "not ready, pending: state manager, workload proxy manager\n"
    );
    assert!(
        echo::connect(&client.net.ns, server.at(8080)).is_err(),
        "it serves before it knows the mesh"
    );
    mesh.ads.refuse(false);
    waiting.wait_ready(&mesh.nodes[0].net.ns, local(15021), LIMIT)?;
    mesh.nodes[0].ztunnel = Some(waiting);
    assert_eq!(
        echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    Ok(())
}

#[test]
fn dump_and_metrics_tell_what_is_known() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.policy(
        "ports",
        Scope::Namespace,
        Action::Deny,
        Match {
            destination_ports: vec![9],
            ..Match::default()
        },
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut live = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut live, SECRET)?, SECRET);

    let node = &mesh.nodes[0];
    let dump = node.dump()?;
    let names: Vec<&str> = dump["workloads"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|w| w["name"].as_str())
        .collect();
    assert_eq!(names, ["client", "server"]);
    assert_eq!(dump["policies"][0]["name"], "ports");
    assert_eq!(
        dump["policies"][0]["rules"][0][0][0]["destinationPorts"][0],
        9
    );
    assert_eq!(dump["certificates"][0]["identity"], client.identity());
    assert_eq!(dump["certificates"][0]["state"], "Available");
    let state = &dump["workloadState"][client.uid()];
    assert_eq!(state["state"], "Up");
    assert_eq!(
        state["connections"]["outbound"][0]["originalDst"],
        server.at(8080).to_string()
    );
    assert!(!dump.to_string().contains("PRIVATE"));

    let labels = [
        "reporter=\"source\"",
        "source_workload=\"client\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    assert_eq!(
        node.metric("istio_tcp_connections_opened_total", &labels)?,
        1.0
    );
    wait::until("bytes of a live connection are counted", LIMIT, || {
        let sent = node.metric("istio_tcp_sent_bytes_total", &labels)?;
        ensure!(sent == SECRET.len() as f64, "{sent}");
        Ok(())
    })?;
    assert_eq!(node.metric("istio_tcp_sockets_open", &["source"])?, 1.0);
    assert_eq!(
        node.metric("workload_manager_active_proxy_count", &[])?,
        1.0
    );
    drop(live);
    wait::until("the end is counted", LIMIT, || {
        ensure!(
            node.metric("istio_tcp_connections_closed_total", &labels)? == 1.0,
            "not yet"
        );
        Ok(())
    })
}

#[test]
fn a_removed_pod_is_cut_and_its_certificate_forgotten() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut live = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut live, b"one")?, b"one");
    mesh.nodes[1].agent.remove(&server.uid())?;
    assert!(ended(&mut live));
    let dump = mesh.nodes[1].dump()?;
    assert_eq!(
        dump["certificates"].as_array().map(Vec::len),
        Some(0),
        "{}",
        dump["certificates"]
    );
    assert_eq!(
        dump["workloadState"].as_object().map(serde_json::Map::len),
        Some(0)
    );
    Ok(())
}

/// Whether an accepted connection ends before a byte came back.
fn refused(stream: std::net::TcpStream) -> bool {
    echo::exchange(stream, b"let me in").map_or(true, |answer| answer.is_empty())
}

/// Whether the peer ends a connection on which nothing is sent, within the read timeout.
fn ended(stream: &mut std::net::TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(read) => read == 0,
        Err(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}
