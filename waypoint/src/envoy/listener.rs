//! The listeners of a waypoint → `model`. Five names are known; each must have the shape that we carry out.

use super::filters::{Converted1, stats, typed_struct};
use super::hcm::{access_logs, http_chain};
use super::messages::PluginConfig;
use super::terminate::{self, filter_states};
use super::{
    At, Converted, content_hash, decode, limit, matcher, rbac, required, socket, take, unpack,
};
use crate::model::listener::{Chain, ChainKind, Inbound, TcpChain, Terminate};
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, Listener, ListenerFilter, filter, listener::ListenerSpecifier,
    listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetNetworkState;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, tcp_proxy::ClusterSpecifier, tcp_proxy::TunnelingConfig,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;

/// A listener, compiled.
#[derive(Debug, Clone)]
pub enum Compiled {
    /// `connect_terminate`.
    Terminate(Terminate),
    /// `main_internal`.
    Inbound(Inbound),
    /// One of the originating listeners, whose shape is as we do it.
    Originate,
}

/// An LDS resource. `known` are the chains of the last good version: one of the same bytes is kept.
pub fn from_bytes(bytes: &[u8], known: Option<&Inbound>) -> Converted<(String, Compiled)> {
    let url = super::type_url::<Listener>();
    let at = &At::root(&url);
    let message: Listener = decode(at, bytes)?;
    let name = message.name.clone();
    let compiled = match name.as_str() {
        "connect_terminate" => Compiled::Terminate(terminate(at, message)?),
        "main_internal" => Compiled::Inbound(inbound(at, message, known)?),
        "connect_originate" | "inner_connect_originate" | "outer_connect_originate" => {
            originate(at, message)?;
            Compiled::Originate
        }
        other => {
            return Err(at
                .field("name")
                .refuse(format!("listener {other:?} is not one of a waypoint")));
        }
    };
    Ok((name, compiled))
}

/// The parts of a listener that differ among ours.
struct Parts {
    addresses: Vec<SocketAddr>,
    chains: Vec<FilterChain>,
    matcher: Option<envoy_types::pb::xds::r#type::matcher::v3::Matcher>,
}

fn parts(at: &At<'_>, message: Listener, internal: bool) -> Converted<Parts> {
    take!(at, message => Listener { address, additional_addresses, filter_chains, filter_chain_matcher,
            listener_filters, listener_specifier }
        ignored { name, stat_prefix, access_log, use_original_dst, traffic_direction, connection_balance_config, metadata,
            per_connection_buffer_limit_bytes, listener_filters_timeout, continue_on_listener_filters_timeout,
            enable_reuse_port, reuse_port, tcp_backlog_size, drain_type, bind_to_port,
            max_connections_to_accept_per_socket_event, ignore_global_conn_limit, bypass_overload_manager }
        refused { stats_matcher, fcds_config, default_filter_chain, per_connection_buffer_high_watermark_timeout,
            deprecated_v1, transparent, freebind, socket_options, tcp_fast_open_queue_length, udp_listener_config,
            api_listener, enable_mptcp, tcp_keepalive });
    if internal
        != matches!(
            listener_specifier,
            Some(ListenerSpecifier::InternalListener(_))
        )
    {
        return Err(at
            .field("listener_specifier")
            .refuse("is not as for this listener of a waypoint"));
    }
    let mut addresses = Vec::new();
    if let Some(address) = address {
        addresses.push(socket_address(&at.field("address"), address)?);
    }
    for (i, address) in additional_addresses.into_iter().enumerate() {
        let at = at.index("additional_addresses", i);
        addresses.push(socket_address(
            &at,
            required(&at, "address", address.address)?,
        )?);
    }
    for (i, filter) in listener_filters.into_iter().enumerate() {
        listener_filter(&at.index("listener_filters", i), filter)?;
    }
    Ok(Parts {
        addresses,
        chains: filter_chains,
        matcher: filter_chain_matcher,
    })
}

