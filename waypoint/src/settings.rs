//! Settings of the process, read once from the environment. Names are upstream's where they mean the same:
//! those of istio-proxy's waypoint template (`CA_ADDR`, `PROXY_CONFIG`, `POD_NAME`, `ISTIO_META_*`) and of ztunnel.

use identity::Identity;
use identity::ca::CaConfig;
use identity::grpc::{GrpcConfig, RootSource, Token};
use identity::tls::KeyExchange;
use runtime::Settings;
use runtime::logs::Format;
use runtime::settings::{Faults, Setting};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

const ROOT: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";
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
    /// How long a drain may take.
    pub drain: Duration,
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
    /// Readiness.
    pub readiness: SocketAddr,
}

/// Who we are.
#[derive(Debug)]
pub struct Own {
    /// Our SPIFFE identity.
    pub identity: Identity,
    /// Our pod.
    pub pod: String,
    /// Its address.
    pub ip: IpAddr,
    /// Domain of services, `ns.svc.cluster.local`.
    pub domain: String,
    /// `ISTIO_META_*` and `/etc/istio/pod/labels`: more metadata for the control plane.
    pub metadata: Vec<(String, String)>,
    /// Labels of our pod; a control plane finds our Gateway by them.
    pub labels: Vec<(String, String)>,
}

/// Reads all settings. The rows are for docs/configuration.md.
pub fn read(mut s: Settings<'_>) -> Result<(Waypoint, Vec<Setting>), Faults> {
    let own = own(&mut s);
    let cluster = own
        .metadata
        .iter()
        .find(|(key, _)| key == "CLUSTER_ID")
        .map(|(_, id)| id.clone());
    let cluster = cluster.unwrap_or_else(|| "Kubernetes".into());
    let discovery = discovery_address(&mut s);
    let xds = grpc(
        &mut s,
        &cluster,
        "the control plane",
        (
            "XDS_ADDRESS",
            "XDS_ROOT_CA",
            "ALT_XDS_HOSTNAME",
            "XDS_HEADER_",
        ),
        &discovery,
    );
    let ca_default = s.optional(
        "CA_ADDR",
        "Address of the certificate authority; upstream's other name of CA_ADDRESS.",
    );
    let ca_default = ca_default.unwrap_or_else(|| xds.address.clone());
    let ca = grpc(
        &mut s,
        &cluster,
        "the certificate authority",
        ("CA_ADDRESS", "CA_ROOT_CA", "ALT_CA_HOSTNAME", "CA_HEADER_"),
        &ca_default,
    );
    let day = Duration::from_secs(24 * 3600);
    let ttl = s.duration("SECRET_TTL", day, "Life of certificates, as asked for.");
    let certificates = CaConfig {
        ttl,
        key_exchange: KeyExchange::Standard,
        impersonate: false,
    };
    let listening = listening(&mut s);
    let drain = s.duration(
        "TERMINATION_GRACE_PERIOD",
        Duration::from_secs(5),
        "How long live requests may take after SIGTERM.",
    );
    let logs = logs(&mut s);
    let threads = s.number(
        "WORKER_THREADS",
        0,
        "Threads that serve; 0 = as many as cores.",
    );
    let waypoint = Waypoint {
        own,
        xds,
        ca,
        certificates,
        listening,
        drain,
        logs,
        threads,
    };
    let rows = s.finish()?;
    Ok((waypoint, rows))
}

/// All settings, for people: as docs/configuration.md shows them.
#[must_use]
pub fn documentation() -> Vec<Setting> {
    let required = ["POD_NAMESPACE", "SERVICE_ACCOUNT", "POD_NAME"];
    let pairs = required.map(|name| (name.to_owned(), "x".to_owned()));
    let (_, rows) = read(Settings::from_pairs(pairs)).expect("all that is required is set");
    rows
}

fn listening(s: &mut Settings<'_>) -> Listening {
    let any = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
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
        stats: s.address(
            "STATS_ADDR",
            any(15020),
            "Where /stats/prometheus is served.",
        ),
        readiness: s.address(
            "READINESS_ADDR",
            any(15021),
            "Where /healthz/ready is served.",
        ),
    }
}

fn logs(s: &mut Settings<'_>) -> (Format, String) {
    let words = [("plain", Format::Plain), ("json", Format::Json)];
    let format = s.choice("LOG_FORMAT", "plain", &words, "Format of log lines.");
    let filter = s.string(
        "RUST_LOG",
        "info",
        "What is logged: a level, or target=level parts.",
    );
    (format, filter)
}

