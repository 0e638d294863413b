//! The CNI specification (0.3.0 to 1.1.0) as values: what the container runtime says through
//! environment and stdin, what it may be answered. Pure. Called by `bin/plugin`.
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

mod error;

pub use error::{CniError, Code};

/// Versions of the specification that we speak, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Where the agent listens unless the configuration says otherwise.
pub const AGENT_SOCKET: &str = "/run/causeway/cni-agent.sock";

/// How many seconds to wait for the agent's answer unless the configuration says otherwise.
const TIMEOUT_SECONDS: u64 = 30;

/// The keys of the network configuration that are ours, each with its default and what it means, for the page of
/// settings. The others of [`Conf`] are the specification's.
#[must_use]
pub fn keys() -> [(&'static str, String, &'static str); 4] {
    [
        (
            "agentSocket",
            AGENT_SOCKET.to_owned(),
            "where the node's agent listens (its `AGENT_SOCKET`)",
        ),
        (
            "excludeNamespaces",
            String::new(),
            "pods of these namespaces start without asking the agent",
        ),
        (
            "exemptPods",
            String::new(),
            "list of `namespace` and `daemonSet`: pods of such a DaemonSet start without asking the agent; its own must",
        ),
        (
            "timeoutSeconds",
            TIMEOUT_SECONDS.to_string(),
            "longest wait for the agent's answer",
        ),
    ]
}

/// What the runtime wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A container got its network: put it into the mesh if it belongs there.
    Add(Attachment),
    /// A container goes away. May come twice, and for containers that we never saw.
    Del(Attachment),
    /// Is everything as ADD left it?
    Check(Attachment),
    /// Could an ADD succeed now? Always yes: pods that are exempt start whatever else is away.
    Status,
    /// Forget attachments that the runtime does not know; the agent does that by itself.
    Gc,
    /// Which versions do we speak?
    Version,
}

/// The container that a verb is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS; may be missing for DEL.
    pub netns: Option<PathBuf>,
    /// CNI_IFNAME.
    pub interface: String,
    /// From CNI_ARGS; missing when the runtime is not Kubernetes'.
    pub pod: Option<PodRef>,
}

/// Which pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct PodRef {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
    /// K8S_POD_UID; empty when the runtime does not say.
    #[serde(default)]
    pub uid: String,
}

/// The network configuration on stdin, as far as we read it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    /// Version of the specification that the runtime speaks.
    pub cni_version: String,
    /// Name of the network.
    pub name: String,
    /// What the plugins before us have done; passed through unchanged.
    pub prev_result: Option<Value>,
    /// Where the agent listens.
    pub agent_socket: Option<PathBuf>,
    /// Namespaces whose pods never wait for the agent, so that the node's own parts can start
    /// without it. They are never in the mesh at their start.
    pub exclude_namespaces: Vec<String>,
    /// DaemonSets whose pods never wait for the agent either: its own, or it could never start.
    pub exempt_pods: Vec<ExemptPods>,
    /// How long to wait for the agent's answer; 30 when missing.
    pub timeout_seconds: Option<u64>,
}

/// Pods of one DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExemptPods {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub daemon_set: String,
}

impl ExemptPods {
    /// A DaemonSet's pods are called after it, with a dash and five letters or digits.
    fn has(&self, pod: &PodRef) -> bool {
        let rest = pod.name.strip_prefix(&*self.daemon_set);
        let suffix = rest.and_then(|rest| rest.strip_prefix('-'));
        pod.namespace == self.namespace
            && suffix.is_some_and(|text| {
                text.len() == 5 && text.bytes().all(|b| b.is_ascii_alphanumeric())
            })
    }
}

impl Conf {
    /// Does this pod start without the agent? Told from the configuration alone, so that a node can boot.
    #[must_use]
    pub fn is_exempt(&self, pod: &PodRef) -> bool {
        self.exclude_namespaces.contains(&pod.namespace)
            || self.exempt_pods.iter().any(|exempt| exempt.has(pod))
    }

    /// The pod's addresses, by the plugins before us.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let result = self.prev_result.as_ref();
        let ips = result.and_then(|result| result["ips"].as_array());
        let texts = ips
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["address"].as_str());
        let addresses = texts.filter_map(|text| text.split('/').next()?.parse().ok());
        addresses.collect()
    }

    /// Where to ask.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.agent_socket
            .clone()
            .unwrap_or_else(|| AGENT_SOCKET.into())
    }

    /// How long to wait for the answer.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        // An hour is more than any runtime waits, and never beyond what a clock can hold.
        Duration::from_secs(self.timeout_seconds.unwrap_or(TIMEOUT_SECONDS).min(3600))
    }

    /// The result of an ADD: the previous plugin's, untouched.
    #[must_use]
    pub fn result(&self) -> Value {
        let mut result = self.prev_result.clone().unwrap_or_else(|| json!({}));
        if let Some(object) = result.as_object_mut() {
            object
                .entry("cniVersion")
                .or_insert_with(|| json!(self.cni_version));
        }
        result
    }
}

