//! Services that another proxy serves, as istiod tells a waypoint of them (`outbound|…`): their endpoints are reached by HBONE
//! or plainly, as each says itself.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::core::v3::{
    self as core, TransportSocket, address, envoy_internal_address, socket_address,
    transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use prost::{Message, Name};

use super::super::messages::TypedStruct;
use super::{cluster, endpoint};
use crate::cluster::Live;

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn socket<M: Message + Name>(config: &M) -> TransportSocket {
    TransportSocket {
        name: "any".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

fn fields(pairs: &[(&str, &str)]) -> Struct {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.into())),
    };
    let fields = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), text(value)));
    Struct {
        fields: fields.collect(),
    }
}

fn one(pairs: &[(&str, &str)], transport_socket: TransportSocket) -> TransportSocketMatch {
    TransportSocketMatch {
        name: "any".into(),
        r#match: Some(fields(pairs)),
        transport_socket: Some(transport_socket),
    }
}

fn hbone() -> TransportSocketMatch {
    let internal = InternalUpstreamTransport {
        transport_socket: Some(socket(&RawBuffer::default())),
        ..Default::default()
    };
    one(&[("tunnel", "http")], socket(&internal))
}

fn plain() -> TransportSocketMatch {
    one(&[], socket(&RawBuffer::default()))
}

fn tls(pairs: &[(&str, &str)]) -> TransportSocketMatch {
    one(pairs, socket(&UpstreamTlsContext::default()))
}

fn outbound(matches: Vec<TransportSocketMatch>) -> Vec<u8> {
    let exchange = TypedStruct {
        type_url: "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange".into(),
        value: Some(fields(&[("protocol", "istio-peer-exchange")])),
    };
    let cluster = pb::Cluster {
        name: "outbound|80||other.elsewhere.svc.cluster.local".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig::default()),
        transport_socket_matches: matches,
        filters: vec![pb::Filter {
            name: "istio.metadata_exchange".into(),
            typed_config: Some(Any {
                type_url: "type.googleapis.com/udpa.type.v1.TypedStruct".into(),
                value: exchange.encode_to_vec(),
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    cluster.encode_to_vec()
}

/// One in the mesh, one with a sidecar, one with neither.
fn endpoints() -> Vec<u8> {
    let ip = |n: u8| socket_address::PortSpecifier::PortValue(u32::from(n));
    let plain = |n: u8| {
        address::Address::SocketAddress(core::SocketAddress {
            address: format!("10.0.0.{n}"),
            port_specifier: Some(ip(80)),
            ..Default::default()
        })
    };
    let specifier = envoy_internal_address::AddressNameSpecifier::ServerListenerName;
    let tunnel = address::Address::EnvoyInternalAddress(core::EnvoyInternalAddress {
        endpoint_id: "10.0.0.1:80".into(),
        address_name_specifier: Some(specifier("connect_originate".into())),
    });
    let one = |address, pairs: &[(&str, &str)]| eds::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(eds::Endpoint {
            address: Some(core::Address {
                address: Some(address),
            }),
            ..Default::default()
        })),
        metadata: Some(core::Metadata {
            filter_metadata: HashMap::from([(
                "envoy.transport_socket_match".to_owned(),
                fields(pairs),
            )])
            .into_iter()
            .collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let assignment = eds::ClusterLoadAssignment {
        cluster_name: "outbound|80||other.elsewhere.svc.cluster.local".into(),
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: vec![
                one(tunnel, &[("tunnel", "http"), ("tlsMode", "istio")]),
                one(plain(2), &[("tlsMode", "istio")]),
                one(plain(3), &[]),
            ],
            ..Default::default()
        }],
        ..Default::default()
    };
    assignment.encode_to_vec()
}

#[test]
fn endpoints_that_want_istios_own_tls_get_nothing_instead_of_plain_bytes() {
    let reached = |matches| {
        let config = cluster::from_bytes(&outbound(matches)).unwrap();
        let endpoints = endpoint::from_bytes(&endpoints()).unwrap();
        let live = Live::new(Arc::new(config), Some(&endpoints), None);
        live.hosts.len()
    };
    assert_eq!(
        reached(vec![hbone(), tls(&[("tlsMode", "istio")]), plain()]),
        2
    );
    assert_eq!(
        reached(vec![hbone(), plain()]),
        3,
        "no endpoint is asked for TLS"
    );
}

#[test]
fn sockets_that_are_none_of_istiods_are_refused() {
    let refusal = |matches| {
        cluster::from_bytes(&outbound(matches))
            .unwrap_err()
            .to_string()
    };
    let order = refusal(vec![plain(), hbone()]);
    assert!(
        order.ends_with("transport_socket_matches: must be HBONE first and plain last"),
        "{order}"
    );
    let all_tls = refusal(vec![hbone(), tls(&[])]);
    assert!(
        all_tls.contains("transport_socket_matches[1].transport_socket"),
        "{all_tls}"
    );
    let other = refusal(vec![hbone(), tls(&[("zone", "a")]), plain()]);
    assert!(
        other.ends_with("transport_socket_matches[1].match: is none that istiod writes"),
        "{other}"
    );
}
