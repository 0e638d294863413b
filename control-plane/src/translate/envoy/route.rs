//! HTTPRoute and GRPCRoute to Envoy routes. A service port without a route has one default route to itself; with one, only
//! what its rules match is answered.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::route::v3::{
    Decorator, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
    route_action::ClusterSpecifier, route_match::PathSpecifier,
};
use objects::{Fault, Service};

use super::{
    super::routes::{Attached, Match, Rule},
    Served, ServedService, pack, ports,
};

mod action;
mod filters;
mod matches;
mod path;
mod retry;

pub(in super::super) use matches::needs_prefix;

/// Envoy's limit for bodies of direct responses, which istiod states on default routes.
const MAX_BODY: u32 = 1 << 20;

/// The routes of one waypoint's services.
pub(super) struct Routes<'a> {
    /// By namespace and name of the service, and port.
    by_port: BTreeMap<(&'a str, &'a str, u16), Vec<Route>>,
    /// Services that routes lead to but that this waypoint does not serve.
    pub other_backends: Vec<&'a Service>,
    /// Namespace, name and port of the services that GRPCRoutes lead to.
    called: BTreeSet<(&'a str, &'a str, u16)>,
}

/// One match of one rule, not yet in order.
struct Entry<'r, 'a> {
    rank: matches::Rank,
    rule: &'r Rule<'a>,
    by_port: bool,
    wanted: Match<'a>,
}

impl<'a> Routes<'a> {
    pub fn new(served: &Served<'a>, faults: &mut Vec<Fault>) -> Routes<'a> {
        let mut routes = Routes {
            by_port: BTreeMap::new(),
            other_backends: Vec::new(),
            called: BTreeSet::new(),
        };
        for service in &served.services {
            let (namespace, name) = (service.wds.namespace.as_str(), service.wds.name.as_str());
            for port in ports(service.object) {
                let by_parent = &served.index.routes;
                let attached =
                    by_parent.attached(service.object, &served.waypoint.namespace, port.number);
                if !attached.is_empty() {
                    let list = routes.translate(served, service, port.number, &attached, faults);
                    routes.by_port.insert((namespace, name, port.number), list);
                }
            }
        }
        routes
            .other_backends
            .sort_by_key(|service| (&service.metadata.namespace, &service.metadata.name));
        routes
            .other_backends
            .dedup_by_key(|service| (&service.metadata.namespace, &service.metadata.name));
        routes
    }

    fn translate(
        &mut self,
        served: &Served<'a>,
        service: &ServedService<'a>,
        port: u16,
        attached: &[Attached<'a>],
        faults: &mut Vec<Fault>,
    ) -> Vec<Route> {
        let rules: Vec<(bool, Rule<'a>)> = attached
            .iter()
            .flat_map(|attached| {
                let rules = attached.route.rules().into_iter();
                rules.map(|rule| (attached.by_port, rule))
            })
            .collect();
        let mut entries: Vec<Entry<'_, 'a>> = rules
            .iter()
            .flat_map(|(by_port, rule)| {
                rule.matches.iter().map(|wanted| Entry {
                    rank: matches::rank(*wanted),
                    rule,
                    by_port: *by_port,
                    wanted: *wanted,
                })
            })
            .collect();
        // Stable: what is equally specific keeps the order of age, name and writing.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.rank));
        let mut translation = action::Translation {
            served,
            parent: (service.wds.namespace.as_str(), service.wds.name.as_str()),
            faults,
            other_backends: &mut self.other_backends,
            called: &mut self.called,
        };
        entries
            .iter()
            .map(|entry| translation.route(entry, service, port))
            .collect()
    }

    /// Whether a GRPCRoute leads to this port of a service.
    pub fn leads_calls_to(&self, namespace: &str, name: &str, port: u16) -> bool {
        self.called.contains(&(namespace, name, port))
    }

    /// The route table of a chain.
    pub fn configuration(
        &self,
        service: &ServedService<'_>,
        port: u16,
        chain: &str,
    ) -> RouteConfiguration {
        match self.by_port.get(&(
            service.wds.namespace.as_str(),
            service.wds.name.as_str(),
            port,
        )) {
            Some(routes) => table(chain, port, routes.clone()),
            None => default(
                chain,
                chain,
                &format!("{}:{port}", service.wds.hostname),
                port,
            ),
        }
    }
}

fn table(name: &str, port: u16, routes: Vec<Route>) -> RouteConfiguration {
    let host = VirtualHost {
        name: format!("inbound|http|{port}"),
        domains: vec!["*".into()],
        routes,
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![host],
        validate_clusters: pack::flag(false),
        ..RouteConfiguration::default()
    }
}

/// Everything to one cluster.
#[allow(deprecated, reason = "istiod sends max_grpc_timeout")]
pub(super) fn default(name: &str, cluster: &str, operation: &str, port: u16) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        timeout: pack::seconds(0),
        retry_policy: Some(retry::default()),
        max_grpc_timeout: pack::seconds(0),
        ..RouteAction::default()
    };
    let route = Route {
        name: "default".into(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(action)),
        decorator: Some(decorator(format!("{operation}/*"))),
        ..Route::default()
    };
    RouteConfiguration {
        max_direct_response_body_size_bytes: pack::number(MAX_BODY),
        ..table(name, port, vec![route])
    }
}

fn decorator(operation: String) -> Decorator {
    Decorator {
        operation,
        ..Decorator::default()
    }
}
