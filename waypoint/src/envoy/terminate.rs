//! What stands behind `connect_terminate`'s TLS: the manager and filters of a CONNECT. Called by `listener`.

use super::filters::{Converted1, typed_struct};
use super::hcm::access_logs;
use super::{At, Converted, flag, limit, number, rbac, required, take, unpack};
use crate::model::condition::Rbac;
use crate::model::listener::Terminate;
// What stands for a CONNECT has names of its own: other fields of it may be ignored than of the same message elsewhere.
use envoy_types::pb::envoy::config::core::v3::{
    Http2ProtocolOptions as ConnectHttp2, HttpProtocolOptions as ConnectOptions,
};
use envoy_types::pb::envoy::config::route::v3::{
    Route as ConnectRoute, RouteAction as ConnectAction, RouteConfiguration as ConnectTable,
    RouteMatch as ConnectMatch, VirtualHost as ConnectHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue, filter_state_value,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::set_filter_state::v3::Config as SetHttpState;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager as ConnectManager, HttpFilter as ConnectFilter,
    http_connection_manager::RouteSpecifier,
    http_connection_manager::UpgradeConfig as ConnectUpgrade, http_filter,
};
use envoy_types::pb::google::protobuf::Any;

/// The manager that ends the tunnel. Only its parts that matter to a CONNECT are carried out.
pub fn connect_manager(at: &At<'_>, any: &Any) -> Converted<Terminate> {
    let manager: ConnectManager = unpack(at, any)?;
    take!(at, manager => ConnectManager { http_filters, http2_protocol_options, access_log, route_specifier,
            upgrade_configs, use_remote_address, common_http_protocol_options, max_request_headers_kb }
        ignored { codec_type, stat_prefix, server_name, stream_idle_timeout, tracing, proxy_100_continue,
            generate_request_id, drain_timeout, delayed_close_timeout, internal_address_config,
            set_current_client_cert_details, forward_client_cert_details, http_protocol_options,
            server_header_transformation, request_id_extension, normalize_path,
            merge_slashes, path_with_escaped_slashes_action }
        refused { add_user_agent, http1_safe_max_connection_duration, http3_protocol_options,
            scheme_header_transformation, stream_flush_timeout, request_timeout, request_headers_timeout,
            drain_timeout_jitter, access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
            xff_num_trusted_hops, original_ip_detection_extensions, early_header_mutation_extensions,
            skip_xff_append, via, preserve_external_request_id, always_set_request_id_in_response,
            forward_client_cert_matcher, represent_ipv4_remote_address_as_ipv4_mapped_ipv6, local_reply_config,
            strip_matching_host_port, stream_error_on_invalid_http_message, path_normalization_options,
            strip_trailing_host_dot, proxy_status_config, typed_header_validation_config, append_x_forwarded_port,
            append_local_overload, add_proxy_protocol_connection_state, forward_proto_config, strip_port_mode });
    if use_remote_address.is_some_and(|wrapped| wrapped.value) {
        return Err(at.unsupported("use_remote_address"));
    }
    let connect = |config: &ConnectUpgrade| {
        config.upgrade_type == "CONNECT" && config.filters.is_empty() && flag(config.enabled, true)
    };
    if !upgrade_configs.iter().all(connect) {
        return Err(at.field("upgrade_configs").refuse("must be CONNECT alone"));
    }
    if let Some(options) = common_http_protocol_options {
        let at = at.field("common_http_protocol_options");
        take!(at, options => ConnectOptions {} ignored { idle_timeout }
            refused { max_connection_duration, max_connection_duration_jitter, max_headers_count,
                max_response_headers_kb, max_stream_duration, headers_with_underscores_action,
                max_requests_per_connection });
    }
    connect_route(at, required(at, "route_specifier", route_specifier)?)?;
    let (max_streams, keepalive) =
        http2(&at.field("http2_protocol_options"), http2_protocol_options)?;
    let mut rbac = Vec::new();
    for (i, filter) in http_filters.into_iter().enumerate() {
        let at = &at.index("http_filters", i);
        take!(at, filter => ConnectFilter { config_type } ignored { name } refused { is_optional, disabled });
        let http_filter::ConfigType::TypedConfig(any) = required(at, "typed_config", config_type)?
        else {
            return Err(at.unsupported("config_discovery"));
        };
        rbac.extend(connect_filter(&at.field("typed_config"), &any)?);
    }
    Ok(Terminate {
        addresses: Vec::new(),
        peers: Vec::new(),
        max_streams,
        max_head: number(max_request_headers_kb).map(|kb| kb.saturating_mul(1024)),
        keepalive,
        rbac,
        access: access_logs(at, access_log)?,
    })
}

