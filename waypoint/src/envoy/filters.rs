//! HTTP filters and per-route filter configs → `model`.

use super::messages::{PluginConfig, TypedStruct};
use super::strings::{header_value, headers, is_true, runtime_share, share, string};
use super::{At, Converted, decode, ignored, limit, rbac, required, take, unpack};
use crate::model::listener::HttpFilter;
use crate::model::route::{Abort, Cors, Fault};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{
    FaultDelay, fault_delay::FaultDelaySecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors as CorsFilter, CorsPolicy};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort::ErrorType,
};
use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStats;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter as ProtoFilter, http_filter,
};
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;
use std::collections::HashMap;
use std::sync::Arc;

/// What one entry of `http_filters` turned out to be.
pub enum Converted1 {
    /// A filter to run.
    Run(HttpFilter),
    /// Istio's metrics.
    Metrics,
    /// The router; `true` if Envoy's own headers are kept.
    Router(bool),
    /// Accepted and ignored.
    Nothing,
}

/// One entry of `http_filters`.
pub fn http_filter(at: &At<'_>, filter: ProtoFilter) -> Converted<Converted1> {
    take!(at, filter => ProtoFilter { config_type } ignored { name } refused { is_optional, disabled });
    let any = match required(at, "typed_config", config_type)? {
        http_filter::ConfigType::TypedConfig(any) => any,
        http_filter::ConfigType::ConfigDiscovery(_) => {
            return Err(at.unsupported("config_discovery"));
        }
    };
    let at = &at.field("typed_config");
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "envoy.extensions.filters.http.rbac.v3.RBAC" => {
            let filter: RbacFilter = unpack(at, &any)?;
            Ok(Converted1::Run(HttpFilter::Rbac(Arc::new(rbac::http(
                at, filter,
            )?))))
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            let filter: HttpFault = unpack(at, &any)?;
            // Listener-wide faults would act on every route; istiod sends an empty one.
            super::unset(at, "fault", &filter)?;
            Ok(Converted1::Run(HttpFilter::Fault))
        }
        "envoy.extensions.filters.http.cors.v3.Cors" => {
            unpack::<CorsFilter>(at, &any)?;
            Ok(Converted1::Run(HttpFilter::Cors))
        }
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {
            grpc_stats(at, unpack(at, &any)?)?;
            Ok(Converted1::Nothing)
        }
        "envoy.extensions.filters.http.router.v3.Router" => {
            Ok(Converted1::Router(router(at, unpack(at, &any)?)?))
        }
        "stats.PluginConfig" => {
            stats(at, unpack(at, &any)?)?;
            Ok(Converted1::Metrics)
        }
        "udpa.type.v1.TypedStruct" => typed_struct(at, &any),
        _ => Err(at.refuse(format!("filter type '{}' is not supported", any.type_url))),
    }
}

/// A filter whose config is JSON: the ones on the ignore list, and Istio's metrics without changes.
pub fn typed_struct(at: &At<'_>, any: &Any) -> Converted<Converted1> {
    let inner: TypedStruct = unpack(at, any)?;
    if ignored::filter(&inner.type_url) {
        return Ok(Converted1::Nothing);
    }
    if inner.type_url.ends_with("/stats.PluginConfig") {
        let plain = ["disable_host_header_fallback", "reporter"];
        let odd = inner
            .value
            .iter()
            .flat_map(|value| value.fields.keys())
            .find(|key| !plain.contains(&key.as_str()));
        return match odd {
            None => Ok(Converted1::Metrics),
            Some(key) => Err(at.key("value", key).refuse("not supported")),
        };
    }
    Err(at
        .field("type_url")
        .refuse(format!("filter type '{}' is not supported", inner.type_url)))
}

/// Istio's metrics: only the plain set.
pub fn stats(at: &At<'_>, config: PluginConfig) -> Converted<()> {
    take!(at, config => PluginConfig { } ignored { disable_host_header_fallback, tcp_reporting_duration, reporter }
        refused { metrics });
    Ok(())
}

fn grpc_stats(at: &At<'_>, config: GrpcStats) -> Converted<()> {
    take!(at, config => GrpcStats {}
        ignored { emit_filter_state, enable_upstream_stats, replace_dots_in_grpc_service_name, per_method_stat_specifier }
        refused {});
    Ok(())
}

fn router(at: &At<'_>, config: Router) -> Converted<bool> {
    take!(at, config => Router { suppress_envoy_headers }
        ignored { dynamic_stats, start_child_span, suppress_grpc_request_failure_code_stats }
        refused { upstream_log, upstream_log_options, strict_check_headers, respect_expected_rq_timeout,
            upstream_http_filters, reject_connect_request_early_data });
    Ok(!suppress_envoy_headers)
}

