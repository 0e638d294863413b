//! Plays the container runtime: calls the real CNI binary for each pod, as the CNI specification says
//! (environment, configuration on stdin, result or error on stdout).
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::net;
use super::plan::{NAMESPACE, Pod};

/// Adds (`ADD`) or removes (`DEL`) a pod.
///
/// # Errors
/// What the plugin said: its CNI error object, or what it printed instead.
pub fn call(plugin: &Path, agent_socket: &Path, verb: &str, pod: &Pod) -> Result<Value> {
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "cw-demo",
        "type": "causeway-cni",
        "agentSocket": agent_socket,
        "prevResult": previous_result(pod),
    });
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", pod.container_id())
        .env("CNI_NETNS", net::path(&pod.netns()))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", plugin.parent().unwrap_or(Path::new("/")))
        .env(
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={}",
                pod.name
            ),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C reaches the demo alone: a call that was begun comes to its end.
        .process_group(0)
        .spawn()
        .with_context(|| format!("run {}", plugin.display()))?;
    child
        .stdin
        .take()
        .context("the plugin's stdin")?
        .write_all(config.to_string().as_bytes())?;
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        let error: Value = serde_json::from_str(&said).unwrap_or_default();
        let text = error["msg"].as_str().map_or_else(
            || format!("{said}{}", String::from_utf8_lossy(&out.stderr)),
            |msg| format!("{msg}: {}", error["details"].as_str().unwrap_or("")),
        );
        bail!("CNI {verb} {}: {}", pod.name, text.trim());
    }
    Ok(serde_json::from_str(&said).unwrap_or_default())
}

/// What the main plugin before ours in the chain would have printed.
fn previous_result(pod: &Pod) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": pod.veth()},
            {"name": "eth0", "sandbox": net::path(&pod.netns())},
        ],
        "ips": [{"address": format!("{}/24", pod.address), "gateway": pod.on().gateway(), "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}],
    })
}
