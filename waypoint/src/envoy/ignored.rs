//! What is accepted and has no effect, each with its reason. `take!` checks at compile time that a field
//! that is passed over stands here; a test compares the list with docs/decisions. Nothing that guards or
//! limits access may stand here.
//! Long because it is one table.

pub mod connect;

/// A field that is accepted and ignored.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Message, by the name it has in our source (`Proto…` where a model type has the plain name).
    pub message: &'static str,
    /// Field name.
    pub field: &'static str,
    /// Why it may be ignored.
    pub reason: &'static str,
}

const fn field(message: &'static str, field: &'static str, reason: &'static str) -> Field {
    Field {
        message,
        field,
        reason,
    }
}

/// All ignored fields.
pub const FIELDS: &[Field] = &[
    field(
        "CommonLbConfig",
        "update_merge_window",
        "updates apply at once",
    ),
    field(
        "DownstreamTlsContext",
        "disable_stateful_session_resumption",
        "there is no resumption",
    ),
    field(
        "DownstreamTlsContext",
        "ocsp_staple_policy",
        "mesh certificates carry no OCSP",
    ),
    field(
        "DownstreamTlsContext",
        "session_ticket_keys_type",
        "there is no resumption",
    ),
    field(
        "DownstreamTlsContext",
        "session_timeout",
        "there is no resumption",
    ),
    field(
        "EdsClusterConfig",
        "eds_config",
        "endpoints come over the same ADS stream",
    ),
    field("Filter", "name", "a label; the type URL decides"),
    field("FilterChain", "metadata", "labels"),
    field(
        "FilterStateValue",
        "factory_key",
        "the value is held as text",
    ),
    field("FilterStateValue", "read_only", "nothing writes it twice"),
    field(
        "FilterStateValue",
        "shared_with_upstream",
        "all parts of the pipeline see it",
    ),
    field(
        "FilterStateValue",
        "skip_if_empty",
        "an empty value is absent here",
    ),
    field(
        "GrpcStats",
        "emit_filter_state",
        "message counts are not reported yet",
    ),
    field(
        "GrpcStats",
        "enable_upstream_stats",
        "asks for statistics only",
    ),
    field(
        "GrpcStats",
        "per_method_stat_specifier",
        "asks for statistics only",
    ),
    field(
        "GrpcStats",
        "replace_dots_in_grpc_service_name",
        "asks for statistics only",
    ),
    field(
        "Http1ProtocolOptions",
        "allow_absolute_url",
        "absolute targets are always read",
    ),
    field(
        "Http1ProtocolOptions",
        "enable_trailers",
        "trailers are passed on",
    ),
    field(
        "Http1ProtocolOptions",
        "header_key_format",
        "header names are lower case; HTTP says that case has no meaning",
    ),
    field(
        "Http1ProtocolOptions",
        "use_balsa_parser",
        "choice of parser",
    ),
    field(
        "Http2ProtocolOptions",
        "allow_connect",
        "CONNECT is what the tunnel is; inside it is refused",
    ),
    field(
        "Http2ProtocolOptions",
        "connection_keepalive",
        "connections inside a tunnel live and die with it",
    ),
    field(
        "Http2ProtocolOptions",
        "enable_huffman_encoding",
        "compression detail",
    ),
    field(
        "Http2ProtocolOptions",
        "hpack_table_size",
        "compression detail",
    ),
    field(
        "Http2ProtocolOptions",
        "initial_connection_window_size",
        "windows are ours; they bound memory, not access",
    ),
    field(
        "Http2ProtocolOptions",
        "initial_stream_window_size",
        "windows are ours; they bound memory, not access",
    ),
    field(
        "Http2ProtocolOptions",
        "use_oghttp2_codec",
        "choice of parser",
    ),
    field(
        "HttpConnectionManager",
        "codec_type",
        "the codec is chosen by the bytes (AUTO), as istiod sends it",
    ),
    field(
        "HttpConnectionManager",
        "delayed_close_timeout",
        "detail of closing",
    ),
    field(
        "HttpConnectionManager",
        "drain_timeout",
        "a changed chain drains no connection here",
    ),
    field(
        "HttpConnectionManager",
        "generate_request_id",
        "an x-request-id is always there",
    ),
    field(
        "HttpConnectionManager",
        "internal_address_config",
        "no header depends on whether an address is internal",
    ),
    field(
        "HttpConnectionManager",
        "proxy_100_continue",
        "100-continue is answered by the connection itself",
    ),
    field(
        "HttpConnectionManager",
        "set_current_client_cert_details",
        "no certificate details are forwarded at all, which is less than allowed",
    ),
    field(
        "HttpConnectionManager",
        "stat_prefix",
        "name of a statistic",
    ),
    field(
        "HttpConnectionManager",
        "tracing",
        "no tracer yet; W3C and B3 headers are passed on",
    ),
    field(
        "HttpFault",
        "abort_grpc_status_runtime",
        "there is no runtime layer",
    ),
    field(
        "HttpFault",
        "abort_http_status_runtime",
        "there is no runtime layer",
    ),
    field(
        "HttpFault",
        "abort_percent_runtime",
        "there is no runtime layer",
    ),
    field(
        "HttpFault",
        "delay_duration_runtime",
        "there is no runtime layer",
    ),
    field(
        "HttpFault",
        "delay_percent_runtime",
        "there is no runtime layer",
    ),
    field(
        "HttpFault",
        "disable_downstream_cluster_stats",
        "asks for statistics only",
    ),
    field(
        "HttpFault",
        "max_active_faults_runtime",
        "there is no runtime layer",
    ),
    field(
        "HttpFault",
        "response_rate_limit_percent_runtime",
        "there is no runtime layer",
    ),
    field("HttpRbac", "rules_stat_prefix", "name of a statistic"),
    field(
        "HttpRbac",
        "shadow_rules_stat_prefix",
        "name of a statistic",
    ),
    field(
        "HttpRbac",
        "track_per_rule_stats",
        "asks for statistics only",
    ),
    field(
        "InternalUpstreamTransport",
        "passthrough_metadata",
        "there are no internal listeners to pass metadata to",
    ),
    field(
        "Listener",
        "access_log",
        "tells of connections that no chain takes; here their CONNECT is refused, which its manager's log tells",
    ),
    field(
        "Listener",
        "bind_to_port",
        "internal listeners have no port",
    ),
    field(
        "Listener",
        "bypass_overload_manager",
        "there is no overload manager to bypass",
    ),
    field(
        "Listener",
        "connection_balance_config",
        "the kernel spreads connections",
    ),
    field(
        "Listener",
        "continue_on_listener_filters_timeout",
        "after that timer the TCP chain is taken",
    ),
    field(
        "Listener",
        "drain_type",
        "a changed listener drains no connection here",
    ),
    field("Listener", "enable_reuse_port", "one process accepts"),
    field(
        "Listener",
        "ignore_global_conn_limit",
        "the limits on carriers hold in any case",
    ),
    field(
        "Listener",
        "listener_filters_timeout",
        "the look at the first bytes has its own short timer",
    ),
    field(
        "Listener",
        "max_connections_to_accept_per_socket_event",
        "detail of accepting",
    ),
    field("Listener", "metadata", "labels"),
    field("Listener", "name", "is the resource's name"),
    field(
        "Listener",
        "per_connection_buffer_limit_bytes",
        "buffers are bounded by flow control",
    ),
    field("Listener", "reuse_port", "one process accepts"),
    field("Listener", "stat_prefix", "name of a statistic"),
    field("Listener", "tcp_backlog_size", "the system's limit"),
    field("Listener", "traffic_direction", "a label"),
    field(
        "Listener",
        "use_original_dst",
        "the destination is the CONNECT's authority",
    ),
    field(
        "ListenerFilter",
        "filter_disabled",
        "says where a look at the bytes is superfluous; we look exactly where the matcher asks for the protocol",
    ),
    field("ListenerFilter", "name", "a label; the type URL decides"),
    field(
        "LocalityLbEndpoints",
        "load_balancing_weight",
        "counts only with locality-weighted balancing, which is refused",
    ),
    field(
        "LocalityLbEndpoints",
        "locality",
        "localities are weighted by their endpoints (no locality-weighted balancing was asked for)",
    ),
    field("LocalityLbEndpoints", "metadata", "labels"),
    field(
        "NetworkRbac",
        "shadow_rules_stat_prefix",
        "name of a statistic",
    ),
    field("NetworkRbac", "stat_prefix", "name of a statistic"),
    field(
        "OriginalDstLbConfig",
        "metadata_key",
        "names where the next waypoint is written; that key is the one we read",
    ),
    field(
        "OutlierDetection",
        "always_eject_one_host",
        "one endpoint may always be ejected",
    ),
    field(
        "OutlierDetection",
        "interval",
        "ejection happens at once, not at the next interval",
    ),
    field("OutlierDetection", "max_ejection_time_jitter", "no jitter"),
    field(
        "OutlierDetection",
        "success_rate_minimum_hosts",
        "success rates are off",
    ),
    field(
        "OutlierDetection",
        "success_rate_request_volume",
        "success rates are off",
    ),
    field(
        "OutlierDetection",
        "success_rate_stdev_factor",
        "success rates are off",
    ),
    field(
        "PluginConfig",
        "disable_host_header_fallback",
        "the destination service is always the cluster's, never the host header's",
    ),
    field("PluginConfig", "reporter", "a waypoint reports as waypoint"),
    field(
        "PluginConfig",
        "tcp_reporting_duration",
        "live TCP connections are counted every five seconds",
    ),
    field(
        "ProtoAction",
        "priority",
        "both priorities share one set of limits; istiod sends the default only",
    ),
    field("ProtoCluster", "alt_stat_name", "name of a statistic"),
    field("ProtoCluster", "cleanup_interval", "detail of pools"),
    field(
        "ProtoCluster",
        "dns_failure_refresh_rate",
        "DNS clusters are refused by their type",
    ),
    field(
        "ProtoCluster",
        "dns_jitter",
        "DNS clusters are refused by their type",
    ),
    field(
        "ProtoCluster",
        "dns_lookup_family",
        "DNS clusters are refused by their type",
    ),
    field(
        "ProtoCluster",
        "dns_refresh_rate",
        "DNS clusters are refused by their type",
    ),
    field(
        "ProtoCluster",
        "per_connection_buffer_limit_bytes",
        "buffers are bounded by flow control",
    ),
    field(
        "ProtoCluster",
        "respect_dns_ttl",
        "DNS clusters are refused by their type",
    ),
    field(
        "ProtoCluster",
        "track_cluster_stats",
        "asks for statistics only",
    ),
    field(
        "ProtoCluster",
        "track_timeout_budgets",
        "asks for statistics only",
    ),
    field(
        "ProtoCluster",
        "typed_dns_resolver_config",
        "DNS clusters are refused by their type",
    ),
    field(
        "ProtoCluster",
        "upstream_connection_options",
        "every carrier is asked for a sign of life every ten seconds that it is silent",
    ),
    field(
        "ProtoCluster",
        "wait_for_warm_on_init",
        "a cluster without endpoints answers 503",
    ),
    field(
        "ProtoEndpoint",
        "additional_addresses",
        "the first address is used",
    ),
    field(
        "ProtoEndpoint",
        "hostname",
        "used by consistent hashing and automatic SNI only, which are refused",
    ),
    field("ProtoEndpoint", "observability_name", "name of a statistic"),
    field("ProtoFilter", "name", "a label; the type URL decides"),
    field("ProtoHost", "metadata", "labels"),
    field("ProtoLog", "name", "a label; the type URL decides"),
    field(
        "ProtoRoute",
        "metadata",
        "labels, e.g. the VirtualService's name",
    ),
    field("ProtoRoute", "stat_prefix", "name of a statistic"),
    field(
        "ProtoRoute",
        "tracing",
        "no tracer yet; trace headers are passed on",
    ),
    field(
        "Rds",
        "config_source",
        "routes come over the same ADS stream",
    ),
    field(
        "RegexMatcher",
        "engine_type",
        "there is one engine; RE2's syntax is what Rust's regex takes",
    ),
    field("RequestMirrorPolicy", "trace_sampled", "no tracer yet"),
    field(
        "RouteConfiguration",
        "max_direct_response_body_size_bytes",
        "bodies are inside the resource, whose size is bounded already",
    ),
    field("RouteConfiguration", "metadata", "labels"),
    field(
        "RouteConfiguration",
        "validate_clusters",
        "a route to an unknown cluster is answered as its action says; validation would only refuse the table",
    ),
    field("Router", "dynamic_stats", "asks for statistics only"),
    field("Router", "start_child_span", "no tracer yet"),
    field(
        "Router",
        "suppress_grpc_request_failure_code_stats",
        "asks for statistics only",
    ),
    field(
        "RuntimeFractionalPercent",
        "runtime_key",
        "there is no runtime layer; the default value is what counts",
    ),
    field(
        "SocketAddress",
        "ipv4_compat",
        "a v6 socket takes both families",
    ),
    field(
        "SubstitutionFormatString",
        "omit_empty_values",
        "an absent value is left out of headers and is '-' in logs, as istiod wants it",
    ),
    field(
        "TcpProxy",
        "max_connect_attempts",
        "each endpoint is tried once",
    ),
    field("TcpProxy", "stat_prefix", "name of a statistic"),
    field("Thresholds", "track_remaining", "asks for statistics only"),
    field(
        "TlsParameters",
        "tls_minimum_protocol_version",
        "the tunnel is TLS 1.3 only, which is never less than asked",
    ),
    field("TransportSocket", "name", "a label; the type URL decides"),
    field(
        "TransportSocketMatch",
        "name",
        "a label; what it matches decides",
    ),
    field(
        "TunnelingConfig",
        "propagate_response_headers",
        "the answer's headers are not used",
    ),
    field(
        "TypedExtensionConfig",
        "name",
        "a label; the type URL decides",
    ),
    field(
        "UpstreamTlsContext",
        "max_session_keys",
        "there is no resumption",
    ),
    field("UuidRequestIdConfig", "pack_trace_reason", "no tracer yet"),
    field(
        "UuidRequestIdConfig",
        "use_request_id_for_trace_sampling",
        "no tracer yet",
    ),
    field(
        "WeightedCluster",
        "runtime_key_prefix",
        "there is no runtime layer",
    ),
];

