//! Settings of the control plane, read once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use runtime::{Settings, logs, settings::format_duration};

use crate::{ca::rotation::Plan, deploy, lead, translate::Mesh, writing};

/// Everything that is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where objects come from.
    pub origin: Origin,
    /// Where ADS and the CA listen (TLS).
    pub listen: SocketAddr,
    /// Where probes and scrapers ask from elsewhere; nothing can be changed there.
    pub monitoring: Option<SocketAddr>,
    /// Where operators ask.
    pub admin: SocketAddr,
    /// Mesh-wide facts.
    pub mesh: Mesh,
    /// The certificate authority.
    pub ca: CaConfig,
    /// What is written to an API server, and which replica does it.
    pub writing: writing::Settings,
    /// Bearer tokens and whom they stand for.
    pub tokens: Option<PathBuf>,
    /// How long running streams may take to end.
    pub drain: Duration,
    /// Format of logs.
    pub log_format: logs::Format,
    /// Level or filter of logs.
    pub log_filter: String,
}

/// Where objects come from, and with them the root and what tokens stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The API server of this file, or of the cluster that this pod is in.
    Cluster {
        /// A kubeconfig.
        kubeconfig: Option<PathBuf>,
    },
}

/// Settings of the certificate authority.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// Directory of key and certificate; where none is named, a cluster's authority is in its Secret.
    pub directory: Option<PathBuf>,
    /// Namespace of the control plane, where the Secret is.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// How its root is rotated.
    pub plan: Plan,
    /// Audiences of service account tokens.
    pub audiences: Vec<String>,
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

/// Names under which proxies look for a control plane, beside those of its Service in its own namespace.
const LOCAL_NAMES: &str = "localhost,127.0.0.1,::1";
const DISCOVERY: &str = "istiod.istio-system.svc:15012";
const DAY: Duration = Duration::from_secs(86_400);

impl Config {
    /// Reads all settings; faults stay in `settings`.
    #[must_use]
    pub fn read(settings: &mut Settings<'_>) -> Config {
        let s = settings;
        let formats = [("plain", logs::Format::Plain), ("json", logs::Format::Json)];
        let origin = origin(s);
        let mesh = mesh(s, &origin);
        Config {
            listen: s.address("XDS_LISTEN", any(15012), "address of ADS and the certificate authority (TLS)"),
            monitoring: s.optional_parsed(
                "MONITORING_LISTEN",
                "an address with port",
                "address of /healthz/ready and /metrics alone, for probes and scrapers from elsewhere",
                |text| text.parse().ok(),
            ),
            admin: s.address("ADMIN_LISTEN", local(15014), "address of /healthz/ready, /status, /metrics, /logging"),
            ca: ca(s),
            writing: writing(s, &mesh),
            mesh,
            origin,
            tokens: s.optional_path(
                "TOKENS_FILE",
                "bearer tokens, one a line: `<token> <namespace>/<service account> [node=<node>]`; read again for each \
                 request; without it the API server reviews tokens, and with MANIFESTS only client certificates are \
                 accepted",
            ),
            drain: s.duration("TERMINATION_DRAIN_DURATION", Duration::from_secs(5), "time for streams to end at SIGTERM"),
            log_format: s.choice("LOG_FORMAT", "plain", &formats, "format of log lines"),
            log_filter: logs::filter(s, "info", "what is logged"),
        }
    }
}

fn origin(s: &mut Settings<'_>) -> Origin {
    let manifests = s.optional_path(
        "MANIFESTS",
        "directory of Kubernetes manifests, read again when it changes; without it objects come from the API server",
    );
    let kubeconfig = s.optional_path(
        "KUBECONFIG",
        "file that names the API server; without it, and without MANIFESTS, that of the cluster that this pod is in",
    );
    match manifests {
        Some(directory) => Origin::Directory(directory),
        None => Origin::Cluster { kubeconfig },
    }
}

