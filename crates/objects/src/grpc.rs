//! Gateway API v1 `GRPCRoute`: matches by service and method, and the filters and backends of an `HTTPRoute`.

use serde::Deserialize;

use crate::{
    meta::Meta,
    route::{BackendRef, HeaderMatch, ParentRef, RouteFilter},
};

/// A `GRPCRoute`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcRoute {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: GrpcRouteSpec,
}

/// `spec` of a GRPCRoute.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    /// What it attaches to; a mesh route names a Service.
    pub parent_refs: Vec<ParentRef>,
    /// Host names; a mesh route ignores them, as upstream does.
    pub hostnames: Vec<String>,
    /// Rules.
    pub rules: Vec<GrpcRule>,
}

/// One rule: any match, all filters, one of the backends.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRule {
    /// Name.
    pub name: Option<String>,
    /// Matches, ORed; none means every request.
    pub matches: Vec<GrpcMatch>,
    /// Filters in order.
    pub filters: Vec<RouteFilter>,
    /// Backends by weight.
    pub backend_refs: Vec<BackendRef>,
}

/// One match; its parts are ANDed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMatch {
    /// Service and method; absent means all.
    pub method: Option<GrpcMethodMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
}

/// A match on what is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMethodMatch {
    /// `Exact` (also when absent) or `RegularExpression`.
    pub r#type: Option<String>,
    /// The service with its package; absent means any.
    pub service: Option<String>,
    /// The method; absent means any.
    pub method: Option<String>,
}
