//! The settings: read once from the environment, all faults reported together, then frozen. Names, defaults and
//! meanings are upstream's (docs/configuration.md is generated from what is read here). Called by `main`; each part
//! gets only its own section.

mod control;
mod dns;
mod dump;
mod threads;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime::logs::{self, Format};
use runtime::settings::{Faults, Setting, Settings};
use serde_json::Value;
use sys::socket::Keepalive;

pub use self::control::{Ca, Own, Xds};
pub use self::dns::Dns;
use crate::worker::api;
use crate::worker::listeners::Wanted;

/// All settings of the process.
#[derive(Debug)]
pub struct Config {
    /// The data path.
    pub worker: api::Settings,
    /// Worker threads.
    pub workers: usize,
    /// The sockets of each pod.
    pub listeners: Wanted,
    /// The DNS proxy of each pod.
    pub dns: Dns,
    /// The ZDS socket of the node agent (`INPOD_UDS`).
    pub zds: PathBuf,
    /// Where the mesh's description comes from.
    pub xds: Xds,
    /// Where certificates come from.
    pub ca: Ca,
    /// Where operators look.
    pub admin: Admin,
    /// Own node and name.
    pub own: Own,
    /// Log lines.
    pub logs: Logs,
    /// Time from SIGTERM to the cut of what still runs.
    pub termination: Duration,
    /// These settings as `/config_dump` shows them.
    pub dump: Value,
}

/// Addresses of the HTTP servers.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    /// Dumps and switches, localhost only.
    pub admin: SocketAddr,
    /// Metrics.
    pub stats: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
}

/// How to log.
#[derive(Debug)]
pub struct Logs {
    /// What policies on a dry run would do is told at `info` (`AUTHZ_POLICY_INFO_LOGGING`).
    pub policy_info: bool,
    /// `RUST_LOG`.
    pub filter: String,
    /// `LOG_FORMAT`.
    pub format: Format,
}

impl Config {
    /// Reads everything.
    ///
    /// # Errors
    /// All wrong settings together.
    pub fn read(mut settings: Settings<'_>) -> Result<Self, Faults> {
        let config = Self::read_all(&mut settings);
        settings.finish()?;
        Ok(config)
    }

    /// The rows of docs/configuration.md.
    pub fn documentation() -> Vec<Setting> {
        let mut settings = Settings::from_pairs([]);
        Self::read_all(&mut settings);
        let mut rows: Vec<Setting> = Vec::new();
        // Both clients of the control plane read the token and where they are.
        for row in settings.rows() {
            if rows.iter().all(|known| known.name != row.name) {
                rows.push(row.clone());
            }
        }
        rows
    }

    fn read_all(s: &mut Settings<'_>) -> Self {
        unsupported(s);
        let own = Own::read(s);
        let ipv6 = s.boolean("IPV6_ENABLED", true, "Listen on IPv6 too.");
        let worker = worker(s, &own);
        let workers = threads::read(s);
        let listeners = Wanted {
            ports: worker.ports,
            ipv6,
            mark: worker.mark,
            keepalive: worker.keepalive,
            reuse_port: s.boolean(
                "INPOD_PORT_REUSE",
                true,
                "SO_REUSEPORT on the pods' listeners: several workers, and overlap during an upgrade.",
            ),
        };
        let dns = Dns::read(s, &own, &listeners);
        let zds = s.path(
            "INPOD_UDS",
            "/var/run/ztunnel/ztunnel.sock",
            "The node agent's socket.",
        );
        let xds = Xds::read(s, &own);
        let ca = Ca::read(s, &own);
        let admin = admin(s, ipv6);
        let filter = logs::filter(s, "info", "What is logged.");
        let policy_info = s.boolean(
            "AUTHZ_POLICY_INFO_LOGGING",
            false,
            "Tell at level info, not debug, what policies on a dry run would do.",
        );
        let words = [("plain", Format::Plain), ("json", Format::Json)];
        let format = s.choice("LOG_FORMAT", "plain", &words, "Layout of a log line.");
        let termination = termination(s);
        let mut config = Self {
            worker,
            workers,
            listeners,
            dns,
            zds,
            xds,
            ca,
            admin,
            own,
            logs: Logs {
                policy_info,
                filter,
                format,
            },
            termination,
            dump: Value::Null,
        };
        config.dump = dump::dump(&config);
        config
    }
}

