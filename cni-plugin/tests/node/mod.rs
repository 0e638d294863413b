//! A node for the tests of the real binaries: directories, the agent as a process, pods as network
//! namespaces, the CNI binary, and a ztunnel that the test plays itself.
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sys::Netns;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;
use zds::Request;
use zds::client::Connection;

/// Long enough for a busy machine; what hangs fails.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits for something, but not for ever.
pub async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, it).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {LIMIT:?}"),
    }
}

/// False, with the reason printed, when we are not root.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        // Past libtest's capture, so that `scripts/test` counts it.
        let _ = writeln!(std::io::stderr(), "skipped: the agent needs root");
    }
    root
}

pub struct Node {
    dir: tempfile::TempDir,
    agent: Option<Child>,
}

/// A pod's namespace, and what the manifests say of it.
pub struct Pod {
    pub name: &'static str,
    pub netns: Netns,
}

impl Pod {
    pub fn new(name: &'static str) -> Self {
        let netns = Netns::create().unwrap();
        let mut up = Command::new("ip");
        let up = netns.enter(|| up.args(["link", "set", "lo", "up"]).status());
        assert!(up.unwrap().unwrap().success());
        Self { name, netns }
    }

    /// A path by which other processes find the namespace too.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }

    /// What nft lists in the namespace.
    pub fn rules(&self) -> String {
        let mut nft = Command::new("nft");
        let out = self
            .netns
            .enter(|| nft.args(["list", "ruleset"]).output())
            .unwrap()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn is_captured(&self) -> bool {
        self.rules().contains("redirect to :15001")
    }

    /// Nothing new is captured, and what is open through ztunnel has its way still.
    pub fn is_eased(&self) -> bool {
        let rules = self.rules();
        !rules.contains("redirect to") && rules.contains("reply goes back to ztunnel")
    }
}

impl Node {
    pub fn new() -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
            agent: None,
        };
        std::fs::create_dir(node.path("manifests")).unwrap();
        node.label(Some("ambient"));
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a manifest, whole at once.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.path("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path("manifests").join(name)).unwrap();
    }

    /// The namespace `shop` with this mode.
    pub fn label(&self, mode: Option<&str>) {
        let label = mode.map(|mode| format!("istio.io/dataplane-mode: {mode}"));
        let label = label.unwrap_or_default();
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{label}}}}}\n"
        );
        self.write("namespace.yaml", &text);
    }

    pub fn pod(&self, name: &str, labels: &str, node: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, namespace: shop, uid: uid-{name}, labels: {{{labels}}}}}\n\
             spec: {{nodeName: {node}, serviceAccountName: sa-{name}}}\n"
        );
        self.write(&format!("pod-{name}.yaml"), &text);
    }

    pub fn agent_command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_cni-agent"));
        let path = |name| self.path(name).display().to_string();
        command
            .env_clear()
            .env("NODE_NAME", "n1")
            .env("AGENT_SOCKET", path("agent.sock"))
            .env("ZTUNNEL_UDS_ADDRESS", path("ztunnel.sock"))
            .env("STATE_DIRECTORY", path("state"))
            .env("MANIFESTS", path("manifests"))
            .env("ADMIN_ADDRESS", "127.0.0.1:0")
            .env("OBJECT_WAIT", "60s")
            .env("ZTUNNEL_WAIT", "60s")
            .env("WITHDRAW_WAIT", "0s")
            .kill_on_drop(true);
        command
    }

    /// Starts the agent and waits until its sockets are there.
    pub async fn start(&mut self, more: &[(&str, &str)]) {
        let mut command = self.agent_command();
        self.agent = Some(command.envs(more.iter().copied()).spawn().unwrap());
        self.until_served().await;
    }

    pub async fn until_served(&self) {
        until(|| {
            let try_socket = |name| sys::seqpacket::Connection::connect(&self.path(name)).is_ok();
            try_socket("agent.sock")
        })
        .await;
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.agent.as_ref().unwrap().id().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for the agent's end; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut agent = self.agent.take().unwrap();
        let end = within("the end of the agent", agent.wait()).await;
        end.unwrap().code()
    }

    pub fn adopt(&mut self, agent: Child) {
        self.agent = Some(agent);
    }

    /// Calls the CNI binary as a runtime would.
    pub async fn cni(&self, verb: &str, pod: &Pod) -> Called {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "causeway-cni",
            "agentSocket": self.path("agent.sock"),
            "excludeNamespaces": ["kube-system"],
            "prevResult": previous(pod),
        });
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={}",
            pod.name
        );
        self.plugin(verb, pod, &args, conf.to_string()).await
    }

    /// An ADD that succeeds, with ztunnel's answer; what ztunnel heard.
    pub async fn add(&self, pod: &Pod, ztunnel: &mut Ztunnel) -> String {
        let called = async {
            let called = self.cni("ADD", pod).await;
            assert!(called.ok, "{called:?}");
            assert_eq!(called.said, previous(pod));
        };
        tokio::join!(called, ztunnel.take(Ok(()))).1
    }

    pub async fn plugin(&self, verb: &str, pod: &Pod, args: &str, stdin: String) -> Called {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_causeway-cni"));
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("c-{}", pod.name))
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let run = async {
            input.write_all(stdin.as_bytes()).await.unwrap();
            drop(input);
            child.wait_with_output().await.unwrap()
        };
        Called::from(within("an answer of the CNI binary", run).await)
    }
}

