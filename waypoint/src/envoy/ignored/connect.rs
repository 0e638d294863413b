//! What is accepted and has no effect where a CONNECT is ended: the messages of `connect_terminate`, by the names that
//! they have in `terminate`. Some of the same fields are carried out in a service's chain.

use super::{Field, field};

/// All ignored fields of `connect_terminate`.
pub const FIELDS: &[Field] = &[
    field(
        "ConnectAction",
        "cluster_not_found_response_code",
        "the chains are always there",
    ),
    field("ConnectAction", "priority", "the chains have no limits"),
    field("ConnectFilter", "name", "a label; the type URL decides"),
    field("ConnectHost", "metadata", "labels"),
    field("ConnectHost", "name", "a label"),
    field("ConnectHttp2", "allow_connect", "CONNECT is what it is for"),
    field(
        "ConnectHttp2",
        "enable_huffman_encoding",
        "compression detail",
    ),
    field("ConnectHttp2", "hpack_table_size", "compression detail"),
    field(
        "ConnectHttp2",
        "initial_connection_window_size",
        "windows are ours; they bound memory, not access",
    ),
    field(
        "ConnectHttp2",
        "initial_stream_window_size",
        "windows are ours; they bound memory, not access",
    ),
    field("ConnectHttp2", "use_oghttp2_codec", "choice of parser"),
    field("ConnectManager", "codec_type", "HBONE is HTTP/2"),
    field(
        "ConnectManager",
        "delayed_close_timeout",
        "detail of closing",
    ),
    field(
        "ConnectManager",
        "drain_timeout",
        "a changed listener drains no connection here",
    ),
    field(
        "ConnectManager",
        "forward_client_cert_details",
        "the certificate is judged here; nothing of it is forwarded in the CONNECT",
    ),
    field(
        "ConnectManager",
        "generate_request_id",
        "no request id in a CONNECT",
    ),
    field("ConnectManager", "http_protocol_options", "HBONE is HTTP/2"),
    field(
        "ConnectManager",
        "internal_address_config",
        "no header depends on whether an address is internal",
    ),
    field("ConnectManager", "merge_slashes", "a CONNECT has no path"),
    field("ConnectManager", "normalize_path", "a CONNECT has no path"),
    field(
        "ConnectManager",
        "path_with_escaped_slashes_action",
        "a CONNECT has no path",
    ),
    field(
        "ConnectManager",
        "proxy_100_continue",
        "a CONNECT has no body to wait for",
    ),
    field(
        "ConnectManager",
        "request_id_extension",
        "no request id in a CONNECT",
    ),
    field(
        "ConnectManager",
        "server_header_transformation",
        "a CONNECT's answer is made by hbone",
    ),
    field(
        "ConnectManager",
        "server_name",
        "a CONNECT's answer is made by hbone",
    ),
    field(
        "ConnectManager",
        "set_current_client_cert_details",
        "no certificate details are forwarded at all, which is less than allowed",
    ),
    field("ConnectManager", "stat_prefix", "name of a statistic"),
    field(
        "ConnectManager",
        "stream_idle_timeout",
        "the chain inside the tunnel has its own",
    ),
    field(
        "ConnectManager",
        "tracing",
        "no tracer yet; W3C and B3 headers of requests are passed on",
    ),
    field("ConnectMatch", "case_sensitive", "a CONNECT has no path"),
    field(
        "ConnectOptions",
        "idle_timeout",
        "carriers without tunnels are bounded in number, and end when their peer answers no PING",
    ),
    field("ConnectRoute", "decorator", "names a span; no tracer yet"),
    field("ConnectRoute", "metadata", "labels"),
    field("ConnectRoute", "name", "a label"),
    field("ConnectRoute", "stat_prefix", "name of a statistic"),
    field("ConnectRoute", "tracing", "no tracer yet"),
    field(
        "ConnectTable",
        "max_direct_response_body_size_bytes",
        "there is no direct response",
    ),
    field("ConnectTable", "metadata", "labels"),
    field("ConnectTable", "name", "a label"),
    field(
        "ConnectTable",
        "validate_clusters",
        "the only cluster is 'main_internal'",
    ),
];

/// The message that a name stands for, as Envoy calls it.
pub fn message(name: &str) -> &str {
    match name {
        "ConnectAction" => "RouteAction",
        "ConnectFilter" => "HttpFilter",
        "ConnectHost" => "VirtualHost",
        "ConnectHttp2" => "Http2ProtocolOptions",
        "ConnectManager" => "HttpConnectionManager",
        "ConnectMatch" => "RouteMatch",
        "ConnectOptions" => "HttpProtocolOptions",
        "ConnectRoute" => "Route",
        "ConnectTable" => "RouteConfiguration",
        other => other,
    }
}