fn listener_filter(at: &At<'_>, filter: ListenerFilter) -> Converted<()> {
    take!(at, filter => ListenerFilter { config_type } ignored { name, filter_disabled } refused {});
    let listener_filter::ConfigType::TypedConfig(any) = required(at, "typed_config", config_type)?
    else {
        return Err(at.unsupported("config_discovery"));
    };
    let known = [
        "original_dst.v3.OriginalDst",
        "http_inspector.v3.HttpInspector",
    ];
    match any
        .type_url
        .strip_prefix("type.googleapis.com/envoy.extensions.filters.listener.")
    {
        Some(kind) if known.contains(&kind) && any.value.is_empty() => Ok(()),
        _ => Err(at
            .field("typed_config")
            .refuse(format!("filter type '{}' is not supported", any.type_url))),
    }
}

/// A numeric TCP address.
pub fn socket_address(at: &At<'_>, message: Address) -> Converted<SocketAddr> {
    let Some(address::Address::SocketAddress(message)) = message.address else {
        return Err(at.refuse("must be a socket address"));
    };
    let at = &at.field("socket_address");
    take!(at, message => SocketAddress { address, port_specifier } ignored { ipv4_compat }
        refused { protocol, resolver_name, network_namespace_filepath });
    let ip = address.parse().map_err(|_| {
        at.field("address")
            .refuse(format!("{address:?} is not an IP address"))
    })?;
    match port_specifier {
        Some(socket_address::PortSpecifier::PortValue(port)) => {
            let port =
                u16::try_from(port).map_err(|_| at.field("port_value").refuse("is not a port"))?;
            Ok(SocketAddr::new(ip, port))
        }
        _ => Err(at.field("port_value").refuse("missing")),
    }
}

/// The filters of a chain, with their types; the chain's other fields must be plain.
fn chain_filters(at: &At<'_>, chain: FilterChain) -> Converted<(String, Vec<Any>, Option<Any>)> {
    let (name, filters, socket) = chain_parts(at, chain)?;
    let socket = socket
        .map(|socket| socket::config(&at.field("transport_socket"), socket))
        .transpose()?;
    let filters = filters.into_iter().enumerate();
    let filters = filters.map(|(i, filter)| {
        let at = at.index("filters", i);
        take!(at, filter => Filter { config_type } ignored { name } refused {});
        match required(&at, "typed_config", config_type)? {
            filter::ConfigType::TypedConfig(any) => Ok(any),
            filter::ConfigType::ConfigDiscovery(_) => Err(at.unsupported("config_discovery")),
        }
    });
    Ok((name, filters.collect::<Result<_, _>>()?, socket))
}

type Socket = Option<envoy_types::pb::envoy::config::core::v3::TransportSocket>;

fn chain_parts(at: &At<'_>, chain: FilterChain) -> Converted<(String, Vec<Filter>, Socket)> {
    take!(at, chain => FilterChain { name, filters, transport_socket } ignored { metadata }
        refused { filter_chain_match, use_proxy_proto, transport_socket_connect_timeout });
    Ok((name, filters, transport_socket))
}

fn single(at: &At<'_>, mut chains: Vec<FilterChain>) -> Converted<FilterChain> {
    match (chains.pop(), chains.is_empty()) {
        (Some(chain), true) => Ok(chain),
        _ => Err(at.field("filter_chains").refuse("must be one chain")),
    }
}

fn terminate(at: &At<'_>, message: Listener) -> Converted<Terminate> {
    let Parts {
        addresses,
        chains,
        matcher,
    } = parts(at, message, false)?;
    super::unset(at, "filter_chain_matcher", &matcher)?;
    if addresses.is_empty() {
        return Err(at.field("address").refuse("missing"));
    }
    let chain = single(at, chains)?;
    let at = &at.index("filter_chains", 0);
    let (_, filters, tls) = chain_filters(at, chain)?;
    let peers = socket::downstream(
        &at.field("transport_socket.typed_config"),
        &required(at, "transport_socket", tls)?,
    )?;
    let [manager] = filters.as_slice() else {
        return Err(at
            .field("filters")
            .refuse("must be one HTTP connection manager"));
    };
    let at_filter = at.index("filters", 0);
    let at = &at_filter.field("typed_config");
    Ok(Terminate {
        addresses,
        peers,
        ..terminate::connect_manager(at, manager)?
    })
}

