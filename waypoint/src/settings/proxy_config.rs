//! `PROXY_CONFIG` (Istio's ProxyConfig as JSON, of which istiod's template sends what differs from the built-in
//! defaults), and what of it means something here. Called by `settings`.

use runtime::settings::{Settings, parse_duration};
use serde_json::{Map, Value, json};
use std::time::Duration;

const NAME: &str = "PROXY_CONFIG";
const ALLOWED: &str = "a JSON object";

/// The parts that are read.
#[derive(Debug, Default)]
pub struct ProxyConfig {
    /// `discoveryAddress`.
    pub discovery: Option<String>,
    /// `terminationDrainDuration`.
    pub drain: Option<Duration>,
    /// `concurrency`.
    pub threads: Option<usize>,
    /// `serviceCluster`.
    pub service_cluster: Option<String>,
    /// `proxyMetadata`: more of the environment.
    pub metadata: Vec<(String, String)>,
    /// All of it over the built-in defaults, as pilot-agent tells it to the control plane.
    pub told: Map<String, Value>,
}

impl ProxyConfig {
    /// Reads the setting; what is wrong in it becomes a fault of the setting.
    pub fn read(s: &mut Settings<'_>) -> Self {
        let meaning = "Istio's proxy config; read are discoveryAddress, terminationDrainDuration, concurrency, \
                       serviceCluster and proxyMetadata, and all of it is told to the control plane.";
        let found = s.optional_parsed(NAME, ALLOWED, meaning, |text| {
            serde_json::from_str::<Map<String, Value>>(text).ok()
        });
        let Some(config) = found else {
            return Self::default();
        };
        let text = |key: &str| {
            let text = config.get(key).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let drain = text("terminationDrainDuration").and_then(|text| {
            let parsed = parse_duration(&text);
            if parsed.is_none() {
                let allowed = "an object whose terminationDrainDuration is a time such as `5s`";
                s.fault(NAME, Some(text), allowed);
            }
            parsed
        });
        let threads = config.get("concurrency").and_then(Value::as_u64);
        let metadata = config.get("proxyMetadata").and_then(Value::as_object);
        let metadata = metadata.into_iter().flatten();
        Self {
            discovery: text("discoveryAddress"),
            drain,
            threads: threads.and_then(|threads| usize::try_from(threads).ok()),
            service_cluster: text("serviceCluster"),
            metadata: metadata
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            told: told(&config),
        }
    }
}

/// The control plane takes what it is told for the whole config: what is left out would be read as zero.
fn told(config: &Map<String, Value>) -> Map<String, Value> {
    let defaults = json!({
        "configPath": "./etc/istio/proxy",
        "binaryPath": "/usr/local/bin/envoy",
        "serviceCluster": "istio-proxy",
        "drainDuration": "45s",
        "terminationDrainDuration": "5s",
        "discoveryAddress": super::DISCOVERY,
        "proxyAdminPort": 15000,
        "controlPlaneAuthPolicy": "MUTUAL_TLS",
        "statNameLength": 189,
        "statusPort": 15020,
    });
    let Value::Object(mut all) = defaults else {
        return config.clone();
    };
    all.extend(config.clone());
    all
}
