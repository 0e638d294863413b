//! Settings of the process, read once from the environment. Names are upstream's where they mean the same: those of
//! istio-proxy's waypoint template (`CA_ADDR`, `PROXY_CONFIG`, `POD_NAME`, `ISTIO_META_*`, its arguments) and of ztunnel.

mod control;
mod own;
mod proxy_config;

use crate::arguments::Arguments;
use identity::ca::CaConfig;
use identity::grpc::GrpcConfig;
use identity::tls::KeyExchange;
use proxy_config::ProxyConfig;
use runtime::Settings;
use runtime::logs::{self, Format};
use runtime::settings::{Faults, Setting};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub use own::Own;

const DISCOVERY: &str = "istiod.istio-system.svc:15012";

/// All settings, frozen.
#[derive(Debug)]
pub struct Waypoint {
    /// Who we are to the control plane.
    pub own: Own,
    /// The control plane.
    pub xds: GrpcConfig,
    /// The certificate authority.
    pub ca: GrpcConfig,
    /// How certificates are asked for.
    pub certificates: CaConfig,
    /// Addresses and ports.
    pub listening: Listening,
    /// What SIGTERM begins.
    pub drain: Drain,
    /// Format and filter of the log.
    pub logs: (Format, String),
    /// Threads; 0 as many as cores.
    pub threads: usize,
}

/// Addresses and ports.
#[derive(Debug)]
pub struct Listening {
    /// Where HBONE is listened for, instead of where LDS says.
    pub inbound: Option<SocketAddr>,
    /// Port of other ends' HBONE.
    pub hbone_port: u16,
    /// Admin, for operators on this machine.
    pub admin: SocketAddr,
    /// Metrics.
    pub stats: SocketAddr,
    /// Metrics once more, where Envoy has them.
    pub envoy_stats: Option<SocketAddr>,
    /// Readiness.
    pub readiness: SocketAddr,
}

/// How long the end may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// So long new connections are still taken: callers learn only by and by that we are going.
    pub linger: Duration,
    /// What still runs then is cut.
    pub deadline: Duration,
}

/// Reads all settings; what the arguments say is weaker. The rows are for docs/configuration.md.
pub fn read(
    mut s: Settings<'_>,
    arguments: &Arguments,
) -> Result<(Waypoint, Vec<Setting>), Faults> {
    let proxy = ProxyConfig::read(&mut s);
    let own = Own::read(&mut s, arguments, &proxy);
    let (xds, ca) = control::read(&mut s, own.cluster(), proxy.discovery.as_deref());
    let day = Duration::from_secs(24 * 3600);
    let ttl = s.duration("SECRET_TTL", day, "Life of certificates, as asked for.");
    let certificates = CaConfig {
        ttl,
        key_exchange: KeyExchange::Standard,
        impersonate: false,
    };
    let listening = listening(&mut s);
    let drain = drain(&mut s, proxy.drain);
    let logs = logs(&mut s, arguments);
    let threads = s.optional_parsed(
        "WORKER_THREADS",
        "a whole number from 0",
        "Threads that serve; 0 = as many as the CPUs that we may use. Without it, what --concurrency or PROXY_CONFIG says, else 0.",
        |text| text.parse().ok(),
    );
    let threads = threads.or(arguments.threads).or(proxy.threads);
    let waypoint = Waypoint {
        own,
        xds,
        ca,
        certificates,
        listening,
        drain,
        logs,
        threads: threads.unwrap_or_default(),
    };
    let rows = s.finish()?;
    Ok((waypoint, rows))
}

/// All settings, for people: as docs/configuration.md shows them.
#[must_use]
pub fn documentation() -> Vec<Setting> {
    let required = ["POD_NAMESPACE", "SERVICE_ACCOUNT", "POD_NAME"];
    let pairs = required.map(|name| (name.to_owned(), "x".to_owned()));
    let read = read(Settings::from_pairs(pairs), &Arguments::default());
    let (_, rows) = read.expect("all that is required is set");
    rows
}

fn listening(s: &mut Settings<'_>) -> Listening {
    let ipv6 = s.boolean(
        "IPV6_ENABLED",
        true,
        "Metrics and readiness are served on IPv6 too.",
    );
    let ip: IpAddr = match ipv6 {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    let stats = s.address(
        "STATS_ADDR",
        (ip, 15020).into(),
        "Where /stats/prometheus is served.",
    );
    let envoy_stats = s.number(
        "ENVOY_PROMETHEUS_PORT",
        15090,
        "Port where the same is served once more, beside STATS_ADDR; 0 = nowhere.",
    );
    Listening {
        inbound: s.optional_parsed(
            "WAYPOINT_INBOUND_ADDR",
            "an address with port",
            "Where HBONE is listened for; empty = as the listener says (15008).",
            |text| text.parse().ok(),
        ),
        hbone_port: s.number("WAYPOINT_HBONE_PORT", 15008, "Port of HBONE at other ends."),
        admin: s.address(
            "ADMIN_ADDR",
            ([127, 0, 0, 1], 15000).into(),
            "Where operators' requests are answered.",
        ),
        stats,
        envoy_stats: (envoy_stats != 0).then_some(SocketAddr::new(stats.ip(), envoy_stats)),
        readiness: s.address(
            "READINESS_ADDR",
            (ip, 15021).into(),
            "Where /healthz/ready is served.",
        ),
    }
}

/// Upstream waits out the drain's whole time; ours ends when nothing is left to wait for.
fn drain(s: &mut Settings<'_>, of_proxy: Option<Duration>) -> Drain {
    let five = Duration::from_secs(5);
    let deadline = s.optional_duration(
        "TERMINATION_GRACE_PERIOD",
        "Time from SIGTERM until what still runs is cut. Without it, terminationDrainDuration of PROXY_CONFIG, else 5s.",
    );
    let linger = s.duration(
        "MINIMUM_DRAIN_DURATION",
        five,
        "Time from SIGTERM in which new connections are still taken and idle ones kept, but not past the cut.",
    );
    let until_none = s.boolean(
        "EXIT_ON_ZERO_ACTIVE_CONNECTIONS",
        false,
        "Nothing is cut: the end comes with the last connection, or with the pod's grace period.",
    );
    let deadline = match until_none {
        true => Duration::MAX,
        false => deadline.or(of_proxy).unwrap_or(five),
    };
    let linger = linger.min(deadline);
    Drain { linger, deadline }
}

fn logs(s: &mut Settings<'_>, arguments: &Arguments) -> (Format, String) {
    let words = [
        ("", None),
        ("plain", Some(Format::Plain)),
        ("json", Some(Format::Json)),
    ];
    let meaning =
        "Format of log lines. Without it, json with the argument --log_as_json, else plain.";
    let format = s.choice("LOG_FORMAT", "", &words, meaning);
    let of_arguments = match arguments.json {
        true => Format::Json,
        false => Format::Plain,
    };
    let filter = logs::filter(
        s,
        arguments.level.unwrap_or("info"),
        "What is logged. Its default is what --log_output_level says of the scope default.",
    );
    (format.unwrap_or(of_arguments), filter)
}

#[cfg(test)]
mod tests;
