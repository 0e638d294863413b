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

/// The path that a call of a gRPC method has, `/service/method`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallPath {
    /// This one.
    Exact(String),
    /// This, and what follows a `/` behind it.
    Prefix(String),
    /// One that a regular expression matches as a whole.
    Regex(String),
}

impl GrpcMethodMatch {
    /// The path that it asks for. Waypoints are sent this; so its validation looks at this too.
    #[must_use]
    pub fn path(&self) -> CallPath {
        let regex = self.r#type.as_deref() == Some("RegularExpression");
        // What stands beside `|` must stay on its side.
        let part = |text: &str| {
            if regex && text.contains('|') {
                format!("(?:{text})")
            } else {
                text.to_owned()
            }
        };
        match (self.service.as_deref(), self.method.as_deref()) {
            (Some(service), None) if regex => CallPath::Regex(format!("/{}/.+", part(service))),
            (Some(service), None) => CallPath::Prefix(format!("/{service}/")),
            (None, method) => {
                let method = method.map_or_else(|| ".+".into(), part);
                CallPath::Regex(format!("/[^/]+/{method}"))
            }
            (Some(service), Some(method)) => {
                let path = format!("/{}/{}", part(service), part(method));
                if regex {
                    CallPath::Regex(path)
                } else {
                    CallPath::Exact(path)
                }
            }
        }
    }
}
