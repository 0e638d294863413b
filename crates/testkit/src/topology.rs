//! Nodes and pods as network namespaces: one underlay bridge, nodes on it, pods on a bridge inside
//! each node, routed as a simple CNI would. Everything is deleted on drop, also after a panic.
//!
//! ```text
//! control 172.30.0.254 ─┐
//! node n  172.30.0.n   ─┴─ underlay bridge;   pod 10.244.n.k ─ cni0 10.244.n.1 (in node n)
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether this process may make namespaces.
///
/// # Errors
/// A sentence that says what is missing.
pub fn supported() -> Result<(), String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err("network namespaces need root".to_owned());
    }
    for binary in ["ip", "nft"] {
        let found = Command::new(binary)
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Err(format!("the `{binary}` command is missing"));
        }
    }
    Ok(())
}

/// What a skipped test returns.
pub trait Skipped {
    /// A success that claims nothing.
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() -> Self {}
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// A named network namespace; deleted on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Hardware address of every bridge. One that is not set is the lowest of the ports', and changes when a port comes:
/// packets of those who know the old one are then dropped until they ask again.
const BRIDGE: &str = "02:00:00:00:00:01";

/// The underlay that joins the nodes, and where a test's control plane lives.
#[derive(Debug)]
pub struct Topology {
    prefix: String,
    underlay: Namespace,
    nodes: AtomicU8,
}

/// A node: a namespace with an address on the underlay and a bridge for its pods.
#[derive(Debug)]
pub struct Node {
    /// The node's own namespace, in which its ztunnel runs.
    pub ns: Namespace,
    /// Address on the underlay.
    pub ip: IpAddr,
    prefix: String,
    index: u8,
    pods: AtomicU8,
}

/// A pod: a namespace with one interface, `eth0`.
#[derive(Debug)]
pub struct Pod {
    /// The pod's namespace.
    pub ns: Namespace,
    /// Its IPv4 address.
    pub ip: IpAddr,
    /// Its IPv6 address.
    pub ip6: IpAddr,
}

impl Namespace {
    fn create(name: String) -> Result<Self> {
        ip(&["netns", "add", &name], "")?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"], "")?;
        Ok(namespace)
    }

    /// The name as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A descriptor of the namespace, as ZDS passes it.
    ///
    /// # Errors
    /// When the namespace has been deleted behind our back.
    pub fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("namespace {}", self.name))
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// With the panic of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.open()?;
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                setns(&fd, CloneFlags::CLONE_NEWNET).context("setns")?;
                Ok(work())
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a detached thread that lives inside the namespace (for servers of a test).
    ///
    /// # Errors
    /// When the namespace cannot be opened.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
        let fd = self.open()?;
        Ok(thread::spawn(move || {
            setns(&fd, CloneFlags::CLONE_NEWNET).expect("an open namespace can be entered by root");
            drop(fd);
            work();
        }))
    }

    /// A listener whose socket belongs to this namespace; it may be used from any thread.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.run(|| TcpListener::bind(address))?
            .with_context(|| format!("bind {address} in {}", self.name))
    }

    /// Runs a command inside the namespace and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, program])
            .args(arguments);
        finish(command, "")
    }

    /// Feeds `rules` to `nft -f -` inside the namespace.
    ///
    /// # Errors
    /// When nft refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "nft", "-f", "-"]);
        finish(command, rules).map(drop)
    }

    /// Runs `ip -n <this> -batch -` with `lines`.
    ///
    /// # Errors
    /// When one of the lines fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        ip(&["-n", &self.name, "-batch", "-"], lines).map(drop)
    }

    /// As [`Namespace::ip`] for the objects of IPv6.
    ///
    /// # Errors
    /// When one of the lines fails.
    pub fn ip6(&self, lines: &str) -> Result<()> {
        ip(&["-6", "-n", &self.name, "-batch", "-"], lines).map(drop)
    }

    /// Sets a `net.*` sysctl of this namespace, given as a path below `/proc/sys/net`.
    ///
    /// # Errors
    /// When the kernel has no such setting.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys/net").join(name);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("sysctl {name}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _best_effort = ip(&["netns", "del", &self.name], "");
    }
}

