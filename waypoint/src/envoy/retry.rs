//! Retry policies → `model::route::Retry`.

use super::{At, Converted, duration, limit, number, required, take, unpack};
use crate::model::route::{Retry, RetryOn};
use envoy_types::pb::envoy::config::route::v3::RetryPolicy;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use std::time::Duration;

/// Envoy's pause before the first retry.
const BASE: Duration = Duration::from_millis(25);

/// Most tries after the first. Without a limit of time a request would otherwise go on for as long as its endpoints fail.
pub const MOST: u32 = 32;

/// A retry policy.
pub fn retry(at: &At<'_>, policy: RetryPolicy) -> Converted<Retry> {
    take!(at, policy => RetryPolicy { retry_on, num_retries, per_try_timeout, retry_host_predicate,
            host_selection_retry_max_attempts, retriable_status_codes, retry_back_off }
        ignored {}
        refused { per_try_idle_timeout, retry_priority, retry_options_predicates, rate_limited_retry_back_off,
            retriable_headers, retriable_request_headers, refresh_cluster_on_retry });
    let on = words(&at.field("retry_on"), &retry_on)?;
    let (base, max) = match retry_back_off {
        None => (BASE, BASE * 10),
        Some(back_off) => pauses(&at.field("retry_back_off"), back_off)?,
    };
    for (i, predicate) in retry_host_predicate.iter().enumerate() {
        previous_hosts(&at.index("retry_host_predicate", i), predicate)?;
    }
    let statuses = retriable_status_codes
        .into_iter()
        .map(u16::try_from)
        .collect::<Result<Vec<_>, _>>();
    Ok(Retry {
        on,
        tries: number(num_retries).unwrap_or(1).min(MOST),
        statuses: statuses.map_err(|_| {
            at.field("retriable_status_codes")
                .refuse("not an HTTP status")
        })?,
        per_try_timeout: limit(at, "per_try_timeout", per_try_timeout)?,
        base,
        max,
        avoid_previous_hosts: !retry_host_predicate.is_empty(),
        pick_attempts: u32::try_from(host_selection_retry_max_attempts)
            .unwrap_or(1)
            .max(1),
    })
}

fn pauses(at: &At<'_>, back_off: RetryBackOff) -> Converted<(Duration, Duration)> {
    let RetryBackOff {
        base_interval,
        max_interval,
    } = back_off;
    let base = limit(at, "base_interval", base_interval)?.unwrap_or(BASE);
    Ok((
        base,
        duration(at, "max_interval", max_interval)?.unwrap_or(base * 10),
    ))
}

fn previous_hosts(at: &At<'_>, predicate: &RetryHostPredicate) -> Converted<()> {
    let config = required(at, "typed_config", predicate.config_type.as_ref())?;
    let retry_host_predicate::ConfigType::TypedConfig(any) = config;
    unpack::<PreviousHostsPredicate>(&at.field("typed_config"), any).map(drop)
}

fn words(at: &At<'_>, text: &str) -> Converted<RetryOn> {
    let mut on = RetryOn::default();
    for word in text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match word {
            "5xx" => on.five_xx = true,
            "gateway-error" => on.gateway_error = true,
            "connect-failure" => on.connect_failure = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "refused-stream" => on.refused_stream = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "retriable-status-codes" => on.statuses = true,
            "cancelled" => on.grpc_cancelled = true,
            "deadline-exceeded" => on.grpc_deadline = true,
            "internal" => on.grpc_internal = true,
            "resource-exhausted" => on.grpc_exhausted = true,
            "unavailable" => on.grpc_unavailable = true,
            other => return Err(at.refuse(format!("condition {other:?} is not supported"))),
        }
    }
    Ok(on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_bounded() {
        for (asked, tries) in [
            (Some(0), 0),
            (None, 1),
            (Some(5), 5),
            (Some(u32::MAX), MOST),
        ] {
            let policy = RetryPolicy {
                num_retries: asked
                    .map(|value| envoy_types::pb::google::protobuf::UInt32Value { value }),
                ..RetryPolicy::default()
            };
            let url = super::super::type_url::<RetryPolicy>();
            let retry = retry(&At::root(&url), policy).unwrap();
            assert_eq!(retry.tries, tries, "{asked:?}");
        }
    }
}