fn inbound(at: &At<'_>, message: Listener, known: Option<&Inbound>) -> Converted<Inbound> {
    let Parts {
        chains, matcher, ..
    } = parts(at, message, true)?;
    let tables = match matcher {
        Some(matcher) => matcher::tables(&at.field("filter_chain_matcher"), matcher)?,
        None => matcher::Tables::default(),
    };
    let mut out = Inbound {
        authorities: tables.authorities,
        addresses: tables.addresses,
        ..Inbound::default()
    };
    for chain in chains {
        let name: Arc<str> = chain.name.as_str().into();
        if out.chains.contains_key(&name) {
            return Err(at.key("filter_chains", &name).refuse("is there twice"));
        }
        let hash = content_hash(&chain.encode_to_vec());
        let kept = known
            .and_then(|known| known.chains.get(&name))
            .filter(|chain| chain.hash == hash);
        let chain = match kept {
            Some(chain) => chain.clone(),
            None => {
                let kind = chain_kind(&at.key("filter_chains", &name), chain)?;
                Arc::new(Chain {
                    name: name.clone(),
                    hash,
                    kind,
                })
            }
        };
        out.chains.insert(name, chain);
    }
    check_names(at, &out)?;
    Ok(out)
}

/// A matcher that names a chain that is not there would close connections without a word.
fn check_names(at: &At<'_>, inbound: &Inbound) -> Converted<()> {
    let ports = inbound
        .authorities
        .values()
        .chain(inbound.addresses.iter().map(|(_, ports)| ports));
    let protocols = ports.flat_map(|ports| ports.ports.values().chain(&ports.other));
    for name in protocols
        .flat_map(|p| [&p.http1, &p.http2, &p.other])
        .flatten()
    {
        if !inbound.chains.contains_key(name) {
            return Err(at
                .field("filter_chain_matcher")
                .refuse(format!("names chain {name:?}, which is not there")));
        }
    }
    Ok(())
}

fn chain_kind(at: &At<'_>, chain: FilterChain) -> Converted<ChainKind> {
    let (_, filters, tls) = chain_filters(at, chain)?;
    super::unset(at, "transport_socket", &tls)?;
    let mut judges = Vec::new();
    let mut metrics = false;
    let last = filters
        .len()
        .checked_sub(1)
        .ok_or_else(|| at.field("filters").refuse("missing"))?;
    for (i, any) in filters.iter().enumerate() {
        let at_filter = at.index("filters", i);
        let at = &at_filter.field("typed_config");
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
                if i == last =>
            {
                if !judges.is_empty() {
                    return Err(at.refuse("stands behind a TCP filter"));
                }
                return Ok(ChainKind::Http(Box::new(http_chain(at, any)?)));
            }
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" if i == last => {
                let chain = tcp_chain(at, unpack(at, any)?)?;
                return Ok(ChainKind::Tcp(TcpChain {
                    rbac: judges,
                    metrics,
                    ..chain
                }));
            }
            "envoy.extensions.filters.network.rbac.v3.RBAC" => {
                judges.push(rbac::network(at, unpack::<NetworkRbac>(at, any)?)?);
            }
            "stats.PluginConfig" => {
                stats(at, unpack::<PluginConfig>(at, any)?)?;
                metrics = true;
            }
            "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
                network_state(at, unpack(at, any)?)?
            }
            "udpa.type.v1.TypedStruct" => {
                metrics |= matches!(typed_struct(at, any)?, Converted1::Metrics)
            }
            _ => return Err(at.refuse(format!("filter type '{}' is not supported", any.type_url))),
        }
    }
    Err(at
        .field("filters")
        .refuse("must end in an HTTP connection manager or a TCP proxy"))
}

fn network_state(at: &At<'_>, config: SetNetworkState) -> Converted<()> {
    take!(at, config => SetNetworkState { on_new_connection } ignored {}
        refused { on_downstream_tls_handshake, on_downstream_data });
    filter_states(at, "on_new_connection", on_new_connection)
}

fn tcp_chain(at: &At<'_>, proxy: TcpProxy) -> Converted<TcpChain> {
    let (chain, tunnel) = tcp_proxy(at, proxy)?;
    super::unset(at, "tunneling_config", &tunnel)?;
    Ok(chain)
}

