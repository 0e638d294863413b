//! What a rule does with a request: forward by weight, redirect, or (when its backends are no good) answer with an error.

use std::{collections::BTreeSet, mem::take};

use envoy_types::pb::envoy::config::{
    core::v3::DataSource,
    route::v3::{
        DirectResponseAction, Route, RouteAction, WeightedCluster,
        route::Action,
        route_action::{
            ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
            RequestMirrorPolicy,
        },
        weighted_cluster::{ClusterWeight, cluster_weight},
    },
};
use objects::{BackendRef, Fault, Mirror, Service};

use super::{
    super::{
        super::{
            index::Name,
            routes::{self, AnyRoute, Rule},
        },
        Layer, Served, ServedService, name, pack, ports,
    },
    Entry, decorator,
    filters::{self, Filters, Headers},
    matches::{self, Path},
    path, retry,
};

/// A cluster that is nowhere: its share of requests is answered with an error.
const UNKNOWN: &str = "UnknownService";
const CORS: &str = "envoy.filters.http.cors";

pub(super) struct Translation<'t, 'a> {
    pub served: &'t Served<'a>,
    /// The service whose traffic it is.
    pub parent: Name<'t>,
    pub faults: &'t mut Vec<Fault>,
    pub other_backends: &'t mut Vec<&'a Service>,
    pub called: &'t mut BTreeSet<(&'a str, &'a str, u16)>,
}

/// One backend of a rule whose weight is above 0.
struct Target<'a> {
    backend: &'a BackendRef,
    /// Cluster, and host and port for readers; none if its requests are answered with an error.
    found: Option<(String, String)>,
}