/// Filters that are accepted and ignored, by the type of their config.
pub const FILTERS: &[(&str, &str)] = &[
    (
        "type.googleapis.com/io.istio.http.peer_metadata.Config",
        "finds the peers' labels for telemetry; ours come from the certificate and the endpoint",
    ),
    (
        "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
        "exchanges labels between proxies of one TCP connection; does nothing under HBONE",
    ),
];

/// Is a filter of this type ignored?
pub fn filter(type_url: &str) -> bool {
    FILTERS.iter().any(|(url, _)| *url == type_url)
}

/// Compile-time check of `take!`.
pub const fn must_stand(message: &str, field: &str) {
    if !stands(FIELDS, message, field) && !stands(connect::FIELDS, message, field) {
        panic!("this ignored field does not stand in ignored::FIELDS or ignored::connect::FIELDS");
    }
}

const fn stands(fields: &[Field], message: &str, field: &str) -> bool {
    let mut i = 0;
    while i < fields.len() {
        if equal(fields[i].message, message) && equal(fields[i].field, field) {
            return true;
        }
        i += 1;
    }
    false
}

const fn equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The list as the page `docs/decisions/waypoint-accepted-and-ignored.md`.
pub fn page() -> String {
    let mut out = String::from(HEAD);
    table(&mut out, FIELDS, |message| {
        message.strip_prefix("Proto").unwrap_or(message)
    });
    out.push_str("\n## Where a CONNECT is ended\n\n");
    out.push_str("Of the manager of the listener `connect_terminate`, in which there is a CONNECT and no request:\n\n");
    table(&mut out, connect::FIELDS, connect::message);
    out.push_str("\n## Filters\n");
    out.push_str("\n| filter config | why it may be ignored |\n|---|---|\n");
    for (url, reason) in FILTERS {
        out.push_str(&format!("| `{url}` | {reason} |\n"));
    }
    out
}

fn table(out: &mut String, fields: &[Field], message: fn(&str) -> &str) {
    out.push_str("| message | field | why it may be ignored |\n|---|---|---|\n");
    for one in fields {
        let message = message(one.message);
        out.push_str(&format!(
            "| {message} | `{}` | {} |\n",
            one.field, one.reason
        ));
    }
}

const HEAD: &str = "# What the waypoint accepts and ignores\n\n\
Every field of every Envoy message is carried out, refused by name, or stands here. Nothing that guards or\n\
limits access may stand here. This page is compared with `waypoint/src/envoy/ignored.rs` by a test.\n\n";
