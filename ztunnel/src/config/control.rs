//! Settings of the control plane's clients and of our own name. Called by `config`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use identity::ca::CaConfig;
use identity::grpc::{GrpcConfig, GrpcError, RootSource, Token};
use identity::tls::KeyExchange;
use runtime::settings::Settings;

/// Who and where this ztunnel is.
#[derive(Debug, Clone)]
pub struct Own {
    /// Own node; workloads on it are the ones whose certificates are wanted.
    pub node: Arc<str>,
    /// Own network id.
    pub network: Arc<str>,
    /// Cluster id.
    pub cluster: Arc<str>,
    /// Trust domain of the pods here.
    pub trust_domain: Arc<str>,
    /// Own pod's name.
    pub pod_name: Arc<str>,
    /// Own pod's namespace.
    pub pod_namespace: Arc<str>,
    /// Own pod's address.
    pub instance_ip: Arc<str>,
    /// More node metadata (`ISTIO_META_*` as text, `ISTIO_METAJSON_*` as JSON).
    pub metadata: Vec<(String, serde_json::Value)>,
}

/// Where the mesh's description comes from.
#[derive(Debug, Clone)]
pub struct Xds {
    /// The control plane; `None` = no xDS.
    pub grpc: Option<GrpcConfig>,
    /// A YAML file with workloads, services and policies.
    pub local: Option<PathBuf>,
}

/// Where certificates come from.
#[derive(Debug, Clone)]
pub struct Ca {
    /// The authority.
    pub grpc: GrpcConfig,
    /// How they are asked for.
    pub request: CaConfig,
}

impl Own {
    pub(super) fn read(s: &mut Settings<'_>) -> Self {
        let cluster = s.string("CLUSTER_ID", "Kubernetes", "Id of this cluster.");
        let cluster = s
            .optional("ISTIO_META_CLUSTER_ID", "As CLUSTER_ID, and wins over it.")
            .unwrap_or(cluster);
        let mut text =
            |name: &str, default: &str, meaning: &str| Self::text(s.string(name, default, meaning));
        let node = text("NODE_NAME", "", "Own node; told to the control plane.");
        let network = text("NETWORK", "", "Own network.");
        let trust_domain = text(
            "TRUST_DOMAIN",
            "cluster.local",
            "Trust domain of the pods of this node.",
        );
        let pod_name = text(
            "POD_NAME",
            "",
            "Own pod; part of the node id towards the control plane.",
        );
        let pod_namespace = text("POD_NAMESPACE", "", "Own namespace; part of the node id.");
        let instance_ip = text(
            "INSTANCE_IP",
            "1.1.1.1",
            "Own address; part of the node id.",
        );
        let _unused_account = text(
            "SERVICE_ACCOUNT",
            "",
            "Own service account; read because charts set it, used for nothing.",
        );
        let json = s.prefixed("ISTIO_METAJSON_", "Node metadata, JSON.");
        let plain = s.prefixed("ISTIO_META_", "Node metadata, text.");
        let mut metadata: Vec<_> = plain
            .into_iter()
            .map(|(key, value)| (key, value.into()))
            .collect();
        for (key, value) in json {
            match serde_json::from_str(&value) {
                Ok(parsed) => metadata.push((key, parsed)),
                Err(_) => s.fault(&format!("ISTIO_METAJSON_{key}"), Some(value), "JSON"),
            }
        }
        let cluster = cluster.into();
        Self {
            node,
            network,
            cluster,
            trust_domain,
            pod_name,
            pod_namespace,
            instance_ip,
            metadata,
        }
    }
}

impl Xds {
    pub(super) fn read(s: &mut Settings<'_>, own: &Own) -> Self {
        let local = s.optional_path(
            "LOCAL_XDS_PATH",
            "A YAML file with workloads, services and policies, read once at the start.",
        );
        let grpc = grpc(
            s,
            own,
            &Names {
                address: "XDS_ADDRESS",
                root: "XDS_ROOT_CA",
                alt: "ALT_XDS_HOSTNAME",
                headers: "XDS_HEADER_",
                what: "the control plane",
                empty: " Empty = none.",
            },
        );
        Self {
            grpc: (!grpc.address.is_empty()).then_some(grpc),
            local,
        }
    }
}

