//! The demo's life: brings everything up in stages, restarts and edits what a line asks for, takes all of
//! it down again. Whatever it made, `down` removes, also after a stage that failed half-way.
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::client::{self, Request};
use super::interrupt::Interrupt;
use super::line::Printer;
use super::plan::{self, App, NODES, PODS, Paths, Pod, vip};
use super::process::{Running, end_all};
use super::{cni, manifests, net, programs};

/// Longest time for one stage.
const STAGE: Duration = Duration::from_secs(20);

/// The running demo.
pub struct Mesh {
    binaries: PathBuf,
    paths: Paths,
    interrupt: Interrupt,
    running: Vec<Running>,
    added: Vec<&'static Pod>,
}

/// Holds the machine's one demo slot until dropped.
///
/// # Errors
/// When another demo runs.
pub fn lock() -> Result<Flock<File>> {
    let path = Paths::standard().lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => {
            anyhow::anyhow!(
                "another demo runs on this machine: end it with Ctrl-C, then start again"
            )
        }
        e => anyhow::anyhow!("lock {}: {e}", path.display()),
    })
}

impl Mesh {
    /// Nothing is made yet.
    pub fn new(binaries: PathBuf, interrupt: Interrupt) -> Self {
        Self {
            binaries,
            paths: Paths::standard(),
            interrupt,
            running: Vec::new(),
            added: Vec::new(),
        }
    }

    /// Brings everything up.
    ///
    /// # Errors
    /// The stage that failed; `down` still has to be called.
    pub fn up(&mut self, printer: &mut Printer) -> Result<()> {
        if !net::present().is_empty() || self.paths.root().exists() {
            printer.stage("leftovers of a demo that was killed are removed", || {
                self.remove_leftovers()
            })?;
        }
        printer.stage("two nodes and the wire between them", || {
            self.write_files()?;
            net::build_nodes()
        })?;
        self.interrupt.check()?;
        printer.stage("control plane", || self.start_control_plane())?;
        printer.stage("ztunnel and cni-agent on each node", || self.start_nodes())?;
        printer.stage("pods added through the CNI plugin", || self.add_pods())?;
        printer.stage("waypoints", || self.start_waypoints())?;
        printer.stage("applications reachable", || self.wait_for_traffic())
    }

    /// Takes everything down, in the order of a node that is drained.
    ///
    /// # Errors
    /// What could not be removed; the rest is removed nevertheless.
    pub fn down(&mut self) -> Result<()> {
        for pod in std::mem::take(&mut self.added) {
            // The plugin undoes its rules; the namespaces are deleted below in any case.
            let _ = cni::call(
                &self.plugin(),
                &programs::agent_socket(&self.paths, pod.on()),
                "DEL",
                pod,
            );
        }
        end_all(&mut self.running);
        let removed = net::remove();
        if self.paths.root().exists() {
            fs::remove_dir_all(self.paths.root())
                .with_context(|| format!("remove {}", self.paths.root().display()))?;
        }
        let _ = fs::remove_file(self.paths.lock());
        removed
    }

    /// The manifests that the running control plane reads.
    pub fn manifests(&self) -> PathBuf {
        self.paths.manifests()
    }

