//! Settings of the control plane, read once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use runtime::{Settings, logs};

use crate::translate::Mesh;

/// Everything that is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Where ADS and the CA listen (TLS).
    pub listen: SocketAddr,
    /// Where operators ask.
    pub admin: SocketAddr,
    /// Mesh-wide facts.
    pub mesh: Mesh,
    /// The certificate authority.
    pub ca: CaConfig,
    /// Bearer tokens and whom they stand for.
    pub tokens: Option<PathBuf>,
    /// How long running streams may take to end.
    pub drain: Duration,
    /// Format of logs.
    pub log_format: logs::Format,
    /// Level or filter of logs.
    pub log_filter: String,
}

/// Settings of the certificate authority.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// Directory of key and certificate.
    pub directory: PathBuf,
    /// Where the roots are written for clients.
    pub root_file: Option<PathBuf>,
    /// Names in the server's certificate.
    pub server_names: Vec<String>,
    /// Life of a certificate when the request names none.
    pub default_ttl: Duration,
    /// Longest life.
    pub max_ttl: Duration,
    /// `namespace/service account` of node proxies.
    pub node_accounts: Vec<(String, String)>,
}

const SERVER_NAMES: &str = "istiod.istio-system.svc,istiod.istio-system.svc.cluster.local,istiod.istio-system,localhost,127.0.0.1,::1";
const DAY: Duration = Duration::from_secs(86_400);

impl Config {
    /// Reads all settings; faults stay in `settings`.
    #[must_use]
    pub fn read(settings: &mut Settings<'_>) -> Config {
        let s = settings;
        let formats = [("plain", logs::Format::Plain), ("json", logs::Format::Json)];
        Config {
            manifests: s.path("MANIFESTS", "manifests", "directory of Kubernetes manifests, read again when it changes"),
            listen: s.address("XDS_LISTEN", any(15012), "address of ADS and the certificate authority (TLS)"),
            admin: s.address("ADMIN_LISTEN", local(15014), "address of /healthz/ready, /status, /metrics, /logging"),
            mesh: mesh(s),
            ca: ca(s),
            tokens: s.optional_path(
                "TOKENS_FILE",
                "bearer tokens, one a line: `<token> <namespace>/<service account> [node=<node>]`; read again for each \
                 request; without it only client certificates are accepted",
            ),
            drain: s.duration("TERMINATION_DRAIN_DURATION", Duration::from_secs(5), "time for streams to end at SIGTERM"),
            log_format: s.choice("LOG_FORMAT", "plain", &formats, "format of log lines"),
            log_filter: logs::filter(s, "info", "what is logged"),
        }
    }
}

fn mesh(s: &mut Settings<'_>) -> Mesh {
    let d = Mesh::default();
    let trust_domain = |text: &str| {
        mesh::identity::Identity::new(text, "n", "s")
            .is_ok()
            .then(|| text.to_owned())
    };
    Mesh {
        cluster_id: s.string("CLUSTER_ID", &d.cluster_id, "name of this cluster, first part of workload uids"),
        trust_domain: s.parsed("TRUST_DOMAIN", d.trust_domain, "a SPIFFE trust domain", "trust domain of identities", trust_domain),
        domain: s.string("DOMAIN", &d.domain, "DNS domain of services"),
        root_namespace: s.string("ROOT_NAMESPACE", &d.root_namespace, "namespace whose policies hold mesh-wide"),
        network: s.string("NETWORK", &d.network, "network of workloads that no label places elsewhere"),
        labels_enrol: s.boolean(
            "LABELS_ENROL",
            d.labels_enrol,
            "take pods whose labels enrol them for captured although no node agent has annotated them (there is no API \
             server that could carry the annotation)",
        ),
    }
}

fn ca(s: &mut Settings<'_>) -> CaConfig {
    let accounts = |text: &str| {
        let account = |part: &str| {
            part.trim()
                .split_once('/')
                .map(|(ns, sa)| (ns.to_owned(), sa.to_owned()))
        };
        text.split(',').map(account).collect::<Option<Vec<_>>>()
    };
    let node_accounts = s.optional_parsed(
        "CA_TRUSTED_NODE_ACCOUNTS",
        "`namespace/service account`, comma separated",
        "node proxies: they may ask for the certificates of pods on their own node; default `istio-system/ztunnel`",
        accounts,
    );
    let names = s.string(
        "SERVER_NAMES",
        SERVER_NAMES,
        "DNS names and addresses in the server's certificate, comma separated",
    );
    CaConfig {
        directory: s.path("CA_DIR", "ca", "directory of ca-key.pem, ca-cert.pem, cert-chain.pem, root-cert.pem; made at the first start"),
        root_file: s.optional_path("ROOT_CERT_FILE", "file to write the root certificates to, for clients"),
        server_names: names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(),
        default_ttl: s.duration("DEFAULT_WORKLOAD_CERT_TTL", DAY, "life of certificates when the request names none"),
        max_ttl: s.duration("MAX_WORKLOAD_CERT_TTL", 90 * DAY, "longest life that is granted"),
        node_accounts: node_accounts.unwrap_or_else(|| vec![("istio-system".into(), "ztunnel".into())]),
    }
}

fn any(port: u16) -> SocketAddr {
    (std::net::Ipv4Addr::UNSPECIFIED, port).into()
}

fn local(port: u16) -> SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_at_once() {
        let pairs = [
            ("XDS_LISTEN", "nowhere"),
            ("TRUST_DOMAIN", "a/b"),
            ("CA_TRUSTED_NODE_ACCOUNTS", "ztunnel"),
        ];
        let mut settings =
            Settings::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let _ = Config::read(&mut settings);
        let faults = settings.finish().unwrap_err().to_string();
        for (name, _) in pairs {
            assert!(faults.contains(name), "{faults}");
        }
    }

    #[test]
    fn defaults_are_istios() {
        let mut settings = Settings::from_pairs([]);
        let config = Config::read(&mut settings);
        assert_eq!(config.listen.port(), 15012);
        assert_eq!(
            config.ca.node_accounts,
            [("istio-system".to_owned(), "ztunnel".to_owned())]
        );
        assert!(settings.finish().is_ok());
    }
}
