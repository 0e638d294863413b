//! Core kinds: the fields that decide how pods and services meet the mesh, and no others.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;

use crate::meta::Meta;

/// A `Namespace`: labels and annotations decide enrolment and waypoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Meta,
}

/// A `Node`: its topology labels give the locality of its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
}

/// A `ServiceAccount`; the label `istio.io/use-waypoint` binds its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceAccount {
    /// Metadata.
    pub metadata: Meta,
}

/// A `Pod`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: PodSpec,
    /// What is.
    pub status: PodStatus,
}

impl Pod {
    /// Its addresses: `status.podIPs`, else `status.podIP`; texts that are no address are left out
    /// (validation refused them before).
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        if self.status.pod_ips.is_empty() {
            return self.status.pod_ip.parse().into_iter().collect();
        }
        self.status
            .pod_ips
            .iter()
            .filter_map(|ip| ip.ip.parse().ok())
            .collect()
    }

    /// Its service account; Kubernetes' `default` when none is named.
    #[must_use]
    pub fn service_account(&self) -> &str {
        if self.spec.service_account_name.is_empty() {
            "default"
        } else {
            &self.spec.service_account_name
        }
    }

    /// Whether it has ended for good (`Succeeded` or `Failed`).
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it takes traffic: condition `Ready` is true and it is not being deleted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && self
                .status
                .conditions
                .iter()
                .any(|c| c.r#type == "Ready" && c.status == "True")
    }
}

/// `spec` of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it runs on.
    pub node_name: String,
    /// Its service account; empty means `default`.
    pub service_account_name: String,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// Containers, for named ports.
    pub containers: Vec<Container>,
    /// Init containers; those with `restartPolicy: Always` keep running and may hold named ports.
    pub init_containers: Vec<Container>,
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Ports.
    pub ports: Vec<ContainerPort>,
    /// `Always` on an init container makes it a native sidecar.
    pub restart_policy: String,
}

/// One port of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name; empty when unnamed.
    pub name: String,
    /// Port number.
    pub container_port: u16,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    pub protocol: String,
}

/// `status` of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or empty.
    pub phase: String,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// All addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// Address of the node.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// One entry of `podIPs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// A status condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Its type, for example `Ready`.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// A `Service`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: ServiceSpec,
}

/// `spec` of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP` (also when empty), `NodePort`, `LoadBalancer` or `ExternalName`.
    pub r#type: String,
    /// First virtual address; `None` (the text) for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All virtual addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind it; empty means that EndpointSlices name the endpoints.
    pub selector: BTreeMap<String, String>,
    /// `IPv4`, `IPv6`, or both.
    pub ip_families: Vec<String>,
    /// `Cluster` (also when empty) or `Local`.
    pub internal_traffic_policy: String,
    /// `PreferClose`, `PreferSameZone`, `PreferSameNode` or empty.
    pub traffic_distribution: String,
    /// Whether endpoints that are not ready take traffic.
    pub publish_not_ready_addresses: bool,
}

impl ServiceSpec {
    /// Its virtual addresses; none for headless and external services.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        if self.cluster_ips.is_empty() {
            return self.cluster_ip.parse().into_iter().collect();
        }
        self.cluster_ips
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect()
    }
}

/// One port of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name; may be empty when it is the only port.
    pub name: String,
    /// The port clients connect to.
    pub port: u16,
    /// Number or name of the container's port; absent means the same number.
    pub target_port: Option<IntOrString>,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    pub protocol: String,
    /// Application protocol, for example `http`, `kubernetes.io/h2c`.
    pub app_protocol: String,
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// Number.
    Int(u16),
    /// Name.
    String(String),
}

/// An `EndpointSlice`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Metadata; the label `kubernetes.io/service-name` names the service.
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Ports that all of them serve.
    pub ports: Vec<EndpointPort>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses (fungible; readers use the first).
    pub addresses: Vec<String>,
    /// Whether it takes traffic.
    pub conditions: EndpointConditions,
    /// The object behind it, usually a pod.
    pub target_ref: Option<ObjectReference>,
    /// The node it is on.
    pub node_name: String,
    /// The zone it is in.
    pub zone: String,
}

/// Conditions of an endpoint; absent means yes for `ready` and `serving`, no for `terminating`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Ready for new traffic.
    pub ready: Option<bool>,
    /// Serving, also while terminating.
    pub serving: Option<bool>,
    /// Being deleted.
    pub terminating: Option<bool>,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// Name, equal to the service port's.
    pub name: String,
    /// Number.
    pub port: Option<u16>,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    pub protocol: String,
}

/// Reference to another object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ObjectReference {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An address of a Gateway's status or spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Address {
    /// `IPAddress` (also when empty) or `Hostname`.
    pub r#type: String,
    /// The address.
    pub value: String,
}
