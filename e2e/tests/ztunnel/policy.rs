//! Authorization: refusals, live connections when policies or workloads change, policies that are missing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use proto::security::{Action, Scope};
use testkit::echo::{self, Behaviour};
use testkit::mesh::{LIMIT, Mesh, principal};
use testkit::wait;

use crate::{SECRET, refused};

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
        refused(&bad.net.ns, server.at(8080)),
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
        echo::ended(&mut cut),
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
        echo::ended(&mut live),
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
        refused(&client.net.ns, server.at(8080)),
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
