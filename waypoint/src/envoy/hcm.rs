//! The HTTP connection manager of a service chain → `model::HttpChain`.

use super::filters::{Converted1, http_filter};
use super::{At, Converted, decode, flag, limit, number, required, route, take, unpack};
use crate::format::Format;
use crate::model::access::{AccessFilter, AccessLog};
use crate::model::listener::{EscapedSlashes, HttpChain, RouteSource, ServerMode};
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::comparison_filter::Op;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog as ProtoLog, AccessLogFilter, access_log};
use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds, RequestIdExtension,
};
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use envoy_types::pb::google::protobuf::Any;
use http::header::HeaderValue;
use std::sync::Arc;

/// Envoy's `max_request_headers_kb`.
const DEFAULT_HEAD_KB: u32 = 60;

/// The manager of a service chain.
pub fn http_chain(at: &At<'_>, bytes: &Any) -> Converted<HttpChain> {
    let manager: HttpConnectionManager = unpack(at, bytes)?;
    take!(at, manager => HttpConnectionManager { http_filters, common_http_protocol_options,
            http_protocol_options, http2_protocol_options, server_name, server_header_transformation,
            max_request_headers_kb, stream_idle_timeout, access_log, use_remote_address, upgrade_configs,
            normalize_path, merge_slashes, path_with_escaped_slashes_action, request_id_extension, route_specifier,
            forward_client_cert_details }
        ignored { codec_type, stat_prefix, tracing, proxy_100_continue, generate_request_id, drain_timeout,
            delayed_close_timeout, internal_address_config, set_current_client_cert_details }
        refused { add_user_agent, http1_safe_max_connection_duration, http3_protocol_options,
            scheme_header_transformation, stream_flush_timeout, request_timeout, request_headers_timeout,
            drain_timeout_jitter, access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
            xff_num_trusted_hops, original_ip_detection_extensions, early_header_mutation_extensions,
            skip_xff_append, via, preserve_external_request_id, always_set_request_id_in_response,
            forward_client_cert_matcher, represent_ipv4_remote_address_as_ipv4_mapped_ipv6, local_reply_config,
            strip_matching_host_port, stream_error_on_invalid_http_message, path_normalization_options,
            strip_trailing_host_dot, proxy_status_config, typed_header_validation_config, append_x_forwarded_port,
            append_local_overload, add_proxy_protocol_connection_state, forward_proto_config, strip_port_mode });
    if flag(use_remote_address, false) {
        return Err(at.unsupported("use_remote_address"));
    }
    // SANITIZE (0) is what we do behind the tunnel; the other modes would forward a client's claim.
    if forward_client_cert_details != 0 {
        return Err(at.unsupported("forward_client_cert_details"));
    }
    request_id(at, request_id_extension)?;
    let http10 = http1(&at.field("http_protocol_options"), http_protocol_options)?;
    http2(&at.field("http2_protocol_options"), http2_protocol_options)?;
    let mut chain = HttpChain {
        routes: routes(at, required(at, "route_specifier", route_specifier)?)?,
        filters: Vec::new(),
        normalize_path: flag(normalize_path, false),
        merge_slashes,
        escaped_slashes: escaped_slashes(at, path_with_escaped_slashes_action)?,
        server: server_name_value(at, &server_name)?,
        server_mode: server_mode(at, server_header_transformation)?,
        websocket: websocket(at, upgrade_configs)?,
        max_head: usize::try_from(number(max_request_headers_kb).unwrap_or(DEFAULT_HEAD_KB))
            .unwrap_or(60)
            * 1024,
        idle_timeout: common(
            &at.field("common_http_protocol_options"),
            common_http_protocol_options,
        )?,
        stream_idle_timeout: limit(at, "stream_idle_timeout", stream_idle_timeout)?,
        http10,
        access: access_logs(at, access_log)?,
        metrics: false,
        envoy_headers: true,
    };
    filters(at, http_filters, &mut chain)?;
    Ok(chain)
}

fn filters(
    at: &At<'_>,
    filters: Vec<envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter>,
    chain: &mut HttpChain,
) -> Converted<()> {
    let mut ended = false;
    for (i, filter) in filters.into_iter().enumerate() {
        let at = at.index("http_filters", i);
        if ended {
            return Err(at.refuse("stands behind the router"));
        }
        match http_filter(&at, filter)? {
            Converted1::Run(filter) => chain.filters.push(filter),
            Converted1::Metrics => chain.metrics = true,
            Converted1::Router(envoy_headers) => {
                chain.envoy_headers = envoy_headers;
                ended = true;
            }
            Converted1::Nothing => {}
        }
    }
    if ended {
        Ok(())
    } else {
        Err(at.field("http_filters").refuse("has no router at its end"))
    }
}

