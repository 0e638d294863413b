//! The fixed listeners: HBONE in (`connect_terminate`) and the three that send HBONE out.

use envoy_types::pb::envoy::{
    config::{
        accesslog::v3::{
            AccessLogFilter, ComparisonFilter, ResponseFlagFilter, StatusCodeFilter,
            access_log_filter::FilterSpecifier, comparison_filter,
        },
        core::v3::{
            HeaderValue, HeaderValueOption, Http2ProtocolOptions, KeepaliveSettings, RuntimeUInt32,
            header_value_option::HeaderAppendAction,
        },
        listener::v3::{
            Filter, FilterChain, Listener, ListenerFilter, filter,
            listener::{
                ConnectionBalanceConfig, InternalListenerConfig, ListenerSpecifier,
                connection_balance_config,
            },
            listener_filter,
        },
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
            route_action::{ClusterSpecifier, UpgradeConfig, upgrade_config},
            route_match::{ConnectMatcher, PathSpecifier},
        },
    },
    extensions::filters::{
        common::set_filter_state::v3::{FilterStateValue, filter_state_value},
        http::{router::v3::Router, set_filter_state::v3 as http_state},
        listener::original_dst::v3::OriginalDst,
        network::{
            http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter,
                http_connection_manager::{
                    self as hcm, ForwardClientCertDetails, RouteSpecifier,
                    SetCurrentClientCertDetails,
                },
                http_filter,
            },
            set_filter_state::v3 as network_state,
            tcp_proxy::v3::{TcpProxy, tcp_proxy},
        },
    },
};
use envoy_types::pb::google::protobuf::Any;
use filter_state_value::SharedWithUpstream::{self, Once, Transitive};
use prost::{Message, Name};

use super::{Served, pack, tls};

/// The object that all strings which must be hashed are made by, from Istio 1.29 on.
const HASHABLE: &str = "istio.hashable_string";
const LOCAL_IP: &str = "envoy.filters.listener.original_dst.local_ip";
const DOUBLE_TARGET: &str = "istio.double_hbone.hbone_target_address";

pub(super) fn fixed(served: &Served<'_>) -> Vec<Listener> {
    vec![
        connect_terminate(served),
        connect_originate(),
        inner_connect_originate(),
        outer_connect_originate(),
    ]
}

pub(super) fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    network_filter_any(name, pack::any(config))
}

pub(super) fn network_filter_any(name: &str, config: Any) -> Filter {
    Filter {
        name: name.into(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

pub(super) fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    http_filter_any(name, pack::any(config))
}

pub(super) fn http_filter_any(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

pub(super) fn listener_filter<M: Message + Name>(name: &str, config: &M) -> ListenerFilter {
    ListenerFilter {
        name: name.into(),
        filter_disabled: None,
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack::any(config))),
    }
}

/// The listener filter that takes the addresses out of the filter state.
pub(super) fn original_dst() -> ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_dst",
        &OriginalDst::default(),
    )
}

/// A listener reached from within the process only; it logs what found no chain or cluster.
pub(super) fn internal(name: &str) -> Listener {
    Listener {
        name: name.into(),
        access_log: vec![pack::access_log(flags("NR"))],
        listener_specifier: Some(ListenerSpecifier::InternalListener(
            InternalListenerConfig::default(),
        )),
        ..Listener::default()
    }
}

pub(super) fn flags(flag: &str) -> Option<AccessLogFilter> {
    let filter = ResponseFlagFilter {
        flags: vec![flag.into()],
    };
    Some(AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(filter)),
    })
}

fn connect_terminate(served: &Served<'_>) -> Listener {
    let manager = terminate_manager();
    let chain = FilterChain {
        filters: vec![network_filter(
            "envoy.filters.network.http_connection_manager",
            &manager,
        )],
        transport_socket: Some(tls::downstream(&served.index.mesh.trust_domain)),
        name: "default".into(),
        ..FilterChain::default()
    };
    let exact = connection_balance_config::BalanceType::ExactBalance(
        connection_balance_config::ExactBalance {},
    );
    Listener {
        name: "connect_terminate".into(),
        address: Some(pack::socket_address(
            "0.0.0.0",
            super::super::binding::HBONE_PORT,
        )),
        filter_chains: vec![chain],
        connection_balance_config: Some(ConnectionBalanceConfig {
            balance_type: Some(exact),
        }),
        access_log: vec![pack::access_log(flags("NR"))],
        ..Listener::default()
    }
}

fn terminate_manager() -> HttpConnectionManager {
    let keepalive = KeepaliveSettings {
        interval: pack::seconds(10),
        timeout: pack::seconds(20),
        ..KeepaliveSettings::default()
    };
    HttpConnectionManager {
        stat_prefix: "connect_terminate".into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(connect_route())),
        http_filters: terminate_filters(),
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: pack::number(100),
            allow_connect: true,
            connection_keepalive: Some(keepalive),
            ..Http2ProtocolOptions::default()
        }),
        server_name: "istio-envoy".into(),
        stream_idle_timeout: pack::seconds(0),
        access_log: vec![pack::access_log(Some(status_from_400()))],
        use_remote_address: pack::flag(false),
        forward_client_cert_details: ForwardClientCertDetails::AppendForward.into(),
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            subject: pack::flag(true),
            dns: true,
            uri: true,
            ..SetCurrentClientCertDetails::default()
        }),
        upgrade_configs: vec![hcm::UpgradeConfig {
            upgrade_type: "CONNECT".into(),
            ..Default::default()
        }],
        ..HttpConnectionManager::default()
    }
}

