//! The agent's settings. Read once by `bin/agent`; the rows become docs/configuration.md.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use runtime::Settings;

use crate::rules;
use crate::spec::AGENT_SOCKET;

/// What the agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that this agent serves.
    pub node_name: String,
    /// Where the CNI binary asks.
    pub agent_socket: PathBuf,
    /// Where ztunnel connects.
    pub zds_socket: PathBuf,
    /// Where the list of pods is kept.
    pub state_directory: PathBuf,
    /// Kubernetes manifests that say which pods and labels there are.
    pub manifests: PathBuf,
    /// Readiness and metrics.
    pub admin_address: SocketAddr,
    /// How long an ADD waits for its pod to become known.
    pub object_wait: Duration,
    /// How long an ADD waits for a ztunnel.
    pub ztunnel_wait: Duration,
    /// How long to wait for an older agent to stop.
    pub takeover_wait: Duration,
    /// What the rules contain.
    pub rules: rules::Options,
    /// How logs look.
    pub log_format: runtime::logs::Format,
    /// What is logged.
    pub log_filter: String,
}

impl Config {
    /// Reads the settings; faults are collected in `s`.
    pub fn read(s: &mut Settings<'_>) -> Self {
        use runtime::logs::Format;
        let seconds = Duration::from_secs;
        let formats = [("plain", Format::Plain), ("json", Format::Json)];
        let admin = SocketAddr::from(([0, 0, 0, 0], 15022));
        Self {
            node_name: s.required(
                "NODE_NAME",
                "the node that this agent serves; pods of others are refused",
            ),
            agent_socket: s.path("AGENT_SOCKET", AGENT_SOCKET, "where causeway-cni asks"),
            zds_socket: s.path(
                "ZDS_SOCKET",
                "/var/run/ztunnel/ztunnel.sock",
                "where ztunnel connects (its INPOD_UDS)",
            ),
            state_directory: s.path(
                "STATE_DIRECTORY",
                "/var/lib/causeway/cni-agent",
                "where the list of pods is kept across restarts",
            ),
            manifests: s.path(
                "MANIFESTS",
                "manifests",
                "directory of Kubernetes manifests, read again when it changes",
            ),
            admin_address: s.address(
                "ADMIN_ADDRESS",
                admin,
                "readiness, metrics; on a loopback address also log level and quit",
            ),
            object_wait: s.duration(
                "OBJECT_WAIT",
                seconds(5),
                "how long a pod that starts may be unknown before its start fails",
            ),
            ztunnel_wait: s.duration(
                "ZTUNNEL_WAIT",
                seconds(10),
                "how long a pod that starts waits for a ztunnel before its start fails",
            ),
            takeover_wait: s.duration(
                "TAKEOVER_WAIT",
                seconds(10),
                "how long to wait for an older agent on the same sockets to stop",
            ),
            rules: rules::Options {
                dns: s.boolean(
                    "DNS_CAPTURE",
                    false,
                    "send the pods' DNS to ztunnel's DNS proxy",
                ),
                ipv6: s.boolean("IPV6_ENABLED", true, "capture IPv6 too"),
            },
            log_format: s.choice("LOG_FORMAT", "plain", &formats, "how log lines look"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_name_must_be_set() {
        let mut s = Settings::from_pairs([("NODE_NAME".to_owned(), "n1".to_owned())]);
        let config = Config::read(&mut s);
        let rows = s.finish().unwrap();
        assert_eq!(rows.len(), 13);
        assert!(!config.rules.dns && config.rules.ipv6);
        let mut s = Settings::from_pairs([]);
        Config::read(&mut s);
        let text = s.finish().unwrap_err().to_string();
        assert_eq!(
            text,
            "1 setting is wrong:\n  NODE_NAME is not set: allowed is any text, not empty"
        );
    }
}