fn own(s: &mut Settings<'_>) -> Own {
    let trust_domain = s.string(
        "TRUST_DOMAIN",
        "cluster.local",
        "Trust domain of our identity.",
    );
    let namespace = s.required("POD_NAMESPACE", "Namespace of our pod.");
    let account = s.required("SERVICE_ACCOUNT", "Service account of our pod.");
    let pod = s.required("POD_NAME", "Name of our pod.");
    let ip = s.parsed(
        "INSTANCE_IP",
        IpAddr::from([127, 0, 0, 1]),
        "an IP address",
        "Address of our pod.",
        |text| text.parse().ok(),
    );
    let domain = s.string(
        "CLUSTER_DOMAIN",
        "cluster.local",
        "DNS domain of the cluster.",
    );
    let identity = Identity::new(&trust_domain, &namespace, &account).unwrap_or_else(|_| {
        // What is missing was reported by its own name already.
        if !namespace.is_empty() && !account.is_empty() {
            let value = format!("{trust_domain}, {namespace}, {account}");
            s.fault(
                "SERVICE_ACCOUNT",
                Some(value),
                "trust domain, namespace and service account of a SPIFFE identity",
            );
        }
        Identity::new("cluster.local", "invalid", "invalid").expect("a valid identity")
    });
    let metadata = s.prefixed(
        "ISTIO_META_",
        "The rest of the name becomes metadata for the control plane.",
    );
    let labels_file = s.path(
        "POD_LABELS_FILE",
        "/etc/istio/pod/labels",
        "Labels of our pod (downward API).",
    );
    let mut labels = std::fs::read_to_string(labels_file)
        .map(|text| parse_labels(&text))
        .unwrap_or_default();
    let gateway = s.optional(
        "GATEWAY_NAME",
        "Name of our Gateway, where no file tells our labels.",
    );
    if let (Some(gateway), true) = (gateway, labels.is_empty()) {
        labels.push(("gateway.networking.k8s.io/gateway-name".into(), gateway));
        labels.push((
            "gateway.istio.io/managed".into(),
            "istio.io-mesh-controller".into(),
        ));
    }
    Own {
        identity,
        pod,
        ip,
        domain: format!("{namespace}.svc.{domain}"),
        metadata,
        labels,
    }
}

/// Lines `key="value"` of the downward API.
fn parse_labels(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// `discoveryAddress` of PROXY_CONFIG, as istiod's template sets it.
fn discovery_address(s: &mut Settings<'_>) -> String {
    let meaning = "Proxy config as JSON; of it only discoveryAddress is read.";
    let found = s.optional_parsed("PROXY_CONFIG", "a JSON object", meaning, |text| {
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        json.is_object().then(|| {
            json["discoveryAddress"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
    });
    found
        .filter(|address| !address.is_empty())
        .unwrap_or_else(|| DISCOVERY.into())
}

type Names = (&'static str, &'static str, &'static str, &'static str);

fn grpc(
    s: &mut Settings<'_>,
    cluster: &str,
    what: &str,
    names: Names,
    default: &str,
) -> GrpcConfig {
    let (address, root, alt, headers) = names;
    let meaning = format!("Address of {what}; without a scheme, https.");
    let address = s.string(address, default, &meaning);
    let address = if address.contains("://") {
        address
    } else {
        format!("https://{address}")
    };
    let meaning =
        format!("What the certificate of {what} must chain to: a file, `SYSTEM`, or PEM.");
    let root = RootSource::parse(&s.string(root, ROOT, &meaning));
    let meaning = format!("A second name that the certificate of {what} may carry.");
    let alt_hostname = s.optional(alt, &meaning);
    let token = s.optional(
        "AUTH_TOKEN",
        "Token: a file (read again for each request) or the token itself.",
    );
    let token = match token {
        Some(text) if Path::new(&text).exists() => Token::File(text.into()),
        Some(text) if text.is_empty() => Token::None,
        Some(text) => Token::Literal(text),
        None if Path::new(TOKEN).exists() => Token::File(TOKEN.into()),
        None => Token::None,
    };
    let headers = s.prefixed(
        headers,
        "The rest of the name becomes a gRPC header of each request.",
    );
    GrpcConfig {
        address,
        root,
        alt_hostname,
        token,
        cluster_id: cluster.to_owned(),
        headers,
        mark: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &[(&str, &str)]) -> Result<Waypoint, Faults> {
        let base = [
            ("POD_NAMESPACE", "app"),
            ("SERVICE_ACCOUNT", "wp"),
            ("POD_NAME", "wp-1"),
        ];
        let all = base
            .iter()
            .chain(more)
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        read(Settings::from_pairs(all)).map(|(waypoint, _)| waypoint)
    }

    #[test]
    fn istiods_template_is_understood() {
        let waypoint = settings(&[
            ("PROXY_CONFIG", "{\"discoveryAddress\":\"istiod.x:15012\"}"),
            ("CA_ADDR", "ca.x:15012"),
            ("INSTANCE_IP", "10.0.0.3"),
            ("ISTIO_META_CLUSTER_ID", "c1"),
        ])
        .unwrap();
        assert_eq!(waypoint.xds.address, "https://istiod.x:15012");
        assert_eq!(waypoint.ca.address, "https://ca.x:15012");
        assert_eq!(waypoint.xds.cluster_id, "c1");
        assert_eq!(
            waypoint.own.identity.uri(),
            "spiffe://cluster.local/ns/app/sa/wp"
        );
        assert_eq!(waypoint.listening.hbone_port, 15008);
    }

    #[test]
    fn faults_are_reported_together() {
        let faults = read(Settings::from_pairs([(
            "PROXY_CONFIG".to_owned(),
            "[]".to_owned(),
        )]))
        .unwrap_err()
        .to_string();
        for name in [
            "PROXY_CONFIG",
            "POD_NAMESPACE",
            "SERVICE_ACCOUNT",
            "POD_NAME",
        ] {
            let lines = faults
                .lines()
                .map(|line| line.trim().split([' ', '=']).next());
            assert_eq!(
                lines.filter(|word| *word == Some(name)).count(),
                1,
                "{faults}"
            );
        }
    }

    #[test]
    fn labels_of_the_downward_api_are_read() {
        assert_eq!(
            parse_labels("a/b=\"c\"\nd=\"e=f\"\n"),
            [("a/b".into(), "c".into()), ("d".into(), "e=f".into())]
        );
    }
}
