//! What became of the objects that ask a waypoint for something, in words for their status: routes by the Service that they
//! name as parent, and Services by the waypoint that they name. Pure; asked by whoever writes status.

use objects::{BackendRef, Key, ParentRef, Service};

use super::{
    Index, Translation, binding, envoy,
    index::Name,
    routes::{self, AnyRoute, Refusal, Rule},
    service::is_tcp,
};

/// A condition as Kubernetes has them, without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Type, for example `Accepted`.
    pub r#type: &'static str,
    /// `True` or `False`.
    pub status: bool,
    /// One word, for machines.
    pub reason: &'static str,
    /// What is so, and what would help.
    pub message: String,
}

/// What became of a route at one of its parents.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentVerdict {
    /// The reference as it stands in the route.
    pub parent: ParentRef,
    /// `Accepted`, `ResolvedRefs`, Istio's `ResolvedWaypoints`, and `PartiallyInvalid` where a rule cannot be carried out.
    pub conditions: Vec<Condition>,
}

/// What became of a route. Parents that are no Services are the business of others and are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteVerdict {
    /// The HTTPRoute or GRPCRoute.
    pub route: Key,
    /// In the route's order.
    pub parents: Vec<ParentVerdict>,
}

/// All routes that name a Service as parent.
#[must_use]
pub fn of_routes(index: &Index<'_>, translation: &Translation) -> Vec<RouteVerdict> {
    AnyRoute::all(index.store)
        .filter_map(|route| {
            let parents = route.parents().iter();
            let verdicts: Vec<ParentVerdict> = parents
                .filter_map(|parent| of_parent(index, translation, route, parent))
                .collect();
            (!verdicts.is_empty()).then(|| RouteVerdict {
                route: route.key(),
                parents: verdicts,
            })
        })
        .collect()
}

/// `istio.io/WaypointBound` of a Service; none if nothing names a waypoint for it.
#[must_use]
pub fn of_service(index: &Index<'_>, service: &Service) -> Option<Condition> {
    let binding = binding::of_service(index, service);
    let named = |reason, status, message| Condition {
        r#type: "istio.io/WaypointBound",
        status,
        reason,
        message,
    };
    // What goes wrong beside a waypoint that is used is told with it.
    let beside = |problem: &Refusal| {
        let canary = problem.why.starts_with("canary ");
        problem.reason == "ServiceAccountsDiffer" || canary
    };
    match (
        &binding.waypoint,
        binding.problems.iter().find(|problem| !beside(problem)),
    ) {
        (_, Some(problem)) => Some(named(problem.reason, false, problem.why.clone())),
        (Some(waypoint), None) => {
            let mut message = format!("Successfully attached to waypoint {waypoint}");
            for problem in &binding.problems {
                message = format!("{message}. {}", problem.why);
            }
            Some(named("WaypointAccepted", true, message))
        }
        (None, None) => {
            let problem = binding.problems.first()?;
            Some(named(problem.reason, false, problem.why.clone()))
        }
    }
}

fn of_parent(
    index: &Index<'_>,
    translation: &Translation,
    route: AnyRoute<'_>,
    parent: &ParentRef,
) -> Option<ParentVerdict> {
    let (namespace, name) = route.service_of(parent)?;
    let service = index.store.services.find(namespace, name);
    let waypoint = service
        .and_then(|service| envoy::waypoint_of(index, translation, service))
        .map(|waypoint| (waypoint.namespace.as_str(), waypoint.name.as_str()));
    let accepted = match service {
        None => refuse(
            "NoMatchingParent",
            format!("there is no Service {namespace}/{name}"),
        ),
        Some(service) => accept(
            index,
            route,
            parent,
            (service, waypoint.map_or("", |(ns, _)| ns)),
        ),
    };
    let no_waypoint = || Refusal {
        reason: "MissingUseWaypointLabel",
        why: format!(
            "no waypoint serves Service {namespace}/{name}: the route has no effect until the Service, its service \
             account or its namespace names one (label istio.io/use-waypoint)"
        ),
    };
    let bound = waypoint.ok_or_else(no_waypoint);
    let undone = undone(route);
    let accepted = match &undone {
        Some(Undone { text, all: true }) => {
            accepted.and_then(|()| refuse("UnsupportedValue", text))
        }
        _ => accepted,
    };
    let parent_of = accepted.is_ok().then_some((namespace, name));
    let mut conditions = vec![
        condition("Accepted", accepted, "Route was valid".into()),
        condition(
            "ResolvedRefs",
            references(index, route, parent_of),
            "All references resolved".into(),
        ),
        condition(
            "ResolvedWaypoints",
            bound.map(drop),
            "All waypoints resolved".into(),
        ),
    ];
    let in_part = undone.filter(|undone| !undone.all);
    conditions.extend(in_part.map(|Undone { text, .. }| Condition {
        r#type: "PartiallyInvalid",
        status: true,
        reason: "UnsupportedValue",
        message: format!("Dropped Rule: {text}"),
    }));
    Some(ParentVerdict {
        parent: parent.clone(),
        conditions,
    })
}

fn condition(r#type: &'static str, verdict: Result<(), Refusal>, good: String) -> Condition {
    let (status, reason, message) = match verdict {
        Ok(()) => (true, r#type, good),
        Err(Refusal { reason, why }) => (false, reason, why),
    };
    Condition {
        r#type,
        status,
        reason,
        message,
    }
}

fn refuse(reason: &'static str, why: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal {
        reason,
        why: why.into(),
    })
}

