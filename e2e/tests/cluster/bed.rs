//! The cluster that the cases share: started once by e2e/kube's scripts, ended when the process ends. All commands run in
//! the network namespace of its control plane, from where pods, services and the API server can be reached.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// A running cluster.
pub struct Bed {
    /// State, certificates, logs.
    directory: PathBuf,
    /// Kubernetes' own programs.
    programs: PathBuf,
    prefix: String,
    /// Somebody else's, who ends it.
    borrowed: bool,
}

/// Namespace of the mesh's own objects.
pub const SYSTEM: &str = "istio-system";

static SHARED: Mutex<Option<Bed>> = Mutex::new(None);

/// Why no cluster can be had here, if so.
pub fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root is needed".into());
    }
    let programs = match programs() {
        Ok(programs) => programs,
        Err(error) => return Some(format!("{error:#}")),
    };
    let wanted = [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubectl",
        "helm",
        "coredns",
        "pause",
    ];
    for name in wanted {
        if !programs.join(name).exists() {
            return Some(format!("{name} is not built (e2e/kube/build makes it)"));
        }
    }
    for variable in ["IMAGES", "POD"] {
        if env::var_os(variable).is_none() {
            return Some(format!(
                "{variable} is not set (`make e2e-cluster` sets it)"
            ));
        }
    }
    for name in ["containerd", "runc"] {
        if !["/usr/bin", "/usr/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(name).exists())
        {
            return Some(format!(
                "{name} is missing (apt-get install containerd runc containernetworking-plugins)"
            ));
        }
    }
    None
}

/// The cluster, started by the first who asks.
pub fn shared() -> Result<MutexGuard<'static, Option<Bed>>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_none() {
        *shared = Some(Bed::start()?);
    }
    Ok(shared)
}

/// Ends the cluster, if there is one; its logs stay when `keep` says so.
pub fn end() {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
}

fn programs() -> Result<PathBuf> {
    let where_ = Command::new(scripts().join("build"))
        .arg("--where")
        .output()?;
    ensure!(
        where_.status.success(),
        "e2e/kube/build --where: {}",
        text(&where_.stderr)
    );
    Ok(text(&where_.stdout).trim().into())
}

