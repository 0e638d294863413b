//! The agent's settings. Read once by `bin/agent`; the rows become docs/configuration.md. Names are upstream's where they
//! mean the same.
use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use runtime::Settings;

use super::find::Places;
use super::install;
use crate::rules::{self, Writer};
use crate::scope::{self, Scope};

/// What the agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that this agent serves.
    pub node_name: String,
    /// This agent's own pod; `None` outside a cluster.
    pub own_pod: Option<OwnPod>,
    /// Where the CNI binary asks.
    pub agent_socket: PathBuf,
    /// Where ztunnel connects.
    pub zds_socket: PathBuf,
    /// Where the list of pods is kept.
    pub state_directory: PathBuf,
    /// What says which pods and labels there are.
    pub source: Source,
    /// Which of them belong into the mesh.
    pub scope: Scope,
    /// Metrics, readiness.
    pub admin_address: SocketAddr,
    /// Readiness and liveness for the kubelet, if on a port of their own.
    pub probe_address: Option<SocketAddr>,
    /// How long an ADD waits for its pod to become known.
    pub object_wait: Duration,
    /// How long an ADD waits for a ztunnel.
    pub ztunnel_wait: Duration,
    /// How long to wait for an older agent to stop.
    pub takeover_wait: Duration,
    /// How long ztunnel may go on serving a running pod that was taken out.
    pub withdraw_wait: Duration,
    /// What the rules contain.
    pub rules: rules::Options,
    /// By what means they are written.
    pub writer: Writer,
    /// Where the node's own directories are mounted.
    pub places: Places,
    /// In whose network namespace the probes' rule stands; `None`: nowhere.
    pub probes: Option<HostNetns>,
    /// Only takes the mesh off this node.
    pub leave_node: bool,
    /// How the plugin gets into the node's CNI configuration; `None`: not by us.
    pub install: Option<install::Options>,
    /// How logs look.
    pub log_format: runtime::logs::Format,
    /// What is logged.
    pub log_filter: String,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// An API server: that of a kubeconfig file, or that of the cluster which the agent's pod is in.
    Cluster(Option<PathBuf>),
}

/// A pod by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl OwnPod {
    /// The DaemonSet that made it: pods of one are called after it, with a dash and a suffix.
    #[must_use]
    pub fn daemon_set(&self) -> &str {
        self.name
            .rsplit_once('-')
            .map_or(&*self.name, |(set, _)| set)
    }
}

/// The node's network namespace, as this process finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostNetns {
    /// It runs there itself.
    Own,
    /// It is that of process 1 of the node.
    Init,
}

impl Config {
    /// Reads the settings; faults are collected in `s`.
    pub fn read(s: &mut Settings<'_>) -> Self {
        let node_name = s.required(
            "NODE_NAME",
            "the node that this agent serves; pods of others are refused",
        );
        let own_pod = own_pod(s);
        let source = source(s);
        let in_cluster = matches!(source, Source::Cluster(_));
        let sockets = sockets(s);
        let excluded = excluded(s);
        let host = s.path(
            "HOST_MOUNTS",
            "/host",
            "below it the node's /proc and /var/run/netns are mounted",
        );
        let install = install_options(s, in_cluster, (&sockets.0, &excluded, own_pod.as_ref()));
        let [object_wait, ztunnel_wait, takeover_wait, withdraw_wait] = waits(s);
        let (admin_address, probe_address) = addresses(s, in_cluster);
        Self {
            node_name,
            own_pod,
            agent_socket: sockets.0,
            zds_socket: sockets.1,
            state_directory: sockets.2,
            source,
            scope: Scope {
                selectors: selectors(s),
                excluded: excluded.into_iter().collect::<BTreeSet<_>>(),
            },
            admin_address,
            probe_address,
            object_wait,
            ztunnel_wait,
            takeover_wait,
            withdraw_wait,
            rules: options(s),
            writer: writer(s),
            places: Places::new(host),
            probes: probes(s, in_cluster),
            leave_node: s.boolean(
                "LEAVE_NODE",
                false,
                "take the mesh off this node, as an uninstall does, and end: for a node that the DaemonSet does not select any more; with an API server",
            ),
            install,
            log_format: log_format(s),
            log_filter: s.string(
                "RUST_LOG",
                "info",
                "what is logged: a level, or target=level, comma separated",
            ),
        }
    }

    pub(super) fn state_file(&self) -> PathBuf {
        self.state_directory.join("pods.json")
    }
}