    /// Log of a process by name.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.paths.log(name)).unwrap_or_default()
    }

    /// To wait with.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// A running process by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&mut self, name: &str) -> Result<&mut Running> {
        self.running
            .iter_mut()
            .find(|r| r.name() == name)
            .with_context(|| format!("no process {name} in the demo"))
    }

    /// Fails when any process ended by itself.
    ///
    /// # Errors
    /// Which one, and the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(Running::check)
    }

    /// What a user may try now.
    pub fn summary(&self) -> String {
        format!(
            "The demo stays up until Ctrl-C. Try in another terminal:\n  \
             {causeway} demo exec client -- curl -s http://{reviews}:9080/\n  \
             {causeway} demo exec client -- curl -s -H 'x-user: tester' http://{reviews}:9080/\n  \
             {causeway} demo exec client -- curl -s -X DELETE http://{reviews}:9080/\n  \
             {causeway} demo exec node2 -- curl -s http://localhost:15000/config_dump\n  \
             {causeway} demo exec hub -- curl -s http://localhost:15014/status\n  \
             edit a file in {manifests} and watch it take effect\n  \
             logs: {logs}",
            causeway = self.binaries.join("causeway").display(),
            reviews = vip::REVIEWS,
            manifests = self.paths.manifests().display(),
            logs = self.paths.root().join("log").display(),
        )
    }

    /// Copies the logs to a place that outlives the demo, for a fault's message.
    pub fn keep_logs(&self) -> Option<PathBuf> {
        let kept =
            std::env::temp_dir().join(format!("{}-logs-{}", plan::PREFIX, std::process::id()));
        fs::create_dir_all(&kept).ok()?;
        for entry in fs::read_dir(self.paths.root().join("log")).ok()?.flatten() {
            fs::copy(entry.path(), kept.join(entry.file_name())).ok()?;
        }
        Some(kept)
    }

    fn plugin(&self) -> PathBuf {
        self.binaries.join("causeway-cni")
    }

    fn remove_leftovers(&self) -> Result<()> {
        for netns in net::present() {
            end_processes_of(&netns)?;
        }
        net::remove()?;
        if self.paths.root().exists() {
            fs::remove_dir_all(self.paths.root())?;
        }
        Ok(())
    }

    fn write_files(&self) -> Result<()> {
        let manifests = self.paths.manifests();
        fs::create_dir_all(&manifests).with_context(|| format!("make {}", manifests.display()))?;
        manifests::write_all(&manifests)?;
        programs::write_files(&self.paths)
    }

    fn start_control_plane(&mut self) -> Result<()> {
        self.start(programs::control_plane(&self.binaries, &self.paths))?;
        self.wait_ready("control-plane", &plan::hub_netns())
    }

    fn start_nodes(&mut self) -> Result<()> {
        for node in &NODES {
            self.start(programs::agent(&self.binaries, &self.paths, node))?;
            self.start(programs::ztunnel(&self.binaries, &self.paths, node))?;
        }
        for node in &NODES {
            self.wait_ready(&format!("ztunnel-{}", node.name), &node.netns())?;
        }
        Ok(())
    }

    fn add_pods(&mut self) -> Result<()> {
        for pod in &PODS {
            self.interrupt.check()?;
            net::build_pod(pod)?;
            if let Some(program) = programs::application(&self.binaries, &self.paths, pod) {
                self.start(program)?;
            }
            self.added.push(pod);
            cni::call(
                &self.plugin(),
                &programs::agent_socket(&self.paths, pod.on()),
                "ADD",
                pod,
            )?;
        }
        Ok(())
    }

    fn start_waypoints(&mut self) -> Result<()> {
        for pod in PODS.iter().filter(|p| p.app == App::Waypoint) {
            self.start(programs::waypoint(&self.binaries, &self.paths, pod))?;
        }
        for pod in PODS.iter().filter(|p| p.app == App::Waypoint) {
            self.wait_ready(pod.name, &pod.netns())?;
        }
        Ok(())
    }

    fn wait_for_traffic(&mut self) -> Result<()> {
        let client = plan::the("client").netns();
        for (name, address) in [("reviews", vip::REVIEWS), ("ratings", vip::RATINGS)] {
            let request = Request {
                to: address,
                port: plan::HTTP_PORT,
                method: "GET",
                path: "/",
                host: name,
                headers: &[],
            };
            let mut last = String::from("nothing came back");
            let reached =
                self.interrupt
                    .until(name, STAGE, || match client::http(&client, &request) {
                        Ok(answer) if answer.status == 200 => Some(()),
                        Ok(answer) => {
                            last = format!("answer {}: {}", answer.status, answer.body.trim());
                            None
                        }
                        Err(e) => {
                            last = format!("{e:#}");
                            None
                        }
                    });
            reached.with_context(|| {
                format!("{name} is not reachable from the client pod; last: {last}")
            })?;
        }
        Ok(())
    }

    fn start(&mut self, program: super::process::Program) -> Result<()> {
        self.running.push(program.start()?);
        Ok(())
    }

    fn wait_ready(&mut self, name: &str, netns: &str) -> Result<()> {
        let port = programs::ready_port(name);
        let request = Request {
            to: std::net::Ipv4Addr::LOCALHOST,
            port,
            method: "GET",
            path: "/healthz/ready",
            host: "localhost",
            headers: &[],
        };
        let interrupt = self.interrupt.clone();
        let (mut last, mut ended) = (String::new(), None);
        let process = self.process(name)?;
        let waited = interrupt.until(&format!("{name} ready"), STAGE, || {
            if let Err(e) = process.check() {
                ended = Some(e);
                return Some(());
            }
            match client::http(netns, &request) {
                Ok(answer) if answer.status == 200 => Some(()),
                Ok(answer) => {
                    last = answer.body;
                    None
                }
                Err(_) => None,
            }
        });
        if let Some(e) = ended {
            return Err(e);
        }
        waited
            .map(|_| ())
            .with_context(|| format!("last answer: {}", last.trim()))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // `down` was called unless something panicked.
        if !self.running.is_empty() || !net::present().is_empty() {
            let _ = self.down();
        }
    }
}

/// Ends the processes inside a namespace that an earlier, killed demo left: only ones in the demo's own
/// namespaces are touched.
fn end_processes_of(netns: &str) -> Result<()> {
    let out = std::process::Command::new("ip")
        .args(["netns", "pids", netns])
        .process_group(0)
        .output()
        .context("run ip")?;
    for pid in String::from_utf8_lossy(&out.stdout).split_whitespace() {
        let Ok(pid) = pid.parse() else {
            bail!("`ip netns pids` printed {pid:?}")
        };
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    Ok(())
}
