//! Clusters (CDS) → `model::Cluster`.

use super::{
    At, Converted, decode, duration, endpoint, filters, hcm, limit, number, required, socket, take,
    unpack,
};
use crate::model::cluster::{
    Balance, Cluster, Discovery, Limits, Outlier, PeerPrefix, ServiceName, UpstreamHttp,
};
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{
    Thresholds, thresholds::RetryBudget,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy,
    LeastRequestLbConfig, OriginalDstLbConfig, RoundRobinLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster as ProtoCluster, Filter, OutlierDetection,
};
use envoy_types::pb::envoy::config::core::v3::{HttpProtocolOptions, Metadata, TransportSocket};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions as UpstreamOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, value::Kind};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Envoy's connect timeout when none is written.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Key of the protocol options in a cluster.
const UPSTREAM_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The clusters that are parts of the pipeline.
const TUNNELS: [&str; 3] = [
    "connect_originate",
    "inner_connect_originate",
    "outer_connect_originate",
];

/// A CDS resource.
pub fn from_bytes(bytes: &[u8]) -> Converted<Cluster> {
    let url = super::type_url::<ProtoCluster>();
    let at = &At::root(&url);
    cluster(at, decode(at, bytes)?)
}

fn cluster(at: &At<'_>, message: ProtoCluster) -> Converted<Cluster> {
    take!(at, message => ProtoCluster { name, eds_cluster_config, connect_timeout, lb_policy, load_assignment,
            max_requests_per_connection, circuit_breakers, typed_extension_protocol_options, outlier_detection,
            common_lb_config, transport_socket, transport_socket_matches, filters, metadata, cluster_discovery_type,
            lb_config }
        ignored { alt_stat_name, per_connection_buffer_limit_bytes, cleanup_interval, upstream_connection_options,
            wait_for_warm_on_init, track_timeout_budgets, track_cluster_stats, dns_refresh_rate, dns_jitter,
            dns_failure_refresh_rate, respect_dns_ttl, dns_lookup_family, typed_dns_resolver_config }
        refused { transport_socket_matcher, stats_matcher,
            per_connection_buffer_high_watermark_timeout, health_checks, upstream_http_protocol_options,
            common_http_protocol_options, http_protocol_options, http2_protocol_options, dns_resolvers,
            use_tcp_for_dns_lookups, dns_resolution_config, upstream_bind_config, lb_subset_config,
            protocol_selection, close_connections_on_host_health_failure, ignore_health_on_host_removal,
            load_balancing_policy, lrs_server, lrs_report_endpoint_metrics, upstream_config, preconnect_policy,
            connection_pool_per_downstream_connection, queuing_policies });
    if name.is_empty() {
        return Err(at.field("name").refuse("missing"));
    }
    for (i, filter) in filters.into_iter().enumerate() {
        upstream_filter(&at.index("filters", i), filter)?;
    }
    let mutual_tls = socket::by_endpoint(at, transport_socket_matches)?;
    let tunnel = TUNNELS.contains(&name.as_str());
    let peers = if tunnel {
        tunnel_socket(
            &at.field("transport_socket"),
            required(at, "transport_socket", transport_socket)?,
        )?
    } else {
        socket::plain(&at.field("transport_socket"), transport_socket)?;
        Vec::new()
    };
    let discovery = discovery(
        at,
        &name,
        cluster_discovery_type,
        eds_cluster_config,
        load_assignment,
    )?;
    let options = upstream_options(at, typed_extension_protocol_options)?;
    Ok(Cluster {
        discovery,
        balance: balance(at, lb_policy, lb_config, tunnel)?,
        connect_timeout: duration(at, "connect_timeout", connect_timeout)?
            .unwrap_or(CONNECT_TIMEOUT),
        limits: limits(&at.field("circuit_breakers"), circuit_breakers)?,
        outlier: outlier_detection
            .map(|o| outlier(&at.field("outlier_detection"), o))
            .transpose()?
            .flatten(),
        panic_percent: panic(&at.field("common_lb_config"), common_lb_config)?,
        http: options.http,
        idle_timeout: options.idle,
        max_requests_per_connection: options
            .max_requests
            .or(number(max_requests_per_connection))
            .filter(|n| *n > 0),
        service: service(metadata.as_ref()),
        name: name.into(),
        peers,
        mutual_tls,
    })
}