fn routes(at: &At<'_>, specifier: RouteSpecifier) -> Converted<RouteSource> {
    match specifier {
        RouteSpecifier::RouteConfig(config) => Ok(RouteSource::Inline(Arc::new(route::table(
            &at.field("route_config"),
            config,
        )?))),
        RouteSpecifier::Rds(rds) => {
            let at = &at.field("rds");
            take!(at, rds => Rds { route_config_name } ignored { config_source } refused {});
            if route_config_name.is_empty() {
                return Err(at.field("route_config_name").refuse("missing"));
            }
            Ok(RouteSource::Named(route_config_name.into()))
        }
        RouteSpecifier::ScopedRoutes(_) => Err(at.unsupported("scoped_routes")),
    }
}

fn request_id(at: &At<'_>, extension: Option<RequestIdExtension>) -> Converted<()> {
    let Some(extension) = extension else {
        return Ok(());
    };
    let at = &at.field("request_id_extension");
    let config: UuidRequestIdConfig =
        unpack(at, &required(at, "typed_config", extension.typed_config)?)?;
    take!(at, config => UuidRequestIdConfig {} ignored { pack_trace_reason, use_request_id_for_trace_sampling }
        refused {});
    Ok(())
}

/// Whether HTTP/1.0 is taken.
pub fn http1(at: &At<'_>, options: Option<Http1ProtocolOptions>) -> Converted<bool> {
    let Some(options) = options else {
        return Ok(false);
    };
    take!(at, options => Http1ProtocolOptions { accept_http_10 }
        ignored { header_key_format, allow_absolute_url, use_balsa_parser, enable_trailers }
        refused { default_host_for_http_10, allow_chunked_length, override_stream_error_on_invalid_http_message,
            send_fully_qualified_url, allow_custom_methods, ignore_http_11_upgrade });
    Ok(accept_http_10)
}

/// HTTP/2 options of an inner connection: only what changes nothing.
pub fn http2(at: &At<'_>, options: Option<Http2ProtocolOptions>) -> Converted<()> {
    let Some(options) = options else {
        return Ok(());
    };
    take!(at, options => Http2ProtocolOptions {}
        ignored { initial_stream_window_size, initial_connection_window_size, allow_connect, hpack_table_size,
            connection_keepalive, use_oghttp2_codec, enable_huffman_encoding }
        refused { max_concurrent_streams, allow_metadata, max_outbound_frames, max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload, max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent, stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message, custom_settings_parameters, max_metadata_size,
            max_header_field_size_kb, disallow_obs_text, stream_reset_burst, stream_reset_rate });
    Ok(())
}

/// The idle timeout of a connection.
fn common(
    at: &At<'_>,
    options: Option<HttpProtocolOptions>,
) -> Converted<Option<std::time::Duration>> {
    let Some(options) = options else {
        return Ok(None);
    };
    take!(at, options => HttpProtocolOptions { idle_timeout } ignored {}
        refused { max_connection_duration, max_connection_duration_jitter, max_headers_count, max_response_headers_kb,
            max_stream_duration, headers_with_underscores_action, max_requests_per_connection });
    limit(at, "idle_timeout", idle_timeout)
}

fn server_name_value(at: &At<'_>, name: &str) -> Converted<HeaderValue> {
    let name = if name.is_empty() { "envoy" } else { name };
    HeaderValue::from_str(name).map_err(|_| at.field("server_name").refuse("is not a header value"))
}

fn server_mode(at: &At<'_>, value: i32) -> Converted<ServerMode> {
    match ServerHeaderTransformation::try_from(value) {
        Ok(ServerHeaderTransformation::Overwrite) => Ok(ServerMode::Overwrite),
        Ok(ServerHeaderTransformation::AppendIfAbsent) => Ok(ServerMode::IfAbsent),
        Ok(ServerHeaderTransformation::PassThrough) => Ok(ServerMode::PassThrough),
        Err(_) => Err(at
            .field("server_header_transformation")
            .refuse(format!("value {value} is not known"))),
    }
}