fn own_pod(s: &mut Settings<'_>) -> Option<OwnPod> {
    let namespace = s.optional("POD_NAMESPACE", "namespace of the agent's own pod");
    let name = s.optional(
        "POD_NAME",
        "name of the agent's own pod: its like start without an agent, and its DaemonSet tells an upgrade from an uninstall",
    );
    let full = |text: Option<String>| text.filter(|text| !text.is_empty());
    Some(OwnPod {
        namespace: full(namespace)?,
        name: full(name)?,
    })
}

fn source(s: &mut Settings<'_>) -> Source {
    let manifests = s.optional_path(
        "MANIFESTS",
        "directory of Kubernetes manifests to read instead of an API server, read again when it changes",
    );
    let kubeconfig = s.optional_path(
        "KUBECONFIG",
        "file that says which API server, and as whom; not set: that of the cluster, as the pod's service account",
    );
    manifests.map_or(Source::Cluster(kubeconfig), Source::Manifests)
}

/// The agent's socket, ztunnel's, and the directory of the list.
fn sockets(s: &mut Settings<'_>) -> (PathBuf, PathBuf, PathBuf) {
    let run = s.path(
        "CNI_AGENT_RUN_DIR",
        "/run/causeway",
        "the agent's directory, at the same path on the node and here",
    );
    let below = |name: &str| run.join(name).display().to_string();
    (
        s.path(
            "AGENT_SOCKET",
            &below("cni-agent.sock"),
            "where causeway-cni asks; below CNI_AGENT_RUN_DIR when not set",
        ),
        s.path(
            "ZTUNNEL_UDS_ADDRESS",
            "/var/run/ztunnel/ztunnel.sock",
            "where ztunnel connects (its INPOD_UDS)",
        ),
        s.path(
            "STATE_DIRECTORY",
            &below("cni-agent"),
            "where the list of pods is kept across restarts; below CNI_AGENT_RUN_DIR when not set",
        ),
    )
}

fn excluded(s: &mut Settings<'_>) -> Vec<String> {
    let text = s.string(
        "EXCLUDE_NAMESPACES",
        "kube-system",
        "namespaces whose pods are never in the mesh and start without the agent, comma separated",
    );
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn selectors(s: &mut Settings<'_>) -> Option<Vec<scope::Selector>> {
    let text = s.string(
        "AMBIENT_ENABLEMENT_SELECTOR",
        "",
        "YAML list of podSelector and namespaceSelector that put pods into the mesh; empty: the labels of Istio ambient",
    );
    scope::selectors(&text).unwrap_or_else(|why| {
        let allowed = format!("a YAML list of {{podSelector, namespaceSelector}} ({why})");
        s.fault("AMBIENT_ENABLEMENT_SELECTOR", Some(text), &allowed);
        None
    })
}

fn options(s: &mut Settings<'_>) -> rules::Options {
    rules::Options {
        dns: s.boolean(
            "AMBIENT_DNS_CAPTURE",
            true,
            "send the pods' DNS to ztunnel's DNS proxy",
        ),
        ipv6: s.boolean("AMBIENT_IPV6", true, "capture IPv6 too"),
    }
}

fn writer(s: &mut Settings<'_>) -> Writer {
    let nftables = s.boolean(
        "NATIVE_NFTABLES",
        true,
        "write nftables; false: iptables, by the binary of FORCE_IPTABLES_BINARY",
    );
    let binaries = [
        ("", "iptables"),
        ("nft", "iptables-nft"),
        ("legacy", "iptables-legacy"),
    ];
    let binary = s.choice(
        "FORCE_IPTABLES_BINARY",
        "",
        &binaries,
        "which iptables; empty: the one that is called so",
    );
    if nftables {
        Writer::Nftables
    } else {
        Writer::Iptables(binary)
    }
}

fn probes(s: &mut Settings<'_>, in_cluster: bool) -> Option<HostNetns> {
    let wanted = s.optional_boolean(
        "HOST_PROBES",
        "let the node's own processes reach pods of the mesh past their capture, as kubelet's probes need; not set: with an API server",
    );
    let switch = s.boolean(
        "ALLOW_SWITCH_TO_HOST_NS",
        false,
        "the node's network namespace is that of its process 1; false: the agent runs in it",
    );
    wanted.unwrap_or(in_cluster).then_some(if switch {
        HostNetns::Init
    } else {
        HostNetns::Own
    })
}

fn install_options(
    s: &mut Settings<'_>,
    in_cluster: bool,
    (socket, excluded, own): (&std::path::Path, &[String], Option<&OwnPod>),
) -> Option<install::Options> {
    let wanted = s.optional_boolean(
        "INSTALL_PLUGIN",
        "put causeway-cni into the node's CNI configuration and keep it there; not set: with an API server",
    );
    let options = install::Options::read(s, install::entry(socket, excluded, own));
    wanted.unwrap_or(in_cluster).then_some(options)
}

fn waits(s: &mut Settings<'_>) -> [Duration; 4] {
    let seconds = Duration::from_secs;
    [
        s.duration(
            "OBJECT_WAIT",
            seconds(5),
            "how long a pod that starts may be unknown before its start fails",
        ),
        s.duration(
            "ZTUNNEL_WAIT",
            seconds(10),
            "how long a pod that starts waits for a ztunnel before its start fails",
        ),
        s.duration(
            "TAKEOVER_WAIT",
            seconds(10),
            "how long to wait for an older agent on the same sockets to stop",
        ),
        s.duration(
            "WITHDRAW_WAIT",
            seconds(60),
            "how long at most ztunnel goes on serving a running pod that was taken out, while connections through it are open",
        ),
    ]
}

fn addresses(s: &mut Settings<'_>, in_cluster: bool) -> (SocketAddr, Option<SocketAddr>) {
    let admin = s.address(
        "ADMIN_ADDRESS",
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 15014)),
        "metrics, readiness; on a loopback address also log level and quit; [::] is both families",
    );
    let probe = s.optional_parsed(
        "PROBE_ADDRESS",
        "an address with port",
        "/readyz and /healthz for the kubelet; not set: [::]:8000 with an API server, else only ADMIN_ADDRESS",
        |text| text.parse().ok(),
    );
    let usual = in_cluster.then_some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8000)));
    (admin, probe.or(usual))
}

