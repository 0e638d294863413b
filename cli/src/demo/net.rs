//! The demo's network: namespaces for the hub, the nodes and the pods, wired by veth pairs and bridges.
//! Built through iproute2's `ip`; nothing is made in the caller's own namespace.
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use sys::Netns;

use super::plan::{self, HUB, NODES, Node, Pod};

/// Makes hub, nodes and the wire between them.
///
/// # Errors
/// The `ip` command that failed and what it said.
pub fn build_nodes() -> Result<()> {
    let hub = plan::hub_netns();
    add_netns(&hub)?;
    inside(&hub, &bridge("wire"))?;
    inside(&hub, &format!("addr add {HUB}/24 dev wire"))?;
    inside(&hub, "link set wire up")?;
    for node in NODES {
        let (netns, port) = (node.netns(), format!("to-{}", node.name));
        add_netns(&netns)?;
        inside(
            &hub,
            &format!("link add {port} type veth peer name eth0 netns {netns}"),
        )?;
        inside(&hub, &format!("link set {port} master wire up"))?;
        inside(&netns, &format!("addr add {}/24 dev eth0", node.address))?;
        inside(&netns, "link set eth0 up")?;
        inside(&netns, &bridge("pods"))?;
        inside(&netns, &format!("addr add {}/24 dev pods", node.gateway()))?;
        inside(&netns, "link set pods up")?;
        sysctl(&netns, "net.ipv4.ip_forward", "1")?;
    }
    for node in NODES {
        inside(
            &hub,
            &format!("route add {} via {}", node.cidr(), node.address),
        )?;
        for other in NODES.iter().filter(|o| o.name != node.name) {
            inside(
                &node.netns(),
                &format!("route add {} via {}", other.cidr(), other.address),
            )?;
        }
        inside(&node.netns(), &format!("route add default via {HUB}"))?;
    }
    Ok(())
}

/// A bridge with an address of its own: else it takes the lowest of its ports', and packets of those who know the old
/// one are dropped when a pod comes.
fn bridge(name: &str) -> String {
    format!("link add {name} address 02:00:00:00:00:01 type bridge")
}

/// Makes a pod's namespace and connects it to its node, as a CNI main plugin would have.
///
/// # Errors
/// The `ip` command that failed and what it said.
pub fn build_pod(pod: &Pod) -> Result<()> {
    let (netns, node) = (pod.netns(), pod.on());
    add_netns(&netns)?;
    inside(
        &node.netns(),
        &format!(
            "link add {} type veth peer name eth0 netns {netns}",
            pod.veth()
        ),
    )?;
    inside(
        &node.netns(),
        &format!("link set {} master pods up", pod.veth()),
    )?;
    inside(&netns, &format!("addr add {}/24 dev eth0", pod.address))?;
    inside(&netns, "link set eth0 up")?;
    inside(&netns, &format!("route add default via {}", node.gateway()))
}

/// Deletes every namespace of the demo that is there; the wires go with them. As `ip netns del` does it, but without a
/// child that a signal could end half-way.
///
/// # Errors
/// The first namespace that could not be deleted; the others are deleted nevertheless.
pub fn remove() -> Result<()> {
    let mut fault = None;
    for name in plan::all_netns().into_iter().filter(|n| exists(n)) {
        let path = path(&name);
        // EINVAL: nothing is mounted there, only the file was made.
        let unmounted = match umount2(&path, MntFlags::MNT_DETACH) {
            Err(Errno::EINVAL) => Ok(()),
            done => done.map_err(std::io::Error::from),
        };
        let deleted = unmounted.and_then(|()| std::fs::remove_file(&path));
        if let Err(e) = deleted.with_context(|| format!("delete namespace {name}")) {
            fault.get_or_insert(e);
        }
    }
    fault.map_or(Ok(()), Err)
}

/// Namespaces of the demo that are there now.
pub fn present() -> Vec<String> {
    plan::all_netns()
        .into_iter()
        .filter(|n| exists(n))
        .collect()
}

/// A handle on a namespace of the demo.
///
/// # Errors
/// When it is not there.
pub fn open(netns: &str) -> Result<Netns> {
    Netns::open(&path(netns)).with_context(|| format!("open namespace {netns}"))
}

/// Where `ip netns` keeps a namespace.
pub fn path(netns: &str) -> std::path::PathBuf {
    Path::new("/run/netns").join(netns)
}

/// The interface of a node on the wire, whose packets the demo looks at.
pub fn uplink(node: &Node) -> (String, &'static str) {
    (node.netns(), "eth0")
}

fn exists(netns: &str) -> bool {
    path(netns).exists()
}

fn add_netns(name: &str) -> Result<()> {
    ip(&["netns", "add", name])?;
    inside(name, "link set lo up")
}

fn inside(netns: &str, command: &str) -> Result<()> {
    let mut words = vec!["-n", netns];
    words.extend(command.split_whitespace());
    ip(&words)
}

fn ip(words: &[&str]) -> Result<()> {
    let out = Command::new("ip")
        .args(words)
        // Ctrl-C reaches the demo alone, which finishes what it is at.
        .process_group(0)
        .output()
        .context("run ip (Debian package iproute2)")?;
    if !out.status.success() {
        bail!(
            "ip {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(())
}

fn sysctl(netns: &str, key: &str, value: &str) -> Result<()> {
    let file = Path::new("/proc/sys").join(key.replace('.', "/"));
    open(netns)?
        .enter(|| std::fs::write(&file, value))
        .and_then(|r| r)
        .with_context(|| format!("set {key} in {netns}"))
}
