//! Who we are: identity, pod, addresses, and the metadata that the control plane is told, from the environment and the
//! files of the downward API. Called by `settings`.

use crate::arguments::Arguments;
use crate::settings::proxy_config::ProxyConfig;
use identity::Identity;
use runtime::Settings;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// Added by the ReplicaSet; no control plane selects by it, and each rollout would be a new set of labels.
const OF_THE_REPLICA_SET: &str = "pod-template-hash";

/// Who we are.
#[derive(Debug)]
pub struct Own {
    /// Our SPIFFE identity.
    pub identity: Identity,
    /// Our pod.
    pub pod: String,
    /// Its addresses; it is known by the first.
    pub ips: Vec<IpAddr>,
    /// Domain of our namespace, `ns.svc.cluster.local`.
    pub domain: String,
    /// `account.namespace`, or what `--serviceCluster` says.
    pub service_cluster: String,
    /// `ISTIO_META_*`, `ISTIO_METAJSON_*` and PROXY_CONFIG: more metadata for the control plane.
    pub metadata: Map<String, Value>,
    /// Labels of our pod; a control plane finds our Gateway by them.
    pub labels: BTreeMap<String, String>,
    /// Annotations of our pod.
    pub annotations: BTreeMap<String, String>,
}

impl Own {
    /// Reads the settings and the two files.
    pub fn read(s: &mut Settings<'_>, arguments: &Arguments, proxy: &ProxyConfig) -> Self {
        let (identity, namespace) = identity(s);
        let pod = s.required("POD_NAME", "Name of our pod.");
        let ip = s.optional_parsed(
            "INSTANCE_IP",
            "an IP address",
            "Address of our pod; those of its interfaces are told to the control plane as well.",
            |text| text.parse::<IpAddr>().ok(),
        );
        let domain = domain(s, arguments, &namespace);
        let metadata = metadata(s, proxy);
        let (labels, annotations) = downward(s, &metadata);
        let given = arguments.service_cluster.clone();
        let service_cluster = given
            .or_else(|| proxy.service_cluster.clone())
            .unwrap_or_else(|| format!("{}.{namespace}", identity.service_account()));
        Self {
            identity,
            pod,
            ips: ip.into_iter().collect(),
            domain,
            service_cluster,
            metadata,
            labels,
            annotations,
        }
    }

    /// Our cluster's id, where the metadata says it.
    pub fn cluster(&self) -> &str {
        let id = self.metadata.get("CLUSTER_ID").and_then(Value::as_str);
        id.unwrap_or("Kubernetes")
    }

    /// Adds the addresses of our interfaces to the one that we were told. Where there is none at all we are on this
    /// machine only.
    #[must_use]
    pub fn at(mut self, interfaces: impl IntoIterator<Item = IpAddr>) -> Self {
        for ip in interfaces {
            if !self.ips.contains(&ip) {
                self.ips.push(ip);
            }
        }
        if self.ips.is_empty() {
            self.ips.push(IpAddr::from([127, 0, 0, 1]));
        }
        self
    }
}

fn identity(s: &mut Settings<'_>) -> (Identity, String) {
    let trust_domain = s.string(
        "TRUST_DOMAIN",
        "cluster.local",
        "Trust domain of our identity.",
    );
    let namespace = s.required("POD_NAMESPACE", "Namespace of our pod.");
    let account = s.required("SERVICE_ACCOUNT", "Service account of our pod.");
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
    (identity, namespace)
}

fn domain(s: &mut Settings<'_>, arguments: &Arguments, namespace: &str) -> String {
    let meaning = "DNS domain of the cluster; without it, what the argument --domain says, else cluster.local.";
    match (s.optional("CLUSTER_DOMAIN", meaning), &arguments.domain) {
        (Some(cluster), _) => format!("{namespace}.svc.{cluster}"),
        (None, Some(domain)) => domain.clone(),
        (None, None) => format!("{namespace}.svc.cluster.local"),
    }
}

/// What the environment says wins over `proxyMetadata`, and JSON over both.
fn metadata(s: &mut Settings<'_>, proxy: &ProxyConfig) -> Map<String, Value> {
    let of_proxy = proxy
        .metadata
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("ISTIO_META_")?, value)));
    let mut all: Map<String, Value> = of_proxy
        .map(|(name, value)| (name.to_owned(), value.clone().into()))
        .collect();
    let plain = s.prefixed(
        "ISTIO_META_",
        "The rest of the name becomes metadata for the control plane.",
    );
    all.extend(plain.into_iter().map(|(name, value)| (name, value.into())));
    let meaning = "A JSON object of metadata for the control plane; the name's rest means nothing, but LABELS: labels.";
    for (name, text) in s.prefixed("ISTIO_METAJSON_", meaning) {
        match serde_json::from_str::<Map<String, Value>>(&text) {
            Ok(labels) if name == "LABELS" => drop(all.insert(name, labels.into())),
            Ok(more) => all.extend(more),
            Err(_) => s.fault(
                &format!("ISTIO_METAJSON_{name}"),
                Some(text),
                "a JSON object",
            ),
        }
    }
    if !proxy.told.is_empty() {
        all.insert("PROXY_CONFIG".into(), proxy.told.clone().into());
    }
    all
}

type Pairs = BTreeMap<String, String>;

/// Labels and annotations of our pod.
fn downward(s: &mut Settings<'_>, metadata: &Map<String, Value>) -> (Pairs, Pairs) {
    let labels_file = s.path(
        "POD_LABELS_FILE",
        "/etc/istio/pod/labels",
        "Labels of our pod (downward API).",
    );
    let annotations_file = s.path(
        "POD_ANNOTATIONS_FILE",
        "/etc/istio/pod/annotations",
        "Annotations of our pod (downward API).",
    );
    let gateway = s.optional(
        "GATEWAY_NAME",
        "Name of our Gateway, where nothing else tells our labels.",
    );
    let given = metadata.get("LABELS").and_then(Value::as_object);
    let given = given.into_iter().flatten();
    let mut labels: Pairs = given
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    labels.extend(pairs(&labels_file));
    labels.remove(OF_THE_REPLICA_SET);
    if let (Some(gateway), true) = (gateway, labels.is_empty()) {
        labels.insert("gateway.networking.k8s.io/gateway-name".into(), gateway);
        let managed = "istio.io-mesh-controller";
        labels.insert("gateway.istio.io/managed".into(), managed.into());
    }
    (labels, pairs(&annotations_file))
}

/// A file that is not there says nothing: outside Kubernetes there is none.
fn pairs(file: &Path) -> Pairs {
    std::fs::read_to_string(file).map_or_else(|_| Pairs::new(), |text| parse_pairs(&text))
}

/// Lines `key="value"` of the downward API; the value is quoted as Go quotes.
pub(super) fn parse_pairs(text: &str) -> Pairs {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(key, value)| (key.to_owned(), unquote(value)))
        .collect()
}

/// Go's quoting is JSON's, but for characters that no label has and few annotations: those stay as they are written.
fn unquote(text: &str) -> String {
    serde_json::from_str(text).unwrap_or_else(|_| text.trim_matches('"').to_owned())
}