/// A filter towards the endpoints; only what does nothing here.
fn upstream_filter(at: &At<'_>, filter: Filter) -> Converted<()> {
    take!(at, filter => Filter { typed_config } ignored { name } refused { config_discovery });
    let any = required(at, "typed_config", typed_config)?;
    let at = &at.field("typed_config");
    match filters::typed_struct(at, &any)? {
        filters::Converted1::Nothing => Ok(()),
        _ => Err(at.refuse("is no filter of a cluster")),
    }
}

fn tunnel_socket(at: &At<'_>, socket: TransportSocket) -> Converted<Vec<PeerPrefix>> {
    use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
    let any = socket::config(at, socket)?;
    let at = &at.field("typed_config");
    if any.type_url != super::type_url::<InternalUpstreamTransport>() {
        return socket::upstream(at, &any);
    }
    let internal: InternalUpstreamTransport = unpack(at, &any)?;
    take!(at, internal => InternalUpstreamTransport { transport_socket } ignored { passthrough_metadata } refused {});
    let at = &at.field("transport_socket");
    let inner = socket::config(at, required(at, "transport_socket", transport_socket)?)?;
    socket::upstream(&at.field("typed_config"), &inner)
}

fn discovery(
    at: &At<'_>,
    name: &str,
    kind: Option<ClusterDiscoveryType>,
    eds: Option<EdsClusterConfig>,
    assignment: Option<envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment>,
) -> Converted<Discovery> {
    let kind = match kind {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).map_err(|_| {
            at.field("type")
                .refuse(format!("value {kind} is not known"))
        })?,
        Some(ClusterDiscoveryType::ClusterType(kind)) => {
            return Err(at
                .field("cluster_type")
                .refuse(format!("cluster type {:?} is not supported", kind.name)));
        }
    };
    if name == "main_internal" || TUNNELS.contains(&name) {
        return Ok(Discovery::Fixed);
    }
    if name == "encap" {
        return Ok(Discovery::Passthrough);
    }
    match kind {
        DiscoveryType::Eds => {
            let at = &at.field("eds_cluster_config");
            take!(at, eds.unwrap_or_default() => EdsClusterConfig { service_name } ignored { eds_config } refused {});
            let service = if service_name.is_empty() {
                name.into()
            } else {
                service_name.into()
            };
            Ok(Discovery::Eds(service))
        }
        DiscoveryType::Static => {
            let at = &at.field("load_assignment");
            Ok(Discovery::Static(Arc::new(endpoint::endpoints(
                at,
                assignment.unwrap_or_default(),
            )?)))
        }
        other => Err(at.field("type").refuse(format!(
            "discovery type {} is not supported",
            other.as_str_name()
        ))),
    }
}

fn balance(at: &At<'_>, policy: i32, config: Option<LbConfig>, tunnel: bool) -> Converted<Balance> {
    let policy = LbPolicy::try_from(policy)
        .map_err(|_| at.field("lb_policy").refuse("value is not known"))?;
    let mut choices = 2;
    match config {
        None => {}
        Some(LbConfig::LeastRequestLbConfig(config)) => {
            let at = &at.field("least_request_lb_config");
            take!(at, config => LeastRequestLbConfig { choice_count } ignored {}
                refused { active_request_bias, slow_start_config });
            choices = number(choice_count).unwrap_or(2).clamp(2, 16);
        }
        Some(LbConfig::RoundRobinLbConfig(config)) => {
            let at = &at.field("round_robin_lb_config");
            take!(at, config => RoundRobinLbConfig {} ignored {} refused { slow_start_config });
        }
        Some(LbConfig::OriginalDstLbConfig(config)) if tunnel => {
            original_dst(&at.field("original_dst_lb_config"), config)?;
        }
        Some(LbConfig::OriginalDstLbConfig(_)) => {
            return Err(at.unsupported("original_dst_lb_config"));
        }
        Some(LbConfig::RingHashLbConfig(_)) => return Err(at.unsupported("ring_hash_lb_config")),
        Some(LbConfig::MaglevLbConfig(_)) => return Err(at.unsupported("maglev_lb_config")),
    }
    match policy {
        LbPolicy::RoundRobin => Ok(Balance::RoundRobin),
        LbPolicy::LeastRequest => Ok(Balance::LeastRequest(choices)),
        LbPolicy::Random => Ok(Balance::Random),
        LbPolicy::ClusterProvided if tunnel => Ok(Balance::Random),
        other => Err(at
            .field("lb_policy")
            .refuse(format!("{} is not supported", other.as_str_name()))),
    }
}