/// The filter configs that a route may carry.
#[derive(Default)]
pub struct PerRoute {
    /// Cross-origin policy.
    pub cors: Option<Arc<Cors>>,
    /// Fault injection.
    pub fault: Option<Arc<Fault>>,
}

/// `typed_per_filter_config` of a route.
pub fn per_route(at: &At<'_>, configs: HashMap<String, Any>) -> Converted<PerRoute> {
    let mut out = PerRoute::default();
    for (name, any) in configs {
        let at = &at.key("typed_per_filter_config", &name);
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
                out.cors = cors(at, decode(at, &any.value)?)?.map(Arc::new);
            }
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
                out.fault = Some(Arc::new(fault(at, decode(at, &any.value)?)?));
            }
            _ => return Err(at.refuse(format!("filter type '{}' is not supported", any.type_url))),
        }
    }
    Ok(out)
}

fn cors(at: &At<'_>, policy: CorsPolicy) -> Converted<Option<Cors>> {
    take!(at, policy => CorsPolicy { allow_origin_string_match, allow_methods, allow_headers, expose_headers, max_age,
            allow_credentials, filter_enabled, forward_not_matching_preflights }
        ignored {} refused { shadow_enabled, allow_private_network_access });
    let enabled = runtime_share(&at.field("filter_enabled"), filter_enabled)?;
    if enabled.part == 0 {
        return Ok(None);
    }
    if enabled.part < enabled.of {
        return Err(at
            .field("filter_enabled")
            .refuse("only 0 % and 100 % are supported"));
    }
    let origins = allow_origin_string_match.into_iter().enumerate();
    Ok(Some(Cors {
        origins: origins
            .map(|(i, m)| string(&at.index("allow_origin_string_match", i), m))
            .collect::<Result<_, _>>()?,
        methods: header_value(at, "allow_methods", &allow_methods)?,
        headers: header_value(at, "allow_headers", &allow_headers)?,
        expose: header_value(at, "expose_headers", &expose_headers)?,
        max_age: header_value(at, "max_age", &max_age)?,
        credentials: is_true(allow_credentials),
        forward_not_matching: super::flag(forward_not_matching_preflights, true),
    }))
}

fn fault(at: &At<'_>, message: HttpFault) -> Converted<Fault> {
    take!(at, message => HttpFault { delay, abort, headers }
        ignored { disable_downstream_cluster_stats, delay_percent_runtime, abort_percent_runtime,
            delay_duration_runtime, abort_http_status_runtime, max_active_faults_runtime,
            response_rate_limit_percent_runtime, abort_grpc_status_runtime }
        refused { upstream_cluster, downstream_nodes, max_active_faults, response_rate_limit, filter_metadata });
    let delay = match delay {
        None => None,
        Some(delay) => {
            let at = &at.field("delay");
            take!(at, delay => FaultDelay { percentage, fault_delay_secifier } ignored {} refused {});
            match required(at, "fixed_delay", fault_delay_secifier)? {
                FaultDelaySecifier::FixedDelay(time) => limit(at, "fixed_delay", Some(time))?
                    .zip(Some(share(&at.field("percentage"), percentage)?)),
                FaultDelaySecifier::HeaderDelay(_) => return Err(at.unsupported("header_delay")),
            }
        }
    };
    let abort = abort
        .map(|abort| fault_abort(&at.field("abort"), abort))
        .transpose()?;
    Ok(Fault {
        delay,
        abort,
        headers: self::headers(at, "headers", headers)?,
    })
}

fn fault_abort(at: &At<'_>, message: FaultAbort) -> Converted<(Abort, crate::model::route::Share)> {
    take!(at, message => FaultAbort { percentage, error_type } ignored {} refused { response_body });
    let abort = match required(at, "error_type", error_type)? {
        ErrorType::HttpStatus(code) => {
            let status = u16::try_from(code)
                .ok()
                .filter(|code| (200..600).contains(code));
            let status = status.and_then(|code| StatusCode::from_u16(code).ok());
            Abort::Http(
                status.ok_or_else(|| at.field("http_status").refuse("is not an HTTP status"))?,
            )
        }
        ErrorType::GrpcStatus(code) => Abort::Grpc(code),
        ErrorType::HeaderAbort(_) => return Err(at.unsupported("header_abort")),
    };
    Ok((abort, share(&at.field("percentage"), percentage)?))
}
