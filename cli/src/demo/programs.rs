//! How the demo starts each real binary: which settings, which namespace, which files. The settings are
//! those of docs/configuration.md; nothing here is known only to the demo.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plan::{self, App, ECHO_PORT, HTTP_PORT, HUB, NAMESPACE, NODES, Node, PODS, Paths, Pod};
use super::process::Program;

/// Readiness port of ztunnel and waypoint.
const READY: u16 = 15021;
/// Admin port of the control plane, which answers readiness too.
const CONTROL_ADMIN: u16 = 15014;
/// Port of the control plane's TLS listener.
const CONTROL_PORT: u16 = 15012;

/// The port on which a process answers `/healthz/ready`, inside its namespace.
pub fn ready_port(process: &str) -> u16 {
    if process == "control-plane" {
        CONTROL_ADMIN
    } else {
        READY
    }
}

/// The socket of a node's agent, on which the CNI plugin asks.
pub fn agent_socket(paths: &Paths, node: &Node) -> PathBuf {
    paths.of(node.name).join("agent.sock")
}

/// Writes tokens and directories that the binaries expect.
///
/// # Errors
/// When a file cannot be written.
pub fn write_files(paths: &Paths) -> Result<()> {
    fs::create_dir_all(paths.control_plane())?;
    let mut tokens = String::new();
    for node in &NODES {
        fs::create_dir_all(paths.of(node.name))?;
        let token = random_token()?;
        private(&paths.of(node.name).join("token"), &token)?;
        tokens.push_str(&format!(
            "{token} istio-system/ztunnel node={}\n",
            node.name
        ));
    }
    for pod in PODS.iter().filter(|p| p.app == App::Waypoint) {
        fs::create_dir_all(paths.of(pod.name))?;
        let token = random_token()?;
        private(&paths.of(pod.name).join("token"), &token)?;
        tokens.push_str(&format!("{token} {NAMESPACE}/{}\n", pod.name));
    }
    private(&paths.control_plane().join("tokens"), &tokens)
}

/// The control plane, on the hub.
pub fn control_plane(binaries: &Path, paths: &Paths) -> Program {
    let state = paths.control_plane();
    Program {
        name: "control-plane".to_owned(),
        binary: binaries.join("control-plane"),
        arguments: Vec::new(),
        environment: settings(&[
            ("MANIFESTS", show(&paths.manifests())),
            ("CA_DIR", show(&state)),
            ("TOKENS_FILE", show(&state.join("tokens"))),
            ("XDS_LISTEN", format!("{HUB}:{CONTROL_PORT}")),
            (
                "SERVER_NAMES",
                format!("istiod.istio-system.svc,localhost,{HUB}"),
            ),
        ]),
        netns: plan::hub_netns(),
        log: paths.log("control-plane"),
    }
}

/// A node's agent.
pub fn agent(binaries: &Path, paths: &Paths, node: &Node) -> Program {
    Program {
        name: format!("cni-agent-{}", node.name),
        binary: binaries.join("cni-agent"),
        arguments: Vec::new(),
        environment: settings(&[
            ("NODE_NAME", node.name.to_owned()),
            ("MANIFESTS", show(&paths.manifests())),
            ("AGENT_SOCKET", show(&agent_socket(paths, node))),
            (
                "ZTUNNEL_UDS_ADDRESS",
                show(&paths.of(node.name).join("ztunnel.sock")),
            ),
            ("STATE_DIRECTORY", show(&paths.of(node.name).join("agent"))),
        ]),
        netns: node.netns(),
        log: paths.log(&format!("cni-agent-{}", node.name)),
    }
}

/// A node's ztunnel.
pub fn ztunnel(binaries: &Path, paths: &Paths, node: &Node) -> Program {
    Program {
        name: format!("ztunnel-{}", node.name),
        binary: binaries.join("ztunnel"),
        arguments: vec!["proxy".to_owned(), "ztunnel".to_owned()],
        environment: settings(&[
            ("NODE_NAME", node.name.to_owned()),
            ("POD_NAME", format!("ztunnel-{}", node.name)),
            ("POD_NAMESPACE", "istio-system".to_owned()),
            ("SERVICE_ACCOUNT", "ztunnel".to_owned()),
            ("INSTANCE_IP", node.address.to_string()),
            ("XDS_ADDRESS", control_address()),
            ("CA_ADDRESS", control_address()),
            ("XDS_ROOT_CA", root_certificate(paths)),
            ("CA_ROOT_CA", root_certificate(paths)),
            ("AUTH_TOKEN", show(&paths.of(node.name).join("token"))),
            ("INPOD_UDS", show(&paths.of(node.name).join("ztunnel.sock"))),
            ("RUST_LOG", "info".to_owned()),
        ]),
        netns: node.netns(),
        log: paths.log(&format!("ztunnel-{}", node.name)),
    }
}

/// A waypoint, inside its pod.
pub fn waypoint(binaries: &Path, paths: &Paths, pod: &Pod) -> Program {
    Program {
        name: pod.name.to_owned(),
        binary: binaries.join("waypoint"),
        arguments: vec!["proxy".to_owned(), "waypoint".to_owned()],
        environment: settings(&[
            ("POD_NAME", pod.name.to_owned()),
            ("POD_NAMESPACE", NAMESPACE.to_owned()),
            ("SERVICE_ACCOUNT", pod.name.to_owned()),
            ("INSTANCE_IP", pod.address.to_string()),
            ("GATEWAY_NAME", pod.name.to_owned()),
            // The demo ends as a whole: nobody has to be sent elsewhere first.
            ("MINIMUM_DRAIN_DURATION", "0s".to_owned()),
            ("XDS_ADDRESS", control_address()),
            ("CA_ADDRESS", control_address()),
            ("XDS_ROOT_CA", root_certificate(paths)),
            ("CA_ROOT_CA", root_certificate(paths)),
            ("AUTH_TOKEN", show(&paths.of(pod.name).join("token"))),
        ]),
        netns: pod.netns(),
        log: paths.log(pod.name),
    }
}

/// What runs in an application pod; nothing in a client.
pub fn application(binaries: &Path, paths: &Paths, pod: &Pod) -> Option<Program> {
    let (kind, port) = match pod.app {
        App::Client | App::Waypoint => return None,
        App::Http => ("http", HTTP_PORT),
        App::Broken => ("broken", HTTP_PORT),
        App::Echo => ("echo", ECHO_PORT),
    };
    let arguments = ["demo", "app", kind, "--name", pod.name, "--port"];
    Some(Program {
        name: pod.name.to_owned(),
        binary: binaries.join("causeway"),
        arguments: arguments
            .iter()
            .map(|a| (*a).to_owned())
            .chain([port.to_string()])
            .collect(),
        environment: Vec::new(),
        netns: pod.netns(),
        log: paths.log(pod.name),
    })
}

fn control_address() -> String {
    format!("https://{HUB}:{CONTROL_PORT}")
}

fn root_certificate(paths: &Paths) -> String {
    show(&paths.control_plane().join("root-cert.pem"))
}

fn settings(pairs: &[(&str, String)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// 128 bits from the kernel, in hex.
fn random_token() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("write {}", path.display()))
}