fn original_dst(at: &At<'_>, config: OriginalDstLbConfig) -> Converted<()> {
    take!(at, config => OriginalDstLbConfig { upstream_port_override } ignored { metadata_key }
        refused { use_http_header, http_header_name });
    match number(upstream_port_override) {
        Some(15008) => Ok(()),
        other => Err(at
            .field("upstream_port_override")
            .refuse(format!("{other:?} is not HBONE's port 15008"))),
    }
}

fn limits(at: &At<'_>, breakers: Option<CircuitBreakers>) -> Converted<Limits> {
    let Some(breakers) = breakers else {
        return Ok(Limits::default());
    };
    take!(at, breakers => CircuitBreakers { thresholds } ignored {} refused { per_host_thresholds });
    let mut out = Limits::default();
    for (i, threshold) in thresholds.into_iter().enumerate() {
        let at = at.index("thresholds", i);
        take!(at, threshold => Thresholds { max_connections, max_pending_requests, max_requests, max_retries,
                retry_budget }
            ignored { track_remaining } refused { priority, max_connection_pools });
        let budget = retry_budget.map(|budget| {
            take!(at, budget => RetryBudget { budget_percent, min_retry_concurrency } ignored {}
                refused { budget_interval });
            Ok((
                percent(&at, "budget_percent", budget_percent, 20)?,
                number(min_retry_concurrency).unwrap_or(3),
            ))
        });
        out = Limits {
            connections: number(max_connections).unwrap_or(out.connections),
            pending: number(max_pending_requests).unwrap_or(out.pending),
            requests: number(max_requests).unwrap_or(out.requests),
            retries: number(max_retries).unwrap_or(out.retries),
            budget: budget.transpose()?,
        };
    }
    Ok(out)
}

fn outlier(at: &At<'_>, detection: OutlierDetection) -> Converted<Option<Outlier>> {
    take!(at, detection => OutlierDetection { consecutive_5xx, base_ejection_time, max_ejection_percent,
            enforcing_consecutive_5xx, enforcing_success_rate, consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure, max_ejection_time }
        ignored { interval, always_eject_one_host, max_ejection_time_jitter, success_rate_minimum_hosts,
            success_rate_request_volume, success_rate_stdev_factor }
        refused { split_external_local_origin_errors, consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure, enforcing_local_origin_success_rate,
            failure_percentage_threshold, enforcing_failure_percentage, enforcing_failure_percentage_local_origin,
            failure_percentage_minimum_hosts, failure_percentage_request_volume,
            successful_active_health_check_uneject_host, monitors, detect_degraded_hosts });
    // Envoy's default enforces success rates in full; only a written 0 turns that off.
    if number(enforcing_success_rate) != Some(0) {
        return Err(at
            .field("enforcing_success_rate")
            .refuse("must be 0: ejection by success rate is not supported"));
    }
    let whole =
        |field: &'static str, value: Option<u32>, default: u32| match value.unwrap_or(default) {
            0 => Ok(false),
            100 => Ok(true),
            other => Err(at.field(field).refuse(format!("{other} is not 0 or 100"))),
        };
    let by_5xx = whole(
        "enforcing_consecutive_5xx",
        number(enforcing_consecutive_5xx),
        100,
    )?;
    let field = "enforcing_consecutive_gateway_failure";
    let by_gateway = whole(field, number(enforcing_consecutive_gateway_failure), 0)?;
    let base =
        duration(at, "base_ejection_time", base_ejection_time)?.unwrap_or(Duration::from_secs(30));
    let max = duration(at, "max_ejection_time", max_ejection_time)?
        .unwrap_or(Duration::from_secs(300))
        .max(base);
    let positive = |value: Option<u32>| Some(value.unwrap_or(5)).filter(|n| *n > 0);
    Ok(Some(Outlier {
        consecutive_5xx: positive(number(consecutive_5xx)).filter(|_| by_5xx),
        consecutive_gateway: positive(number(consecutive_gateway_failure)).filter(|_| by_gateway),
        base,
        max,
        max_percent: number(max_ejection_percent).unwrap_or(10).min(100),
    }))
}