impl<'a> Translation<'_, 'a> {
    pub fn route(
        &mut self,
        entry: &Entry<'_, 'a>,
        service: &ServedService<'a>,
        port: u16,
    ) -> Route {
        let rule = entry.rule;
        let mut filters = filters::sort(rule.filters);
        let meta = rule.route.meta();
        // What istiod would call the VirtualService that it makes of this route.
        let config = if entry.by_port {
            format!("{}~{port}~{}", meta.namespace, service.wds.hostname)
        } else {
            format!("{}~{}", meta.namespace, service.wds.hostname)
        };
        let config_path = format!(
            "/apis/networking.istio.io/v1/namespaces/{}/virtual-service/{config}",
            meta.namespace
        );
        let mut destination = format!("{config}:{port}");
        let action = match (routes::unsupported(rule.filters), filters.redirect) {
            (Some(filter), _) => {
                self.warn(
                    rule,
                    &format!(
                        "filter {filter} is not supported; this rule answers {}",
                        code(rule)
                    ),
                );
                failure(rule.route)
            }
            (None, Some(wanted)) => path::redirect(wanted, matches::path(entry.wanted), port),
            (None, None) => self.forward(entry, &mut filters, &mut destination),
        };
        let operation = match matches::path(entry.wanted) {
            Path::Exact(value) => format!("{destination}{value}"),
            Path::Regex(value) if is_visible(&value) => format!("{destination}{value}"),
            Path::Regex(_) | Path::Prefix(_) => format!("{destination}/*"),
        };
        let cors = filters
            .cors
            .map(|policy| (CORS.to_owned(), pack::any(&filters::cors(policy))));
        Route {
            name: rule.name.map_or_else(
                || format!("{}.{}.{}", meta.namespace, meta.name, rule.number),
                str::to_owned,
            ),
            r#match: Some(matches::translate(entry.wanted)),
            action: Some(action),
            metadata: Some(pack::metadata([(
                "istio",
                pack::object([("config", pack::text(config_path))]),
            )])),
            decorator: Some(decorator(operation)),
            typed_per_filter_config: cors.into_iter().collect(),
            request_headers_to_add: filters.request.add,
            request_headers_to_remove: filters.request.remove,
            response_headers_to_add: filters.response.add,
            response_headers_to_remove: filters.response.remove,
            ..Route::default()
        }
    }

    #[allow(deprecated, reason = "istiod sends max_grpc_timeout")]
    fn forward(
        &mut self,
        entry: &Entry<'_, 'a>,
        filters: &mut Filters<'a>,
        destination: &mut String,
    ) -> Action {
        let rule = entry.rule;
        let targets = self.targets(rule);
        if targets.iter().all(|target| target.found.is_none()) {
            return failure(rule.route);
        }
        let timeout = rule
            .timeouts
            .and_then(|timeouts| timeouts.request.as_deref())
            .and_then(objects::duration)
            .unwrap_or_default();
        let mut action = RouteAction {
            cluster_specifier: Some(specifier(&targets, filters, destination)),
            cluster_not_found_response_code: not_found(rule.route).into(),
            timeout: pack::time(timeout),
            max_grpc_timeout: pack::time(timeout),
            retry_policy: retry::of_rule(rule.timeouts, rule.retry),
            request_mirror_policies: filters
                .mirrors
                .iter()
                .filter_map(|mirror| self.mirror(rule, mirror))
                .collect(),
            ..RouteAction::default()
        };
        let rewritten = filters
            .rewrite
            .is_none_or(|wanted| path::rewrite(&mut action, wanted, matches::path(entry.wanted)));
        if !rewritten {
            let why = format!(
                "ReplacePrefixMatch needs a PathPrefix match; this rule answers {}",
                code(rule)
            );
            self.warn(rule, &why);
            return failure(rule.route);
        }
        if let (None, Some(host)) = (&action.host_rewrite_specifier, &filters.request.host) {
            let host = HostRewriteSpecifier::HostRewriteLiteral(host.clone());
            action.host_rewrite_specifier = Some(host);
        }
        Action::Route(action)
    }

    fn targets(&mut self, rule: &Rule<'a>) -> Vec<Target<'a>> {
        let backends = rule.backends.iter();
        let weighted: Vec<&BackendRef> = backends
            .filter(|backend| backend.weight.unwrap_or(1) > 0)
            .collect();
        if weighted.is_empty() {
            let why = format!(
                "no backend has a weight above 0; this rule answers {}",
                code(rule)
            );
            self.warn(rule, &why);
        }
        weighted
            .into_iter()
            .map(|backend| Target {
                backend,
                found: self.target(rule, backend),
            })
            .collect()
    }

    fn target(&mut self, rule: &Rule<'a>, backend: &BackendRef) -> Option<(String, String)> {
        let found = self.backend(rule, backend)?;
        if routes::of_backend_unsupported(&backend.filters).is_some() {
            let why = format!(
                "backend {}: only header and host changes are supported; its requests are answered with {}",
                backend.name,
                code(rule)
            );
            self.warn(rule, &why);
            return None;
        }
        Some(found)
    }

    /// Cluster, and host and port, of a backend; none (and a fault) if the reference leads nowhere.
    fn backend(&mut self, rule: &Rule<'a>, backend: &BackendRef) -> Option<(String, String)> {
        let index = self.served.index;
        match routes::resolve(index, rule.route, backend, Some(self.parent)) {
            Ok((service, wanted)) => {
                if !self.served.serves(service) {
                    self.other_backends.push(service);
                }
                let port = ports(service).find(|port| port.number == wanted)?;
                let meta = &service.metadata;
                if rule.route.is_grpc() {
                    self.called.insert((&meta.namespace, &meta.name, wanted));
                }
                let host = index.mesh.hostname(&meta.namespace, &meta.name);
                // Where the protocol is not known the request at hand is HTTP.
                let layer = port.layers().first().copied().unwrap_or(Layer::Http);
                Some((name(wanted, layer, &host), format!("{host}:{wanted}")))
            }
            Err(refusal) => {
                let why = format!(
                    "backend {}: {}; its requests are answered with {}",
                    backend.name,
                    refusal.why,
                    code(rule)
                );
                self.warn(rule, &why);
                None
            }
        }
    }

    fn mirror(&mut self, rule: &Rule<'a>, mirror: &Mirror) -> Option<RequestMirrorPolicy> {
        let (cluster, _) = self.backend(rule, &mirror.backend_ref)?;
        Some(RequestMirrorPolicy {
            cluster,
            runtime_fraction: Some(filters::share(mirror)?),
            trace_sampled: pack::flag(false),
            disable_shadow_host_suffix_append: true,
            ..RequestMirrorPolicy::default()
        })
    }

    fn warn(&mut self, rule: &Rule<'_>, why: &str) {
        let at = format!("spec.rules[{}]", rule.number);
        let fault = Fault::warning(Some(rule.route.key()), at, why);
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

/// Whether a text can stand in a header, as an operation does.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// One cluster, or several by weight. What a backend changes comes after what the rule changes. Of a single backend, and of
/// several where the order counts, both stand in one place: of two places Envoy lets that of the rule act last.
fn specifier<'a>(
    targets: &[Target<'a>],
    filters: &mut Filters<'a>,
    destination: &mut String,
) -> ClusterSpecifier {
    if let [
        Target {
            backend,
            found: Some((cluster, host)),
        },
    ] = targets
    {
        destination.clone_from(host);
        let own = filters::sort(&backend.filters);
        let host = own.rewrite.and_then(|rewrite| rewrite.hostname.clone());
        filters.request.host = filters.request.host.take().or(host);
        filters.request = take(&mut filters.request).then(own.request);
        filters.response = take(&mut filters.response).then(own.response);
        return ClusterSpecifier::Cluster(cluster.clone());
    }
    let ordered = targets.iter().any(|target| {
        let own = filters::sort(&target.backend.filters);
        filters.request.meets(&own.request) || filters.response.meets(&own.response)
    });
    let before = if ordered {
        let host = filters.request.host.take();
        let request = take(&mut filters.request);
        filters.request.host = host;
        (request, take(&mut filters.response))
    } else {
        Default::default()
    };
    let clusters = targets.iter().map(|target| weight(target, before.clone()));
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: clusters.collect(),
        ..WeightedCluster::default()
    })
}

