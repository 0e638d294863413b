//! What a real istiod sent a waypoint, as it was sent; and the rich set with the parts taken out that ours does not carry
//! out, so that the rest of it can be compared. Used by `main`.

use std::path::Path;

use anyhow::{Context as _, Result};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteMatch, route};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, http_filter};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use envoy_types::pb::google::protobuf::{Any, Duration};
use prost::Message;

const FILES: [&str; 3] = ["00-Cluster", "05-ClusterLoadAssignment", "01-Listener"];
/// The chain whose policies need a token.
const TOKEN_CHAIN: &str = "inbound-vip|80|http|httpbin.app.svc.cluster.local";

const STATISTICS: &str = "istio.stats";
const V1: &str = "inbound-vip|80|http/v1|httpbin.app.svc.cluster.local";
/// How long the delayed route waits, in ms.
pub const DELAY_MS: i32 = 200;

/// One resource.
pub struct Resource {
    pub type_url: String,
    pub name: String,
    pub body: Vec<u8>,
}

/// The CDS, EDS and LDS resources of `set`, byte for byte.
///
/// # Errors
/// When a file is missing or is no discovery response.
pub fn as_sent(set: &str) -> Result<Vec<Resource>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../waypoint/testdata");
    let mut resources = Vec::new();
    for file in FILES {
        let path = dir.join(set).join(file).with_extension("pb");
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let push = DeltaDiscoveryResponse::decode(bytes.as_slice())?;
        for resource in push.resources {
            resources.push(Resource {
                type_url: push.type_url.clone(),
                name: resource.name,
                body: resource
                    .resource
                    .context("a resource without a body")?
                    .value,
            });
        }
    }
    Ok(resources)
}

/// What ours does not carry out of the rich set, besides two clusters by DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Clusters of httpbin: RING_HASH (becomes LEAST_REQUEST).
    RingHash,
    /// main_internal: listener filter tls_inspector.
    TlsInspector,
    /// All chains: filter istio.stats, which Telemetry tells to report other labels.
    Statistics,
    /// httpbin: HTTP filter jwt_authn.
    TokenFilter,
    /// httpbin: the policy that reads what jwt_authn found.
    TokenPolicy,
    /// httpbin: hash policy of a route.
    HashPolicy,
}

/// All of them.
pub const PARTS: [Part; 6] = [
    Part::RingHash,
    Part::TlsInspector,
    Part::Statistics,
    Part::TokenFilter,
    Part::TokenPolicy,
    Part::HashPolicy,
];

/// `resources` without any [`Part`] but `left`, and with three routes in front of httpbin's: abort, delay, time limit.
///
/// # Errors
/// When a resource has not the shape that the capture has.
pub fn reduced(mut resources: Vec<Resource>, left: Option<Part>) -> Result<Vec<Resource>> {
    for resource in &mut resources {
        if resource.type_url.ends_with(".Cluster") && left != Some(Part::RingHash) {
            change(&mut resource.body, without_hash)?;
        }
        if resource.name == "main_internal" && resource.type_url.ends_with(".Listener") {
            change(&mut resource.body, |listener| inbound(listener, left))?;
        }
    }
    Ok(resources)
}

fn without_hash(cluster: &mut Cluster) -> Result<()> {
    if cluster.lb_policy() == LbPolicy::RingHash {
        cluster.set_lb_policy(LbPolicy::LeastRequest);
        cluster.lb_config = None;
    }
    Ok(())
}

fn inbound(listener: &mut Listener, left: Option<Part>) -> Result<()> {
    if left != Some(Part::TlsInspector) {
        let name = "envoy.filters.listener.tls_inspector";
        listener
            .listener_filters
            .retain(|filter| filter.name != name);
    }
    for chain in &mut listener.filter_chains {
        if left != Some(Part::Statistics) {
            chain.filters.retain(|filter| filter.name != STATISTICS);
        }
        for filter in &mut chain.filters {
            if let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type
                && config.type_url.ends_with(".HttpConnectionManager")
            {
                let token = chain.name == TOKEN_CHAIN;
                change(&mut config.value, |manager| http(manager, token, left))?;
            }
        }
    }
    Ok(())
}

fn http(manager: &mut HttpConnectionManager, token: bool, left: Option<Part>) -> Result<()> {
    let filters = &mut manager.http_filters;
    if left != Some(Part::Statistics) {
        filters.retain(|filter| filter.name != STATISTICS);
    }
    if !token {
        return Ok(());
    }
    if left != Some(Part::TokenFilter) {
        filters.retain(|filter| filter.name != "envoy.filters.http.jwt_authn");
    }
    for filter in filters {
        if let Some(http_filter::ConfigType::TypedConfig(config)) = &mut filter.config_type
            && config.type_url.ends_with(".rbac.v3.RBAC")
            && left != Some(Part::TokenPolicy)
        {
            change(&mut config.value, |rbac: &mut Rbac| {
                let rules = rbac.rules.as_mut().context("rules")?;
                rules.policies.retain(|name, _| !name.contains("[jwt]"));
                Ok(())
            })?;
        }
    }
    let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
        anyhow::bail!("the routes are not inline");
    };
    let host = routes.virtual_hosts.first_mut().context("a virtual host")?;
    for one in &mut host.routes {
        if let Some(route::Action::Route(action)) = &mut one.action
            && left != Some(Part::HashPolicy)
        {
            action.hash_policy.clear();
        }
    }
    let mut more = extra_routes(host.routes.last().context("a route")?)?;
    more.append(&mut host.routes);
    host.routes = more;
    Ok(())
}

/// Routes to the application of httpbin v1 alone, made of the captured catch-all.
fn extra_routes(all: &Route) -> Result<Vec<Route>> {
    let routed = |prefix: &str, timeout: Option<Duration>, fault: Option<HttpFault>| {
        let mut one = all.clone();
        one.name = prefix.to_owned();
        one.r#match = Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..RouteMatch::default()
        });
        one.typed_per_filter_config.clear();
        if let Some(fault) = fault {
            let fault = Any {
                type_url: "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
                    .into(),
                value: fault.encode_to_vec(),
            };
            one.typed_per_filter_config
                .insert("envoy.filters.http.fault".into(), fault);
        }
        let Some(route::Action::Route(action)) = &mut one.action else {
            anyhow::bail!("the catch-all forwards");
        };
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(V1.into()));
        action.request_mirror_policies.clear();
        action.retry_policy = None;
        action.timeout = timeout.or(action.timeout);
        Ok(one)
    };
    let always = FractionalPercent {
        numerator: 100,
        denominator: 0,
    };
    let abort = HttpFault {
        abort: Some(FaultAbort {
            percentage: Some(always),
            error_type: Some(fault_abort::ErrorType::HttpStatus(503)),
            ..FaultAbort::default()
        }),
        ..HttpFault::default()
    };
    let delay = HttpFault {
        delay: Some(FaultDelay {
            percentage: Some(always),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(millis(DELAY_MS))),
        }),
        ..HttpFault::default()
    };
    Ok(vec![
        routed("/fault/abort", None, Some(abort))?,
        routed("/fault/delay", None, Some(delay))?,
        routed(crate::backend::SILENT, Some(millis(300)), None)?,
    ])
}

fn millis(millis: i32) -> Duration {
    Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    }
}

fn change<M: Message + Default>(
    bytes: &mut Vec<u8>,
    change: impl FnOnce(&mut M) -> Result<()>,
) -> Result<()> {
    let mut message = M::decode(bytes.as_slice())?;
    change(&mut message)?;
    *bytes = message.encode_to_vec();
    Ok(())
}
