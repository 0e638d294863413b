//! Clusters: the fixed ones that tie the waypoint's stages together, and one for each service port and layer.

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster, circuit_breakers,
            cluster::{
                ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbConfig,
                LbPolicy, OriginalDstLbConfig,
            },
        },
        core::v3::{
            AggregatedConfigSource, ApiVersion, ConfigSource, Http1ProtocolOptions,
            Http2ProtocolOptions, HttpProtocolOptions, TransportSocket,
            config_source::ConfigSourceSpecifier,
        },
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
    },
    extensions::{
        transport_sockets::{
            internal_upstream::v3::{
                InternalUpstreamTransport, internal_upstream_transport::MetadataValueSource,
            },
            raw_buffer::v3::RawBuffer,
        },
        upstreams::http::v3::{
            self as upstream,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                explicit_http_config::ProtocolConfig,
            },
        },
    },
    r#type::metadata::v3::{MetadataKey, MetadataKind, metadata_key, metadata_kind},
    r#type::v3::Percent,
};

use proto::workload::AppProtocol;

use super::{Layer, Port, Served, endpoint, name, pack, ports, tls};

/// The metadata namespace that carries the tunnel's destination from endpoint to tunnel.
pub(super) const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The clusters that every waypoint has.
pub(super) fn fixed(served: &Served<'_>) -> Vec<Cluster> {
    let trust_domain = format!("spiffe://{}/", served.index.mesh.trust_domain);
    let own_namespace = format!("{trust_domain}ns/{}/sa/", served.waypoint.namespace);
    vec![
        to_listener("main_internal", "main_internal"),
        to_listener("encap", "connect_originate"),
        connect_originate(&[trust_domain.clone(), own_namespace]),
        inner_connect_originate(std::slice::from_ref(&trust_domain)),
        outer_connect_originate(&[trust_domain]),
    ]
}

fn base(name: &str) -> Cluster {
    let unlimited = circuit_breakers::Thresholds {
        max_connections: pack::number(u32::MAX),
        max_pending_requests: pack::number(u32::MAX),
        max_requests: pack::number(u32::MAX),
        max_retries: pack::number(u32::MAX),
        ..Default::default()
    };
    Cluster {
        name: name.into(),
        alt_stat_name: format!("{name};"),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![unlimited],
            ..CircuitBreakers::default()
        }),
        ..Cluster::default()
    }
}

/// A cluster of one endpoint: a listener in the same process.
fn internal(name: &str, listener: &str) -> Cluster {
    let endpoint = Endpoint {
        address: Some(pack::internal_address(listener, "")),
        ..Endpoint::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: vec![endpoint],
        ..LocalityLbEndpoints::default()
    };
    Cluster {
        cluster_discovery_type: discovery(DiscoveryType::Static),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.into(),
            endpoints: vec![locality],
            ..ClusterLoadAssignment::default()
        }),
        ..base(name)
    }
}

fn to_listener(name: &str, listener: &str) -> Cluster {
    let mut cluster = internal(name, listener);
    cluster.typed_extension_protocol_options = as_client(idle(300, None));
    cluster.transport_socket = Some(internal_upstream(&[], raw(), "internal_upstream"));
    cluster
}

fn connect_originate(names: &[String]) -> Cluster {
    let segment = metadata_key::PathSegment {
        segment: Some(metadata_key::path_segment::Segment::Key("waypoint".into())),
    };
    Cluster {
        lb_config: Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
            upstream_port_override: pack::number(15008),
            metadata_key: Some(MetadataKey {
                key: ORIGINAL_DST.into(),
                path: vec![segment],
            }),
            ..OriginalDstLbConfig::default()
        })),
        ..original_dst("connect_originate", names, None)
    }
}

fn inner_connect_originate(names: &[String]) -> Cluster {
    let mut cluster = internal("inner_connect_originate", "outer_connect_originate");
    cluster.typed_extension_protocol_options = http2_tunnel(Some(1));
    cluster.transport_socket = Some(internal_upstream(
        &[],
        tls::upstream(names),
        "internal_upstream_with_tls",
    ));
    cluster
}

fn outer_connect_originate(names: &[String]) -> Cluster {
    Cluster {
        lb_config: Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
            upstream_port_override: pack::number(15008),
            ..OriginalDstLbConfig::default()
        })),
        ..original_dst("outer_connect_originate", names, Some(1))
    }
}

/// HBONE to wherever the connection was meant to go.
fn original_dst(name: &str, names: &[String], requests: Option<u32>) -> Cluster {
    Cluster {
        cluster_discovery_type: discovery(DiscoveryType::OriginalDst),
        connect_timeout: pack::seconds(10),
        lb_policy: LbPolicy::ClusterProvided.into(),
        typed_extension_protocol_options: http2_tunnel(requests),
        cleanup_interval: pack::seconds(60),
        transport_socket: Some(tls::upstream(names)),
        ..base(name)
    }
}

type Options = std::collections::HashMap<String, envoy_types::pb::google::protobuf::Any>;