/// The answer to VERSION.
#[must_use]
pub fn versions(conf: &Conf) -> Value {
    let spoken = if conf.cni_version.is_empty() {
        "1.1.0"
    } else {
        &conf.cni_version
    };
    json!({ "cniVersion": spoken, "supportedVersions": VERSIONS })
}

/// Reads a call.
///
/// # Errors
/// With the specification's code: 4 for the environment, 6 for stdin that is not JSON, 7 for a
/// configuration that makes no sense, 1 for a version that we do not speak.
pub fn parse(env: &dyn Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<(Verb, Conf), CniError> {
    let conf = if stdin.is_empty() {
        Conf::default()
    } else {
        parse_conf(stdin)?
    };
    let verb = match need(env, "CNI_COMMAND")?.as_str() {
        "VERSION" => return Ok((Verb::Version, conf)),
        "STATUS" => Verb::Status,
        "GC" => Verb::Gc,
        "ADD" => Verb::Add(attachment(env, true)?),
        "DEL" => Verb::Del(attachment(env, false)?),
        "CHECK" => Verb::Check(attachment(env, true)?),
        other => {
            let text = format!("CNI_COMMAND={other:?} is not a command of the specification");
            return Err(CniError::new(Code::Environment, text));
        }
    };
    check_version(&conf)?;
    Ok((verb, conf))
}

fn parse_conf(stdin: &[u8]) -> Result<Conf, CniError> {
    let value: Value = serde_json::from_slice(stdin).map_err(|e| {
        CniError::new(Code::Decode, "the network configuration is not JSON").because(e)
    })?;
    let conf: Conf = serde_json::from_value(value).map_err(|e| {
        CniError::new(Code::Configuration, "the network configuration is wrong").because(e)
    })?;
    if conf
        .prev_result
        .as_ref()
        .is_some_and(|result| !result.is_object())
    {
        return Err(CniError::new(
            Code::Configuration,
            "prevResult is not an object",
        ));
    }
    Ok(conf)
}

fn check_version(conf: &Conf) -> Result<(), CniError> {
    if VERSIONS.contains(&conf.cni_version.as_str()) {
        return Ok(());
    }
    let text = format!("cniVersion {:?} is not spoken here", conf.cni_version);
    Err(CniError::new(Code::Version, text).because(format!("supported: {}", VERSIONS.join(", "))))
}

fn need(env: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<String, CniError> {
    let value = env(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| CniError::new(Code::Environment, format!("{name} is not set")))
}

fn attachment(
    env: &dyn Fn(&str) -> Option<String>,
    needs_netns: bool,
) -> Result<Attachment, CniError> {
    let container_id = need(env, "CNI_CONTAINERID")?;
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !container_id.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !container_id.chars().all(word)
    {
        let text = format!("CNI_CONTAINERID={container_id:?} has characters that it may not have");
        return Err(CniError::new(Code::Environment, text));
    }
    let interface = need(env, "CNI_IFNAME")?;
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if interface.len() > 15 || [".", ".."].contains(&&*interface) || interface.contains(bad) {
        let text = format!("CNI_IFNAME={interface:?} is not an interface name");
        return Err(CniError::new(Code::Environment, text));
    }
    let netns = if needs_netns {
        Some(need(env, "CNI_NETNS")?)
    } else {
        env("CNI_NETNS").filter(|path| !path.is_empty())
    };
    let pod = pod(&env("CNI_ARGS").unwrap_or_default());
    Ok(Attachment {
        container_id,
        netns: netns.map(PathBuf::from),
        interface,
        pod,
    })
}

/// `K8S_POD_NAMESPACE=…;K8S_POD_NAME=…`; unknown keys are not ours to judge.
fn pod(args: &str) -> Option<PodRef> {
    let value = |key: &str| {
        let mut pairs = args.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.to_owned())
    };
    let (namespace, name) = (value("K8S_POD_NAMESPACE")?, value("K8S_POD_NAME")?);
    let uid = value("K8S_POD_UID").unwrap_or_default();
    (!namespace.is_empty() && !name.is_empty()).then_some(PodRef {
        namespace,
        name,
        uid,
    })
}

#[cfg(test)]
mod tests;
