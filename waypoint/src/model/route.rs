//! Route tables: what `route` selects from.

use super::text::{HeaderKey, HeaderMatch, StringMatch};
use crate::format::Format;
use http::{HeaderName, StatusCode, header::HeaderValue};
use regex::Regex;
use std::sync::Arc;
use std::time::Duration;

/// A route configuration.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Its name.
    pub name: Arc<str>,
    /// In the order sent; the choice among them is by domain specificity.
    pub hosts: Vec<VirtualHost>,
    /// Header changes for all.
    pub headers: HeaderChanges,
}

/// A virtual host.
#[derive(Debug, Clone, Default)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Exact names, `*.suffix`, `prefix.*` or `*`, lower case.
    pub domains: Vec<String>,
    /// Tried in order.
    pub routes: Vec<Arc<Route>>,
    /// Header changes for its routes.
    pub headers: HeaderChanges,
    /// Used where a route has none of its own.
    pub retry: Option<Retry>,
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name, may be empty.
    pub name: Arc<str>,
    /// What a request must look like.
    pub matches: RouteMatch,
    /// What happens to it.
    pub action: RouteAction,
    /// Header changes of this route.
    pub headers: HeaderChanges,
    /// Told in `x-envoy-decorator-operation`, when wanted.
    pub operation: Option<HeaderValue>,
    /// Cross-origin policy.
    pub cors: Option<Arc<Cors>>,
    /// Fault injection.
    pub fault: Option<Arc<Fault>>,
}

/// The conditions of a route; all must hold.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// On the path.
    pub path: PathMatch,
    /// On headers.
    pub headers: Vec<HeaderMatch>,
    /// On query parameters: name, and value or mere presence.
    pub query: Vec<(String, QueryTest)>,
    /// Only gRPC requests.
    pub grpc: bool,
}

/// A condition on a query parameter.
#[derive(Debug, Clone)]
pub enum QueryTest {
    /// Present or absent.
    Present(bool),
    /// Its value.
    Value(StringMatch),
}

/// A condition on the path, of which the texts have their escapes in upper case; the flag is "case sensitive".
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// Starts with.
    Prefix(String, bool),
    /// Equal, without the query.
    Exact(String, bool),
    /// Equal, or followed by `/`.
    Separated(String, bool),
    /// The whole path without the query.
    Regex(Regex),
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// Send it on.
    Forward(Box<Forward>),
    /// Answer with a location.
    Redirect(Redirect),
    /// Answer at once.
    Direct {
        /// Status of the answer.
        status: StatusCode,
        /// Its body.
        body: bytes::Bytes,
    },
}

/// How a request is forwarded.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Where to, with weights; at least one, and their sum is not 0.
    pub targets: Vec<WeightedTarget>,
    /// Status when the chosen cluster does not exist.
    pub not_found: StatusCode,
    /// Change of the path.
    pub rewrite: Option<PathRewrite>,
    /// New authority.
    pub host: Option<HeaderValue>,
    /// Tell the old authority in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// Time for the whole answer; `None` has no limit.
    pub timeout: Option<Duration>,
    /// Time without any progress; `None` has no limit.
    pub idle_timeout: Option<Duration>,
    /// Ceiling for a client's `grpc-timeout`, when that is heeded: `Some(0)` means as asked.
    pub max_grpc_timeout: Option<Duration>,
    /// Second tries.
    pub retry: Option<Retry>,
    /// Copies of the request.
    pub mirrors: Vec<Mirror>,
    /// Upgrades allowed or refused by this route (`websocket`).
    pub websocket: Option<bool>,
}

/// One of the clusters that share a route.
#[derive(Debug, Clone)]
pub struct WeightedTarget {
    /// Cluster name.
    pub cluster: Arc<str>,
    /// Share.
    pub weight: u32,
    /// Header changes for this share only.
    pub headers: HeaderChanges,
    /// New authority for this share only.
    pub host: Option<HeaderValue>,
}

/// A change of the path.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// The matched prefix becomes this.
    Prefix(String),
    /// All matches become this (Rust's `$n` syntax already).
    Regex(Regex, String),
    /// The whole path without query becomes this.
    Full(String),
}

/// A redirect.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// New scheme.
    pub scheme: Option<String>,
    /// New host.
    pub host: Option<String>,
    /// New port.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<PathRewrite>,
    /// Leave the query out.
    pub strip_query: bool,
}

/// When and how often to try again.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Conditions.
    pub on: RetryOn,
    /// Tries after the first.
    pub tries: u32,
    /// Statuses for `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// Limit of each try.
    pub per_try_timeout: Option<Duration>,
    /// First pause; Envoy's default is 25 ms.
    pub base: Duration,
    /// Longest pause.
    pub max: Duration,
    /// Avoid endpoints that were tried already.
    pub avoid_previous_hosts: bool,
    /// How often to pick again when a tried endpoint comes up.
    pub pick_attempts: u32,
}