fn http2_tunnel(requests: Option<u32>) -> Options {
    let http2 = Http2ProtocolOptions {
        allow_connect: true,
        ..Http2ProtocolOptions::default()
    };
    http2_options(http2, idle(3600, requests))
}

fn http2_options(http2: Http2ProtocolOptions, options: Option<HttpProtocolOptions>) -> Options {
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)),
    };
    let options = upstream::HttpProtocolOptions {
        common_http_protocol_options: options,
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    [(HTTP_OPTIONS.to_owned(), pack::any(&options))].into()
}

/// The version of HTTP that the client speaks.
fn as_client(options: Option<HttpProtocolOptions>) -> Options {
    let downstream = UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        ..UseDownstreamHttpConfig::default()
    };
    let options = upstream::HttpProtocolOptions {
        common_http_protocol_options: options,
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            downstream,
        )),
        ..Default::default()
    };
    [(HTTP_OPTIONS.to_owned(), pack::any(&options))].into()
}

/// How the application behind a port is spoken to. Where nobody says what it speaks, the client knows; but what a GRPCRoute
/// leads to speaks HTTP/2.
fn protocol(port: Port, layer: Layer, called: bool) -> Options {
    match (layer, port.protocol) {
        (Layer::Tcp, _) => Options::default(),
        (Layer::Http, AppProtocol::Unknown) if !called => as_client(None),
        (Layer::Http, AppProtocol::Unknown) => http2_options(Http2ProtocolOptions::default(), None),
        (Layer::Http, _) if port.is_http2() => http2_options(Http2ProtocolOptions::default(), None),
        (Layer::Http, _) => Options::default(),
    }
}

fn idle(seconds: u64, requests: Option<u32>) -> Option<HttpProtocolOptions> {
    Some(HttpProtocolOptions {
        idle_timeout: pack::seconds(seconds),
        max_requests_per_connection: requests.and_then(pack::number),
        ..HttpProtocolOptions::default()
    })
}

fn discovery(kind: DiscoveryType) -> Option<ClusterDiscoveryType> {
    Some(ClusterDiscoveryType::Type(kind.into()))
}

fn raw() -> TransportSocket {
    tls::socket("raw_buffer", &RawBuffer::default())
}

/// To a listener of this process, handing on these parts of the endpoint's metadata.
fn internal_upstream(metadata: &[&str], inner: TransportSocket, name: &str) -> TransportSocket {
    let host = metadata_kind::Kind::Host(metadata_kind::Host {});
    let source = |name: &&str| MetadataValueSource {
        kind: Some(MetadataKind { kind: Some(host) }),
        name: (*name).into(),
    };
    let transport = InternalUpstreamTransport {
        passthrough_metadata: metadata.iter().map(source).collect(),
        transport_socket: Some(inner),
    };
    tls::socket(name, &transport)
}

/// The clusters of a service with their endpoints; `called` are those of its ports that GRPCRoutes lead to.
pub(super) fn of_service(
    served: &Served<'_>,
    service: &objects::Service,
    called: impl Fn(u16) -> bool,
) -> Vec<(Cluster, ClusterLoadAssignment)> {
    let mut clusters = Vec::new();
    for port in ports(service) {
        for layer in port.layers() {
            let mut cluster = of_port(served, service, port, *layer);
            cluster.typed_extension_protocol_options = protocol(port, *layer, called(port.number));
            let endpoints = endpoint::of_port(served, service, port, &cluster.name);
            clusters.push((cluster, endpoints));
        }
    }
    clusters
}

fn of_port(served: &Served<'_>, service: &objects::Service, port: Port, layer: Layer) -> Cluster {
    let meta = &service.metadata;
    let host = served.index.mesh.hostname(&meta.namespace, &meta.name);
    let name = name(port.number, layer, &host);
    let subset = if layer == Layer::Http { "http" } else { "tcp" };
    let identity = pack::object([
        ("host", pack::text(&host)),
        ("name", pack::text(&meta.name)),
        ("namespace", pack::text(&meta.namespace)),
    ]);
    let istio = pack::object([
        ("services", pack::list(vec![pack::nested(identity)])),
        ("subset", pack::text(subset)),
    ]);
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        initial_fetch_timeout: pack::seconds(0),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    };
    Cluster {
        cluster_discovery_type: discovery(DiscoveryType::Eds),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads),
            service_name: name.clone(),
        }),
        connect_timeout: pack::seconds(10),
        lb_policy: LbPolicy::LeastRequest.into(),
        common_lb_config: Some(CommonLbConfig {
            // Zero turns panic mode off: endpoints known to be bad get nothing.
            healthy_panic_threshold: Some(Percent::default()),
            ..CommonLbConfig::default()
        }),
        transport_socket: Some(internal_upstream(
            &[ORIGINAL_DST, "istio"],
            raw(),
            "internal_upstream",
        )),
        metadata: Some(pack::metadata([("istio", istio)])),
        ..base(&name)
    }
}
