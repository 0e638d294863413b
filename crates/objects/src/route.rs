//! Gateway API v1.6 `HTTPRoute`, the fields that a waypoint carries out. What is not listed here is reported as
//! unknown when it stands in a manifest.

use serde::Deserialize;

use crate::meta::Meta;

/// An `HTTPRoute`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpRoute {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: HttpRouteSpec,
}

/// `spec` of an HTTPRoute.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// What it attaches to; a mesh route names a Service.
    pub parent_refs: Vec<ParentRef>,
    /// Host names; a mesh route ignores them, as upstream does.
    pub hostnames: Vec<String>,
    /// Rules.
    pub rules: Vec<RouteRule>,
}

/// One parent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    /// API group; absent means the Gateway API, empty is core.
    pub group: Option<String>,
    /// Kind; absent means `Gateway`.
    pub kind: Option<String>,
    /// Namespace; absent means the route's.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Only this port of the parent.
    pub port: Option<u16>,
    /// Only this section of the parent.
    pub section_name: Option<String>,
}

/// One rule: any match, all filters, one of the backends.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteRule {
    /// Name.
    pub name: Option<String>,
    /// Matches, ORed; none means every request.
    pub matches: Vec<RouteMatch>,
    /// Filters in order.
    pub filters: Vec<RouteFilter>,
    /// Backends by weight.
    pub backend_refs: Vec<BackendRef>,
    /// Timeouts.
    pub timeouts: Option<RouteTimeouts>,
    /// Retries.
    pub retry: Option<RouteRetry>,
}

/// One match; its parts are ANDed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteMatch {
    /// Path; absent means prefix `/`.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query_params: Vec<QueryMatch>,
    /// Method.
    pub method: Option<String>,
}

/// A path match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PathMatch {
    /// `PathPrefix` (also when absent), `Exact` or `RegularExpression`.
    pub r#type: Option<String>,
    /// Value; absent means `/`.
    pub value: Option<String>,
}

/// A header match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderMatch {
    /// `Exact` (also when absent) or `RegularExpression`.
    pub r#type: Option<String>,
    /// Header name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A query parameter match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QueryMatch {
    /// `Exact` (also when absent) or `RegularExpression`.
    pub r#type: Option<String>,
    /// Parameter name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// One filter; `type` says which member counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteFilter {
    /// `RequestHeaderModifier`, `ResponseHeaderModifier`, `RequestMirror`, `RequestRedirect`, `URLRewrite`, `CORS`, …
    pub r#type: String,
    /// For `RequestHeaderModifier`.
    pub request_header_modifier: Option<HeaderModifier>,
    /// For `ResponseHeaderModifier`.
    pub response_header_modifier: Option<HeaderModifier>,
    /// For `RequestMirror`.
    pub request_mirror: Option<Mirror>,
    /// For `RequestRedirect`.
    pub request_redirect: Option<Redirect>,
    /// For `URLRewrite`.
    pub url_rewrite: Option<Rewrite>,
    /// For `CORS`.
    pub cors: Option<CorsFilter>,
}

/// What browsers may do with answers to pages of other origins. Lists that hold `*` hold nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    /// Origins: `*`, or scheme and host (which may be or begin with `*`) and perhaps a port.
    pub allow_origins: Vec<String>,
    /// With credentials; absent means without.
    pub allow_credentials: Option<bool>,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Headers of requests, or `*`.
    pub allow_headers: Vec<String>,
    /// Headers of answers that pages may read, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds for which the answer to a preflight holds; absent means 5.
    pub max_age: Option<u32>,
}

/// Header changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Replace or add.
    pub set: Vec<HeaderValue>,
    /// Append.
    pub add: Vec<HeaderValue>,
    /// Remove.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderValue {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Send a copy of requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mirror {
    /// Where to.
    pub backend_ref: BackendRef,
    /// Share in percent (0–100); absent means all.
    pub percent: Option<u32>,
    /// Share as a fraction.
    pub fraction: Option<Fraction>,
}

/// A fraction; the denominator is 100 when absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Fraction {
    /// Numerator.
    pub numerator: u32,
    /// Denominator.
    pub denominator: Option<u32>,
}

/// Answer with a redirect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// Scheme of the new location.
    pub scheme: Option<String>,
    /// Host of the new location.
    pub hostname: Option<String>,
    /// Path of the new location.
    pub path: Option<PathModifier>,
    /// Port of the new location.
    pub port: Option<u16>,
    /// 301, 302 (when absent), 303, 307 or 308.
    pub status_code: Option<u16>,
}

/// Change host or path before forwarding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rewrite {
    /// New host.
    pub hostname: Option<String>,
    /// New path.
    pub path: Option<PathModifier>,
}

/// A change of the path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    pub r#type: String,
    /// For `ReplaceFullPath`.
    pub replace_full_path: Option<String>,
    /// For `ReplacePrefixMatch`.
    pub replace_prefix_match: Option<String>,
}

/// One backend.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BackendRef {
    /// API group; empty (also when absent) is core.
    pub group: Option<String>,
    /// Kind; absent means `Service`.
    pub kind: Option<String>,
    /// Namespace; absent means the route's.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port; required for a Service.
    pub port: Option<u16>,
    /// Share; absent means 1.
    pub weight: Option<u32>,
    /// Filters of this backend.
    pub filters: Vec<RouteFilter>,
}

/// Timeouts as Gateway API durations (`1h2m3s4ms`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteTimeouts {
    /// Whole request; `0s` means none.
    pub request: Option<String>,
    /// One attempt.
    pub backend_request: Option<String>,
}

/// Retries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RouteRetry {
    /// Status codes that are tried again.
    pub codes: Vec<u32>,
    /// Number of attempts after the first.
    pub attempts: Option<u32>,
    /// Least time between attempts.
    pub backoff: Option<String>,
}
