//! A whole mesh for a test: nodes with a real ztunnel each, pods, and a control plane that the test scripts. Joins the
//! other parts of this crate; used by the tests in `e2e`.

mod content;
mod node;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub use self::content::{Pod, principal};
pub use self::node::{Node, local};

use crate::ads::Ads;
use crate::authority::{self, Authority};
use crate::ca::TestCa;
use crate::process::{self, Process};
use crate::topology::Topology;
use crate::zds::Agent;

/// Long enough for a busy machine; a test that hangs ends with a sentence.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Namespace of all pods.
pub const NAMESPACE: &str = "app";
/// Of each ztunnel's log, shown when a test fails.
const LOG_LINES: usize = 60;

/// Dropped in this order: processes before the namespaces that they live in.
pub struct Mesh {
    /// The nodes, in the order of their numbers.
    pub nodes: Vec<Node>,
    /// The control plane.
    pub ads: Ads,
    /// The certificate authority.
    pub ca: TestCa,
    _authority: Authority,
    /// The network.
    pub topology: Topology,
    /// Print the ends of the ztunnels' logs when it is dropped: the harness shows what a test printed only when it failed.
    pub tells: bool,
    dir: TempDir,
}

impl Mesh {
    /// `nodes` nodes, each with a ready ztunnel.
    pub fn start(nodes: usize) -> Result<Self> {
        Self::start_with(nodes, &[])
    }

    /// With more settings for each ztunnel.
    pub fn start_with(nodes: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let mut mesh = Self::without_ztunnels(nodes, settings)?;
        for index in 0..nodes {
            mesh.start_ztunnel(index)?;
        }
        Ok(mesh)
    }

    /// Everything but the ztunnels.
    pub fn without_ztunnels(nodes: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let topology = Topology::new()?;
        let dir = tempfile::tempdir()?;
        let ca = TestCa::new("cluster.local");
        let control = topology.control_ip();
        let listen = |port| topology.control().listen(SocketAddr::new(control, port));
        let ads = Ads::start(
            listen(15012)?,
            authority::tls(&ca, &[&control.to_string()])?,
        )?;
        let authority = Authority::start(listen(15013)?, &ca)?;
        let root = dir.path().join("root.pem");
        std::fs::write(&root, ca.roots_pem())?;
        let mut mesh = Self {
            nodes: Vec::new(),
            ads,
            ca,
            _authority: authority,
            topology,
            tells: true,
            dir,
        };
        for index in 0..nodes {
            let node = mesh.node(index, &root, settings)?;
            mesh.nodes.push(node);
        }
        Ok(mesh)
    }

    fn node(&self, index: usize, root: &Path, settings: &[(&str, &str)]) -> Result<Node> {
        let socket = self.dir.path().join(format!("node{index}/ztunnel.sock"));
        let control = self.topology.control_ip();
        let (root, socket_text) = (root.display().to_string(), socket.display().to_string());
        let (xds, ca) = (
            format!("https://{control}:15012"),
            format!("https://{control}:15013"),
        );
        let node = format!("node{index}");
        let fixed = [
            ("NODE_NAME", node.as_str()),
            ("INPOD_UDS", &socket_text),
            ("XDS_ADDRESS", &xds),
            ("CA_ADDRESS", &ca),
            ("XDS_ROOT_CA", &root),
            ("CA_ROOT_CA", &root),
            ("AUTH_TOKEN", "test-token"),
            ("POD_NAME", "ztunnel-test"),
            ("POD_NAMESPACE", "istio-system"),
            ("ZTUNNEL_WORKER_THREADS", "2"),
            ("RUST_LOG", "info,access=debug"),
        ];
        let all = fixed
            .iter()
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment = all.collect();
        Ok(Node {
            ztunnel: None,
            agent: Agent::start(&socket)?,
            net: self.topology.node()?,
            environment,
        })
    }

    /// Starts the node's ztunnel and waits until it is ready.
    pub fn start_ztunnel(&mut self, index: usize) -> Result<()> {
        let mut process = self.spawn_ztunnel(index, &[])?;
        process.wait_ready(&self.nodes[index].net.ns, local(15021), LIMIT)?;
        self.nodes[index].ztunnel = Some(process);
        Ok(())
    }

    /// Starts a new node agent that knows exactly `pods`. Stop the old one before.
    ///
    /// # Errors
    /// When the socket is still taken.
    pub fn restart_agent(&mut self, index: usize, pods: &[&Pod]) -> Result<()> {
        let socket = self.dir.path().join(format!("node{index}/ztunnel.sock"));
        let list = pods.iter().map(|pod| (pod.uid(), &pod.net, pod.info()));
        self.nodes[index].agent = Agent::start_with(&socket, list)?;
        Ok(())
    }

    /// As [`Mesh::spawn_ztunnel`], with what a container of upstream's DaemonSet may do: three capabilities, group 1337,
    /// nothing to write at `/` and `/proc/sys`.
    pub fn spawn_confined_ztunnel(
        &self,
        index: usize,
        settings: &[(&str, &str)],
    ) -> Result<Process> {
        const CONFINE: &str = "mount --make-rprivate / && mount --bind /proc/sys /proc/sys \
            && mount -o remount,bind,ro /proc/sys && mount -o remount,bind,ro / \
            && exec setpriv --regid 1337 --clear-groups --inh-caps=-all \
               --bounding-set=-all,+net_admin,+sys_admin,+net_raw \"$@\"";
        let binary = process::binary("ztunnel")?;
        let binary = binary.to_str().context("a path in UTF-8")?;
        let arguments = [
            "--mount", "sh", "-c", CONFINE, "sh", binary, "proxy", "ztunnel",
        ];
        self.spawn(index, settings, (Path::new("/usr/bin/unshare"), &arguments))
    }

    /// Starts one more ztunnel on the node, with other settings, and waits for nothing.
    pub fn spawn_ztunnel(&self, index: usize, settings: &[(&str, &str)]) -> Result<Process> {
        let binary = process::binary("ztunnel")?;
        self.spawn(index, settings, (&binary, &["proxy", "ztunnel"]))
    }

    fn spawn(
        &self,
        index: usize,
        settings: &[(&str, &str)],
        (program, arguments): (&Path, &[&str]),
    ) -> Result<Process> {
        let node = &self.nodes[index];
        let log = self
            .dir
            .path()
            .join(format!("node{index}-{}.log", settings.len()));
        let mut environment = node.environment.clone();
        environment.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        Process::start(&node.net.ns, program, arguments, &environment, &log)
    }

    /// Waits until every ztunnel that runs has applied all that was pushed.
    pub fn settle(&self) -> Result<()> {
        let running = self
            .nodes
            .iter()
            .filter(|node| node.ztunnel.is_some())
            .count();
        self.ads.settled(running, LIMIT)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if !self.tells {
            return;
        }
        let logs = std::fs::read_dir(self.dir.path()).into_iter().flatten();
        for path in logs.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                println!("end of {}:\n{end}", path.display());
            }
        }
    }
}