fn escaped_slashes(at: &At<'_>, value: i32) -> Converted<EscapedSlashes> {
    match PathWithEscapedSlashesAction::try_from(value) {
        Ok(
            PathWithEscapedSlashesAction::ImplementationSpecificDefault
            | PathWithEscapedSlashesAction::KeepUnchanged,
        ) => Ok(EscapedSlashes::Keep),
        Ok(PathWithEscapedSlashesAction::RejectRequest) => Ok(EscapedSlashes::Reject),
        Ok(PathWithEscapedSlashesAction::UnescapeAndRedirect) => Ok(EscapedSlashes::Redirect),
        Ok(PathWithEscapedSlashesAction::UnescapeAndForward) => Ok(EscapedSlashes::Forward),
        Err(_) => Err(at
            .field("path_with_escaped_slashes_action")
            .refuse(format!("value {value} is not known"))),
    }
}

fn websocket(at: &At<'_>, configs: Vec<UpgradeConfig>) -> Converted<bool> {
    let mut websocket = false;
    for (i, config) in configs.into_iter().enumerate() {
        let at = at.index("upgrade_configs", i);
        take!(at, config => UpgradeConfig { upgrade_type, enabled } ignored {} refused { filters });
        if !upgrade_type.eq_ignore_ascii_case("websocket") {
            return Err(at
                .field("upgrade_type")
                .refuse(format!("{upgrade_type:?} is not supported")));
        }
        websocket = flag(enabled, true);
    }
    Ok(websocket)
}

/// All access logs of a listener or chain.
pub fn access_logs(at: &At<'_>, logs: Vec<ProtoLog>) -> Converted<Vec<AccessLog>> {
    logs.into_iter()
        .enumerate()
        .map(|(i, log)| access_log(&at.index("access_log", i), log))
        .collect()
}

fn access_log(at: &At<'_>, log: ProtoLog) -> Converted<AccessLog> {
    take!(at, log => ProtoLog { filter, config_type } ignored { name } refused {});
    let access_log::ConfigType::TypedConfig(any) = required(at, "typed_config", config_type)?;
    let filter = match filter {
        Some(filter) => access_filter(&at.field("filter"), filter)?,
        None => AccessFilter::All,
    };
    let at = &at.field("typed_config");
    if any.type_url != super::type_url::<FileAccessLog>() {
        return Err(at.refuse(format!(
            "access log type '{}' is not supported",
            any.type_url
        )));
    }
    take!(at, decode::<FileAccessLog>(at, &any.value)? => FileAccessLog { path, access_log_format } ignored {} refused {});
    if path != "/dev/stdout" {
        return Err(at
            .field("path")
            .refuse(format!("{path:?} is not supported; only /dev/stdout is")));
    }
    let format = match access_log_format {
        Some(AccessLogFormat::LogFormat(format)) => {
            super::strings::format(&at.field("log_format"), format)?
        }
        Some(AccessLogFormat::Format(text)) => {
            Format::parse(&text).map_err(|why| at.field("format").refuse(why))?
        }
        Some(AccessLogFormat::JsonFormat(_)) => return Err(at.unsupported("json_format")),
        Some(AccessLogFormat::TypedJsonFormat(_)) => {
            return Err(at.unsupported("typed_json_format"));
        }
        None => return Err(at.field("log_format").refuse("missing")),
    };
    Ok(AccessLog {
        filter,
        format: Arc::new(format),
    })
}

fn access_filter(at: &At<'_>, filter: AccessLogFilter) -> Converted<AccessFilter> {
    match required(at, "filter_specifier", filter.filter_specifier)? {
        FilterSpecifier::ResponseFlagFilter(filter) => Ok(AccessFilter::Flags(filter.flags)),
        FilterSpecifier::StatusCodeFilter(filter) => {
            let at = &at.field("status_code_filter");
            let comparison = required(at, "comparison", filter.comparison)?;
            let value = required(at, "value", comparison.value)?.default_value;
            let value = u16::try_from(value)
                .map_err(|_| at.field("comparison.value").refuse("is not a status"))?;
            match Op::try_from(comparison.op) {
                Ok(Op::Ge) => Ok(AccessFilter::StatusAtLeast(value)),
                Ok(Op::Le) => Ok(AccessFilter::StatusAtMost(value)),
                Ok(Op::Eq) => Ok(AccessFilter::StatusIs(value)),
                _ => Err(at
                    .field("comparison.op")
                    .refuse(format!("value {} is not supported", comparison.op))),
            }
        }
        _ => Err(at.refuse("only status_code_filter and response_flag_filter are supported")),
    }
}
