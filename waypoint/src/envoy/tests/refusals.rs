//! The refusal corpus: each shape that is not carried out, and the exact text that the control plane reads.
//! Long because the table is the specification: one situation a row.

use super::capture;
use crate::envoy::{cluster, endpoint, listener, route};
use crate::state::types;
use envoy_types::pb::envoy::config::accesslog::v3 as log;
use envoy_types::pb::envoy::config::cluster::v3::{self as cds, Cluster, cluster as cd};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, cluster_load_assignment,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3 as rb;
use envoy_types::pb::envoy::config::route::v3 as rt;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as hcm, HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue, UInt32Value};
use prost::{Message, Name};

const SET: &str = "istio-master-20260827";
const ECHO: &str = "inbound-vip|80|http|echo.app.svc.cluster.local";

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

fn resource<M: Message + Default>(file: &str, name: &str) -> M {
    let (_, _, bytes) = capture(SET, file)
        .into_iter()
        .find(|(_, n, _)| n == name)
        .unwrap();
    M::decode(bytes.as_slice()).unwrap()
}

/// A resource that is refused.
pub struct Refused {
    pub type_url: &'static str,
    pub name: &'static str,
    pub body: Vec<u8>,
    /// The refusal, as the control plane reads it.
    pub text: String,
}

fn refused_cluster(change: impl FnOnce(&mut Cluster)) -> Refused {
    let mut cluster: Cluster = resource("00-Cluster", ECHO);
    change(&mut cluster);
    let body = cluster.encode_to_vec();
    let text = cluster::from_bytes(&body).unwrap_err().to_string();
    Refused {
        type_url: types::CLUSTER,
        name: ECHO,
        body,
        text,
    }
}

fn refused_endpoints(change: impl FnOnce(&mut ClusterLoadAssignment)) -> Refused {
    let mut endpoints: ClusterLoadAssignment = resource("05-ClusterLoadAssignment", ECHO);
    change(&mut endpoints);
    let body = endpoints.encode_to_vec();
    let text = endpoint::from_bytes(&body).unwrap_err().to_string();
    Refused {
        type_url: types::ENDPOINT,
        name: ECHO,
        body,
        text,
    }
}

fn refused_listener(name: &'static str, change: impl FnOnce(&mut Listener)) -> Refused {
    let mut listener: Listener = resource("01-Listener", name);
    change(&mut listener);
    let body = listener.encode_to_vec();
    let text = listener::from_bytes(&body, None).unwrap_err().to_string();
    Refused {
        type_url: types::LISTENER,
        name,
        body,
        text,
    }
}

/// Changes the connection manager of the echo chain.
fn refused_chain(change: impl FnOnce(&mut HttpConnectionManager)) -> Refused {
    refused_listener("main_internal", |listener| {
        let chain = listener
            .filter_chains
            .iter_mut()
            .find(|chain| chain.name == ECHO)
            .unwrap();
        let Some(filter::ConfigType::TypedConfig(config)) = &mut chain.filters[0].config_type
        else {
            panic!()
        };
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        change(&mut manager);
        *config = any(&manager);
    })
}

/// Changes the connection manager of `connect_terminate`.
fn refused_terminate(change: impl FnOnce(&mut HttpConnectionManager)) -> Refused {
    refused_listener("connect_terminate", |listener| {
        let Some(filter::ConfigType::TypedConfig(config)) =
            &mut listener.filter_chains[0].filters[0].config_type
        else {
            panic!()
        };
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        change(&mut manager);
        *config = any(&manager);
    })
}

/// Changes the route table of `connect_terminate`.
fn refused_connect_table(change: impl FnOnce(&mut rt::RouteConfiguration)) -> Refused {
    refused_terminate(|manager| {
        let Some(RouteSpecifier::RouteConfig(config)) = &mut manager.route_specifier else {
            panic!()
        };
        change(config);
    })
}

