//! Where a backend reference leads, or why it leads nowhere.

use objects::{BackendRef, GrantFrom, GrantTo, Service};

use super::{
    super::{Index, index::Name, service::is_tcp},
    AnyRoute, Refusal,
};

/// The API group of routes, by which a grant names them.
const GROUP: &str = "gateway.networking.k8s.io";

/// The service and port of a backend. `parent` is the service whose traffic the route speaks for here; none where the route
/// is not accepted.
pub(in super::super) fn resolve<'a>(
    index: &Index<'a>,
    route: AnyRoute<'_>,
    backend: &BackendRef,
    parent: Option<Name<'_>>,
) -> Result<(&'a Service, u16), Refusal> {
    let refuse = |reason, why: String| Err(Refusal { reason, why });
    let kind = backend.kind.as_deref().unwrap_or("Service");
    let group = backend.group.as_deref().unwrap_or_default();
    if kind != "Service" || !matches!(group, "" | "core") {
        return refuse("InvalidKind", format!("kind {kind} is not supported"));
    }
    let own = route.meta().namespace.as_str();
    let namespace = backend.namespace.as_deref().unwrap_or(own);
    // First of all: whether there is such a service is nobody's business without a grant.
    let named = (namespace, backend.name.as_str());
    if namespace != own && parent != Some(named) && !is_granted(index, route, named) {
        let why = format!("no ReferenceGrant in namespace {namespace} allows this reference");
        return refuse("RefNotPermitted", why);
    }
    let Some(service) = index.store.services.find(namespace, &backend.name) else {
        return refuse("BackendNotFound", "there is no such Service".into());
    };
    if service.spec.r#type == "ExternalName" {
        return refuse(
            "InvalidKind",
            "a Service of type ExternalName is no backend".into(),
        );
    }
    let wanted = backend.port.unwrap_or_default();
    let mut ports = service.spec.ports.iter();
    if !ports.any(|port| port.port == wanted && is_tcp(&port.protocol)) {
        return refuse("BackendNotFound", format!("it has no port {wanted}"));
    }
    Ok((service, wanted))
}

/// Whether a route may lead to a service of another namespace. A waypoint speaks there in its own name and not in its
/// client's, so the owner of that namespace is asked. The service whose traffic it is needs no word: it was on its way there.
/// That the route names a service as another of its parents says nothing: whoever writes a route may name any.
fn is_granted(index: &Index<'_>, route: AnyRoute<'_>, (namespace, name): Name<'_>) -> bool {
    let from = |from: &GrantFrom| {
        from.group == GROUP
            && from.kind == route.kind().name()
            && from.namespace == route.meta().namespace
    };
    let to = |to: &GrantTo| {
        matches!(to.group.as_str(), "" | "core")
            && to.kind == "Service"
            && to
                .name
                .as_deref()
                .is_none_or(|only| only.is_empty() || only == name)
    };
    let mut grants = index.store.reference_grants.of(namespace);
    grants.any(|grant| grant.spec.from.iter().any(from) && grant.spec.to.iter().any(to))
}
