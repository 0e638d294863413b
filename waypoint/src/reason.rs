//! Why a request did not get an answer from its upstream: the one place where an error becomes a status,
//! Envoy's response flag, its response code details, and the body that the client reads.

use http::StatusCode;
use std::sync::Arc;

/// The reasons, closed. `report` and `request` match them exhaustively.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No route matches.
    NoRoute,
    /// The route's cluster does not exist; the status its action asks for.
    NoCluster(StatusCode),
    /// The cluster has no endpoint that may be used.
    NoHealthyUpstream,
    /// A limit of the cluster is reached.
    Overflow,
    /// No connection to the endpoint; what the attempt said.
    ConnectFailure(Arc<str>),
    /// The endpoint closed or reset before an answer; what it said.
    UpstreamReset(Arc<str>),
    /// The route's time is up.
    Timeout,
    /// The time of one try is up and no try is left.
    TryTimeout,
    /// A policy says no: the policy's name, or none if none allowed it.
    Denied(Option<Arc<str>>),
    /// A fault was injected: the HTTP status.
    Fault(StatusCode),
    /// The request cannot be read as HTTP wants it.
    BadRequest(&'static str),
    /// HTTP/1.0 is not taken.
    Http10,
    /// An upgrade that is not allowed here.
    UpgradeRefused,
    /// The request's body ended badly on the client's side.
    ClientGone,
}

impl Reason {
    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoCluster(status) | Self::Fault(status) => *status,
            Self::NoHealthyUpstream
            | Self::Overflow
            | Self::ConnectFailure(_)
            | Self::UpstreamReset(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout | Self::TryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Denied(_) | Self::UpgradeRefused => StatusCode::FORBIDDEN,
            Self::BadRequest(_) | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::Http10 => StatusCode::UPGRADE_REQUIRED,
        }
    }

    /// Envoy's response flag; empty for none.
    pub fn flag(&self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoCluster(_) => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::Overflow => "UO",
            Self::ConnectFailure(_) => "UF",
            Self::UpstreamReset(_) => "UC",
            Self::Timeout | Self::TryTimeout => "UT",
            Self::Fault(_) => "FI",
            Self::BadRequest(_) | Self::ClientGone => "DPE",
            Self::Denied(_) | Self::Http10 | Self::UpgradeRefused => "",
        }
    }

    /// Envoy's response code details.
    pub fn details(&self) -> String {
        match self {
            Self::NoRoute => "route_not_found".into(),
            Self::NoCluster(_) => "cluster_not_found".into(),
            Self::NoHealthyUpstream => "no_healthy_upstream".into(),
            Self::Overflow => "upstream_reset_before_response_started{overflow}".into(),
            Self::ConnectFailure(why) => {
                let why = why.replace(' ', "_");
                format!("upstream_reset_before_response_started{{remote_connection_failure|{why}}}")
            }
            Self::UpstreamReset(_) => {
                "upstream_reset_before_response_started{connection_termination}".into()
            }
            Self::Timeout => "upstream_response_timeout".into(),
            Self::TryTimeout => "upstream_per_try_timeout".into(),
            Self::Denied(policy) => crate::filters::rbac::details(policy.as_deref()),
            Self::Fault(_) => "fault_filter_abort".into(),
            Self::BadRequest(what) => (*what).into(),
            Self::Http10 => "low_version".into(),
            Self::UpgradeRefused => "upgrade_failed".into(),
            Self::ClientGone => "downstream_remote_disconnect".into(),
        }
    }

    /// Body of the answer, Envoy's words.
    pub fn body(&self) -> String {
        match self {
            Self::NoRoute | Self::NoCluster(_) | Self::BadRequest(_) | Self::Http10 | Self::ClientGone => String::new(),
            Self::UpgradeRefused => String::new(),
            Self::NoHealthyUpstream => "no healthy upstream".into(),
            Self::Overflow => "upstream connect error or disconnect/reset before headers. reset reason: overflow".into(),
            Self::ConnectFailure(why) => format!(
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                 transport failure reason: {why}"
            ),
            Self::UpstreamReset(_) => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination".into()
            }
            Self::Timeout | Self::TryTimeout => "upstream request timeout".into(),
            Self::Denied(_) => "RBAC: access denied".into(),
            Self::Fault(_) => "fault filter abort".into(),
        }
    }

    /// The gRPC status that a gRPC client reads instead of the HTTP one.
    pub fn grpc_status(&self) -> u32 {
        grpc_status(self.status())
    }

    /// What the transport said, for `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    pub fn transport(&self) -> Option<&str> {
        match self {
            Self::ConnectFailure(why) => Some(why),
            _ => None,
        }
    }
}

/// What a gRPC client reads where another reads this status in an answer of ours.
pub fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_envoys() {
        let cases = [
            (Reason::NoRoute, 404, "NR", "route_not_found", ""),
            (
                Reason::NoHealthyUpstream,
                503,
                "UH",
                "no_healthy_upstream",
                "no healthy upstream",
            ),
            (
                Reason::Timeout,
                504,
                "UT",
                "upstream_response_timeout",
                "upstream request timeout",
            ),
            (
                Reason::Denied(None),
                403,
                "",
                "rbac_access_denied_matched_policy[none]",
                "RBAC: access denied",
            ),
            (Reason::Http10, 426, "", "low_version", ""),
        ];
        for (reason, status, flag, details, body) in cases {
            assert_eq!(reason.status().as_u16(), status);
            assert_eq!(
                (
                    reason.flag(),
                    reason.details().as_str(),
                    reason.body().as_str()
                ),
                (flag, details, body)
            );
        }
    }
}
