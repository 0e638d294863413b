//! HTTPRoutes and GRPCRoutes in one form: what they attach to and where they lead. Pure; called by `envoy::route`, which
//! makes Envoy's routes of them, and by `verdict`, which says what became of each.

use std::collections::BTreeMap;

use objects::{
    BackendRef, GrpcMatch, GrpcRoute, HttpRoute, Key, Kind, Meta, ParentRef, RouteFilter,
    RouteMatch, RouteRetry, RouteTimeouts, Service,
};

use super::{index::Name, service::is_tcp};
use crate::store::Store;

mod backend;
mod filters;

pub(super) use backend::resolve;
pub(super) use filters::{is_host, of_backend_unsupported, unsupported};

/// Why something that a route asks for is not done: a reason of the Gateway API, and words for its author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One word, for machines.
    pub reason: &'static str,
    /// A sentence without its end.
    pub why: String,
}

/// A route of either kind.
#[derive(Clone, Copy)]
pub(super) enum AnyRoute<'a> {
    Http(&'a HttpRoute),
    Grpc(&'a GrpcRoute),
}

/// One rule of a route.
pub(super) struct Rule<'a> {
    pub route: AnyRoute<'a>,
    /// Its place among the route's rules.
    pub number: usize,
    pub name: Option<&'a str>,
    /// At least one.
    pub matches: Vec<Match<'a>>,
    pub filters: &'a [RouteFilter],
    pub backends: &'a [BackendRef],
    pub timeouts: Option<&'a RouteTimeouts>,
    pub retry: Option<&'a RouteRetry>,
}

/// What a request must look like.
#[derive(Clone, Copy)]
pub(super) enum Match<'a> {
    Http(&'a RouteMatch),
    Grpc(&'a GrpcMatch),
}

impl<'a> AnyRoute<'a> {
    /// All routes.
    pub fn all(store: &'a Store) -> impl Iterator<Item = AnyRoute<'a>> {
        let http = store.http_routes.all().map(|route| AnyRoute::Http(route));
        let grpc = store.grpc_routes.all().map(|route| AnyRoute::Grpc(route));
        http.chain(grpc)
    }

    pub fn kind(self) -> Kind {
        match self {
            AnyRoute::Http(_) => Kind::HttpRoute,
            AnyRoute::Grpc(_) => Kind::GrpcRoute,
        }
    }

    pub fn meta(self) -> &'a Meta {
        match self {
            AnyRoute::Http(route) => &route.metadata,
            AnyRoute::Grpc(route) => &route.metadata,
        }
    }

    pub fn key(self) -> Key {
        let meta = self.meta();
        Key::new(self.kind(), &meta.namespace, &meta.name)
    }

    pub fn is_grpc(self) -> bool {
        matches!(self, AnyRoute::Grpc(_))
    }

    pub fn parents(self) -> &'a [ParentRef] {
        match self {
            AnyRoute::Http(route) => &route.spec.parent_refs,
            AnyRoute::Grpc(route) => &route.spec.parent_refs,
        }
    }

    pub fn rules(self) -> Vec<Rule<'a>> {
        match self {
            AnyRoute::Http(route) => {
                let rules = route.spec.rules.iter().enumerate();
                rules
                    .map(|(number, rule)| Rule {
                        route: self,
                        number,
                        name: rule.name.as_deref(),
                        matches: or(rule.matches.iter().map(Match::Http), Match::Http(&ANY)),
                        filters: &rule.filters,
                        backends: &rule.backend_refs,
                        timeouts: rule.timeouts.as_ref(),
                        retry: rule.retry.as_ref(),
                    })
                    .collect()
            }
            AnyRoute::Grpc(route) => {
                let rules = route.spec.rules.iter().enumerate();
                rules
                    .map(|(number, rule)| Rule {
                        route: self,
                        number,
                        name: rule.name.as_deref(),
                        matches: or(rule.matches.iter().map(Match::Grpc), Match::Grpc(&ANY_CALL)),
                        filters: &rule.filters,
                        backends: &rule.backend_refs,
                        timeouts: None,
                        retry: None,
                    })
                    .collect()
            }
        }
    }

    /// Namespace and name of the Service that a parentRef of this route names, if it names one.
    pub fn service_of(self, parent: &'a ParentRef) -> Option<Name<'a>> {
        let service = parent.kind.as_deref() == Some("Service")
            && matches!(parent.group.as_deref(), Some("" | "core"));
        let namespace = parent.namespace.as_deref();
        service.then(|| {
            (
                namespace.unwrap_or(&self.meta().namespace),
                parent.name.as_str(),
            )
        })
    }
}