fn refused_parts_of_connect_terminate() -> Vec<(Refused, String)> {
    let guard = || [("envoy.filters.http.rbac".to_owned(), Any::default())].into();
    let connect = |change: fn(&mut rt::RouteAction)| {
        refused_connect_table(|table| {
            let Some(rt::route::Action::Route(action)) =
                &mut table.virtual_hosts[0].routes[0].action
            else {
                panic!()
            };
            change(action);
        })
    };
    let cases = [
        (
            refused_terminate(|m| m.http_filters[0].disabled = true),
            "http_filters[0].disabled: not supported",
        ),
        (
            refused_terminate(|m| m.upgrade_configs[0].enabled = Some(BoolValue { value: false })),
            "upgrade_configs: must be CONNECT alone",
        ),
        (
            refused_connect_table(|t| t.typed_per_filter_config = guard()),
            "route_config.typed_per_filter_config: not supported",
        ),
        (
            refused_connect_table(|t| t.virtual_hosts[0].typed_per_filter_config = guard()),
            "route_config.virtual_hosts[0].typed_per_filter_config: not supported",
        ),
        (
            refused_connect_table(|t| t.virtual_hosts[0].require_tls = 2),
            "route_config.virtual_hosts[0].require_tls: not supported",
        ),
        (
            refused_connect_table(|t| {
                t.virtual_hosts[0].routes[0].typed_per_filter_config = guard()
            }),
            "route_config.virtual_hosts[0].routes[0].typed_per_filter_config: not supported",
        ),
        (
            refused_connect_table(|t| {
                let matches = t.virtual_hosts[0].routes[0].r#match.as_mut().unwrap();
                matches.headers = vec![rt::HeaderMatcher::default()];
            }),
            "route_config.virtual_hosts[0].routes[0].match.headers: not supported",
        ),
        (
            connect(|action| action.rate_limits = vec![rt::RateLimit::default()]),
            "route_config.virtual_hosts[0].routes[0].route.rate_limits: not supported",
        ),
        (
            connect(|action| {
                let elsewhere = rt::route_action::ClusterSpecifier::Cluster("elsewhere".into());
                action.cluster_specifier = Some(elsewhere);
            }),
            "route_config: must send CONNECT to 'main_internal' and nothing else",
        ),
    ];
    let place = "filter_chains[0].filters[0].typed_config.";
    cases
        .into_iter()
        .map(|(got, want)| (got, format!("{LDS}{place}{want}")))
        .collect()
}

fn refused_route(change: impl FnOnce(&mut rt::Route)) -> Refused {
    refused_chain(|manager| {
        let Some(RouteSpecifier::RouteConfig(config)) = &mut manager.route_specifier else {
            panic!()
        };
        change(&mut config.virtual_hosts[0].routes[0]);
    })
}

fn refused_action(change: impl FnOnce(&mut rt::RouteAction)) -> Refused {
    refused_route(|route| {
        let Some(rt::route::Action::Route(action)) = &mut route.action else {
            panic!()
        };
        change(action);
    })
}

fn refused_rbac(change: impl FnOnce(&mut rb::Policy)) -> Refused {
    refused_chain(|manager| {
        let Some(hcm::http_filter::ConfigType::TypedConfig(config)) =
            &mut manager.http_filters[0].config_type
        else {
            panic!()
        };
        let mut filter = Rbac::decode(config.value.as_slice()).unwrap();
        change(
            filter
                .rules
                .as_mut()
                .unwrap()
                .policies
                .values_mut()
                .next()
                .unwrap(),
        );
        *config = any(&filter);
    })
}

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster at ";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment at ";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener at ";
const CHAIN: &str =
    "filter_chains[\"inbound-vip|80|http|echo.app.svc.cluster.local\"].filters[0].typed_config.";
const ROUTE: &str = "route_config.virtual_hosts[0].routes[0].";

fn lds(rest: &str) -> String {
    format!("{LDS}{CHAIN}{rest}")
}

