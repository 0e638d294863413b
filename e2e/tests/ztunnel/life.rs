//! Processes that come and go: kill, drain, hand-over, a control plane or an authority that is away.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use proto::security::{Action, Scope};
use testkit::echo::{self, Behaviour};
use testkit::mesh::{self, LIMIT, Mesh, local, principal};
use testkit::{process, wait};

use crate::{SECRET, refused};

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
    assert!(echo::ended(&mut live));
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
    assert!(echo::ended(&mut live));
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
    let (to, stop) = (server.at(8080), Arc::new(AtomicBool::new(false)));
    let (counted, failed) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (stop, counted, failed) = (stop.clone(), counted.clone(), failed.clone());
        callers.push(client.net.ns.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let called = TcpStream::connect(to)
                    .map_err(Into::into)
                    .and_then(|stream| echo::exchange(stream, SECRET));
                match called {
                    Ok(answer) if answer == SECRET => drop(counted.fetch_add(1, Ordering::Relaxed)),
                    other => failed
                        .lock()
                        .expect("no holder panics")
                        .push(format!("{other:?}")),
                }
            }
        })?);
    }
    let some_more = |what: &str| {
        let until = counted.load(Ordering::Relaxed) + 50;
        wait::until_true(what, LIMIT, || counted.load(Ordering::Relaxed) >= until)
    };
    some_more("calls before the hand-over")?;
    // Both ends of the path are replaced, one after the other, while calls go on.
    let mut successors = Vec::new();
    for node in [1, 0] {
        let ports = [
            ("ADMIN_PORT", "16000"),
            ("STATS_PORT", "16020"),
            ("READINESS_PORT", "16021"),
        ];
        let mut second = mesh.spawn_ztunnel(node, &ports)?;
        second.wait_ready(&mesh.nodes[node].net.ns, local(16021), LIMIT)?;
        mesh.nodes[node].agent.connected(2, LIMIT)?;
        mesh.nodes[node].ztunnel().signal(Signal::SIGTERM)?;
        mesh.nodes[node].agent.connected(1, LIMIT)?;
        some_more("calls after the hand-over")?;
        let status = mesh.nodes[node].ztunnel().wait(LIMIT)?;
        assert!(status.success(), "{status}");
        some_more("calls without the predecessor")?;
        successors.push(second);
    }
    stop.store(true, Ordering::Relaxed);
    callers
        .into_iter()
        .for_each(|caller| caller.join().expect("callers do not panic"));
    let failed = failed.lock().expect("no holder panics");
    assert!(
        failed.is_empty(),
        "{} of {:?} calls failed: {:?}",
        failed.len(),
        counted,
        failed.first()
    );
    assert!(
        successors
            .iter_mut()
            .all(testkit::process::Process::running)
    );
    Ok(())
}

#[test]
fn a_node_agent_that_comes_back_finds_its_pods_served() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start(2)?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    let extra = mesh.bare_pod(1, "extra", "extra")?;
    mesh.publish(&extra.workload);
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut live = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut live, b"one")?, b"one");
    mesh.nodes[1].agent.stop();
    wait::until("readiness goes with the agent", LIMIT, || {
        let answer = process::get(&mesh.nodes[1].net.ns, local(15021), "/healthz/ready")?;
        ensure!(
            answer.body == "not ready, pending: workload proxy manager\n",
            "{answer:?}"
        );
        Ok(())
    })?;
    assert_eq!(echo::ping(&mut live, b"two")?, b"two");
    assert_eq!(
        echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?,
        SECRET
    );
    // The new agent knows the same pod and one more.
    mesh.restart_agent(1, &[&server, &extra])?;
    mesh.nodes[1].agent.connected(1, LIMIT)?;
    assert_eq!(echo::ping(&mut live, b"three")?, b"three");
    let dump = mesh.nodes[1].dump()?;
    assert_eq!(
        dump["workloadState"].as_object().map(serde_json::Map::len),
        Some(2)
    );
    // And one that does not know it any more: the pod is dropped with the snapshot.
    mesh.nodes[1].agent.stop();
    mesh.restart_agent(1, &[&extra])?;
    assert!(echo::ended(&mut live));
    Ok(())
}

#[test]
fn a_pod_that_comes_again_is_kept_and_one_in_another_namespace_replaces_it() -> Result<()> {
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
    let agent = &mesh.nodes[1].agent;
    agent.add(&server.uid(), &server.net, server.info())?;
    assert_eq!(echo::ping(&mut live, b"two")?, b"two");
    let elsewhere = mesh.bare_pod(1, "server2", "server")?;
    agent.add(&server.uid(), &elsewhere.net, server.info())?;
    assert!(echo::ended(&mut live), "the old namespace is still served");
    Ok(())
}

#[test]
fn a_pod_whose_port_is_taken_is_refused_and_tried_again() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let client = mesh.pod(0, "client", "client")?;
    let server = mesh.bare_pod(1, "server", "server")?;
    mesh.publish(&server.workload);
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let taken = server
        .net
        .ns
        .listen(SocketAddr::from(([0, 0, 0, 0], 15008)))?;
    let refusal = mesh.enrol(&server).expect_err("the port is taken");
    assert!(format!("{refusal:#}").contains("15008"), "{refusal:#}");
    let ready = process::get(&mesh.nodes[1].net.ns, local(15021), "/healthz/ready")?;
    assert_eq!(ready.status, 500, "{}", ready.body);
    assert_eq!(
        mesh.nodes[1].dump()?["workloadState"][server.uid()]["state"],
        "Pending"
    );
    drop(taken);
    wait::until("the next attempt", LIMIT, || {
        let answer = echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?;
        ensure!(answer == SECRET, "refused");
        Ok(())
    })
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

    // A pod that comes now is enrolled, and waits for the mesh to know it: nothing passes, plain or tunnelled.
    let late = mesh.bare_pod(0, "late", "late")?;
    mesh.enrol(&late)?;
    assert!(
        refused(&late.net.ns, server.at(8080)),
        "a pod that nobody knows was let through"
    );
    mesh.nodes[0].log_line(&["\"outbound\"", "unknown workload"])?;

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
    mesh.publish(&late.workload);
    mesh.settle()?;
    assert_eq!(
        echo::exchange(echo::connect(&late.net.ns, server.at(8080))?, SECRET)?,
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
    assert!(echo::ended(&mut live));
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

#[test]
fn operators_change_the_log_level_and_ask_for_the_end() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start(1)?;
    let admin = |mesh: &Mesh, method, path| {
        process::request(&mesh.nodes[0].net.ns, local(15000), method, path)
    };
    assert_eq!(admin(&mesh, "GET", "/logging?level=debug")?.status, 405);
    let answer = admin(&mesh, "POST", "/logging?level=debug")?;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "current log level is debug\n")
    );
    let answer = admin(&mesh, "POST", "/logging?level=loud")?;
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(admin(&mesh, "POST", "/quitquitquit")?.status, 200);
    let status = mesh.nodes[0].ztunnel().wait(LIMIT)?;
    assert!(status.success(), "{status}");
    Ok(())
}
