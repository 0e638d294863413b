//! What is the same for all waypoints that we deploy; read from the environment by `config`.

use serde::Deserialize;
use serde_json::Value;

/// Settings of the template.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Image of the waypoint; empty = nothing is deployed.
    pub image: String,
    /// Pull policy; empty = Kubernetes' default.
    pub pull_policy: String,
    /// Secrets to pull with.
    pub pull_secrets: Vec<String>,
    /// Resources and placement.
    pub values: Values,
    /// Run as user 1337. Off where the platform gives each namespace its own range.
    pub fixed_user: bool,
    /// `host:port` of the control plane as pods reach it.
    pub discovery_address: String,
    /// `host:port` of the certificate authority.
    pub ca_address: String,
    /// DNS domain of services.
    pub domain: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Cluster.
    pub cluster_id: String,
    /// Network; may be empty.
    pub network: String,
    /// Namespace of class defaults.
    pub root_namespace: String,
    /// Make the class `istio-waypoint` ours if nobody has it.
    pub claim_istio_class: bool,
    /// Name of this replica, for events.
    pub instance: String,
}

/// The part of a chart's `global.waypoint` that goes into pods as it is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Values {
    /// Of the container; the default is upstream's.
    pub resources: Option<Value>,
    /// Of the pod.
    pub affinity: Option<Value>,
    /// Of the pod.
    pub topology_spread_constraints: Option<Value>,
    /// Of the pod.
    pub node_selector: Option<Value>,
    /// Of the pod.
    pub tolerations: Option<Value>,
}

impl Values {
    /// From JSON; none if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Values> {
        if text.trim().is_empty() {
            return Some(Values::default());
        }
        serde_json::from_str(text).ok()
    }
}
