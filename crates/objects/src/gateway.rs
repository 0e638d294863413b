//! Gateway API v1: `Gateway` and `GatewayClass`, as far as a waypoint is described by them.

use serde::Deserialize;

use crate::{
    core::Address,
    meta::{LabelSelector, Meta},
};

/// A `Gateway`; of a waypoint class it stands for a waypoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// Metadata; the label `istio.io/waypoint-for` says what traffic it takes.
    pub metadata: Meta,
    /// Spec.
    pub spec: GatewaySpec,
    /// Status.
    pub status: GatewayStatus,
}

/// `spec` of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// The class, for example `istio-waypoint`.
    pub gateway_class_name: String,
    /// Listeners.
    pub listeners: Vec<Listener>,
    /// Addresses that were asked for.
    pub addresses: Vec<Address>,
    /// Labels and annotations for generated objects; accepted, not used.
    pub infrastructure: Option<serde_json::Value>,
}

/// One listener.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Name.
    pub name: String,
    /// Host name filter.
    pub hostname: Option<String>,
    /// Port.
    pub port: u16,
    /// Protocol; a waypoint's is `HBONE`.
    pub protocol: String,
    /// Which namespaces may use it.
    pub allowed_routes: AllowedRoutes,
}

/// `allowedRoutes` of a listener.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// Namespaces; the default is the Gateway's own.
    pub namespaces: RouteNamespaces,
    /// Kinds of routes; accepted, not used by waypoints.
    pub kinds: Vec<serde_json::Value>,
}

/// `allowedRoutes.namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// `Same` (also when empty), `All`, `Selector` or `None`.
    pub from: String,
    /// For `Selector`.
    pub selector: Option<LabelSelector>,
}

/// `status` of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayStatus {
    /// Where it is reached.
    pub addresses: Vec<Address>,
}

/// A `GatewayClass`; the label `istio.io/waypoint-for` on it is the default of its Gateways.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayClass {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: GatewayClassSpec,
}

/// `spec` of a GatewayClass.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// Who keeps Gateways of this class; fixed once it is made.
    pub controller_name: String,
}