/// The words of `retry_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn {
    /// 5xx answers, or none at all.
    pub five_xx: bool,
    /// 502, 503, 504.
    pub gateway_error: bool,
    /// No connection.
    pub connect_failure: bool,
    /// Reset by the upstream.
    pub reset: bool,
    /// Reset by the upstream before the request was sent.
    pub reset_before_request: bool,
    /// REFUSED_STREAM.
    pub refused_stream: bool,
    /// 409.
    pub retriable_4xx: bool,
    /// The statuses named in the policy.
    pub statuses: bool,
    /// gRPC CANCELLED.
    pub grpc_cancelled: bool,
    /// gRPC DEADLINE_EXCEEDED.
    pub grpc_deadline: bool,
    /// gRPC INTERNAL.
    pub grpc_internal: bool,
    /// gRPC RESOURCE_EXHAUSTED.
    pub grpc_exhausted: bool,
    /// gRPC UNAVAILABLE.
    pub grpc_unavailable: bool,
}

/// A copy of requests.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Where to.
    pub cluster: Arc<str>,
    /// Share of requests.
    pub share: Share,
    /// Append `-shadow` to the authority.
    pub shadow_suffix: bool,
}

/// A fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Of `of`.
    pub part: u32,
    /// 100, 10,000 or 1,000,000.
    pub of: u32,
}

impl Share {
    /// All of them.
    pub const ALL: Self = Self { part: 100, of: 100 };

    /// Is a number drawn from `0..of` inside the share?
    pub fn hit(self, rng: &mut impl rand::RngExt) -> bool {
        self.part >= self.of || (self.part > 0 && rng.random_range(0..self.of) < self.part)
    }
}

/// Changes of request and response headers.
#[derive(Debug, Clone, Default)]
pub struct HeaderChanges {
    /// On the way up.
    pub request: Changes,
    /// On the way down.
    pub response: Changes,
}

/// Changes of one set of headers: removals first, then additions.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Names to remove.
    pub remove: Vec<HeaderName>,
    /// Headers to set.
    pub set: Vec<SetHeader>,
}

/// One header to set.
#[derive(Debug, Clone)]
pub struct SetHeader {
    /// Its name (`:authority` and `:path` are refused by the front end, `host` too).
    pub name: HeaderName,
    /// Its value, which may ask for facts of the request.
    pub value: Format,
    /// Beside a present one, instead of it, or only if there is none.
    pub mode: SetMode,
    /// Set it even when the value comes out empty.
    pub keep_empty: bool,
}

/// What happens with a header of that name that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetMode {
    /// Both stand.
    Append,
    /// Only if there is none.
    IfAbsent,
    /// The new one replaces it, or is added.
    Overwrite,
    /// The new one replaces it; nothing is added if there is none.
    OverwriteIfPresent,
}

/// Cross-origin policy of a route.
#[derive(Debug, Clone)]
pub struct Cors {
    /// Origins let in.
    pub origins: Vec<StringMatch>,
    /// Told to preflights.
    pub methods: Option<HeaderValue>,
    /// Told to preflights.
    pub headers: Option<HeaderValue>,
    /// Told to actual requests.
    pub expose: Option<HeaderValue>,
    /// Seconds, told to preflights.
    pub max_age: Option<HeaderValue>,
    /// Allow credentials.
    pub credentials: bool,
    /// Preflights of unknown origins go upstream.
    pub forward_not_matching: bool,
}

/// Fault injection of a route.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// Wait this long for that share.
    pub delay: Option<(Duration, Share)>,
    /// Answer so for that share.
    pub abort: Option<(Abort, Share)>,
    /// Only for requests with these headers.
    pub headers: Vec<HeaderMatch>,
}

/// How a fault answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// With this HTTP status.
    Http(StatusCode),
    /// With this gRPC status.
    Grpc(u32),
}

/// Is a header name one that Envoy reads as part of the request line?
pub fn header_key(name: &str) -> Option<HeaderKey> {
    Some(match name {
        ":method" => HeaderKey::Method,
        ":authority" => HeaderKey::Authority,
        host if host.eq_ignore_ascii_case("host") => HeaderKey::Authority,
        ":scheme" => HeaderKey::Scheme,
        ":path" => HeaderKey::Path,
        other => HeaderKey::Name(HeaderName::from_bytes(other.as_bytes()).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_in_any_case_means_the_authority() {
        for name in ["host", "Host", "HOST", ":authority"] {
            assert_eq!(header_key(name), Some(HeaderKey::Authority), "{name}");
        }
        assert_eq!(
            header_key("X-A"),
            Some(HeaderKey::Name(HeaderName::from_static("x-a")))
        );
        assert_eq!(header_key(":other"), None);
    }
}