fn refused_clusters() -> Vec<(Refused, String)> {
    let kind = |kind: cd::DiscoveryType| Some(cd::ClusterDiscoveryType::Type(kind as i32));
    let cases = [
        (
            refused_cluster(|c| c.lb_policy = cd::LbPolicy::Maglev as i32),
            "lb_policy: MAGLEV is not supported",
        ),
        (
            refused_cluster(|c| c.lb_policy = 77),
            "lb_policy: value is not known",
        ),
        (
            refused_cluster(|c| c.cluster_discovery_type = kind(cd::DiscoveryType::LogicalDns)),
            "type: discovery type LOGICAL_DNS is not supported",
        ),
        (
            refused_cluster(|c| c.health_checks = vec![core::HealthCheck::default()]),
            "health_checks: not supported",
        ),
        (
            refused_cluster(|c| {
                c.transport_socket_matches = vec![cd::TransportSocketMatch::default()]
            }),
            "transport_socket_matches[0].transport_socket: missing",
        ),
        (
            refused_cluster(|c| {
                c.load_balancing_policy = Some(cds::LoadBalancingPolicy::default())
            }),
            "load_balancing_policy: not supported",
        ),
        (
            refused_cluster(|c| {
                c.outlier_detection.as_mut().unwrap().enforcing_success_rate = None
            }),
            "outlier_detection.enforcing_success_rate: must be 0: ejection by success rate is not supported",
        ),
        (
            refused_cluster(|c| {
                c.outlier_detection
                    .as_mut()
                    .unwrap()
                    .split_external_local_origin_errors = true
            }),
            "outlier_detection.split_external_local_origin_errors: not supported",
        ),
        (refused_cluster(|c| c.name.clear()), "name: missing"),
        (
            refused_cluster(|c| {
                let socket = c.transport_socket.as_mut().unwrap();
                socket.config_type = Some(core::transport_socket::ConfigType::TypedConfig(any(
                &envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext::default(),
            )));
            }),
            "transport_socket.typed_config: transport socket type \
             'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext' is not supported",
        ),
        (
            refused_cluster(|c| {
                c.circuit_breakers.as_mut().unwrap().thresholds[0].max_connection_pools =
                    Some(UInt32Value { value: 1 })
            }),
            "circuit_breakers.thresholds[0].max_connection_pools: not supported",
        ),
    ];
    cases
        .into_iter()
        .map(|(got, want)| (got, format!("{CDS}{want}")))
        .collect()
}

fn refused_endpoint_sets() -> Vec<(Refused, String)> {
    let cases = [
        (
            refused_endpoints(|e| e.endpoints[0].lb_endpoints[1].health_status = 99),
            "endpoints[0].lb_endpoints[1].health_status: value 99 is not known",
        ),
        (
            refused_endpoints(|e| {
                e.policy = Some(cluster_load_assignment::Policy {
                    drop_overloads: vec![cluster_load_assignment::policy::DropOverload::default()],
                    ..Default::default()
                })
            }),
            "policy.drop_overloads: not supported",
        ),
        (
            refused_endpoints(|e| e.endpoints[0].lb_endpoints[0].host_identifier = None),
            "endpoints[0].lb_endpoints[0].endpoint: missing",
        ),
    ];
    cases
        .into_iter()
        .map(|(got, want)| (got, format!("{EDS}{want}")))
        .collect()
}

fn refused_listeners() -> Vec<(Refused, String)> {
    let cases = [
        (
            refused_listener("main_internal", |l| l.name = "extra".into()),
            "name: listener \"extra\" is not one of a waypoint",
        ),
        (
            refused_listener("main_internal", |l| drop(l.filter_chains.remove(0))),
            "filter_chain_matcher: names chain \"inbound-vip|80|http|echo.app.svc.cluster.local\", which is not there",
        ),
        (
            refused_listener("main_internal", |l| {
                let twin = l.filter_chains[0].clone();
                l.filter_chains.push(twin);
            }),
            "filter_chains[\"inbound-vip|80|http|echo.app.svc.cluster.local\"]: is there twice",
        ),
        (
            refused_listener("main_internal", |l| {
                l.default_filter_chain = Some(Default::default())
            }),
            "default_filter_chain: not supported",
        ),
        (
            refused_listener("connect_terminate", |l| {
                l.filter_chains[0].transport_socket = None
            }),
            "filter_chains[0].transport_socket: missing",
        ),
        (
            refused_listener("connect_terminate", |l| l.address = None),
            "address: missing",
        ),
        (
            refused_listener("connect_originate", |l| l.filter_chains.clear()),
            "filter_chains: must be one chain",
        ),
    ];
    cases
        .into_iter()
        .map(|(got, want)| (got, format!("{LDS}{want}")))
        .collect()
}

