//! Processes that come and go: kill, drain, hand-over, a control plane or an authority that is away.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use proto::security::{Action, Scope};
use testkit::echo::{self, Behaviour};
use testkit::mesh::{self, LIMIT, Mesh, local, principal};
use testkit::{process, wait};

use crate::{SECRET, ended, refused};

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
    assert!(refused(&client.net.ns, server.at(8080)));
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
    assert!(refused(&bad.net.ns, server.at(8080)));

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
