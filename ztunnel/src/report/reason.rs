//! The one place where a [`Reason`] becomes a metric flag, a severity and a sentence. Called by `metrics`
//! and `line`; the matches have no wildcard, so that a new reason cannot be forgotten.

use crate::worker::api::{Direction, Reason};

/// Value of the `response_flags` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    /// Nothing to say.
    None,
    /// Refused by policy.
    Deny,
    /// The next hop could not be reached or did not agree.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The HTTP/2 layer failed.
    Http2,
    /// A dial of port 15008 got no answer: most likely a Kubernetes NetworkPolicy.
    NetworkPolicy,
    /// A peer proved another identity than the expected one, or we have none.
    Identity,
}

impl Flag {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::Tls,
        Self::Http2,
        Self::NetworkPolicy,
        Self::Identity,
    ];

    /// As it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::Tls => "TLS_FAILURE",
            Self::Http2 => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::Identity => "IDENTITY_ERROR",
        }
    }
}

/// How an end is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// In order.
    Complete,
    /// It worked, and was then broken off by an application or by us on purpose: an error in the log, no failure in
    /// the metrics.
    Broken,
    /// It could not be had: counted in `tcp_connections_failed`.
    Failed,
}

/// Where a connection was heading when it ended; decides between `CONNECT` and `NETWORK_POLICY`.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Captured on the way in or out.
    pub direction: Direction,
    /// The next hop was a proxy's HBONE port.
    pub hbone: bool,
}

/// The flag of a connection that ended so.
pub fn flag(reason: Reason, target: Target) -> Flag {
    match reason {
        Reason::Complete
        | Reason::SourceReset
        | Reason::DestinationReset
        | Reason::TunnelLost
        | Reason::PodRemoved
        | Reason::Shutdown => Flag::None,
        Reason::PolicyDenied | Reason::PolicyCut => Flag::Deny,
        Reason::Identity | Reason::NoCertificate => Flag::Identity,
        Reason::Tls => Flag::Tls,
        Reason::Http2 => Flag::Http2,
        Reason::DialTimeout if target.hbone && target.direction == Direction::Outbound => {
            Flag::NetworkPolicy
        }
        Reason::DialFailed
        | Reason::DialTimeout
        | Reason::TunnelRefused
        | Reason::SelfCall
        | Reason::UnknownWorkload
        | Reason::NoEndpoint
        | Reason::NoWaypoint
        | Reason::Unsupported
        | Reason::BadRequest
        | Reason::Overloaded => Flag::Connect,
    }
}

/// How an end is judged.
pub fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::Complete => Outcome::Complete,
        Reason::SourceReset
        | Reason::DestinationReset
        | Reason::TunnelLost
        | Reason::PolicyCut
        | Reason::PodRemoved
        | Reason::Shutdown => Outcome::Broken,
        Reason::PolicyDenied
        | Reason::Identity
        | Reason::NoCertificate
        | Reason::Tls
        | Reason::Http2
        | Reason::DialFailed
        | Reason::DialTimeout
        | Reason::TunnelRefused
        | Reason::SelfCall
        | Reason::UnknownWorkload
        | Reason::NoEndpoint
        | Reason::NoWaypoint
        | Reason::Unsupported
        | Reason::BadRequest
        | Reason::Overloaded => Outcome::Failed,
    }
}

/// The `error` of the access log; `None` for an orderly end. `detail` names the policy, status or I/O error.
pub fn error(reason: Reason, target: Target, detail: Option<&str>) -> Option<String> {
    let text = match reason {
        Reason::Complete => return None,
        Reason::SourceReset => "connection reset by the source",
        Reason::DestinationReset => "connection reset by the destination",
        Reason::TunnelLost => "the HBONE tunnel was lost",
        Reason::PolicyDenied => "connection closed due to policy rejection",
        Reason::PolicyCut => "connection closed due to policy change",
        Reason::Identity => "identity error",
        Reason::NoCertificate => "no certificate for this workload",
        Reason::Tls => "tls error",
        Reason::Http2 => "http2 handshake failed",
        Reason::DialFailed => "connection failed",
        Reason::DialTimeout if flag(reason, target) == Flag::NetworkPolicy => {
            "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008"
        }
        Reason::DialTimeout => "connection timed out",
        Reason::TunnelRefused => "the peer refused the tunnel",
        Reason::SelfCall => "attempted recursive call to ourselves",
        Reason::UnknownWorkload => "unknown workload",
        Reason::NoEndpoint => "no healthy upstream",
        Reason::NoWaypoint => "the waypoint cannot be found",
        Reason::Unsupported => "not supported by this version",
        Reason::BadRequest => "bad CONNECT request",
        Reason::Overloaded => "a limit of the pod is reached",
        Reason::PodRemoved => "connection closed because the pod is gone",
        Reason::Shutdown => "connection closed due to connection drain",
    };
    Some(detail.map_or_else(|| text.to_owned(), |detail| format!("{text}: {detail}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Target = Target {
        direction: Direction::Outbound,
        hbone: true,
    };

    #[test]
    fn only_an_outbound_dial_of_a_proxy_that_times_out_blames_network_policy() {
        assert_eq!(flag(Reason::DialTimeout, OUT), Flag::NetworkPolicy);
        assert_eq!(
            flag(
                Reason::DialTimeout,
                Target {
                    hbone: false,
                    ..OUT
                }
            ),
            Flag::Connect
        );
        assert_eq!(
            flag(
                Reason::DialTimeout,
                Target {
                    direction: Direction::Inbound,
                    hbone: true
                }
            ),
            Flag::Connect
        );
    }

    #[test]
    fn a_policy_cut_is_flagged_but_is_no_failed_connection() {
        assert_eq!(flag(Reason::PolicyCut, OUT).as_str(), "DENY");
        assert_eq!(outcome(Reason::PolicyCut), Outcome::Broken);
        assert_eq!(outcome(Reason::PolicyDenied), Outcome::Failed);
    }

    #[test]
    fn the_text_ends_with_the_detail() {
        let text = error(Reason::PolicyDenied, OUT, Some("denied by app/l4"));
        assert_eq!(
            text.as_deref(),
            Some("connection closed due to policy rejection: denied by app/l4")
        );
        assert_eq!(error(Reason::Complete, OUT, Some("ignored")), None);
    }
}