fn refused_parts_of_a_connection_manager() -> Vec<(Refused, String)> {
    let lua = Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua".into(),
        value: vec![],
    };
    let cases = [
        (
            refused_chain(|m| {
                m.http_filters[1].config_type = Some(hcm::http_filter::ConfigType::TypedConfig(lua))
            }),
            "http_filters[1].typed_config: filter type \
             'type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua' is not supported",
        ),
        (
            refused_chain(|m| drop(m.http_filters.pop())),
            "http_filters: has no router at its end",
        ),
        (
            refused_chain(|m| m.http_filters[0].disabled = true),
            "http_filters[0].disabled: not supported",
        ),
        (
            refused_chain(|m| m.use_remote_address = Some(BoolValue { value: true })),
            "use_remote_address: not supported",
        ),
        (
            refused_chain(|m| m.xff_num_trusted_hops = 1),
            "xff_num_trusted_hops: not supported",
        ),
        (
            refused_chain(|m| m.local_reply_config = Some(Default::default())),
            "local_reply_config: not supported",
        ),
        (
            refused_chain(|m| m.upgrade_configs[0].upgrade_type = "CONNECT".into()),
            "upgrade_configs[0].upgrade_type: \"CONNECT\" is not supported",
        ),
        (
            refused_chain(|m| {
                let format = log_format("%COALESCE(1)%");
                m.access_log[0].config_type =
                    Some(log::access_log::ConfigType::TypedConfig(any(&format)));
            }),
            "access_log[0].typed_config.log_format.text_format_source: format operator '%COALESCE(1)%' is not supported",
        ),
    ];
    cases
        .into_iter()
        .map(|(got, want)| (got, lds(want)))
        .collect()
}

fn log_format(
    text: &str,
) -> envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog {
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
        FileAccessLog, file_access_log,
    };
    let source = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    };
    let format = core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::TextFormatSource(
            source,
        )),
        ..Default::default()
    };
    FileAccessLog {
        path: "/dev/stdout".into(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
    }
}

fn refused_parts_of_a_route() -> Vec<(Refused, String)> {
    let cases = [
        (
            refused_action(|a| a.hash_policy = vec![Default::default()]),
            "route.hash_policy: not supported",
        ),
        (
            refused_action(|a| a.max_stream_duration = Some(Default::default())),
            "route.max_stream_duration: not supported",
        ),
        (
            refused_action(|a| a.retry_policy.as_mut().unwrap().retry_on = "5xx,sometimes".into()),
            "route.retry_policy.retry_on: condition \"sometimes\" is not supported",
        ),
        (
            refused_action(|a| {
                a.cluster_specifier = Some(rt::route_action::ClusterSpecifier::ClusterHeader(
                    "x".into(),
                ))
            }),
            "route.cluster_header: not supported",
        ),
        (
            refused_action(|a| {
                a.cluster_specifier = Some(rt::route_action::ClusterSpecifier::WeightedClusters(
                    Default::default(),
                ))
            }),
            "route.weighted_clusters: sum of weights 0 is not in 1..=4294967295",
        ),
        (
            refused_route(|r| {
                r.r#match.as_mut().unwrap().dynamic_metadata = vec![Default::default()]
            }),
            "match.dynamic_metadata: not supported",
        ),
        (
            refused_route(|r| {
                r.request_headers_to_add[0].header.as_mut().unwrap().value = "%CEL(1)%".into()
            }),
            "request_headers_to_add[0].header.value: format operator '%CEL(1)%' is not supported",
        ),
        (
            refused_route(|r| {
                r.request_headers_to_add[0].header.as_mut().unwrap().key = ":path".into()
            }),
            "request_headers_to_add[0].header.key: header \":path\" cannot be changed here",
        ),
        (refused_route(|r| r.action = None), "action: missing"),
    ];
    cases
        .into_iter()
        .map(|(got, want)| (got, lds(&format!("{ROUTE}{want}"))))
        .collect()
}

