//! Retry policies of routes.

use envoy_types::pb::envoy::{
    config::route::v3::{
        RetryPolicy,
        retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate},
    },
    extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate,
};
use objects::{RouteRetry, RouteTimeouts};

use super::super::pack;

/// Failures after which nothing can have reached the application, or that it asked to have tried again.
const RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
/// The same without answers.
const CONNECTION: &str = "connect-failure,refused-stream,unavailable,cancelled";
const RETRIES: u32 = 2;

/// What a route has that says nothing of retries.
pub(super) fn default() -> RetryPolicy {
    RetryPolicy {
        retry_on: RETRY_ON.into(),
        num_retries: pack::number(RETRIES),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack::any(
                &PreviousHostsPredicate::default(),
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        ..RetryPolicy::default()
    }
}

/// What a rule asks for; `attempts: 0` turns retries off, but not the time of the only try.
pub(super) fn of_rule(
    timeouts: Option<&RouteTimeouts>,
    retry: Option<&RouteRetry>,
) -> Option<RetryPolicy> {
    let duration = |text: &Option<String>| {
        text.as_deref()
            .and_then(objects::duration)
            .filter(|d| !d.is_zero())
    };
    let per_try = timeouts.and_then(|timeouts| duration(&timeouts.backend_request));
    let mut policy = default();
    policy.per_try_timeout = per_try.and_then(pack::time);
    if let Some(retry) = retry {
        let attempts = retry.attempts.unwrap_or(RETRIES);
        if attempts == 0 {
            return per_try.map(|_| RetryPolicy {
                num_retries: pack::number(0),
                per_try_timeout: policy.per_try_timeout,
                ..RetryPolicy::default()
            });
        }
        policy.num_retries = pack::number(attempts);
        policy.retriable_status_codes = retry.codes.clone();
        policy.retry_on = if retry.codes.is_empty() {
            CONNECTION.into()
        } else {
            RETRY_ON.into()
        };
        policy.retry_back_off = duration(&retry.backoff).map(|base| RetryBackOff {
            base_interval: pack::time(base),
            // Envoy's own default, ten times the base.
            max_interval: None,
        });
    }
    Some(policy)
}