fn log_format(s: &mut Settings<'_>) -> runtime::logs::Format {
    use runtime::logs::Format;
    let formats = [("plain", Format::Plain), ("json", Format::Json)];
    s.choice("LOG_FORMAT", "plain", &formats, "how log lines look")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut s = Settings::from_pairs(pairs);
        let config = Config::read(&mut s);
        s.finish()
            .map(|_| config)
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn only_the_node_name_must_be_set() {
        let config = read(&[("NODE_NAME", "n1")]).unwrap();
        assert!(config.rules.dns && config.rules.ipv6);
        assert_eq!(config.writer, Writer::Nftables);
        assert_eq!(config.source, Source::Cluster(None));
        assert!(config.install.is_some() && config.own_pod.is_none());
        assert_eq!(config.probes, Some(HostNetns::Own));
        assert!(config.scope.excluded.contains("kube-system"));
        assert_eq!(
            read(&[]).unwrap_err(),
            "1 setting is wrong:\n  NODE_NAME is not set: allowed is any text, not empty"
        );
    }

    #[test]
    fn with_manifests_the_node_itself_is_left_alone() {
        let config = read(&[("NODE_NAME", "n1"), ("MANIFESTS", "m")]).unwrap();
        assert_eq!(config.source, Source::Manifests("m".into()));
        assert!(config.install.is_none() && config.probes.is_none());
        assert_eq!(config.probe_address, None);
    }

    #[test]
    fn the_settings_of_upstreams_chart_are_understood() {
        let config = read(&[
            ("NODE_NAME", "n1"),
            ("POD_NAMESPACE", "istio-system"),
            ("POD_NAME", "istio-cni-node-x7k2p"),
            ("CNI_AGENT_RUN_DIR", "/var/run/istio-cni"),
            ("EXCLUDE_NAMESPACES", "kube-system, other,"),
            ("NATIVE_NFTABLES", "false"),
            ("FORCE_IPTABLES_BINARY", "legacy"),
            ("ALLOW_SWITCH_TO_HOST_NS", "true"),
            ("AMBIENT_DNS_CAPTURE", "false"),
            ("AMBIENT_IPV6", "false"),
            (
                "AMBIENT_ENABLEMENT_SELECTOR",
                "- podSelector: {matchLabels: {a: b}}\n",
            ),
        ])
        .unwrap();
        assert_eq!(config.own_pod.unwrap().daemon_set(), "istio-cni-node");
        let socket = PathBuf::from("/var/run/istio-cni/cni-agent.sock");
        assert_eq!(config.agent_socket, socket);
        let excluded: Vec<_> = config.scope.excluded.into_iter().collect();
        assert_eq!(excluded, ["kube-system", "other"]);
        assert_eq!(config.writer, Writer::Iptables("iptables-legacy"));
        assert_eq!(config.probes, Some(HostNetns::Init));
        assert!(!config.rules.dns && !config.rules.ipv6);
        assert!(config.scope.selectors.is_some());
    }

    #[test]
    fn wrong_selectors_are_a_fault_with_the_reason() {
        let yaml = "- podSelector: {matchExpressions: [{key: a, operator: Is}]}";
        let text = read(&[("NODE_NAME", "n1"), ("AMBIENT_ENABLEMENT_SELECTOR", yaml)]).unwrap_err();
        assert!(text.contains("operator \"Is\""), "{text}");
    }
}