impl Ca {
    pub(super) fn read(s: &mut Settings<'_>, own: &Own) -> Self {
        let grpc = grpc(
            s,
            own,
            &Names {
                address: "CA_ADDRESS",
                root: "CA_ROOT_CA",
                alt: "ALT_CA_HOSTNAME",
                headers: "CA_HEADER_",
                what: "the certificate authority",
                empty: "",
            },
        );
        let day = Duration::from_secs(24 * 3600);
        let ttl = s.duration("SECRET_TTL", day, "Life of certificates, as asked for.");
        let words = [
            ("", KeyExchange::Standard),
            ("pqc", KeyExchange::PostQuantumOnly),
        ];
        let key_exchange = s.choice(
            "COMPLIANCE_POLICY",
            "",
            &words,
            "`pqc` = only the post-quantum key exchange X25519MLKEM768 with mesh peers.",
        );
        Self {
            grpc,
            request: CaConfig {
                ttl,
                key_exchange,
                impersonate: true,
            },
        }
    }
}

/// The settings of one of the two clients.
struct Names {
    address: &'static str,
    root: &'static str,
    alt: &'static str,
    headers: &'static str,
    what: &'static str,
    /// What an empty address means.
    empty: &'static str,
}

/// Relative to the working directory, which is `/` in the image.
const ROOT: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";
const IN_CLUSTER: &str = "https://istiod.istio-system.svc:15012";
const ON_HOST: &str = "https://localhost:15012";

fn grpc(s: &mut Settings<'_>, own: &Own, names: &Names) -> GrpcConfig {
    let in_cluster = s.optional(
        "KUBERNETES_SERVICE_HOST",
        "Set by Kubernetes: picks the in-cluster default addresses.",
    );
    let default = if in_cluster.is_some() {
        IN_CLUSTER
    } else {
        ON_HOST
    };
    let meaning = format!(
        "Address of {}; without a scheme, https.{}",
        names.what, names.empty
    );
    let given = s.string(names.address, default, &meaning);
    let address = match given.contains("://") || given.is_empty() {
        true => given.clone(),
        false => format!("https://{given}"),
    };
    let meaning = format!(
        "What the certificate of {} must chain to: a file, `SYSTEM`, or PEM.",
        names.what
    );
    let root = RootSource::parse(&s.string(names.root, ROOT, &meaning));
    let alt = format!(
        "A second name that the certificate of {} may carry.",
        names.what
    );
    let meaning =
        "Token for the control plane: a file (read again for each request) or the token itself.";
    let token = token(s.optional("AUTH_TOKEN", meaning));
    let config = GrpcConfig {
        address,
        root,
        alt_hostname: s.optional(names.alt, &alt),
        token,
        cluster_id: own.cluster.to_string(),
        headers: s.prefixed(
            names.headers,
            "The rest of the name becomes a gRPC header of each request.",
        ),
        mark: None,
    };
    check(s, names, &config, given);
    config
}

/// What could never be dialled or sent is told with the other faults.
fn check(s: &mut Settings<'_>, names: &Names, config: &GrpcConfig, given: String) {
    // Empty means none, where that is allowed.
    let none = given.is_empty() && !names.empty.is_empty();
    for error in config.check() {
        match error {
            GrpcError::Address(_) if none => {}
            GrpcError::Address(_) => s.fault(names.address, Some(given.clone()), ADDRESS),
            GrpcError::Header(name) => {
                let value = config.headers.iter().find(|(header, _)| *header == name);
                let value = value.map(|(_, value)| value.clone());
                s.fault(&format!("{}{name}", names.headers), value, HEADER);
            }
        }
    }
}

const ADDRESS: &str = "`host:port`, `https://host:port`, or `http://host:port` for plaintext";
const HEADER: &str = "a name and a value that a gRPC header can carry";

fn token(setting: Option<String>) -> Token {
    match setting {
        Some(text) if Path::new(&text).exists() => Token::File(text.into()),
        Some(text) if text.is_empty() => Token::None,
        Some(text) => Token::Literal(text),
        None if Path::new(TOKEN).exists() => Token::File(TOKEN.into()),
        None => Token::None,
    }
}
