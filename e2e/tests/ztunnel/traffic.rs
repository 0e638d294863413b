//! Bytes on their way: tunnelled, plain, balanced, and what dump, log and metrics say of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use proto::security::{Action, Match, Scope};
use testkit::echo::{self, Behaviour};
use testkit::mesh::{LIMIT, Mesh};
use testkit::wait;

use crate::{SECRET, refused};

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
fn ipv6_is_carried_with_its_source_address() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    let peer = echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let to = SocketAddr::new(server.net.ip6, 8080);
    assert_eq!(
        echo::exchange(echo::connect(&client.net.ns, to)?, SECRET)?,
        SECRET
    );
    assert_eq!(peer.accepted.recv_timeout(LIMIT)?.ip(), client.net.ip6);
    let line = mesh.nodes[1].log_line(&["connection complete", "\"inbound\""])?;
    assert!(line.contains(&format!("dst.hbone_addr={to}")), "{line}");
    Ok(())
}

#[test]
fn pods_of_one_node_reach_each_other() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(1)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(0, "server", "server")?,
    );
    mesh.settle()?;
    let peer = echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    assert_eq!(
        echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    assert_eq!(peer.accepted.recv_timeout(LIMIT)?.ip(), client.net.ip);
    for direction in ["\"inbound\"", "\"outbound\""] {
        mesh.nodes[0].log_line(&["connection complete", direction, &server.identity()])?;
    }
    Ok(())
}

#[test]
fn a_port_where_nobody_listens_is_refused_and_reported() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    assert!(refused(&client.net.ns, server.at(4711)));
    mesh.nodes[1].log_line(&["error", "\"inbound\"", "connection failed", "4711"])?;
    mesh.nodes[0].log_line(&["error", "\"outbound\"", "503"])?;
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
    // Workers report in batches: a dump may be some milliseconds behind.
    let dump = wait::until("the connection in the dump", LIMIT, || {
        let dump = node.dump()?;
        let live = &dump["workloadState"][client.uid()]["connections"]["outbound"][0];
        ensure!(live.is_object(), "not yet");
        Ok(dump)
    })?;
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
