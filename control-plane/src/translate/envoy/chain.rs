//! `main_internal`: one HTTP or TCP chain for each service port, and two for workloads that are bound themselves.

use envoy_types::pb::envoy::{
    config::{
        core::v3::{Http2ProtocolOptions, TrafficDirection},
        listener::v3::{
            Filter, FilterChain, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
            listener_filter_chain_match_predicate::{MatchSet, Rule},
        },
        route::v3::RouteConfiguration,
    },
    extensions::{
        filters::{
            http::{
                cors::v3::Cors, fault::v3::HttpFault, grpc_stats::v3 as grpc_stats,
                grpc_web::v3::GrpcWeb, router::v3::Router,
            },
            listener::{http_inspector::v3::HttpInspector, tls_inspector::v3::TlsInspector},
            network::{
                http_connection_manager::v3::{
                    HttpConnectionManager, HttpFilter, RequestIdExtension,
                    http_connection_manager::{
                        PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig,
                    },
                },
                tcp_proxy::v3::{TcpProxy, tcp_proxy},
            },
        },
        request_id::uuid::v3::UuidRequestIdConfig,
    },
    r#type::v3::Int32Range,
};
use objects::Fault;
use proto::workload::AppProtocol;

use super::{
    Layer, Port, Served, ServedService,
    listener::{
        http_filter, http_filter_any, internal, keep_destination, listener_filter, network_filter,
        network_filter_any, original_dst,
    },
    matcher, name, pack, ports,
    rbac::Policies,
    route::{self, Routes},
};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";
/// First bytes that the TLS inspector waits for.
const TLS_BUFFER: u32 = 512;

pub(super) fn main_internal(
    served: &Served<'_>,
    routes: &Routes<'_>,
    faults: &mut Vec<Fault>,
) -> Listener {
    let mut chains = Vec::new();
    let mut asks_server_name = false;
    for service in &served.services {
        let policies = Policies::of(served, Some(service.object), faults);
        asks_server_name |= policies.asks_server_name;
        for port in ports(service.object) {
            for layer in port.layers() {
                chains.push(of_port(served, service, (port, *layer), &policies, routes));
            }
        }
    }
    let policies = Policies::of(served, None, &mut Vec::new());
    asks_server_name |= policies.asks_server_name;
    chains.push(direct_tcp(&policies));
    chains.push(direct_http(&policies));
    Listener {
        filter_chains: chains,
        filter_chain_matcher: Some(matcher::tree(served)),
        listener_filters: listener_filters(served, asks_server_name),
        traffic_direction: TrafficDirection::Inbound.into(),
        ..internal("main_internal")
    }
}

fn of_port(
    served: &Served<'_>,
    service: &ServedService<'_>,
    (port, layer): (Port, Layer),
    policies: &Policies,
    routes: &Routes<'_>,
) -> FilterChain {
    let name = name(port.number, layer, &service.wds.hostname);
    let filters = match layer {
        Layer::Tcp => tcp_filters(&name, policies),
        Layer::Http => {
            let configuration = routes.configuration(service, port.number, &name);
            let grpc_web = served.waypoint.is_envoy()
                && service.object.spec.ports.iter().any(|p| {
                    p.port == port.number
                        && (p.name.starts_with("grpc-web") || p.app_protocol == "grpc-web")
                });
            let mut manager = manager(port.number, configuration, http_filters(policies, grpc_web));
            manager.http2_protocol_options = port.is_http2().then(Http2ProtocolOptions::default);
            vec![network_filter(MANAGER, &manager)]
        }
    };
    FilterChain {
        filters,
        name,
        ..FilterChain::default()
    }
}

fn direct_tcp(policies: &Policies) -> FilterChain {
    let mut filters = vec![keep_destination()];
    filters.extend(tcp_filters("encap", policies));
    FilterChain {
        filters,
        name: "direct-tcp".into(),
        ..FilterChain::default()
    }
}

fn direct_http(policies: &Policies) -> FilterChain {
    let manager = manager(
        0,
        route::default("encap", "encap", ":0", 0),
        http_filters(policies, false),
    );
    FilterChain {
        filters: vec![keep_destination(), network_filter(MANAGER, &manager)],
        name: "direct-http".into(),
        ..FilterChain::default()
    }
}

fn tcp_filters(cluster: &str, policies: &Policies) -> Vec<Filter> {
    let exchange = pack::typed_struct(
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        [
            ("enable_discovery", pack::boolean(true)),
            ("protocol", pack::text("istio-peer-exchange")),
        ],
    );
    let proxy = TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        access_log: vec![pack::access_log(None)],
        ..TcpProxy::default()
    };
    let mut filters = vec![network_filter_any("istio.metadata_exchange", exchange)];
    filters.extend(policies.network_filters());
    filters.push(network_filter_any("istio.stats", pack::stats()));
    filters.push(network_filter("envoy.filters.network.tcp_proxy", &proxy));
    filters
}

