//! A second waypoint that takes a share of a service's traffic, as upstream has it. Called by `binding`.

use objects::{Meta, Service};
use proto::workload::WeightedWaypoint;

use super::{
    Index,
    binding::{USE_WAYPOINT, Waypoint},
    routes::Refusal,
};

const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";

/// A canary's namespace and name, and what WDS says of both waypoints.
pub(super) struct Shared {
    pub canary: String,
    pub weighted: Vec<WeightedWaypoint>,
}

/// The shares of `primary` and of the canary that a service (or its namespace, where that names the primary too) names;
/// none without a canary. One that cannot be used leaves everything to the primary.
pub(super) fn of_service(
    index: &Index<'_>,
    service: &Service,
    primary: &Waypoint,
) -> Result<Option<Shared>, Refusal> {
    let meta = &service.metadata;
    let inherits = meta.label(USE_WAYPOINT).is_none();
    let namespace = index.store.namespaces.find("", &meta.namespace);
    let above = namespace
        .map(|object| &object.metadata)
        .filter(|_| inherits);
    let says = |meta: &&Meta| meta.label(CANARY).is_some();
    let Some(speaker) = [Some(meta), above].into_iter().flatten().find(says) else {
        return Ok(None);
    };
    let name = speaker.label(CANARY).unwrap_or_default();
    if matches!(name, "" | "none") {
        return Ok(None);
    }
    let own = speaker.label(CANARY_NAMESPACE).unwrap_or(&meta.namespace);
    let subject = format!("canary waypoint {own}/{name}");
    let refuse = |reason, why: &str| {
        let why = format!("{subject} {why}; all traffic goes through the first waypoint");
        Err(Refusal { reason, why })
    };
    if (own, name) == (primary.namespace.as_str(), primary.name.as_str()) {
        return refuse("CanarySameAsPrimary", "is the waypoint itself");
    }
    let weight = [Some(meta), above]
        .into_iter()
        .flatten()
        .find_map(|meta| meta.annotation(CANARY_WEIGHT));
    let Some(weight) = weight
        .unwrap_or("0")
        .parse()
        .ok()
        .filter(|weight| *weight <= 100)
    else {
        return refuse("CanaryInvalidWeight", "needs a weight from 0 to 100");
    };
    let Some(canary) = index.waypoints.get(&(own, name)) else {
        return refuse("WaypointIsNotReady", "is not there");
    };
    if !canary.admits(index.store, &meta.namespace) {
        let why = format!("does not admit namespace {}", meta.namespace);
        return refuse("AttachmentDenied", &why);
    }
    if !canary.for_services {
        return refuse("UnsupportedTrafficType", "takes no traffic to services");
    }
    let share = |waypoint: &Waypoint, weight| WeightedWaypoint {
        destination: Some(waypoint.address()),
        weight,
    };
    Ok(Some(Shared {
        canary: format!("{own}/{name}"),
        weighted: vec![share(primary, 100 - weight), share(canary, weight)],
    }))
}