/// What upstream has and this version has not: said at the start, not found out at run time.
fn unsupported(s: &mut Settings<'_>) {
    let only = |text: &str, right: &str| (text == right).then_some(());
    let proxy = s.boolean(
        "ENABLE_PROXY",
        true,
        "Run the HBONE proxies; there is nothing else to run yet.",
    );
    if !proxy {
        s.fault(
            "ENABLE_PROXY",
            Some("false".to_owned()),
            "`true` (this version has no DNS-only mode)",
        );
    }
    s.optional_parsed(
        "PROXY_MODE",
        "`shared`",
        "One ztunnel per node, in-pod capture.",
        |text| only(text, "shared"),
    );
    let off = [
        ("TLS12_ENABLED", "TLS 1.2 as well: not in this version."),
        ("XDS_ON_DEMAND", "On-demand WDS: not in this version."),
        (
            "UNSTABLE_ENABLE_SOCKS5",
            "SOCKS5 entry: not in this version.",
        ),
        ("FAKE_CA", "Self-signed certificates: not in this version."),
    ];
    for (name, meaning) in off {
        s.optional_parsed(
            name,
            "`false` (not supported by this version)",
            meaning,
            |text| only(text, "false"),
        );
    }
    // A list of revoked certificates that is silently not looked at would be worse than a process that does not start;
    // so would the others, which say which mesh this is, whose traffic, and where it is configured from.
    let absent = [
        ("CRL_PATH", "Revoked certificates."),
        (
            "LOCAL_XDS",
            "The mesh as YAML in the setting itself; LOCAL_XDS_PATH takes a file.",
        ),
        (
            "PROXY_WORKLOAD_INFO",
            "The one workload of the dedicated mode.",
        ),
        (
            "PROXY_CONFIG",
            "Mesh-wide proxy settings; each has a setting of its own here.",
        ),
    ];
    for (name, meaning) in absent {
        s.optional_parsed(
            name,
            "nothing (not supported by this version)",
            meaning,
            |_| None::<()>,
        );
    }
}