fn weight(target: &Target<'_>, (request, response): (Headers, Headers)) -> ClusterWeight {
    let cluster = target.found.as_ref().map(|(cluster, _)| cluster.clone());
    let filters = filters::sort(&target.backend.filters);
    let host = filters.rewrite.and_then(|rewrite| rewrite.hostname.clone());
    let (request, response) = (
        request.then(filters.request),
        response.then(filters.response),
    );
    let host = host.or(request.host);
    ClusterWeight {
        name: cluster.unwrap_or_else(|| UNKNOWN.to_owned()),
        weight: pack::number(target.backend.weight.unwrap_or(1)),
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        host_rewrite_specifier: host.map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..ClusterWeight::default()
    }
}

/// The status for requests that have no backend. A gRPC client reads 503 as UNAVAILABLE, which the Gateway API asks for.
fn code(rule: &Rule<'_>) -> u32 {
    status(rule.route)
}

fn status(route: AnyRoute<'_>) -> u32 {
    if route.is_grpc() { 503 } else { 500 }
}

fn not_found(route: AnyRoute<'_>) -> ClusterNotFoundResponseCode {
    if route.is_grpc() {
        ClusterNotFoundResponseCode::ServiceUnavailable
    } else {
        ClusterNotFoundResponseCode::InternalServerError
    }
}

/// The answer of a rule that cannot be carried out, as the Gateway API wants it.
fn failure(route: AnyRoute<'_>) -> Action {
    Action::DirectResponse(DirectResponseAction {
        status: status(route),
        body: None::<DataSource>,
        ..DirectResponseAction::default()
    })
}