/// The match of a rule that has none: every request.
static ANY: RouteMatch = RouteMatch {
    path: None,
    headers: Vec::new(),
    query_params: Vec::new(),
    method: None,
};
static ANY_CALL: GrpcMatch = GrpcMatch {
    method: None,
    headers: Vec::new(),
};

fn or<'a>(matches: impl Iterator<Item = Match<'a>>, otherwise: Match<'a>) -> Vec<Match<'a>> {
    let matches: Vec<Match<'a>> = matches.collect();
    if matches.is_empty() {
        vec![otherwise]
    } else {
        matches
    }
}

/// A route that is attached to a port of a service.
#[derive(Clone, Copy)]
pub(super) struct Attached<'a> {
    pub route: AnyRoute<'a>,
    /// It names this port by number.
    pub by_port: bool,
}

/// Routes by the services that they name as parents, oldest first.
pub(crate) struct ByParent<'a>(BTreeMap<Name<'a>, Vec<AnyRoute<'a>>>);

impl<'a> ByParent<'a> {
    pub(crate) fn new(store: &'a Store) -> ByParent<'a> {
        let mut by_parent = BTreeMap::<Name<'a>, Vec<AnyRoute<'a>>>::new();
        let mut all: Vec<AnyRoute<'a>> = AnyRoute::all(store).collect();
        all.sort_by_key(|route| {
            let meta = route.meta();
            (&meta.creation_timestamp, &meta.namespace, &meta.name)
        });
        for route in all {
            let mut parents: Vec<Name<'a>> = route
                .parents()
                .iter()
                .filter_map(|parent| route.service_of(parent))
                .collect();
            parents.sort_unstable();
            parents.dedup();
            for parent in parents {
                by_parent.entry(parent).or_default().push(route);
            }
        }
        ByParent(by_parent)
    }

    /// The routes of a service port, oldest first; `waypoint` is the namespace of the service's waypoint. All that
    /// take in the port count, whether they name it or not. Where GRPCRoutes do, HTTPRoutes do not count (the Gateway
    /// API's order of route types).
    pub(super) fn attached(
        &self,
        service: &Service,
        waypoint: &str,
        port: u16,
    ) -> Vec<Attached<'a>> {
        let meta = &service.metadata;
        let name = (meta.namespace.as_str(), meta.name.as_str());
        let routes = self.0.get(&name).map_or(&[][..], Vec::as_slice);
        let mut attached: Vec<Attached<'a>> = routes
            .iter()
            .filter(|route| is_at_home(route.meta(), service, waypoint))
            .filter_map(|route| {
                let parents = route.parents().iter();
                let mut taken = parents
                    .filter(|parent| route.service_of(parent) == Some(name))
                    .filter(|parent| takes(parent, service, port))
                    .peekable();
                taken.peek()?;
                let by_port = taken.any(|parent| parent.port.is_some());
                Some(Attached {
                    route: *route,
                    by_port,
                })
            })
            .collect();
        if attached.iter().any(|attached| attached.route.is_grpc()) {
            attached.retain(|attached| attached.route.is_grpc());
        }
        attached
    }
}

/// Whether a route may speak for a service at its waypoint. A route of another namespace would be a consumer's own view,
/// which a shared waypoint cannot have.
pub(super) fn is_at_home(route: &Meta, service: &Service, waypoint: &str) -> bool {
    route.namespace == service.metadata.namespace || route.namespace == waypoint
}

/// Whether a parentRef takes in a port of its service: by number, by name (`sectionName`), or all of them.
pub(super) fn takes(parent: &ParentRef, service: &Service, port: u16) -> bool {
    let named = |name: &str| {
        let mut ports = service.spec.ports.iter();
        ports.any(|one| one.port == port && is_tcp(&one.protocol) && one.name == name)
    };
    parent.port.is_none_or(|wanted| wanted == port)
        && parent.section_name.as_deref().is_none_or(named)
}