/// What the CNI binary said.
#[derive(Debug)]
pub struct Called {
    pub ok: bool,
    pub said: Value,
}

impl From<Output> for Called {
    fn from(out: Output) -> Self {
        let said = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
        Self {
            ok: out.status.success(),
            said,
        }
    }
}

impl Called {
    /// The error's code and texts; panics when the call succeeded.
    pub fn error(&self) -> (u64, String, String) {
        assert!(!self.ok, "{self:?}");
        let text = |name: &str| self.said[name].as_str().unwrap().to_owned();
        (
            self.said["code"].as_u64().unwrap(),
            text("msg"),
            text("details"),
        )
    }
}

/// What the plugin before ours has done.
pub fn previous(pod: &Pod) -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": pod.path()}],
        "ips": [{"address": "10.0.0.2/24", "interface": 0}],
    })
}

/// The test's own ztunnel.
pub struct Ztunnel(pub Connection);

impl Ztunnel {
    /// Connects and takes the snapshot; what it named.
    pub async fn connect(node: &Node) -> (Self, Vec<String>) {
        let mut backoff = zds::client::Backoff::new();
        let connect = async {
            loop {
                match Connection::connect(&node.path("ztunnel.sock")).await {
                    Ok(connection) => break connection,
                    // As the real one does: the agent may not be there yet.
                    Err(_) => tokio::time::sleep(backoff.step()).await,
                }
            }
        };
        let mut ztunnel = Self(within("a connection to the agent", connect).await);
        let mut named = Vec::new();
        loop {
            let text = ztunnel.take(Ok(())).await;
            if text == "snapshot" {
                return (ztunnel, named);
            }
            named.push(text);
        }
    }

    /// Takes one request and answers it.
    pub async fn take(&mut self, answer: Result<(), &str>) -> String {
        let text = self.hear().await;
        self.answer(answer).await;
        text
    }

    pub async fn answer(&mut self, answer: Result<(), &str>) {
        self.0.ack(answer.map_err(str::to_owned)).await.unwrap();
    }

    /// Takes one request; the agent waits for the answer.
    pub async fn hear(&mut self) -> String {
        match within("a request of the agent", self.0.next())
            .await
            .unwrap()
        {
            Request::Add { uid, info, netns } => {
                let (info, netns) = (info.unwrap(), Netns::from_fd(netns).unwrap());
                let account = info.service_account;
                let inode = netns.id().ino;
                format!(
                    "add {uid} {}/{} {account} {inode}",
                    info.namespace, info.name
                )
            }
            Request::Keep { uid } => format!("keep {uid}"),
            Request::Del { uid } => format!("del {uid}"),
            Request::SnapshotSent => "snapshot".into(),
        }
    }
}

/// What a ztunnel hears of a pod.
pub fn added(pod: &Pod) -> String {
    let (name, inode) = (pod.name, pod.netns.id().ino);
    format!("add uid-{name} shop/{name} sa-{name} {inode}")
}

/// Waits for a fact, but not for ever.
pub async fn until(mut fact: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !fact() {
        assert!(
            tokio::time::Instant::now() < end,
            "it does not come within {LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
