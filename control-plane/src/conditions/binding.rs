//! `istio.io/WaypointBound` of Services: what the translation says of the binding, and whether the waypoint that is
//! bound ever had a ready pod.

use objects::{Key, Kind, Service};

use super::{Condition, Verdict, Wanted};
use crate::translate::{Index, Translation, Waypoint, envoy, verdict};

/// The condition of a Service.
pub(super) const BOUND: &str = "istio.io/WaypointBound";

/// The waypoint that serves a Service, and whether it ever had a ready pod: its Gateway has addresses from then on.
pub(super) fn of<'a>(
    index: &'a Index<'_>,
    translation: &Translation,
    service: &Service,
) -> Option<(&'a Waypoint, bool)> {
    let waypoint = envoy::waypoint_of(index, translation, service)?;
    let gateway = index
        .store
        .gateways
        .find(&waypoint.namespace, &waypoint.name);
    let ready = gateway.is_some_and(|gateway| !gateway.status.addresses.is_empty());
    Some((waypoint, ready))
}

/// The condition of every Service that has one.
pub(super) fn judge<'a>(
    index: &'a Index<'_>,
    translation: &'a Translation,
) -> impl Iterator<Item = (Key, Verdict)> + 'a {
    index.store.services.all().filter_map(|service| {
        let told = verdict::of_service(index, service)?;
        let condition = match of(index, translation, service) {
            Some((waypoint, false)) if told.status => Condition::no(
                BOUND,
                "WaypointIsNotReady",
                format!(
                    "waypoint {}/{} had no ready pod yet; traffic through it is refused until it has one",
                    waypoint.namespace, waypoint.name
                ),
            ),
            _ => told.into(),
        };
        let verdict = Verdict {
            // A Service has no generation.
            generation: None,
            wanted: Wanted::Conditions(vec![condition]),
        };
        let meta = &service.metadata;
        Some((
            Key::new(Kind::Service, &meta.namespace, &meta.name),
            verdict,
        ))
    })
}
