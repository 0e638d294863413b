//! Route configurations (inline or RDS) → `model::route`.

use super::retry::retry;
use super::strings::{
    HeaderLists, header_changes, header_value, headers, inline, query, regex, runtime_share,
};
use super::{At, Converted, decode, filters, flag, limit, number, required, take};
use crate::model::route::{
    Forward, HeaderChanges, Mirror, PathMatch, PathRewrite, Redirect, Retry, Route, RouteAction,
    RouteMatch, RouteTable, VirtualHost, WeightedTarget,
};
use crate::path::spelling;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
    UpgradeConfig,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use envoy_types::pb::envoy::config::route::v3::{
    Decorator, DirectResponseAction, RedirectAction, Route as ProtoRoute,
    RouteAction as ProtoAction, RouteConfiguration, RouteMatch as ProtoMatch,
    VirtualHost as ProtoHost, WeightedCluster, route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

/// Envoy's route timeout when none is written.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// An RDS resource.
pub fn from_bytes(bytes: &[u8]) -> Converted<RouteTable> {
    let url = super::type_url::<RouteConfiguration>();
    let at = At::root(&url);
    table(&at, decode(&at, bytes)?)
}

/// A route configuration.
pub fn table(at: &At<'_>, config: RouteConfiguration) -> Converted<RouteTable> {
    take!(at, config => RouteConfiguration { name, virtual_hosts, response_headers_to_add, response_headers_to_remove,
            request_headers_to_add, request_headers_to_remove }
        ignored { validate_clusters, max_direct_response_body_size_bytes, metadata }
        refused { vhds, internal_only_headers, most_specific_header_mutations_wins, cluster_specifier_plugins,
            request_mirror_policies, ignore_port_in_host_matching, ignore_path_parameters_in_path_matching,
            typed_per_filter_config, vhost_header, route_specifiers });
    let lists = HeaderLists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let headers = header_changes(at, lists)?;
    let hosts = virtual_hosts.into_iter().enumerate();
    let hosts = hosts
        .map(|(i, host)| virtual_host(&at.index("virtual_hosts", i), host))
        .collect::<Result<_, _>>()?;
    Ok(RouteTable {
        name: name.into(),
        hosts,
        headers,
    })
}

fn virtual_host(at: &At<'_>, host: ProtoHost) -> Converted<VirtualHost> {
    take!(at, host => ProtoHost { name, domains, routes, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, retry_policy }
        ignored { metadata }
        refused { matcher, require_tls, virtual_clusters, rate_limits, cors, typed_per_filter_config,
            include_request_attempt_count, include_attempt_count_in_response, retry_policy_typed_config, hedge_policy,
            include_is_timeout_retry_header, per_request_buffer_limit_bytes, request_body_buffer_limit,
            request_mirror_policies, route_specifiers });
    let lists = HeaderLists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let headers = header_changes(at, lists)?;
    let retry = retry_policy
        .map(|policy| retry(&at.field("retry_policy"), policy))
        .transpose()?;
    let mut converted = Vec::with_capacity(routes.len());
    for (i, route) in routes.into_iter().enumerate() {
        converted.push(Arc::new(one_route(
            &at.index("routes", i),
            route,
            retry.as_ref(),
        )?));
    }
    let domains = domains
        .into_iter()
        .map(|domain| domain.to_ascii_lowercase())
        .collect();
    Ok(VirtualHost {
        name: name.into(),
        domains,
        routes: converted,
        headers,
        retry,
    })
}

fn one_route(at: &At<'_>, message: ProtoRoute, inherited: Option<&Retry>) -> Converted<Route> {
    take!(at, message => ProtoRoute { name, r#match, decorator, typed_per_filter_config, request_headers_to_add,
            request_headers_to_remove, response_headers_to_add, response_headers_to_remove, action }
        ignored { metadata, tracing, stat_prefix }
        refused { per_request_buffer_limit_bytes, request_body_buffer_limit, route_specifiers });
    let lists = HeaderLists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let per_route = filters::per_route(at, typed_per_filter_config)?;
    let action = match required(at, "action", action)? {
        route::Action::Route(action) => {
            let mut forward = forward(&at.field("route"), action)?;
            forward.retry = forward.retry.or_else(|| inherited.cloned());
            RouteAction::Forward(Box::new(forward))
        }
        route::Action::Redirect(action) => {
            RouteAction::Redirect(redirect(&at.field("redirect"), action)?)
        }
        route::Action::DirectResponse(action) => direct(&at.field("direct_response"), action)?,
        route::Action::FilterAction(_) => return Err(at.unsupported("filter_action")),
        route::Action::NonForwardingAction(_) => {
            return Err(at.unsupported("non_forwarding_action"));
        }
    };
    let operation = match decorator {
        Some(Decorator {
            operation,
            propagate,
        }) if flag(propagate, true) => header_value(at, "decorator.operation", &operation)?,
        _ => None,
    };
    Ok(Route {
        name: name.into(),
        matches: route_match(&at.field("match"), required(at, "match", r#match)?)?,
        action,
        headers: header_changes(at, lists)?,
        operation,
        cors: per_route.cors,
        fault: per_route.fault,
    })
}

fn route_match(at: &At<'_>, message: ProtoMatch) -> Converted<RouteMatch> {
    take!(at, message => ProtoMatch { case_sensitive, headers, query_parameters, grpc, path_specifier } ignored {}
        refused { runtime_fraction, cookies, tls_context, dynamic_metadata, filter_state });
    let sensitive = flag(case_sensitive, true);
    let spelled = |text: String| spelling::upper(&text).into_owned();
    let path = match required(at, "path_specifier", path_specifier)? {
        PathSpecifier::Prefix(text) => PathMatch::Prefix(spelled(text), sensitive),
        PathSpecifier::Path(text) => PathMatch::Exact(spelled(text), sensitive),
        PathSpecifier::PathSeparatedPrefix(text) => PathMatch::Separated(spelled(text), sensitive),
        PathSpecifier::SafeRegex(matcher) => {
            PathMatch::Regex(regex(&at.field("safe_regex"), matcher, true)?)
        }
        PathSpecifier::ConnectMatcher(_) => return Err(at.unsupported("connect_matcher")),
        PathSpecifier::PathMatchPolicy(_) => return Err(at.unsupported("path_match_policy")),
    };
    let parameters = query_parameters.into_iter().enumerate();
    Ok(RouteMatch {
        path,
        headers: self::headers(at, "headers", headers)?,
        query: parameters
            .map(|(i, m)| query(&at.index("query_parameters", i), m))
            .collect::<Result<_, _>>()?,
        grpc: grpc.is_some(),
    })
}

fn forward(at: &At<'_>, message: ProtoAction) -> Converted<Forward> {
    take!(at, message => ProtoAction { cluster_not_found_response_code, prefix_rewrite, regex_rewrite,
            append_x_forwarded_host, timeout, idle_timeout, retry_policy, request_mirror_policies, max_grpc_timeout,
            upgrade_configs, cluster_specifier, host_rewrite_specifier }
        ignored { priority }
        refused { metadata_match, path_rewrite_policy, path_rewrite, flush_timeout, early_data_policy,
            retry_policy_typed_config, rate_limits, include_vh_rate_limits, hash_policy, cors, grpc_timeout_offset,
            internal_redirect_policy, internal_redirect_action, max_internal_redirects, hedge_policy,
            max_stream_duration });
    let rewrite = match (prefix_rewrite, regex_rewrite) {
        (prefix, None) if prefix.is_empty() => None,
        (prefix, None) => Some(PathRewrite::Prefix(prefix)),
        (_, Some(rewrite)) => Some(substitution(&at.field("regex_rewrite"), rewrite)?),
    };
    let host = match host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            header_value(at, "host_rewrite_literal", &host)?
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(value)) if !value.value => None,
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => {
            return Err(at.unsupported("auto_host_rewrite"));
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(_)) => {
            return Err(at.unsupported("host_rewrite_header"));
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => {
            return Err(at.unsupported("host_rewrite_path_regex"));
        }
        Some(_) => return Err(at.unsupported("host_rewrite_specifier")),
    };
    let not_found = match ClusterNotFoundResponseCode::try_from(cluster_not_found_response_code) {
        Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => StatusCode::SERVICE_UNAVAILABLE,
        Ok(ClusterNotFoundResponseCode::NotFound) => StatusCode::NOT_FOUND,
        Ok(ClusterNotFoundResponseCode::InternalServerError) => StatusCode::INTERNAL_SERVER_ERROR,
        Err(_) => {
            return Err(at
                .field("cluster_not_found_response_code")
                .refuse("value is not known"));
        }
    };
    let mirrors = request_mirror_policies.into_iter().enumerate();
    Ok(Forward {
        targets: targets(at, required(at, "cluster_specifier", cluster_specifier)?)?,
        not_found,
        rewrite,
        host,
        append_forwarded_host: append_x_forwarded_host,
        timeout: if timeout.is_none() {
            Some(DEFAULT_TIMEOUT)
        } else {
            limit(at, "timeout", timeout)?
        },
        idle_timeout: limit(at, "idle_timeout", idle_timeout)?,
        max_grpc_timeout: super::duration(at, "max_grpc_timeout", max_grpc_timeout)?,
        retry: retry_policy
            .map(|policy| retry(&at.field("retry_policy"), policy))
            .transpose()?,
        mirrors: mirrors
            .map(|(i, m)| mirror(&at.index("request_mirror_policies", i), m))
            .collect::<Result<_, _>>()?,
        websocket: upgrades(at, upgrade_configs)?,
    })
}

fn upgrades(at: &At<'_>, configs: Vec<UpgradeConfig>) -> Converted<Option<bool>> {
    let mut websocket = None;
    for (i, config) in configs.into_iter().enumerate() {
        let at = at.index("upgrade_configs", i);
        take!(at, config => UpgradeConfig { upgrade_type, enabled } ignored {} refused { connect_config });
        if !upgrade_type.eq_ignore_ascii_case("websocket") {
            return Err(at
                .field("upgrade_type")
                .refuse(format!("{upgrade_type:?} is not supported")));
        }
        websocket = Some(flag(enabled, true));
    }
    Ok(websocket)
}

fn targets(at: &At<'_>, specifier: ClusterSpecifier) -> Converted<Vec<WeightedTarget>> {
    let weighted = match specifier {
        ClusterSpecifier::Cluster(name) => {
            let target = WeightedTarget {
                cluster: name.into(),
                weight: 1,
                headers: HeaderChanges::default(),
                host: None,
            };
            return Ok(vec![target]);
        }
        ClusterSpecifier::WeightedClusters(weighted) => weighted,
        ClusterSpecifier::ClusterHeader(_) => return Err(at.unsupported("cluster_header")),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => {
            return Err(at.unsupported("cluster_specifier_plugin"));
        }
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            return Err(at.unsupported("inline_cluster_specifier_plugin"));
        }
    };
    weighted_targets(&at.field("weighted_clusters"), weighted)
}

fn weighted_targets(at: &At<'_>, weighted: WeightedCluster) -> Converted<Vec<WeightedTarget>> {
    take!(at, weighted => WeightedCluster { clusters, total_weight } ignored { runtime_key_prefix }
        refused { random_value_specifier });
    let clusters = clusters.into_iter().enumerate();
    let targets: Vec<_> = clusters
        .map(|(i, c)| target(&at.index("clusters", i), c))
        .collect::<Result<_, _>>()?;
    let sum: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(at.refuse(format!("sum of weights {sum} is not in 1..=4294967295")));
    }
    if number(total_weight).is_some_and(|total| u64::from(total) != sum) {
        return Err(at
            .field("total_weight")
            .refuse(format!("is not the sum of weights {sum}")));
    }
    Ok(targets)
}