fn panic(at: &At<'_>, config: Option<CommonLbConfig>) -> Converted<u32> {
    let Some(config) = config else { return Ok(50) };
    take!(at, config => CommonLbConfig { healthy_panic_threshold } ignored { update_merge_window }
        refused { ignore_new_hosts_until_first_hc, close_connections_on_host_set_change,
            consistent_hashing_lb_config, override_host_status, locality_config_specifier });
    percent(at, "healthy_panic_threshold", healthy_panic_threshold, 50)
}

fn percent(
    at: &At<'_>,
    field: &'static str,
    value: Option<Percent>,
    default: u32,
) -> Converted<u32> {
    match value.map(|percent| percent.value) {
        None => Ok(default),
        // In range, so the cast is exact but for the fraction.
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent as u32),
        Some(_) => Err(at.field(field).refuse("is not a percentage")),
    }
}

#[derive(Default)]
struct Options {
    http: UpstreamHttp,
    idle: Option<Duration>,
    max_requests: Option<u32>,
}

fn upstream_options(at: &At<'_>, options: HashMap<String, Any>) -> Converted<Options> {
    let mut out = Options::default();
    for (key, any) in options {
        let at = &at.key("typed_extension_protocol_options", &key);
        if key != UPSTREAM_OPTIONS {
            return Err(at.refuse("not supported"));
        }
        let options: UpstreamOptions = unpack(at, &any)?;
        take!(at, options => UpstreamOptions { common_http_protocol_options, upstream_protocol_options } ignored {}
            refused { upstream_http_protocol_options, http_filters, header_validation_config, outlier_detection,
                request_mirror_policies, hash_policy, retry_policy });
        if let Some(common) = common_http_protocol_options {
            let at = &at.field("common_http_protocol_options");
            take!(at, common => HttpProtocolOptions { idle_timeout, max_requests_per_connection } ignored {}
                refused { max_connection_duration, max_connection_duration_jitter, max_headers_count,
                    max_response_headers_kb, max_stream_duration, headers_with_underscores_action });
            out.idle = limit(at, "idle_timeout", idle_timeout)?;
            out.max_requests = number(max_requests_per_connection);
        }
        out.http = protocol(
            at,
            required(at, "upstream_protocol_options", upstream_protocol_options)?,
        )?;
    }
    Ok(out)
}

fn protocol(at: &At<'_>, options: UpstreamProtocolOptions) -> Converted<UpstreamHttp> {
    match options {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }) => {
            let at = &at.field("explicit_http_config");
            match required(at, "protocol_config", protocol_config)? {
                ProtocolConfig::HttpProtocolOptions(options) => {
                    hcm::http1(&at.field("http_protocol_options"), Some(options))
                        .map(|_| UpstreamHttp::Http1)
                }
                ProtocolConfig::Http2ProtocolOptions(options) => {
                    hcm::http2(&at.field("http2_protocol_options"), Some(options))
                        .map(|()| UpstreamHttp::Http2)
                }
                ProtocolConfig::Http3ProtocolOptions(_) => {
                    Err(at.unsupported("http3_protocol_options"))
                }
            }
        }
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(config) => {
            let at = &at.field("use_downstream_protocol_config");
            take!(at, config => UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options } ignored {}
                refused { http3_protocol_options });
            hcm::http1(&at.field("http_protocol_options"), http_protocol_options)?;
            hcm::http2(&at.field("http2_protocol_options"), http2_protocol_options)?;
            Ok(UpstreamHttp::AsClient)
        }
        UpstreamProtocolOptions::AutoConfig(_) => Err(at.unsupported("auto_config")),
    }
}

/// The first of `metadata.istio.services`.
fn service(metadata: Option<&Metadata>) -> ServiceName {
    let list = metadata
        .and_then(|metadata| metadata.filter_metadata.get("istio"))
        .and_then(|istio| istio.fields.get("services"))
        .and_then(|services| services.kind.as_ref());
    let Some(Kind::ListValue(list)) = list else {
        return ServiceName::default();
    };
    let Some(Kind::StructValue(first)) = list.values.first().and_then(|value| value.kind.as_ref())
    else {
        return ServiceName::default();
    };
    let text = |key: &str| match first.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.as_str().into(),
        _ => Arc::from(""),
    };
    ServiceName {
        host: text("host"),
        name: text("name"),
        namespace: text("namespace"),
    }
}
