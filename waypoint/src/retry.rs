//! Shall a failed try be followed by another: pure. Called by `forward` after each try.

use crate::model::route::{Retry, RetryOn};
use rand::RngExt;
use std::time::Duration;

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// An answer: its status and, for gRPC, the status in its head.
    Answer(u16, Option<u32>),
    /// No connection.
    NoConnection,
    /// REFUSED_STREAM: the endpoint did nothing.
    Refused,
    /// Closed or reset before an answer.
    Reset,
    /// The time of this try was up.
    TimedOut,
}

/// Does the policy want another try after this?
pub fn wanted(policy: &Retry, ended: Ended) -> bool {
    let on = &policy.on;
    match ended {
        Ended::Answer(status, grpc) => {
            (on.five_xx && status >= 500)
                || (on.gateway_error && matches!(status, 502..=504))
                || (on.retriable_4xx && status == 409)
                || (on.statuses && policy.statuses.contains(&status))
                || grpc.is_some_and(|code| wanted_grpc(on, code))
        }
        Ended::NoConnection => on.connect_failure || on.reset_before_request || any_reset(on),
        Ended::Refused => on.refused_stream || on.reset_before_request || any_reset(on),
        Ended::Reset | Ended::TimedOut => any_reset(on),
    }
}

fn any_reset(on: &RetryOn) -> bool {
    on.reset || on.five_xx || on.gateway_error
}

fn wanted_grpc(on: &RetryOn, code: u32) -> bool {
    match code {
        1 => on.grpc_cancelled,
        4 => on.grpc_deadline,
        8 => on.grpc_exhausted,
        13 => on.grpc_internal,
        14 => on.grpc_unavailable,
        _ => false,
    }
}

/// The pause before the `n`-th retry (from 1): at random below a bound that doubles.
pub fn pause(policy: &Retry, n: u32, rng: &mut impl RngExt) -> Duration {
    let bound = policy
        .base
        .saturating_mul(2u32.saturating_pow(n.min(16) - 1))
        .min(policy.max);
    bound.mul_f64(rng.random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn policy(on: RetryOn) -> Retry {
        Retry {
            on,
            tries: 2,
            statuses: vec![418],
            per_try_timeout: None,
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
            avoid_previous_hosts: true,
            pick_attempts: 5,
        }
    }

    #[test]
    fn istios_default_retries_what_did_no_work() {
        let default = policy(RetryOn {
            connect_failure: true,
            refused_stream: true,
            grpc_unavailable: true,
            grpc_cancelled: true,
            statuses: true,
            ..RetryOn::default()
        });
        let cases = [
            (Ended::NoConnection, true),
            (Ended::Refused, true),
            (Ended::Reset, false),
            (Ended::TimedOut, false),
            (Ended::Answer(503, None), false),
            (Ended::Answer(418, None), true),
            (Ended::Answer(200, Some(14)), true),
            (Ended::Answer(200, Some(13)), false),
        ];
        for (ended, want) in cases {
            assert_eq!(wanted(&default, ended), want, "{ended:?}");
        }
    }

    #[test]
    fn words_cover_what_envoy_says() {
        let five = policy(RetryOn {
            five_xx: true,
            ..RetryOn::default()
        });
        assert!(
            [
                Ended::NoConnection,
                Ended::Refused,
                Ended::Reset,
                Ended::TimedOut,
                Ended::Answer(500, None)
            ]
            .into_iter()
            .all(|ended| wanted(&five, ended))
        );
        assert!(!wanted(&five, Ended::Answer(404, None)));
        let gateway = policy(RetryOn {
            gateway_error: true,
            ..RetryOn::default()
        });
        assert!(
            wanted(&gateway, Ended::Answer(502, None))
                && !wanted(&gateway, Ended::Answer(500, None))
        );
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(5);
        for n in 1..100 {
            let longest =
                Duration::from_millis(25 << (n.min(5) - 1)).min(Duration::from_millis(250));
            assert!(pause(&policy(RetryOn::default()), n, &mut rng) <= longest);
        }
    }
}