fn target(at: &At<'_>, message: ClusterWeight) -> Converted<WeightedTarget> {
    take!(at, message => ClusterWeight { name, weight, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, host_rewrite_specifier }
        ignored {}
        refused { cluster_header, metadata_match, typed_per_filter_config });
    let lists = HeaderLists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let host = match host_rewrite_specifier {
        None => None,
        Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            header_value(at, "host_rewrite_literal", &host)?
        }
    };
    let headers = header_changes(at, lists)?;
    Ok(WeightedTarget {
        cluster: name.into(),
        weight: number(weight).unwrap_or(0),
        headers,
        host,
    })
}

fn mirror(at: &At<'_>, message: RequestMirrorPolicy) -> Converted<Mirror> {
    take!(at, message => RequestMirrorPolicy { cluster, runtime_fraction, disable_shadow_host_suffix_append }
        ignored { trace_sampled }
        refused { cluster_header, request_headers_mutations, host_rewrite_literal });
    Ok(Mirror {
        cluster: cluster.into(),
        share: runtime_share(&at.field("runtime_fraction"), runtime_fraction)?,
        shadow_suffix: !disable_shadow_host_suffix_append,
    })
}

fn redirect(at: &At<'_>, message: RedirectAction) -> Converted<Redirect> {
    take!(at, message => RedirectAction { host_redirect, port_redirect, response_code, strip_query,
            scheme_rewrite_specifier, path_rewrite_specifier } ignored {} refused {});
    let status = match RedirectResponseCode::try_from(response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => {
            return Err(at
                .field("response_code")
                .refuse(format!("value {response_code} is not known")));
        }
    };
    let scheme = match scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme),
    };
    let path = match path_rewrite_specifier {
        None => None,
        // Empty is what istiod says where the path stays as it is.
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(path)
            .filter(|path| !path.is_empty())
            .map(PathRewrite::Full),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(prefix)
            .filter(|prefix| !prefix.is_empty())
            .map(PathRewrite::Prefix),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            Some(substitution(&at.field("regex_rewrite"), rewrite)?)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => return Err(at.unsupported("path_rewrite")),
    };
    let port = u16::try_from(port_redirect)
        .map_err(|_| at.field("port_redirect").refuse("is not a port"))?;
    let host = Some(host_redirect).filter(|host| !host.is_empty());
    Ok(Redirect {
        status,
        scheme,
        host,
        port: (port != 0).then_some(port),
        path,
        strip_query,
    })
}

fn direct(at: &At<'_>, message: DirectResponseAction) -> Converted<RouteAction> {
    take!(at, message => DirectResponseAction { status, body } ignored {} refused { body_format });
    let status = u16::try_from(status)
        .ok()
        .filter(|code| (200..600).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let body = body
        .map(|body| inline(&at.field("body"), body))
        .transpose()?;
    Ok(RouteAction::Direct {
        status: status.ok_or_else(|| at.field("status").refuse("is not an HTTP status"))?,
        body: body.unwrap_or_default().into(),
    })
}

fn substitution(at: &At<'_>, rewrite: RegexMatchAndSubstitute) -> Converted<PathRewrite> {
    let RegexMatchAndSubstitute {
        pattern,
        substitution,
    } = rewrite;
    let pattern = regex(
        &at.field("pattern"),
        required(at, "pattern", pattern)?,
        false,
    )?;
    Ok(PathRewrite::Regex(
        pattern,
        rust_substitution(&substitution),
    ))
}

/// RE2 writes group 1 as `\1`, Rust as `${1}`.
fn rust_substitution(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => out.push_str(&format!("${{{digit}}}")),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}
