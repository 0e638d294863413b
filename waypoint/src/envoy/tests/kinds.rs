//! Of what kind each ignored field is, so that a new one is a decision: only kinds that guard nothing may be ignored, and
//! a name that sounds like a guard must be of a kind that says why it is none.

use std::collections::BTreeMap;

use super::super::ignored;

/// Why ignoring a field opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Names something for people and programs that watch.
    Label,
    /// Asks for a statistic, a trace or a log detail.
    Statistic,
    /// How bytes of HTTP are coded.
    Codec,
    /// When something is closed, drained, warmed up or looked at again.
    Timer,
    /// Where a resource comes from, and how large it may be.
    Source,
    /// Steers a part that the waypoint does not have (a runtime layer, session resumption, DNS clusters, a port).
    Absent,
    /// Which endpoint is tried, or how soon; who may call is decided before.
    Choice,
    /// What is done here is never less strict than the field asks.
    Stricter,
}

/// Of these, also a field that sounds like a guard may be.
const NO_GUARD: [Kind; 3] = [Kind::Statistic, Kind::Absent, Kind::Stricter];

/// Parts of names that sound as if the field guarded or limited something.
const SOUNDS: [&str; 14] = [
    "allow",
    "auth",
    "cert",
    "deny",
    "limit",
    "matcher",
    "max",
    "path",
    "permission",
    "principal",
    "require",
    "rules",
    "tls",
    "validat",
];

/// Names that sound like a guard, of a kind that needs a reason: each with it.
const NAMED: [(&str, &str); 8] = [
    (
        "RouteConfiguration.max_direct_response_body_size_bytes",
        "bounds what the control plane sends; whole resources are bounded",
    ),
    (
        "RouteConfiguration.validate_clusters",
        "a route to a cluster that is not there reaches nobody",
    ),
    (
        "Http1ProtocolOptions.allow_absolute_url",
        "the host of an absolute target is the request's host, which is judged",
    ),
    (
        "Listener.max_connections_to_accept_per_socket_event",
        "how many are accepted at a time, not how many there may be",
    ),
    (
        "OutlierDetection.max_ejection_time_jitter",
        "spreads the return of ejected endpoints",
    ),
    (
        "TcpProxy.max_connect_attempts",
        "how often an endpoint is tried",
    ),
    (
        "Listener.per_connection_buffer_limit_bytes",
        "bounds memory, which flow control does here",
    ),
    (
        "ProtoCluster.per_connection_buffer_limit_bytes",
        "bounds memory, which flow control does here",
    ),
];