fn status_from_400() -> AccessLogFilter {
    let comparison = ComparisonFilter {
        op: comparison_filter::Op::Ge.into(),
        value: Some(RuntimeUInt32 {
            default_value: 400,
            runtime_key: "istio.io/unset".into(),
        }),
    };
    let filter = StatusCodeFilter {
        comparison: Some(comparison),
    };
    AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::StatusCodeFilter(filter)),
    }
}

fn connect_route() -> RouteConfiguration {
    let upgrade = UpgradeConfig {
        upgrade_type: "CONNECT".into(),
        connect_config: Some(upgrade_config::ConnectConfig::default()),
        ..UpgradeConfig::default()
    };
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("main_internal".into())),
        upgrade_configs: vec![upgrade],
        ..RouteAction::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost {
        name: "default".into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name: "default".into(),
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    }
}

fn terminate_filters() -> Vec<HttpFilter> {
    let discovery = pack::nested(pack::object([(
        "workload_discovery",
        pack::nested(pack::object([])),
    )]));
    let peer = pack::typed_struct(
        "io.istio.http.peer_metadata.Config",
        [
            ("downstream_discovery", pack::list(vec![discovery])),
            ("shared_with_upstream", pack::boolean(true)),
        ],
    );
    let state = http_state::Config {
        on_request_headers: vec![
            state(LOCAL_IP, "", "%REQ(:AUTHORITY)%", Once),
            state(
                "io.istio.connect_authority",
                HASHABLE,
                "%REQ(:AUTHORITY)%",
                Once,
            ),
            state(
                "envoy.filters.listener.original_dst.remote_ip",
                "",
                "%DOWNSTREAM_REMOTE_ADDRESS%",
                Once,
            ),
            state(
                "io.istio.peer_principal",
                HASHABLE,
                "%DOWNSTREAM_PEER_URI_SAN%",
                Once,
            ),
            state(
                "io.istio.local_principal",
                HASHABLE,
                "%DOWNSTREAM_LOCAL_URI_SAN%",
                Once,
            ),
        ],
        ..http_state::Config::default()
    };
    vec![
        http_filter_any("waypoint_downstream_peer_metadata", peer),
        http_filter("connect_authority", &state),
        http_filter("envoy.filters.http.router", &Router::default()),
    ]
}

fn state(key: &str, factory: &str, value: &str, shared: SharedWithUpstream) -> FilterStateValue {
    FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(key.into())),
        factory_key: factory.into(),
        value: Some(filter_state_value::Value::FormatString(pack::format(value))),
        shared_with_upstream: shared.into(),
        ..FilterStateValue::default()
    }
}

/// The network filter that hands the tunnel's destination on to `connect_originate`.
pub(super) fn keep_destination() -> Filter {
    let value = format!("%FILTER_STATE({LOCAL_IP}:PLAIN)%");
    let config = network_state::Config {
        on_new_connection: vec![state(LOCAL_IP, "", &value, Once)],
        ..network_state::Config::default()
    };
    network_filter("connect_authority", &config)
}

fn connect_originate() -> Listener {
    let proxy = tunnel("connect_originate", "%DOWNSTREAM_LOCAL_ADDRESS%", None);
    originate("connect_originate", vec![proxy], vec![original_dst()])
}

/// Double HBONE, for endpoints of another network: the inner tunnel …
fn inner_connect_originate() -> Listener {
    let local = format!("%DYNAMIC_METADATA({}:local)%", super::cluster::ORIGINAL_DST);
    let target = "%DYNAMIC_METADATA(istio:double_hbone:hbone_target_address)%";
    let config = network_state::Config {
        on_new_connection: vec![
            state(LOCAL_IP, "", &local, Transitive),
            state(DOUBLE_TARGET, HASHABLE, target, Transitive),
        ],
        ..network_state::Config::default()
    };
    let proxy = tunnel(
        "inner_connect_originate",
        &double_target(),
        Some(("x-forwarded-network", "")),
    );
    originate(
        "inner_connect_originate",
        vec![
            network_filter("propagate_endpoint_metadata", &config),
            proxy,
        ],
        Vec::new(),
    )
}

/// … and the outer one.
fn outer_connect_originate() -> Listener {
    let proxy = tunnel(
        "outer_connect_originate",
        &double_target(),
        Some(("x-istio-source", "waypoint")),
    );
    originate("outer_connect_originate", vec![proxy], vec![original_dst()])
}

fn double_target() -> String {
    format!("%FILTER_STATE({DOUBLE_TARGET}:PLAIN)%")
}

fn originate(name: &str, filters: Vec<Filter>, listener_filters: Vec<ListenerFilter>) -> Listener {
    Listener {
        filter_chains: vec![FilterChain {
            filters,
            ..FilterChain::default()
        }],
        use_original_dst: pack::flag(false),
        listener_filters,
        ..internal(name)
    }
}

fn tunnel(name: &str, hostname: &str, header: Option<(&str, &str)>) -> Filter {
    let header = header.map(|(key, value)| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    });
    let proxy = TcpProxy {
        stat_prefix: name.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name.into())),
        access_log: vec![pack::access_log(flags("UF"))],
        tunneling_config: Some(tcp_proxy::TunnelingConfig {
            hostname: hostname.into(),
            headers_to_add: header.into_iter().collect(),
            ..tcp_proxy::TunnelingConfig::default()
        }),
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}