/// Whether a route is attached to a service.
fn accept(
    index: &Index<'_>,
    route: AnyRoute<'_>,
    parent: &ParentRef,
    (service, waypoint): (&Service, &str),
) -> Result<(), Refusal> {
    let meta = &service.metadata;
    let subject = format!("Service {}/{}", meta.namespace, meta.name);
    if service.spec.r#type == "ExternalName" || service.spec.addresses().is_empty() {
        let why = format!("{subject} has no address of its own by which its traffic could be told");
        return refuse("NoMatchingParent", why);
    }
    let ports = service
        .spec
        .ports
        .iter()
        .filter(|port| is_tcp(&port.protocol));
    let taken: Vec<u16> = ports
        .map(|port| port.port)
        .filter(|port| routes::takes(parent, service, *port))
        .collect();
    if taken.is_empty() {
        let why = match (parent.port, &parent.section_name) {
            (Some(port), None) => format!("{subject} has no port {port}"),
            (None, Some(name)) => format!("{subject} has no port that is called {name}"),
            _ => format!("{subject} has no such port"),
        };
        return refuse("NoMatchingParent", why);
    }
    if !routes::is_at_home(route.meta(), service, waypoint) {
        let why = format!(
            "{subject} is in another namespace, and routes for the clients of one namespace only are not supported: all \
             clients share the waypoint; put the route into namespace {}",
            meta.namespace
        );
        return refuse("NotAllowedByListeners", why);
    }
    let counts = |port: &u16| {
        let attached = index.routes.attached(service, waypoint, *port);
        attached
            .iter()
            .any(|attached| attached.route.key() == route.key())
    };
    if taken.iter().any(counts) {
        Ok(())
    } else {
        refuse(
            "Conflicted",
            format!("a GRPCRoute is attached to {subject}, and goes before HTTPRoutes"),
        )
    }
}

/// Whether all that rules refer to is there and may be referred to. A backend of weight 0 is not asked for anything.
fn references(
    index: &Index<'_>,
    route: AnyRoute<'_>,
    parent: Option<Name<'_>>,
) -> Result<(), Refusal> {
    let mut first: Option<Refusal> = None;
    for rule in route.rules() {
        for backend in backends(&rule) {
            let Err(refusal) = routes::resolve(index, route, backend, parent) else {
                continue;
            };
            let why = format!(
                "spec.rules[{}]: backend {}: {}",
                rule.number, backend.name, refusal.why
            );
            match &mut first {
                None => first = Some(Refusal { why, ..refusal }),
                Some(first) if !first.why.contains(&why) => {
                    first.why = format!("{}; {why}", first.why)
                }
                Some(_) => {}
            }
        }
    }
    first.map_or(Ok(()), Err)
}

fn backends<'a>(rule: &Rule<'a>) -> impl Iterator<Item = &'a BackendRef> {
    let weighted = rule
        .backends
        .iter()
        .filter(|backend| backend.weight.unwrap_or(1) > 0);
    let mirrors = rule
        .filters
        .iter()
        .filter_map(|filter| filter.request_mirror.as_ref());
    weighted.chain(mirrors.map(|mirror| &mirror.backend_ref))
}

/// What of the rules cannot be carried out.
struct Undone {
    text: String,
    /// No rule has anything that can be carried out.
    all: bool,
}

/// What of the rules cannot be carried out and is answered with an error.
fn undone(route: AnyRoute<'_>) -> Option<Undone> {
    let (mut texts, mut all) = (Vec::new(), true);
    for rule in route.rules() {
        let mut undone: Vec<String> = routes::unsupported(rule.filters)
            .map(|filter| format!("filter {filter} is not supported"))
            .into_iter()
            .collect();
        let of_backends = rule.backends.iter().filter_map(|backend| {
            let filter = routes::of_backend_unsupported(&backend.filters)?;
            Some(format!(
                "backend {}: filter {filter} is not supported there",
                backend.name
            ))
        });
        let of_backends: Vec<String> = of_backends.collect();
        // One good backend of several is asked.
        let some_backend = of_backends.len() < rule.backends.len().max(1);
        let whole_before = !undone.is_empty();
        undone.extend(of_backends);
        let prefix = rule
            .filters
            .iter()
            .filter_map(|filter| filter.url_rewrite.as_ref())
            .any(|rewrite| {
                rewrite
                    .path
                    .as_ref()
                    .is_some_and(|path| path.r#type == "ReplacePrefixMatch")
            });
        if prefix
            && rule
                .matches
                .iter()
                .any(|wanted| envoy::needs_prefix(*wanted))
        {
            undone.push("ReplacePrefixMatch needs a PathPrefix match".into());
        }
        let no_match_is_left = prefix
            && rule
                .matches
                .iter()
                .all(|wanted| envoy::needs_prefix(*wanted));
        all &= whole_before || !some_backend || no_match_is_left;
        let number = rule.number;
        texts.extend(
            undone
                .into_iter()
                .map(|text| format!("spec.rules[{number}]: {text}")),
        );
    }
    let text = format!("requests are answered with an error. {}", texts.join("; "));
    (!texts.is_empty()).then_some(Undone { text, all })
}
