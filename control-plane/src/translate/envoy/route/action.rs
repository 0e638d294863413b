//! What a rule does with a request: forward by weight, redirect, or (when its backends are no good) answer 500.

use envoy_types::pb::envoy::{
    config::{
        core::v3::{
            DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent,
            header_value_option::HeaderAppendAction,
        },
        route::v3::{
            DirectResponseAction, Route, RouteAction, WeightedCluster,
            route::Action,
            route_action::{
                ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
                RequestMirrorPolicy,
            },
            weighted_cluster::{ClusterWeight, cluster_weight},
        },
    },
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};
use objects::{
    BackendRef, Fault, HeaderModifier, HttpRoute, Mirror, Redirect, Rewrite, RouteFilter,
    RouteRule, Service,
};

use super::{
    super::{Layer, Served, ServedService, name, pack, ports},
    Entry, decorator, key,
    matches::{self, Path},
    path, retry,
};

/// A cluster that is nowhere: its share of requests is answered with 500.
const UNKNOWN: &str = "UnknownService";
const MILLION: u64 = 1_000_000;

pub(super) struct Translation<'t, 'a> {
    pub served: &'t Served<'a>,
    pub faults: &'t mut Vec<Fault>,
    pub other_backends: &'t mut Vec<&'a Service>,
}

/// Header changes as Envoy has them.
#[derive(Default)]
struct Headers {
    add: Vec<HeaderValueOption>,
    remove: Vec<String>,
    /// `Host`, which is set by a rewrite and not as a header.
    host: Option<String>,
}

/// A rule's filters, sorted out.
#[derive(Default)]
struct Filters<'a> {
    request: Headers,
    response: Headers,
    mirrors: Vec<&'a Mirror>,
    redirect: Option<&'a Redirect>,
    rewrite: Option<&'a Rewrite>,
    /// The first filter that cannot be carried out: the rule must not run without it.
    unsupported: Option<String>,
}

fn sort(filters: &[RouteFilter]) -> Filters<'_> {
    let mut sorted = Filters::default();
    for filter in filters {
        match filter.r#type.as_str() {
            kind @ ("RequestHeaderModifier" | "ResponseHeaderModifier") => {
                let (headers, modifier) = if kind == "RequestHeaderModifier" {
                    (&mut sorted.request, &filter.request_header_modifier)
                } else {
                    (&mut sorted.response, &filter.response_header_modifier)
                };
                let Some(modifier) = modifier else { continue };
                modify(headers, modifier);
                let answers = kind == "ResponseHeaderModifier";
                if changes_host(modifier, answers) {
                    sorted.unsupported = Some(format!("{kind} for Host other than `set`"));
                }
            }
            "RequestMirror" => sorted.mirrors.extend(&filter.request_mirror),
            "RequestRedirect" => sorted.redirect = filter.request_redirect.as_ref(),
            "URLRewrite" => sorted.rewrite = filter.url_rewrite.as_ref(),
            other => sorted.unsupported = Some(other.to_owned()),
        }
    }
    sorted
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}

/// Whether it changes `Host` in a way that no proxy can: an answer has none, and a request exactly one.
fn changes_host(modifier: &HeaderModifier, answers: bool) -> bool {
    let of = |headers: &[objects::HeaderValue]| headers.iter().any(|header| is_host(&header.name));
    of(&modifier.add)
        || modifier.remove.iter().any(|name| is_host(name))
        || answers && of(&modifier.set)
}