fn mesh(s: &mut Settings<'_>, origin: &Origin) -> Mesh {
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
        labels_enrol: s
            .optional_boolean(
                "LABELS_ENROL",
                "take pods whose labels enrol them for captured although no node agent has annotated them; default: true \
                 with MANIFESTS (there is no API server that could carry the annotation), else false",
            )
            .unwrap_or(matches!(origin, Origin::Directory(_))),
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
    let namespace = s.string(
        "POD_NAMESPACE",
        "istio-system",
        "namespace of the control plane, where the Secret of its authority is",
    );
    let names = s.optional_parsed(
        "SERVER_NAMES",
        "DNS names and addresses, comma separated",
        "what the server's certificate is for; default: the names of Service `istiod` in POD_NAMESPACE, and localhost",
        server_names,
    );
    let names = names.unwrap_or_else(|| {
        let service = format!("istiod.{namespace}");
        let all = format!("{service}.svc,{service}.svc.cluster.local,{service},{LOCAL_NAMES}");
        all.split(',').map(str::to_owned).collect()
    });
    let max_ttl = s.duration(
        "MAX_WORKLOAD_CERT_TTL",
        90 * DAY,
        "longest life that is granted",
    );
    let plan = plan(s, max_ttl);
    let audiences = s.string(
        "TOKEN_AUDIENCES",
        "istio-ca",
        "audiences of service account tokens that are accepted, comma separated",
    );
    let words = |text: &str| -> Vec<String> {
        let words = text.split(',').map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    };
    CaConfig {
        directory: s.optional_path(
            "CA_DIR",
            "directory of ca-key.pem, ca-cert.pem, cert-chain.pem, root-cert.pem, made at the first start; default: `ca` \
             with MANIFESTS; on an API server the Secret, unless this is set",
        ),
        secret: s.string(
            "CA_SECRET",
            "causeway-ca",
            "Secret of POD_NAMESPACE with those files as fields, made by the first replica; a Secret `cacerts` that \
             somebody brings wins over it",
        ),
        plan,
        audiences: words(&audiences),
        namespace,
        root_file: s.optional_path("ROOT_CERT_FILE", "file to write the root certificates to, for clients"),
        server_names: names,
        default_ttl: s.duration("DEFAULT_WORKLOAD_CERT_TTL", DAY, "life of certificates when the request names none"),
        max_ttl,
        node_accounts: node_accounts.unwrap_or_else(|| vec![("istio-system".into(), "ztunnel".into())]),
    }
}

/// How the root is rotated. The steps must leave time for what a root has signed to end.
fn plan(s: &mut Settings<'_>, max_ttl: Duration) -> Plan {
    let overlap = s.optional_duration(
        "CA_ROOT_OVERLAP",
        "in a rotation, time for everybody to learn of the new root, and again for what the old one signed to end; \
         default: MAX_WORKLOAD_CERT_TTL",
    );
    let plan = Plan {
        overlap: overlap.unwrap_or(max_ttl),
        life: s.duration(
            "CITADEL_SELF_SIGNED_CA_CERT_TTL",
            3650 * DAY,
            "life of a root that is made in the Secret",
        ),
    };
    if plan.overlap < max_ttl {
        let allowed = "at least MAX_WORKLOAD_CERT_TTL, or certificates outlive the trust in the root that signed them";
        s.fault(
            "CA_ROOT_OVERLAP",
            Some(format_duration(plan.overlap)),
            allowed,
        );
    }
    if plan.life <= plan.overlap * 3 {
        let allowed = "longer than three times CA_ROOT_OVERLAP (by default MAX_WORKLOAD_CERT_TTL), or a root ends before its \
                       successor signs";
        s.fault(
            "CITADEL_SELF_SIGNED_CA_CERT_TTL",
            Some(format_duration(plan.life)),
            allowed,
        );
    }
    plan
}

fn writing(s: &mut Settings<'_>, mesh: &Mesh) -> writing::Settings {
    let candidate = candidate(s);
    let deploy = deploy::Settings {
        instance: candidate.me.clone(),
        ..waypoints(s, mesh)
    };
    writing::Settings { candidate, deploy }
}

/// Where the lease lies and how we are called in it: a pod that starts anew under its old name is another holder.
fn candidate(s: &mut Settings<'_>) -> lead::Candidate {
    let d = lead::Times::default();
    let pod = s.string(
        "POD_NAME",
        "causeway",
        "own pod; part of the name in the lease and in events",
    );
    let times = lead::Times {
        duration: s.duration(
            "LEASE_DURATION",
            d.duration,
            "a replica that writes and shows no sign of life for so long is replaced",
        ),
        renew: s.duration(
            "LEASE_RENEW_DEADLINE",
            d.renew,
            "a replica that cannot renew the lease for so long stops writing",
        ),
        retry: s.duration(
            "LEASE_RETRY_PERIOD",
            d.retry,
            "time between two looks at the lease",
        ),
    };
    if let Some((name, value, allowed)) = times.fault() {
        s.fault(name, Some(format_duration(value)), allowed);
    }
    lead::Candidate {
        namespace: s.string(
            "POD_NAMESPACE",
            "istio-system",
            "own namespace; the lease of the replica that writes lies there",
        ),
        lease: s.string(
            "LEASE_NAME",
            "causeway-control-plane",
            "name of the lease; replicas of one control plane share it",
        ),
        me: format!("{pod}_{:08x}", rand_suffix()),
        times,
    }
}