impl Topology {
    /// An underlay without nodes.
    ///
    /// # Errors
    /// When namespaces or links cannot be made.
    pub fn new() -> Result<Self> {
        sweep();
        let prefix = format!("cw{}-{}", id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let underlay = Namespace::create(format!("{prefix}-net"))?;
        underlay
            .ip(&format!("link add br0 address {BRIDGE} type bridge\nlink set br0 up\naddr add 172.30.0.254/24 dev br0\n"))?;
        Ok(Self {
            prefix,
            underlay,
            nodes: AtomicU8::new(0),
        })
    }

    /// The namespace on the underlay that belongs to no node: control planes and outsiders live here.
    pub fn control(&self) -> &Namespace {
        &self.underlay
    }

    /// The address of [`Topology::control`].
    pub fn control_ip(&self) -> IpAddr {
        Ipv4Addr::new(172, 30, 0, 254).into()
    }

    /// Adds a node; its pods are reachable from every other node.
    ///
    /// # Errors
    /// When links or routes cannot be made, or the ninth node is asked for.
    pub fn node(&self) -> Result<Node> {
        let index = self.nodes.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(index <= 8, "a topology has at most eight nodes");
        let prefix = format!("{}-n{index}", self.prefix);
        let ns = Namespace::create(prefix.clone())?;
        self.underlay.ip(&format!(
            "link add n{index} type veth peer name eth0 netns {}\nlink set n{index} master br0 up\n\
             route add 10.244.{index}.0/24 via 172.30.0.{index}\n",
            ns.name
        ))?;
        let mut lines = format!(
            "addr add 172.30.0.{index}/24 dev eth0\nlink set eth0 up\nroute add default via 172.30.0.254\n\
             link add cni0 address {BRIDGE} type bridge\nlink set cni0 up\naddr add 10.244.{index}.1/24 dev cni0\n\
             addr add fd00:244:{index}::1/64 dev cni0 nodad\naddr add fd00:30::{index}/64 dev eth0 nodad\n"
        );
        for other in (1..=8).filter(|other| *other != index) {
            lines += &format!("route add 10.244.{other}.0/24 via 172.30.0.{other}\n");
            lines += &format!("route add fd00:244:{other}::/64 via fd00:30::{other}\n");
        }
        ns.ip(&lines)?;
        ns.sysctl("ipv4/ip_forward", "1")?;
        ns.sysctl("ipv6/conf/all/forwarding", "1")?;
        Ok(Node {
            ns,
            ip: Ipv4Addr::new(172, 30, 0, index).into(),
            prefix,
            index,
            pods: AtomicU8::new(1),
        })
    }
}

impl Node {
    /// Adds a pod to this node.
    ///
    /// # Errors
    /// When links or routes cannot be made.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let (node, pod) = (self.index, self.pods.fetch_add(1, Ordering::Relaxed) + 1);
        let ns = Namespace::create(format!("{}-{name}", self.prefix))?;
        self.ns.ip(&format!(
            "link add p{pod} type veth peer name eth0 netns {}\nlink set p{pod} master cni0 up\n",
            ns.name
        ))?;
        ns.ip(&format!(
            "addr add 10.244.{node}.{pod}/24 dev eth0\naddr add fd00:244:{node}::{pod:x}/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via 10.244.{node}.1\nroute add default via fd00:244:{node}::1\n"
        ))?;
        Ok(Pod {
            ns,
            ip: Ipv4Addr::new(10, 244, node, pod).into(),
            ip6: Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, pod.into()).into(),
        })
    }
}

/// Deletes namespaces of test processes that were killed before they could drop theirs, and ends what still runs in them
/// (`scripts/sweep` does the same).
fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix("cw")
            .and_then(|rest| rest.split('-').next());
        let Some(pid) = owner.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !PathBuf::from(format!("/proc/{pid}")).exists() {
            end_inside(&name);
            let _best_effort = ip(&["netns", "del", &name], "");
        }
    }
}

/// Kills every process inside a namespace.
fn end_inside(namespace: &str) {
    let pids = ip(&["netns", "pids", namespace], "").unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _may_have_ended = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn ip(arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(arguments);
    finish(command, input)
}

fn finish(mut command: Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    child
        .stdin
        .take()
        .context("the child's input is a pipe")?
        .write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ({input:?}): {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn what_a_killed_test_left_is_swept_with_what_runs_in_it() {
        crate::root_or_skip!();
        // The id of a process that has ended is nobody's.
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let left = Namespace::create(format!("cw{}-0-net", gone.id())).unwrap();
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut running = left.run(|| cat.spawn()).unwrap().unwrap();
        let input = running.stdin.take();
        sweep();
        assert_eq!(running.wait().unwrap().signal(), Some(9));
        assert!(!left.path().exists());
        drop(input);
    }

    #[test]
    fn a_panic_leaves_no_namespace_behind_and_pods_reach_each_other_before() {
        crate::root_or_skip!();
        let names = std::sync::Mutex::new(Vec::new());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let topology = Topology::new().unwrap();
            let (one, two) = (topology.node().unwrap(), topology.node().unwrap());
            let (a, b) = (one.pod("a").unwrap(), two.pod("b").unwrap());
            for ns in [topology.control(), &one.ns, &two.ns, &a.ns, &b.ns] {
                names.lock().unwrap().push(ns.path());
            }
            for to in [b.ip, b.ip6] {
                let listener = b.ns.listen(SocketAddr::new(to, 0)).unwrap();
                let port = listener.local_addr().unwrap().port();
                drop(crate::echo::connect(&a.ns, SocketAddr::new(to, port)).unwrap());
            }
            panic!("as a failing test does");
        }));
        assert!(panicked.is_err());
        let left: Vec<PathBuf> = names
            .into_inner()
            .unwrap()
            .into_iter()
            .filter(|path| path.exists())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