fn connect_filter(at: &At<'_>, any: &Any) -> Converted<Option<Rbac>> {
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "envoy.extensions.filters.http.rbac.v3.RBAC" => {
            let filter: HttpRbac = unpack(at, any)?;
            rbac::http(at, filter).map(Some)
        }
        "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
            let config: SetHttpState = unpack(at, any)?;
            take!(at, config => SetHttpState { on_request_headers } ignored {} refused { clear_route_cache });
            filter_states(at, "on_request_headers", on_request_headers).map(|()| None)
        }
        "envoy.extensions.filters.http.router.v3.Router" => {
            super::unset(at, "router", &unpack::<Router>(at, any)?).map(|()| None)
        }
        "udpa.type.v1.TypedStruct" => match typed_struct(at, any)? {
            Converted1::Nothing => Ok(None),
            _ => Err(at.refuse("filter is not supported here")),
        },
        _ => Err(at.refuse(format!("filter type '{}' is not supported", any.type_url))),
    }
}

/// Facts that Envoy carries from listener to listener and that we hold in one structure: key and source
/// must be exactly as we fill them.
const STATES: &[(&str, &str)] = &[
    (
        "envoy.filters.listener.original_dst.local_ip",
        "%REQ(:AUTHORITY)%",
    ),
    (
        "envoy.filters.listener.original_dst.local_ip",
        "%FILTER_STATE(envoy.filters.listener.original_dst.local_ip:PLAIN)%",
    ),
    (
        "envoy.filters.listener.original_dst.local_ip",
        "%DYNAMIC_METADATA(envoy.filters.listener.original_dst:local)%",
    ),
    (
        "envoy.filters.listener.original_dst.remote_ip",
        "%DOWNSTREAM_REMOTE_ADDRESS%",
    ),
    ("io.istio.connect_authority", "%REQ(:AUTHORITY)%"),
    ("io.istio.peer_principal", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("io.istio.local_principal", "%DOWNSTREAM_LOCAL_URI_SAN%"),
    (
        "istio.double_hbone.hbone_target_address",
        "%DYNAMIC_METADATA(istio:double_hbone:hbone_target_address)%",
    ),
];

/// Filter state that is set: only facts that we hold anyhow.
pub fn filter_states(
    at: &At<'_>,
    field: &'static str,
    values: Vec<FilterStateValue>,
) -> Converted<()> {
    use envoy_types::pb::envoy::config::core::v3::{data_source, substitution_format_string};
    for (i, value) in values.into_iter().enumerate() {
        let at = at.index(field, i);
        take!(at, value => FilterStateValue { key, value } ignored { factory_key, shared_with_upstream, read_only, skip_if_empty } refused {});
        let filter_state_value::Key::ObjectKey(key) = required(&at, "object_key", key)?;
        let filter_state_value::Value::FormatString(format) =
            required(&at, "format_string", value)?;
        let source = match format.format {
            Some(substitution_format_string::Format::TextFormatSource(source)) => source.specifier,
            _ => None,
        };
        let Some(data_source::Specifier::InlineString(text)) = source else {
            return Err(at.field("format_string").refuse("must be an inline string"));
        };
        if !STATES.contains(&(key.as_str(), text.as_str())) {
            return Err(at.refuse(format!(
                "filter state {key:?} from {text:?} is not supported"
            )));
        }
    }
    Ok(())
}

/// Its only route: CONNECT goes on into the tunnel's chains, and nothing stands in its way that we would not see.
fn connect_route(at: &At<'_>, specifier: RouteSpecifier) -> Converted<()> {
    let at = &at.field("route_config");
    let refuse = || at.refuse("must send CONNECT to 'main_internal' and nothing else");
    let RouteSpecifier::RouteConfig(table) = specifier else {
        return Err(refuse());
    };
    take!(at, table => ConnectTable { virtual_hosts } ignored { name, validate_clusters, metadata,
            max_direct_response_body_size_bytes }
        refused { vhds, internal_only_headers, response_headers_to_add, response_headers_to_remove,
            request_headers_to_add, request_headers_to_remove, most_specific_header_mutations_wins,
            cluster_specifier_plugins, request_mirror_policies, ignore_port_in_host_matching,
            ignore_path_parameters_in_path_matching, typed_per_filter_config, vhost_header, route_specifiers });
    let [host] = <[_; 1]>::try_from(virtual_hosts).map_err(|_| refuse())?;
    let at_host = &at.index("virtual_hosts", 0);
    take!(at_host, host => ConnectHost { domains, routes } ignored { name, metadata }
        refused { matcher, require_tls, virtual_clusters, rate_limits, cors, typed_per_filter_config,
            request_headers_to_add, request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
            retry_policy, include_request_attempt_count, include_attempt_count_in_response,
            retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header,
            per_request_buffer_limit_bytes, request_body_buffer_limit, request_mirror_policies, route_specifiers });
    let [only] = <[_; 1]>::try_from(routes).map_err(|_| refuse())?;
    let at_route = &at_host.index("routes", 0);
    take!(at_route, only => ConnectRoute { r#match, action } ignored { name, metadata, tracing, stat_prefix, decorator }
        refused { typed_per_filter_config, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, per_request_buffer_limit_bytes,
            request_body_buffer_limit, route_specifiers });
    let matches = required(at_route, "match", r#match)?;
    let at_match = &at_route.field("match");
    take!(at_match, matches => ConnectMatch { path_specifier } ignored { case_sensitive }
        refused { headers, query_parameters, grpc, runtime_fraction, cookies, tls_context, dynamic_metadata,
            filter_state });
    let connect = matches!(
        path_specifier,
        Some(route_match::PathSpecifier::ConnectMatcher(_))
    );
    let Some(route::Action::Route(action)) = action else {
        return Err(refuse());
    };
    if domains == ["*"] && connect && connect_target(&at_route.field("route"), action)? {
        Ok(())
    } else {
        Err(refuse())
    }
}

/// Does the action lead into the tunnel's chains?
fn connect_target(at: &At<'_>, action: ConnectAction) -> Converted<bool> {
    take!(at, action => ConnectAction { cluster_specifier, upgrade_configs }
        ignored { cluster_not_found_response_code, priority }
        refused { prefix_rewrite, regex_rewrite, append_x_forwarded_host, timeout, idle_timeout, retry_policy,
            request_mirror_policies, max_grpc_timeout, host_rewrite_specifier, metadata_match, path_rewrite_policy,
            path_rewrite, flush_timeout, early_data_policy, retry_policy_typed_config, rate_limits,
            include_vh_rate_limits, hash_policy, cors, grpc_timeout_offset, internal_redirect_policy,
            internal_redirect_action, max_internal_redirects, hedge_policy, max_stream_duration });
    for (i, upgrade) in upgrade_configs.into_iter().enumerate() {
        let plain = upgrade.connect_config.unwrap_or_default() == Default::default();
        if upgrade.upgrade_type != "CONNECT" || !flag(upgrade.enabled, true) || !plain {
            return Err(at
                .index("upgrade_configs", i)
                .refuse("must be a plain CONNECT"));
        }
    }
    Ok(matches!(
        cluster_specifier,
        Some(route_action::ClusterSpecifier::Cluster(name)) if name == "main_internal"
    ))
}

type Streams = (u32, Option<(std::time::Duration, std::time::Duration)>);

fn http2(at: &At<'_>, options: Option<ConnectHttp2>) -> Converted<Streams> {
    let Some(options) = options else {
        return Ok((100, None));
    };
    take!(at, options => ConnectHttp2 { max_concurrent_streams, connection_keepalive }
        ignored { initial_stream_window_size, initial_connection_window_size, allow_connect, hpack_table_size,
            use_oghttp2_codec, enable_huffman_encoding }
        refused { allow_metadata, max_outbound_frames, max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload, max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent, stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message, custom_settings_parameters, max_metadata_size,
            max_header_field_size_kb, disallow_obs_text, stream_reset_burst, stream_reset_rate });
    let keepalive = connection_keepalive.map(|keepalive| {
        let interval = limit(at, "connection_keepalive.interval", keepalive.interval)?;
        let timeout = limit(at, "connection_keepalive.timeout", keepalive.timeout)?;
        Ok(interval.zip(timeout))
    });
    Ok((
        number(max_concurrent_streams).unwrap_or(100),
        keepalive.transpose()?.flatten(),
    ))
}