/// `Host` never goes into the lists of headers, which no proxy takes there.
fn modify(headers: &mut Headers, modifier: &HeaderModifier) {
    let set = modifier
        .set
        .iter()
        .map(|header| (header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = modifier
        .add
        .iter()
        .map(|header| (header, HeaderAppendAction::AppendIfExistsOrAdd));
    for (header, action) in set.chain(add) {
        if is_host(&header.name) {
            headers.host = Some(header.value.clone());
            continue;
        }
        headers.add.push(HeaderValueOption {
            header: Some(HeaderValue {
                key: header.name.clone(),
                // `%` begins an operator in Envoy; the user means the character.
                value: header.value.replace('%', "%%"),
                ..HeaderValue::default()
            }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        });
    }
    let removed = modifier.remove.iter().filter(|name| !is_host(name));
    headers.remove.extend(removed.cloned());
}

impl<'a> Translation<'_, 'a> {
    pub fn route(&mut self, entry: &Entry<'a>, service: &ServedService<'a>, port: u16) -> Route {
        let rule = &entry.route.spec.rules[entry.rule];
        let filters = sort(&rule.filters);
        let meta = &entry.route.metadata;
        let config = format!("{}~{port}~{}", meta.namespace, service.wds.hostname);
        let config_path = format!(
            "/apis/networking.istio.io/v1/namespaces/{}/virtual-service/{config}",
            meta.namespace
        );
        let mut destination = config;
        let action = match (&filters.unsupported, filters.redirect) {
            (Some(filter), _) => {
                self.warn(
                    entry,
                    &format!("filter {filter} is not supported; this rule answers 500"),
                );
                failure()
            }
            (None, Some(wanted)) => path::redirect(wanted, matches::path(entry.wanted)),
            (None, None) => self.forward(entry, rule, &filters, &mut destination),
        };
        let operation = match matches::path(entry.wanted) {
            Path::Exact(value) => format!("{destination}:{port}{value}"),
            _ => format!("{destination}:{port}/*"),
        };
        Route {
            name: format!("{}.{}.{}", meta.namespace, meta.name, entry.rule),
            r#match: Some(matches::translate(entry.wanted)),
            action: Some(action),
            metadata: Some(pack::metadata([(
                "istio",
                pack::object([("config", pack::text(config_path))]),
            )])),
            decorator: Some(decorator(operation)),
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
        entry: &Entry<'a>,
        rule: &'a RouteRule,
        filters: &Filters<'a>,
        destination: &mut String,
    ) -> Action {
        let mut weighted = Vec::new();
        for backend in rule
            .backend_refs
            .iter()
            .filter(|backend| backend.weight.unwrap_or(1) > 0)
        {
            let found = self.backend(entry, backend);
            weighted.push((backend, found));
        }
        if weighted.iter().all(|(_, found)| found.is_none()) {
            if weighted.is_empty() {
                self.warn(
                    entry,
                    "no backend has a weight above 0; this rule answers 500",
                );
            }
            return failure();
        }
        let specifier = match &weighted[..] {
            [(backend, Some((cluster, host)))] if backend.filters.is_empty() => {
                destination.clone_from(host);
                ClusterSpecifier::Cluster(cluster.clone())
            }
            _ => {
                let clusters = weighted
                    .iter()
                    .map(|(backend, found)| self.weight(entry, backend, found.as_ref()));
                let clusters = clusters.collect();
                ClusterSpecifier::WeightedClusters(WeightedCluster {
                    clusters,
                    ..WeightedCluster::default()
                })
            }
        };
        let timeout = rule
            .timeouts
            .as_ref()
            .and_then(|t| t.request.as_deref())
            .and_then(objects::duration);
        let mut action = RouteAction {
            cluster_specifier: Some(specifier),
            cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError
                .into(),
            timeout: pack::time(timeout.unwrap_or_default()),
            max_grpc_timeout: pack::time(timeout.unwrap_or_default()),
            retry_policy: retry::of_rule(rule),
            request_mirror_policies: filters
                .mirrors
                .iter()
                .filter_map(|mirror| self.mirror(entry, mirror))
                .collect(),
            ..RouteAction::default()
        };
        let rewritten = filters
            .rewrite
            .is_none_or(|wanted| path::rewrite(&mut action, wanted, matches::path(entry.wanted)));
        if let (None, Some(host)) = (&action.host_rewrite_specifier, &filters.request.host) {
            let host = HostRewriteSpecifier::HostRewriteLiteral(host.clone());
            action.host_rewrite_specifier = Some(host);
        }
        if !rewritten {
            self.warn(
                entry,
                "ReplacePrefixMatch needs a PathPrefix match; this rule answers 500",
            );
            return failure();
        }
        Action::Route(action)
    }

    /// Cluster and host of a backend; none (and a fault) if the reference leads nowhere.
    fn backend(&mut self, entry: &Entry<'a>, backend: &BackendRef) -> Option<(String, String)> {
        match self.find(entry.route, backend) {
            Ok((service, cluster, host)) => {
                if !self.served.serves(service) {
                    self.other_backends.push(service);
                }
                Some((cluster, host))
            }
            Err(why) => {
                self.warn(
                    entry,
                    &format!(
                        "backend {}: {why}; its requests are answered with 500",
                        backend.name
                    ),
                );
                None
            }
        }
    }

    fn find(
        &self,
        route: &HttpRoute,
        backend: &BackendRef,
    ) -> Result<(&'a Service, String, String), String> {
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let group = backend.group.as_deref().unwrap_or_default();
        if kind != "Service" || !matches!(group, "" | "core") {
            return Err(format!("kind {kind} is not supported"));
        }
        let own = &route.metadata.namespace;
        let namespace = backend.namespace.as_deref().unwrap_or(own);
        if namespace != own {
            return Err(format!(
                "namespace {namespace} would have to grant this reference"
            ));
        }
        let index = self.served.index;
        let service = index
            .store
            .services
            .find(namespace, &backend.name)
            .ok_or("there is no such Service")?;
        let wanted = backend.port.unwrap_or_default();
        let port = ports(service)
            .find(|port| port.number == wanted)
            .ok_or(format!("it has no port {wanted}"))?;
        let host = index.mesh.hostname(namespace, &backend.name);
        // Where the protocol is not known the request at hand is HTTP.
        let layer = port.layers().first().copied().unwrap_or(Layer::Http);
        Ok((service, name(wanted, layer, &host), host))
    }

    fn weight(
        &mut self,
        entry: &Entry<'a>,
        backend: &BackendRef,
        found: Option<&(String, String)>,
    ) -> ClusterWeight {
        let filters = sort(&backend.filters);
        let mut cluster = found.map_or(UNKNOWN.to_owned(), |(cluster, _)| cluster.clone());
        let beyond = !filters.mirrors.is_empty() || filters.redirect.is_some();
        let path = filters
            .rewrite
            .is_some_and(|rewrite| rewrite.path.is_some());
        if filters.unsupported.is_some() || beyond || path {
            let why = format!(
                "backend {}: only header and host changes are supported; its requests are answered with 500",
                backend.name
            );
            self.warn(entry, &why);
            UNKNOWN.clone_into(&mut cluster);
        }
        let host = filters.rewrite.and_then(|rewrite| rewrite.hostname.clone());
        let host = host.or(filters.request.host);
        ClusterWeight {
            name: cluster,
            weight: pack::number(backend.weight.unwrap_or(1)),
            request_headers_to_add: filters.request.add,
            request_headers_to_remove: filters.request.remove,
            response_headers_to_add: filters.response.add,
            response_headers_to_remove: filters.response.remove,
            host_rewrite_specifier: host
                .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            ..ClusterWeight::default()
        }
    }

    fn mirror(&mut self, entry: &Entry<'a>, mirror: &Mirror) -> Option<RequestMirrorPolicy> {
        let (cluster, _) = self.backend(entry, &mirror.backend_ref)?;
        let millionths = match (&mirror.fraction, mirror.percent) {
            (Some(fraction), _) => {
                u64::from(fraction.numerator) * MILLION
                    / u64::from(fraction.denominator.unwrap_or(100).max(1))
            }
            (None, percent) => u64::from(percent.unwrap_or(100)) * MILLION / 100,
        };
        let share = FractionalPercent {
            numerator: u32::try_from(millionths.min(MILLION)).unwrap_or_default(),
            denominator: DenominatorType::Million.into(),
        };
        Some(RequestMirrorPolicy {
            cluster,
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(share),
                ..RuntimeFractionalPercent::default()
            }),
            trace_sampled: pack::flag(false),
            disable_shadow_host_suffix_append: true,
            ..RequestMirrorPolicy::default()
        })
    }

    fn warn(&mut self, entry: &Entry<'_>, why: &str) {
        let fault = Fault::warning(
            Some(key(entry.route)),
            format!("spec.rules[{}]", entry.rule),
            why,
        );
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

/// The answer of a rule that cannot be carried out, as the Gateway API wants it.
fn failure() -> Action {
    Action::DirectResponse(DirectResponseAction {
        status: 500,
        body: None::<DataSource>,
        ..DirectResponseAction::default()
    })
}
