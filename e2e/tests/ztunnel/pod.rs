//! ztunnel with what upstream's DaemonSet gives its container and nothing more: three capabilities, group 1337, a root
//! that cannot be written to.

use super::SECRET;
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use testkit::echo::{self, Behaviour};
use testkit::mesh::{LIMIT, Mesh, local};
use testkit::{process::Process, wait};

/// NET_ADMIN, NET_RAW and SYS_ADMIN, as `/proc/<pid>/status` writes them.
const CAPABILITIES: &str = "0000000000203000";

/// That the confinement holds: otherwise the test would show nothing.
fn confined(ztunnel: &Process) -> Result<()> {
    let path = format!("/proc/{}/status", ztunnel.id());
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        ensure!(field(set) == CAPABILITIES, "{set} {}", field(set));
    }
    ensure!(field("Gid:").starts_with("1337"), "{}", field("Gid:"));
    let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", ztunnel.id()))?;
    for place in ["/", "/proc/sys"] {
        let mut lines = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        // The last mount of a place is the one that is seen.
        let seen = lines.rfind(|fields| fields[1] == place);
        let options = seen.with_context(|| format!("no mount at {place}"))?[3];
        ensure!(
            options.split(',').any(|option| option == "ro"),
            "{place}: {options}"
        );
    }
    Ok(())
}

#[test]
fn what_the_daemonset_grants_is_enough_to_serve_and_to_hand_over() -> Result<()> {
    testkit::root_or_skip!();
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "20s")];
    let mut mesh = Mesh::without_ztunnels(2, &settings)?;
    for node in [0, 1] {
        let mut ztunnel = mesh.spawn_confined_ztunnel(node, &[])?;
        ztunnel.wait_ready(&mesh.nodes[node].net.ns, local(15021), LIMIT)?;
        confined(&ztunnel)?;
        mesh.nodes[node].ztunnel = Some(ztunnel);
    }
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let call = || -> Result<()> {
        let answer = echo::exchange(echo::connect(&client.net.ns, server.at(8080))?, SECRET)?;
        ensure!(answer == SECRET, "{answer:?}");
        Ok(())
    };
    call()?;
    wait::until("the call passed the mesh", LIMIT, || {
        let name = "istio_tcp_connections_opened_total";
        let through = mesh.nodes[0].metric(name, &["mutual_tls"])?;
        ensure!(through > 0.0, "{through} connections");
        Ok(())
    })?;
    let ports = [
        ("ADMIN_PORT", "16000"),
        ("STATS_PORT", "16020"),
        ("READINESS_PORT", "16021"),
    ];
    let mut second = mesh.spawn_confined_ztunnel(0, &ports)?;
    second.wait_ready(&mesh.nodes[0].net.ns, local(16021), LIMIT)?;
    mesh.nodes[0].agent.connected(2, LIMIT)?;
    mesh.nodes[0].ztunnel().signal(Signal::SIGTERM)?;
    let status = mesh.nodes[0].ztunnel().wait(LIMIT)?;
    ensure!(status.success(), "{status}");
    call()
}