/// In istiod's order: who may, then what else, then on.
fn http_filters(policies: &Policies, grpc_web: bool) -> Vec<HttpFilter> {
    let counted = grpc_stats::FilterConfig {
        emit_filter_state: true,
        per_method_stat_specifier: Some(
            grpc_stats::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
                envoy_types::pb::google::protobuf::BoolValue { value: false },
            ),
        ),
        ..grpc_stats::FilterConfig::default()
    };
    let discovery = pack::nested(pack::object([(
        "workload_discovery",
        pack::nested(pack::object([])),
    )]));
    let peer = pack::typed_struct(
        "io.istio.http.peer_metadata.Config",
        [("upstream_discovery", pack::list(vec![discovery]))],
    );
    let mut filters = policies.http_filters();
    if grpc_web {
        filters.push(http_filter("envoy.filters.http.grpc_web", &GrpcWeb {}));
    }
    filters.push(http_filter("envoy.filters.http.grpc_stats", &counted));
    filters.push(http_filter(
        "envoy.filters.http.fault",
        &HttpFault::default(),
    ));
    filters.push(http_filter("envoy.filters.http.cors", &Cors {}));
    filters.push(http_filter_any("waypoint_upstream_peer_metadata", peer));
    filters.push(http_filter_any("istio.stats", pack::stats()));
    filters.push(http_filter("envoy.filters.http.router", &Router::default()));
    filters
}

fn manager(
    port: u16,
    routes: RouteConfiguration,
    http_filters: Vec<HttpFilter>,
) -> HttpConnectionManager {
    let request_id = UuidRequestIdConfig {
        use_request_id_for_trace_sampling: pack::flag(true),
        ..UuidRequestIdConfig::default()
    };
    HttpConnectionManager {
        stat_prefix: format!("inbound_0.0.0.0_{port};"),
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        http_filters,
        server_name: "istio-envoy".into(),
        stream_idle_timeout: pack::seconds(0),
        access_log: vec![pack::access_log(None)],
        use_remote_address: pack::flag(false),
        proxy_100_continue: true,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..UpgradeConfig::default()
        }],
        normalize_path: pack::flag(true),
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        request_id_extension: Some(RequestIdExtension {
            typed_config: Some(pack::any(&request_id)),
        }),
        ..HttpConnectionManager::default()
    }
}

/// Sniffing is turned off on ports where nothing is to be found out. TLS is looked into only for a policy that asks
/// for the server name: a port that is known to be TLS needs no sniffing to find its chain.
fn listener_filters(served: &Served<'_>, asks_server_name: bool) -> Vec<ListenerFilter> {
    let by_port = served.protocols_by_port();
    let unknown = i32::from(AppProtocol::Unknown);
    let tls = i32::from(AppProtocol::Tls);
    let mut http = listener_filter(
        "envoy.filters.listener.http_inspector",
        &HttpInspector::default(),
    );
    if served.workloads.is_empty() {
        let known = by_port
            .iter()
            .filter(|(_, protocols)| !protocols.contains(&unknown));
        http.filter_disabled = except(known.map(|(port, _)| *port).collect());
    }
    let mut filters = vec![original_dst(), http];
    if asks_server_name && by_port.values().any(|protocols| protocols.contains(&tls)) {
        let config = TlsInspector {
            initial_read_buffer_size: pack::number(TLS_BUFFER),
            ..TlsInspector::default()
        };
        let mut inspector = listener_filter("envoy.filters.listener.tls_inspector", &config);
        let plain = by_port
            .iter()
            .filter(|(_, protocols)| !protocols.contains(&tls));
        inspector.filter_disabled = except(plain.map(|(port, _)| *port).collect());
        filters.push(inspector);
    }
    filters
}

fn except(ports: Vec<u16>) -> Option<ListenerFilterChainMatchPredicate> {
    let range = |port: u16| {
        let range = Int32Range {
            start: port.into(),
            end: i32::from(port) + 1,
        };
        ListenerFilterChainMatchPredicate {
            rule: Some(Rule::DestinationPortRange(range)),
        }
    };
    match ports[..] {
        [] => None,
        [port] => Some(range(port)),
        _ => {
            let rules = ports.into_iter().map(range).collect();
            Some(ListenerFilterChainMatchPredicate {
                rule: Some(Rule::OrMatch(MatchSet { rules })),
            })
        }
    }
}
