//! HTTPRoute to Envoy routes. A service port without an HTTPRoute has one default route to itself; with one, only what
//! its rules match is answered.

use std::{collections::BTreeMap, sync::Arc};

use envoy_types::pb::envoy::config::route::v3::{
    Decorator, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
    route_action::ClusterSpecifier, route_match::PathSpecifier,
};
use objects::{Fault, HttpRoute, Key, Kind, ParentRef, RouteMatch as Wanted, Service};

use super::{Served, ServedService, pack, ports};

mod action;
mod matches;
mod path;
mod retry;

/// Envoy's limit for bodies of direct responses, which istiod states on default routes.
const MAX_BODY: u32 = 1 << 20;

/// The HTTP routes of one waypoint's services.
pub(super) struct Routes<'a> {
    /// By namespace and name of the service, and port.
    by_port: BTreeMap<(&'a str, &'a str, u16), Vec<Route>>,
    /// Services that routes lead to but that this waypoint does not serve.
    pub other_backends: Vec<&'a Service>,
}

/// One match of one rule, not yet in order.
struct Entry<'a> {
    rank: matches::Rank,
    route: &'a HttpRoute,
    rule: usize,
    wanted: Option<&'a Wanted>,
}

impl<'a> Routes<'a> {
    pub fn new(served: &Served<'a>, faults: &mut Vec<Fault>) -> Routes<'a> {
        let mut routes = Routes {
            by_port: BTreeMap::new(),
            other_backends: Vec::new(),
        };
        for service in &served.services {
            let (namespace, name) = (service.wds.namespace.as_str(), service.wds.name.as_str());
            for port in ports(service.object) {
                let attached = attached(served, service.object, port.number);
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
        attached: &[&'a Arc<HttpRoute>],
        faults: &mut Vec<Fault>,
    ) -> Vec<Route> {
        let mut entries = Vec::new();
        for route in attached {
            for (rule, content) in route.spec.rules.iter().enumerate() {
                let wanted: Vec<Option<&Wanted>> = if content.matches.is_empty() {
                    vec![None]
                } else {
                    content.matches.iter().map(Some).collect()
                };
                let entry = |wanted| Entry {
                    rank: matches::rank(wanted),
                    route,
                    rule,
                    wanted,
                };
                entries.extend(wanted.into_iter().map(entry));
            }
        }
        // Stable: what is equally specific keeps the order of age, name and writing.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.rank));
        let mut translation = action::Translation {
            served,
            faults,
            other_backends: &mut self.other_backends,
        };
        entries
            .iter()
            .map(|entry| translation.route(entry, service, port))
            .collect()
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

/// The HTTPRoutes of a service port, oldest first. Routes that name the port go before those that mean all ports, and
/// exclude them, as in the Gateway API's mesh rules.
fn attached<'a>(served: &Served<'a>, service: &Service, port: u16) -> Vec<&'a Arc<HttpRoute>> {
    let meta = &service.metadata;
    let refers = |route: &HttpRoute, parent: &ParentRef| {
        parent.kind.as_deref() == Some("Service")
            && matches!(parent.group.as_deref(), Some("" | "core"))
            && parent
                .namespace
                .as_deref()
                .unwrap_or(&route.metadata.namespace)
                == meta.namespace
            && parent.name == meta.name
    };
    // A route of another namespace would be a consumer's own view, which a shared waypoint cannot have.
    let homes = [&meta.namespace, &served.waypoint.namespace];
    let all = served
        .index
        .store
        .http_routes
        .all()
        .filter(|route| homes.contains(&&route.metadata.namespace));
    let all: Vec<&Arc<HttpRoute>> = all.collect();
    let with = |wanted: Option<u16>| -> Vec<&Arc<HttpRoute>> {
        let hit = |route: &HttpRoute| {
            route
                .spec
                .parent_refs
                .iter()
                .any(|parent| refers(route, parent) && parent.port == wanted)
        };
        all.iter().copied().filter(|route| hit(route)).collect()
    };
    let mut routes = with(Some(port));
    if routes.is_empty() {
        routes = with(None);
    }
    routes.sort_by_key(|route| {
        (
            &route.metadata.creation_timestamp,
            &route.metadata.namespace,
            &route.metadata.name,
        )
    });
    routes
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

fn key(route: &HttpRoute) -> Key {
    Key::new(
        Kind::HttpRoute,
        &route.metadata.namespace,
        &route.metadata.name,
    )
}