fn refused_parts_of_a_policy() -> Vec<(Refused, String)> {
    let metadata = rb::principal::Identifier::Metadata(Default::default());
    let state = |key: &str| {
        rb::principal::Identifier::FilterState(
            envoy_types::pb::envoy::r#type::matcher::v3::FilterStateMatcher {
                key: key.into(),
                matcher: None,
            },
        )
    };
    let principal = |identifier| {
        vec![rb::Principal {
            identifier: Some(identifier),
        }]
    };
    let cases = [
        (
            refused_rbac(|p| p.principals = principal(metadata)),
            "principals[0].metadata: not supported",
        ),
        (
            refused_rbac(|p| p.principals = principal(state("other"))),
            "principals[0].filter_state.key: \"other\" is not a key that can be asked for",
        ),
        (
            refused_rbac(|p| p.principals = vec![rb::Principal::default()]),
            "principals[0].identifier: missing",
        ),
        (
            refused_rbac(|p| p.condition = Some(Default::default())),
            "condition: not supported",
        ),
        (
            refused_rbac(|p| {
                p.permissions = vec![rb::Permission {
                    rule: Some(rb::permission::Rule::Any(false)),
                }]
            }),
            "permissions[0].any: must be true",
        ),
    ];
    cases.into_iter().map(|(got, want)| (got, lds(&format!(
                "http_filters[0].typed_config.rules.policies[\"ns[app]-policy[l7]-rule[0]\"].{want}"
            )))).collect()
}

/// All of them, with the exact text of each.
pub fn corpus() -> Vec<(Refused, String)> {
    let mut all = refused_clusters();
    all.extend(refused_endpoint_sets());
    all.extend(refused_listeners());
    all.extend(refused_parts_of_connect_terminate());
    all.extend(refused_parts_of_a_connection_manager());
    all.extend(refused_parts_of_a_route());
    all.extend(refused_parts_of_a_policy());
    all
}

#[test]
fn each_refused_shape_has_its_exact_text() {
    let corpus = corpus();
    assert!(corpus.len() > 40);
    for (refused, want) in corpus {
        assert_eq!(refused.text, want);
    }
}

#[test]
fn fields_of_a_later_envoy_are_refused_not_dropped() {
    let (_, _, mut bytes) = capture(SET, "00-Cluster")
        .into_iter()
        .find(|(_, n, _)| n == ECHO)
        .unwrap();
    // Field 1000, varint 1.
    bytes.extend_from_slice(&[0xc0, 0x3e, 0x01]);
    let text = cluster::from_bytes(&bytes).unwrap_err().to_string();
    assert_eq!(
        text,
        format!("{CDS}.: holds a field that this version does not know")
    );
    assert!(
        cluster::from_bytes(&[0xff])
            .unwrap_err()
            .to_string()
            .starts_with(&format!("{CDS}.: cannot be decoded: "))
    );
    assert!(route::from_bytes(&[8]).is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64), cut in 0usize..4000, flip in 0usize..4000) {
        let _ = cluster::from_bytes(&bytes);
        let _ = endpoint::from_bytes(&bytes);
        let _ = route::from_bytes(&bytes);
        for (file, name) in [("00-Cluster", ECHO), ("05-ClusterLoadAssignment", ECHO), ("01-Listener", "main_internal")] {
            let (_, _, mut bytes) = capture(SET, file).into_iter().find(|(_, n, _)| n == name).unwrap();
            let at = flip % bytes.len();
            bytes[at] ^= 0x55;
            bytes.truncate(bytes.len().saturating_sub(cut % bytes.len()));
            let _ = cluster::from_bytes(&bytes);
            let _ = endpoint::from_bytes(&bytes);
            let _ = listener::from_bytes(&bytes, None);
        }
    }
}