fn charts() -> Result<PathBuf> {
    let given = env::var_os("CHARTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/causeway"),
        PathBuf::from,
    );
    ensure!(given.exists(), "{} is missing", given.display());
    Ok(given)
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kube")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Bed {
    /// A new one; or the running one of CLUSTER_DIRECTORY and CLUSTER_PREFIX (T and P of e2e/kube's scripts).
    fn start() -> Result<Bed> {
        if let (Some(directory), Ok(prefix)) =
            (env::var_os("CLUSTER_DIRECTORY"), env::var("CLUSTER_PREFIX"))
        {
            return Ok(Bed {
                directory: directory.into(),
                programs: programs()?,
                prefix,
                borrowed: true,
            });
        }
        let directory = tempfile::Builder::new()
            .prefix("cluster.")
            .tempdir()?
            .keep();
        let prefix = format!("cw{}", std::process::id());
        let bed = Bed {
            directory,
            programs: programs()?,
            prefix,
            borrowed: false,
        };
        for script in ["images.sh", "warm.sh", "up.sh"] {
            bed.script(script, &[])?;
        }
        let first = bed.begin_script("node.sh", &["1"])?;
        bed.script("node.sh", &["2"])?;
        let first = first.wait_with_output()?;
        ensure!(first.status.success(), "node.sh 1: {}", text(&first.stderr));
        bed.script("base.sh", &[])?;
        Ok(bed)
    }

    fn script_command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg(scripts().join(name)).args(arguments);
        command
            .env("T", &self.directory)
            .env("P", &self.prefix)
            .env("BIN", &self.programs);
        command.env("WARM", self.directory.join("warm"));
        command.stdin(Stdio::null());
        command
    }

    fn begin_script(&self, name: &str, arguments: &[&str]) -> Result<std::process::Child> {
        let mut command = self.script_command(name, arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("e2e/kube/{name}"))
    }

    /// Something of the cluster's own files.
    pub fn state(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// One of e2e/kube's scripts, to its end.
    pub fn script(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let output = self.script_command(name, arguments).output()?;
        ensure!(
            output.status.success(),
            "e2e/kube/{name}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// One of Kubernetes' own programs, or of those that test it.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A program in the namespace of the control plane.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}-cp", self.prefix));
        let ours = self.programs.join(program);
        command.arg(if ours.exists() { ours } else { program.into() });
        command
            .env("KUBECONFIG", self.directory.join("pki/admin.conf"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(program).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "{program} {}: {}{}",
            arguments.join(" "),
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// kubectl; what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments)
    }

    /// helm; what it printed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.run("helm", arguments)
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let path = self.directory.join("apply.yaml");
        fs::write(&path, manifests)?;
        self.kubectl(&["apply", "-f", path.to_str().context("a path of ours")?])
            .map(drop)
    }

    /// A command in a pod, `namespace/pod`.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<Output> {
        let (namespace, pod) = pod.split_once('/').context("namespace/pod")?;
        Ok(self
            .command("kubectl")
            .args(["exec", "-n", namespace, pod, "--"])
            .args(command)
            .output()?)
    }

    /// Waits until the rollout of a workload such as `ds/ztunnel` is complete.
    pub fn rollout(&self, namespace: &str, workload: &str) -> Result<()> {
        self.kubectl(&[
            "rollout",
            "status",
            "-n",
            namespace,
            workload,
            "--timeout=90s",
        ])
        .map(drop)
    }

    /// Waits until every pod of a namespace is ready.
    pub fn ready(&self, namespace: &str) -> Result<()> {
        let wait = ["wait", "-n", namespace, "--for=condition=Ready", "pod"];
        self.kubectl(&[&wait[..], &["--all", "--timeout=90s"]].concat())
            .map(drop)
    }

    /// Waits until a Gateway has its waypoint.
    pub fn programmed(&self, namespace: &str, gateway: &str) -> Result<()> {
        let gateway = format!("gateway/{gateway}");
        let wait = ["wait", "-n", namespace, &gateway];
        let until = ["--for=condition=Programmed", "--timeout=60s"];
        self.kubectl(&[&wait[..], &until].concat()).map(drop)
    }

    /// Our mesh from our charts, with further arguments of helm.
    pub fn install(&self, further: &[&str]) -> Result<()> {
        self.chart("install", further)
    }

    /// Other values for the installed mesh; those of earlier upgrades do not stay.
    pub fn upgrade(&self, further: &[&str]) -> Result<()> {
        self.chart("upgrade", further)
    }

    fn chart(&self, verb: &str, further: &[&str]) -> Result<()> {
        let chart = charts()?;
        let chart = chart.to_str().context("a path of ours")?;
        let images = "global.hub=e2e.local,global.tag=1";
        let mut arguments = vec![verb, "causeway", chart, "-n", SYSTEM, "--set", images];
        if verb == "install" {
            arguments.push("--create-namespace");
        }
        arguments.extend(further);
        self.helm(&arguments).map(drop)
    }

    /// Our mesh, installed by whoever needs it first.
    pub fn meshed(&self) -> Result<()> {
        if !self
            .helm(&["list", "-n", SYSTEM, "-q"])?
            .contains("causeway")
        {
            self.install(&[])?;
        }
        for workload in [
            "deploy/causeway-control-plane",
            "ds/istio-cni-node",
            "ds/ztunnel",
        ] {
            self.rollout(SYSTEM, workload)?;
        }
        Ok(())
    }

    /// No mesh of ours, whoever installed one.
    pub fn gone(&self) -> Result<()> {
        if self
            .helm(&["list", "-n", SYSTEM, "-q"])?
            .contains("causeway")
        {
            self.uninstall()?;
        }
        Ok(())
    }

    /// As docs/operations.md says.
    pub fn uninstall(&self) -> Result<()> {
        let uninstall = ["uninstall", "causeway", "-n", SYSTEM];
        self.helm(&[&uninstall[..], &["--wait", "--timeout", "5m"]].concat())
            .map(drop)
    }

    /// Pods of a namespace, and whether each says that it is captured.
    pub fn captured(&self, namespace: &str) -> Result<Vec<(String, bool)>> {
        let path = r#"jsonpath={range .items[*]}{.metadata.name}={.metadata.annotations.ambient\.istio\.io/redirection}{"\n"}{end}"#;
        let pods = self.kubectl(&["get", "pod", "-n", namespace, "-o", path])?;
        let pods: Vec<_> = pods
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        ensure!(!pods.is_empty(), "no pods in {namespace}");
        Ok(pods
            .into_iter()
            .map(|(pod, state)| (pod.to_owned(), state == "enabled"))
            .collect())
    }

    /// The cluster address of a service.
    pub fn service_address(&self, namespace: &str, name: &str) -> Result<String> {
        self.kubectl(&[
            "get",
            "service",
            "-n",
            namespace,
            name,
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])
    }

    /// Begins a command in a pod, `namespace/pod`.
    pub fn begin_exec(&self, pod: &str, command: &[&str]) -> Result<std::process::Child> {
        let (namespace, pod) = pod.split_once('/').context("namespace/pod")?;
        let mut exec = self.command("kubectl");
        exec.args(["exec", "-n", namespace, pod, "--"])
            .args(command);
        Ok(exec.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// The address of the pod with a label on a node.
    pub fn pod_address(&self, namespace: &str, label: &str, node: &str) -> Result<String> {
        let field = format!("spec.nodeName={node}");
        let path = "jsonpath={.items[0].status.podIP}";
        let address = self.kubectl(&[
            "get",
            "pod",
            "-n",
            namespace,
            "-l",
            label,
            "--field-selector",
            &field,
            "-o",
            path,
        ])?;
        ensure!(
            !address.is_empty(),
            "no pod {label} in {namespace} on {node} has an address"
        );
        Ok(address)
    }

    /// The network namespace of a node.
    pub fn node_namespace(&self, number: usize) -> PathBuf {
        format!("/run/netns/{}-node{number}", self.prefix).into()
    }

    /// A command on a node; what it printed.
    pub fn on_node(&self, number: usize, command: &[&str]) -> Result<String> {
        stdout(self.node_command(number, command)?.output()?)
    }

    /// A command on a node, in all of its namespaces.
    pub fn node_command(&self, number: usize, command: &[&str]) -> Result<Command> {
        let mut entered = Command::new("nsenter");
        entered
            .args(["-t", &self.node(number)?.to_string()])
            .args(["--mount", "--net", "--uts", "--pid"])
            .args(command)
            .stdin(Stdio::null());
        Ok(entered)
    }

    /// The pid of a node's pid 1 as seen here: to look into its namespaces.
    pub fn node(&self, number: usize) -> Result<u32> {
        let pid = fs::read_to_string(self.directory.join(format!("run/node{number}.pid")))?;
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim()))?;
        Ok(children
            .split_whitespace()
            .next()
            .context("the node is gone")?
            .parse()?)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.borrowed {
            return;
        }
        let _best_effort = self.script("down.sh", &[]);
        if env::var_os("KEEP").is_none() {
            let _best_effort = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Asks until the answer is there.
///
/// # Errors
/// The last refusal, when the time is over.
pub fn until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => bail!("not within {limit:?}: {what}: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Standard output of a command that must have succeeded.
pub fn stdout(output: Output) -> Result<String> {
    if !output.status.success() {
        return Err(anyhow!("{}{}", text(&output.stdout), text(&output.stderr)));
    }
    Ok(text(&output.stdout))
}