const KINDS: &[(Kind, &str)] = &[
    (
        Kind::Label,
        "ConnectFilter.name ConnectHost.metadata ConnectHost.name ConnectRoute.metadata ConnectRoute.name \
        ConnectTable.metadata ConnectTable.name \
        Filter.name FilterChain.metadata FilterStateValue.factory_key Listener.metadata Listener.name \
        Listener.traffic_direction ListenerFilter.name LocalityLbEndpoints.locality LocalityLbEndpoints.metadata \
        ProtoFilter.name ProtoHost.metadata ProtoLog.name ProtoRoute.metadata RouteConfiguration.metadata \
        TransportSocket.name TransportSocketMatch.name TypedExtensionConfig.name",
    ),
    (
        Kind::Statistic,
        "ConnectManager.generate_request_id ConnectManager.request_id_extension ConnectManager.stat_prefix \
        ConnectManager.tracing ConnectRoute.decorator ConnectRoute.stat_prefix ConnectRoute.tracing \
        GrpcStats.emit_filter_state GrpcStats.enable_upstream_stats GrpcStats.per_method_stat_specifier \
        GrpcStats.replace_dots_in_grpc_service_name HttpConnectionManager.stat_prefix HttpConnectionManager.tracing \
        HttpConnectionManager.generate_request_id \
        HttpFault.disable_downstream_cluster_stats HttpRbac.rules_stat_prefix HttpRbac.shadow_rules_stat_prefix \
        HttpRbac.track_per_rule_stats Listener.access_log Listener.stat_prefix NetworkRbac.shadow_rules_stat_prefix NetworkRbac.stat_prefix \
        PluginConfig.disable_host_header_fallback PluginConfig.reporter PluginConfig.tcp_reporting_duration \
        ProtoCluster.alt_stat_name ProtoCluster.track_cluster_stats ProtoCluster.track_timeout_budgets \
        ProtoEndpoint.observability_name ProtoRoute.stat_prefix ProtoRoute.tracing RequestMirrorPolicy.trace_sampled \
        Router.dynamic_stats Router.start_child_span Router.suppress_grpc_request_failure_code_stats \
        SubstitutionFormatString.omit_empty_values TcpProxy.stat_prefix Thresholds.track_remaining \
        UuidRequestIdConfig.pack_trace_reason UuidRequestIdConfig.use_request_id_for_trace_sampling",
    ),
    (
        Kind::Codec,
        "ConnectHttp2.enable_huffman_encoding ConnectHttp2.hpack_table_size ConnectHttp2.initial_connection_window_size \
        ConnectHttp2.initial_stream_window_size ConnectHttp2.use_oghttp2_codec ConnectManager.codec_type \
        ConnectManager.http_protocol_options ConnectManager.proxy_100_continue \
        ConnectManager.server_header_transformation ConnectManager.server_name \
        Http1ProtocolOptions.allow_absolute_url Http1ProtocolOptions.enable_trailers \
        Http1ProtocolOptions.header_key_format Http1ProtocolOptions.use_balsa_parser \
        Http2ProtocolOptions.enable_huffman_encoding Http2ProtocolOptions.hpack_table_size \
        Http2ProtocolOptions.initial_connection_window_size Http2ProtocolOptions.initial_stream_window_size \
        Http2ProtocolOptions.use_oghttp2_codec HttpConnectionManager.codec_type \
        HttpConnectionManager.proxy_100_continue \
        Listener.per_connection_buffer_limit_bytes ProtoCluster.per_connection_buffer_limit_bytes RegexMatcher.engine_type \
        TunnelingConfig.propagate_response_headers",
    ),
    (
        Kind::Timer,
        "ConnectManager.delayed_close_timeout ConnectManager.drain_timeout ConnectManager.stream_idle_timeout \
        ConnectOptions.idle_timeout \
        CommonLbConfig.update_merge_window Http2ProtocolOptions.connection_keepalive \
        HttpConnectionManager.delayed_close_timeout \
        HttpConnectionManager.drain_timeout \
        Listener.continue_on_listener_filters_timeout Listener.drain_type Listener.listener_filters_timeout \
        OutlierDetection.interval OutlierDetection.max_ejection_time_jitter ProtoCluster.cleanup_interval \
        ProtoCluster.upstream_connection_options ProtoCluster.wait_for_warm_on_init",
    ),
    (
        Kind::Source,
        "EdsClusterConfig.eds_config Rds.config_source RouteConfiguration.max_direct_response_body_size_bytes",
    ),
    (
        Kind::Absent,
        "ConnectAction.cluster_not_found_response_code ConnectAction.priority ConnectManager.internal_address_config \
        ConnectManager.merge_slashes ConnectManager.normalize_path ConnectManager.path_with_escaped_slashes_action \
        ConnectMatch.case_sensitive ConnectTable.max_direct_response_body_size_bytes ConnectTable.validate_clusters \
        DownstreamTlsContext.disable_stateful_session_resumption DownstreamTlsContext.ocsp_staple_policy \
        DownstreamTlsContext.session_ticket_keys_type DownstreamTlsContext.session_timeout FilterStateValue.read_only \
        FilterStateValue.shared_with_upstream FilterStateValue.skip_if_empty \
        HttpConnectionManager.internal_address_config \
        HttpFault.abort_grpc_status_runtime HttpFault.abort_http_status_runtime HttpFault.abort_percent_runtime \
        HttpFault.delay_duration_runtime HttpFault.delay_percent_runtime HttpFault.max_active_faults_runtime \
        HttpFault.response_rate_limit_percent_runtime InternalUpstreamTransport.passthrough_metadata \
        Listener.bind_to_port Listener.bypass_overload_manager Listener.ignore_global_conn_limit \
        Listener.use_original_dst ListenerFilter.filter_disabled OriginalDstLbConfig.metadata_key \
        OutlierDetection.success_rate_minimum_hosts OutlierDetection.success_rate_request_volume \
        OutlierDetection.success_rate_stdev_factor ProtoCluster.dns_failure_refresh_rate ProtoCluster.dns_jitter \
        ProtoCluster.dns_lookup_family ProtoCluster.dns_refresh_rate ProtoCluster.respect_dns_ttl \
        ProtoCluster.typed_dns_resolver_config ProtoEndpoint.hostname RuntimeFractionalPercent.runtime_key \
        SocketAddress.ipv4_compat UpstreamTlsContext.max_session_keys WeightedCluster.runtime_key_prefix",
    ),
    (
        Kind::Choice,
        "Listener.connection_balance_config Listener.enable_reuse_port \
        Listener.max_connections_to_accept_per_socket_event Listener.reuse_port Listener.tcp_backlog_size \
        LocalityLbEndpoints.load_balancing_weight OutlierDetection.always_eject_one_host ProtoAction.priority \
        ProtoEndpoint.additional_addresses RouteConfiguration.validate_clusters TcpProxy.max_connect_attempts",
    ),
    (
        Kind::Stricter,
        "ConnectHttp2.allow_connect ConnectManager.forward_client_cert_details \
        ConnectManager.set_current_client_cert_details \
        Http2ProtocolOptions.allow_connect \
        HttpConnectionManager.set_current_client_cert_details \
        TlsParameters.tls_minimum_protocol_version",
    ),
];

fn kinds() -> BTreeMap<&'static str, Kind> {
    let mut kinds = BTreeMap::new();
    for (kind, fields) in KINDS {
        for field in fields.split_whitespace() {
            let before = kinds.insert(field, *kind);
            assert_eq!(before, None, "{field} is of two kinds");
        }
    }
    kinds
}

#[test]
fn every_ignored_field_is_of_a_kind_that_guards_nothing() {
    let mut kinds = kinds();
    for field in ignored::FIELDS.iter().chain(ignored::connect::FIELDS) {
        let name = format!("{}.{}", field.message, field.field);
        assert!(!field.reason.is_empty(), "{name} has no reason");
        let Some(kind) = kinds.remove(&*name) else {
            panic!("{name} is of no kind: does it guard or limit access?")
        };
        let sounds = SOUNDS.iter().any(|part| field.field.contains(part));
        let named = NAMED.iter().any(|(one, _)| *one == name);
        assert!(
            !sounds || NO_GUARD.contains(&kind) || named,
            "{name} sounds like a guard and is {kind:?}"
        );
        assert!(
            !named || sounds && !NO_GUARD.contains(&kind),
            "{name} needs no exception"
        );
    }
    assert_eq!(kinds, BTreeMap::new(), "not ignored any more");
}

#[test]
fn the_ignored_filters_are_for_telemetry() {
    let types: Vec<&str> = ignored::FILTERS.iter().map(|(url, _)| *url).collect();
    let want = [
        "type.googleapis.com/io.istio.http.peer_metadata.Config",
        "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
    ];
    assert_eq!(types, want, "does the new one guard access?");
}