fn worker(s: &mut Settings<'_>, own: &Own) -> api::Settings {
    let standard = api::Settings::shared(own.network.clone(), own.cluster.clone());
    let usual = standard
        .keepalive
        .expect("the shared mode keeps connections alive");
    let keepalive_on = s.boolean("KEEPALIVE_ENABLED", true, "TCP keepalive on all sockets.");
    let time = s.duration(
        "KEEPALIVE_TIME",
        usual.time,
        "Idle time before the first probe.",
    );
    let interval = s.duration("KEEPALIVE_INTERVAL", usual.interval, "Time between probes.");
    let retries = s.number(
        "KEEPALIVE_RETRIES",
        usual.retries,
        "Probes without an answer before a reset.",
    );
    let keepalive = Keepalive {
        time,
        interval,
        retries,
    };
    let user_timeout = s.boolean(
        "USER_TIMEOUT_ENABLED",
        false,
        "TCP_USER_TIMEOUT of keepalive time + retries × interval on dialled sockets.",
    );
    let whole = time.saturating_add(interval.saturating_mul(retries));
    let window = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|size| (65_535..=0x7fff_ffff).contains(size))
    };
    let frame = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|size| (16_384..=16_777_215).contains(size))
    };
    let (small, big) = (standard.stream_window, standard.connection_window);
    api::Settings {
        mark: Some(s.number("PACKET_MARK", 1337, "SO_MARK of our sockets, by which capture rules let them pass.")),
        original_source: s.optional_boolean(
            "ENABLE_ORIG_SRC",
            "Keep the caller's address towards the application; not set = try, and fall back to our own.",
        ),
        keepalive: keepalive_on.then_some(keepalive),
        user_timeout: user_timeout.then_some(whole),
        stream_window: s.parsed("HTTP2_STREAM_WINDOW_SIZE", small, WINDOW, "Largest window of a stream, bytes; it starts at 256 KiB and grows by need.", window),
        connection_window: s.parsed("HTTP2_CONNECTION_WINDOW_SIZE", big, WINDOW, "Window of a tunnel, bytes.", window),
        frame_size: s.parsed("HTTP2_FRAME_SIZE", standard.frame_size, FRAME, "Largest frame accepted, bytes.", frame),
        streams_per_tunnel: s.parsed(
            "POOL_MAX_STREAMS_PER_CONNECTION",
            standard.streams_per_tunnel,
            "a whole number from 1",
            "Streams of a tunnel before another is opened.",
            |text| text.parse().ok().filter(|streams| *streams > 0),
        ),
        tunnel_idle: s.duration(
            "POOL_UNUSED_RELEASE_TIMEOUT",
            standard.tunnel_idle,
            "An unused tunnel is closed after this time.",
        ),
        tunnel_age: s.duration(
            "POOL_MAX_AGE",
            standard.tunnel_age,
            "A tunnel takes no new streams after this time, so that renewed certificates come into use.",
        ),
        spin: s.duration(
            "WORKER_SPIN",
            standard.spin,
            "Low-latency mode: a worker looks for events so long after the last one before it sleeps. Costs a core while there is traffic.",
        ),
        same_node: s.choice(
            "SAME_NODE",
            "direct",
            &[("direct", api::SameNode::Direct), ("tunnel", api::SameNode::Tunnel)],
            "Between captured pods of this node: `direct` = in memory, without TLS, while packets to the destination's HBONE port pass; `tunnel` = HBONE as to any other.",
        ),
        response_baggage: s.boolean("ENABLE_RESPONSE_BAGGAGE", true, "Describe the destination in our response."),
        ..standard
    }
}

const WINDOW: &str = "a whole number from 65535 to 2147483647";
const FRAME: &str = "a whole number from 16384 to 16777215";

fn admin(s: &mut Settings<'_>, ipv6: bool) -> Admin {
    let any: IpAddr = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let mut port = |name: &str, default: u16, meaning: &str| s.number(name, default, meaning);
    Admin {
        admin: SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            port(
                "ADMIN_PORT",
                15000,
                "Dumps and switches, on localhost only.",
            ),
        ),
        stats: SocketAddr::new(any, port("STATS_PORT", 15020, "Metrics.")),
        readiness: SocketAddr::new(any, port("READINESS_PORT", 15021, "Readiness.")),
    }
}

/// The drain leaves some seconds of the pod's grace period for the rest of the end.
fn termination(s: &mut Settings<'_>) -> Duration {
    let grace = s.optional_parsed(
        "TERMINATION_GRACE_PERIOD_SECONDS",
        "a whole number of seconds",
        "Grace period of the pod; gives the default of CONNECTION_TERMINATION_DEADLINE.",
        |text| text.parse::<u64>().ok(),
    );
    let seconds = match grace {
        None => 5,
        Some(grace) if grace > 10 => grace - 5,
        Some(grace) => grace.saturating_sub(1).max(1),
    };
    s.duration(
        "CONNECTION_TERMINATION_DEADLINE",
        Duration::from_secs(seconds),
        "Time from SIGTERM until connections that still run are cut.",
    )
}

impl Own {
    /// `name.namespace`, as upstream's node id has it.
    pub fn pod(&self) -> String {
        format!("{}.{}", self.pod_name, self.pod_namespace)
    }

    /// An interned copy of a text.
    fn text(text: String) -> Arc<str> {
        text.into()
    }
}

#[cfg(test)]
mod tests;