fn tcp_proxy(at: &At<'_>, proxy: TcpProxy) -> Converted<(TcpChain, Option<TunnelingConfig>)> {
    take!(at, proxy => TcpProxy { idle_timeout, access_log, tunneling_config, max_downstream_connection_duration,
            cluster_specifier }
        ignored { stat_prefix, max_connect_attempts }
        refused { on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, backoff_options,
            hash_policy, max_downstream_connection_duration_jitter_percentage, access_log_flush_interval,
            flush_access_log_on_connected, access_log_options, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
            upstream_connect_mode, max_early_data_bytes, check_drain_close });
    let targets = match required(at, "cluster_specifier", cluster_specifier)? {
        ClusterSpecifier::Cluster(name) => vec![(name.into(), 1)],
        ClusterSpecifier::WeightedClusters(weighted) => {
            let at = &at.field("weighted_clusters");
            let mut targets = Vec::with_capacity(weighted.clusters.len());
            for (i, cluster) in weighted.clusters.into_iter().enumerate() {
                super::unset(
                    &at.index("clusters", i),
                    "metadata_match",
                    &cluster.metadata_match,
                )?;
                targets.push((cluster.name.into(), cluster.weight));
            }
            let sum: u64 = targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
            if sum == 0 || sum > u64::from(u32::MAX) {
                return Err(at.refuse(format!("sum of weights {sum} is not in 1..=4294967295")));
            }
            targets
        }
    };
    // Envoy's TCP idle timeout is an hour unless it is written down.
    let idle = if idle_timeout.is_none() {
        Some(std::time::Duration::from_secs(3600))
    } else {
        limit(at, "idle_timeout", idle_timeout)?
    };
    let max_duration = limit(
        at,
        "max_downstream_connection_duration",
        max_downstream_connection_duration,
    )?;
    let access = access_logs(at, access_log)?;
    let chain = TcpChain {
        rbac: Vec::new(),
        targets,
        idle_timeout: idle,
        max_duration,
        access,
        metrics: false,
    };
    Ok((chain, tunneling_config))
}

fn originate(at: &At<'_>, message: Listener) -> Converted<()> {
    let name = message.name.clone();
    let Parts {
        chains, matcher, ..
    } = parts(at, message, true)?;
    super::unset(at, "filter_chain_matcher", &matcher)?;
    let chain = single(at, chains)?;
    let at = &at.index("filter_chains", 0);
    let (_, filters, tls) = chain_filters(at, chain)?;
    super::unset(at, "transport_socket", &tls)?;
    for (i, any) in filters.iter().enumerate() {
        let at_filter = at.index("filters", i);
        let at = &at_filter.field("typed_config");
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
                network_state(at, unpack(at, any)?)?
            }
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
                let (chain, tunnel) = tcp_proxy(at, unpack(at, any)?)?;
                if chain
                    .targets
                    .first()
                    .is_none_or(|(target, _)| **target != *name)
                {
                    return Err(at.field("cluster").refuse(format!("must be {name:?}")));
                }
                tunneling(
                    &at.field("tunneling_config"),
                    required(at, "tunneling_config", tunnel)?,
                )?;
            }
            _ => return Err(at.refuse(format!("filter type '{}' is not supported", any.type_url))),
        }
    }
    Ok(())
}

/// The CONNECT that we send: its authority is the endpoint's address or the double tunnel's target.
fn tunneling(at: &At<'_>, config: TunnelingConfig) -> Converted<()> {
    take!(at, config => TunnelingConfig { hostname, headers_to_add } ignored { propagate_response_headers }
        refused { use_post, post_path, propagate_response_trailers, request_id_extension, request_id_header,
            request_id_metadata_key, formatters });
    let known = [
        "%DOWNSTREAM_LOCAL_ADDRESS%",
        "%FILTER_STATE(istio.double_hbone.hbone_target_address:PLAIN)%",
    ];
    if !known.contains(&hostname.as_str()) {
        return Err(at
            .field("hostname")
            .refuse(format!("{hostname:?} is not supported")));
    }
    for (i, option) in headers_to_add.iter().enumerate() {
        let key = option
            .header
            .as_ref()
            .map_or("", |header| header.key.as_str());
        if !["x-forwarded-network", "x-istio-source", "baggage"].contains(&key) {
            return Err(at
                .index("headers_to_add", i)
                .refuse(format!("header {key:?} is not supported")));
        }
    }
    Ok(())
}