fn waypoints(s: &mut Settings<'_>, mesh: &Mesh) -> deploy::Settings {
    let discovery = s.string(
        "WAYPOINT_DISCOVERY_ADDRESS",
        DISCOVERY,
        "`host:port` where waypoints reach this control plane",
    );
    let secrets = s.string(
        "WAYPOINT_IMAGE_PULL_SECRETS",
        "",
        "secrets to pull that image with, comma separated",
    );
    let values = "a JSON object with `resources`, `affinity`, `topologySpreadConstraints`, `nodeSelector`, `tolerations`";
    deploy::Settings {
        image: s.string("WAYPOINT_IMAGE", "", "image of the waypoints that are deployed for Gateways; empty = none is deployed"),
        pull_policy: s.choice(
            "WAYPOINT_IMAGE_PULL_POLICY",
            "",
            &[("", ""), ("Always", "Always"), ("IfNotPresent", "IfNotPresent"), ("Never", "Never")],
            "pull policy of that image; empty = Kubernetes' default",
        )
        .to_owned(),
        pull_secrets: list(&secrets),
        values: s.optional_parsed("WAYPOINT_VALUES", values, "resources and placement of waypoints", deploy::Values::parse).unwrap_or_default(),
        fixed_user: s.boolean("WAYPOINT_FIXED_USER", true, "run waypoints as user 1337; false where the platform chooses the user (OpenShift)"),
        ca_address: s.string("WAYPOINT_CA_ADDRESS", &discovery, "`host:port` of the certificate authority of waypoints; WAYPOINT_DISCOVERY_ADDRESS unless set"),
        discovery_address: discovery,
        domain: mesh.domain.clone(),
        trust_domain: mesh.trust_domain.clone(),
        cluster_id: mesh.cluster_id.clone(),
        network: mesh.network.clone(),
        root_namespace: mesh.root_namespace.clone(),
        instance: String::new(),
        claim_istio_class: s.boolean(
            "CLAIM_ISTIO_WAYPOINT",
            false,
            "make the GatewayClass `istio-waypoint` ours, if there is none; one that names another controller is never touched",
        ),
    }
}

fn list(text: &str) -> Vec<String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// Differs from start to start.
fn rand_suffix() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    u32::try_from(RandomState::new().hash_one(std::process::id()) >> 32).unwrap_or_default()
}

/// At least one, and each of them what a certificate can be for.
fn server_names(text: &str) -> Option<Vec<String>> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let names: Vec<String> = names.map(str::to_owned).collect();
    let right = |name: &String| rustls::pki_types::ServerName::try_from(name.as_str()).is_ok();
    (!names.is_empty() && names.iter().all(right)).then_some(names)
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
            ("SERVER_NAMES", "istiod.istio-system.svc,not a name"),
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
    fn a_rotation_that_would_cut_somebody_off_is_a_fault() {
        let faults = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            let mut settings = Settings::from_pairs(owned.collect::<Vec<_>>());
            let _ = Config::read(&mut settings);
            settings
                .finish()
                .err()
                .map(|faults| faults.to_string())
                .unwrap_or_default()
        };
        let (overlap, longest) = ("CA_ROOT_OVERLAP", "MAX_WORKLOAD_CERT_TTL");
        let life = "CITADEL_SELF_SIGNED_CA_CERT_TTL";
        assert_eq!(faults(&[(overlap, "25h"), (longest, "24h")]), "");
        assert!(faults(&[(overlap, "23h"), (longest, "24h")]).contains(overlap));
        assert!(faults(&[(overlap, "24h")]).contains(overlap));
        assert!(faults(&[(life, "6480h")]).contains(life));
        assert_eq!(faults(&[(life, "6481h")]), "");
    }

    #[test]
    fn objects_come_from_the_directory_that_is_named_else_from_the_api_server() {
        let read = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            let mut settings = Settings::from_pairs(owned.collect::<Vec<_>>());
            let config = Config::read(&mut settings);
            (config.origin, config.mesh.labels_enrol)
        };
        let kubeconfig = || Some(PathBuf::from("k"));
        let table = [
            (&[][..], Origin::Cluster { kubeconfig: None }, false),
            (
                &[("KUBECONFIG", "k")],
                Origin::Cluster {
                    kubeconfig: kubeconfig(),
                },
                false,
            ),
            (
                &[("MANIFESTS", "m"), ("KUBECONFIG", "k")],
                Origin::Directory("m".into()),
                true,
            ),
        ];
        for (pairs, origin, enrol) in table {
            assert_eq!(read(pairs), (origin, enrol), "{pairs:?}");
        }
    }

    #[test]
    fn defaults_are_istios() {
        let mut settings = Settings::from_pairs([]);
        let config = Config::read(&mut settings);
        assert_eq!(config.listen.port(), 15012);
        assert_eq!(config.ca.server_names[0], "istiod.istio-system.svc");
        assert_eq!(config.ca.audiences, ["istio-ca"]);
        assert_eq!(config.ca.plan.overlap, config.ca.max_ttl);
        assert_eq!(
            config.ca.node_accounts,
            [("istio-system".to_owned(), "ztunnel".to_owned())]
        );
        assert!(settings.finish().is_ok());
    }
}
