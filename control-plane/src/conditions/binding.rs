//! `istio.io/WaypointBound` of Services, in upstream's reasons; and which waypoint a Service has, for the other
//! conditions that depend on it.

use objects::{Key, Kind, Service};
use proto::workload::{address, gateway_address::Destination};

use super::{ByKey, Condition, Verdict, Wanted};
use crate::translate::{Index, Translation, Waypoint};

/// The condition of a Service.
pub(super) const BOUND: &str = "istio.io/WaypointBound";
const USES_WAYPOINT: &str = "metadata.labels[istio.io/use-waypoint]";
const INGRESS: &str = "istio.io/ingress-use-waypoint";

/// How a Service stands to its waypoint. In every case but the first and the last its traffic goes there or nowhere.
pub(super) enum Binding<'a> {
    /// It has none.
    None,
    /// It names one that is not there (host name).
    Absent(String),
    /// Its waypoint does not admit its namespace.
    Denied(&'a Waypoint),
    /// Its waypoint never had a ready pod.
    NotReady(&'a Waypoint),
    /// All is well.
    Bound(&'a Waypoint),
}

impl Binding<'_> {
    pub fn of<'a>(
        index: &'a Index<'_>,
        translation: &Translation,
        service: &Service,
    ) -> Binding<'a> {
        let meta = &service.metadata;
        let name = format!(
            "{}/{}",
            meta.namespace,
            index.mesh.hostname(&meta.namespace, &meta.name)
        );
        let address = translation
            .addresses
            .get(&name)
            .and_then(|address| address.r#type.as_ref());
        let Some(address::Type::Service(wds)) = address else {
            return Binding::None;
        };
        let Some(Destination::Hostname(host)) =
            wds.waypoint.as_ref().and_then(|to| to.destination.as_ref())
        else {
            return Binding::None;
        };
        let is_it = |w: &&Waypoint| w.namespace == host.namespace && w.hostname == host.hostname;
        let Some(waypoint) = index.waypoints().find(is_it) else {
            return Binding::Absent(host.hostname.clone());
        };
        if !waypoint.admits(index.store, &meta.namespace) {
            return Binding::Denied(waypoint);
        }
        let gateway = index
            .store
            .gateways
            .find(&waypoint.namespace, &waypoint.name);
        // Set with the first ready pod and never withdrawn.
        if gateway.is_none_or(|gateway| gateway.status.addresses.is_empty()) {
            return Binding::NotReady(waypoint);
        }
        Binding::Bound(waypoint)
    }
}

/// The condition of every Service that has one.
pub(super) fn judge<'a>(
    index: &'a Index<'_>,
    translation: &'a Translation,
    faults: &'a ByKey<'_>,
) -> impl Iterator<Item = (Key, Verdict)> + 'a {
    index.store.services.all().filter_map(|service| {
        let meta = &service.metadata;
        let key = Key::new(Kind::Service, &meta.namespace, &meta.name);
        let remarks = faults.remarks(&key, |fault| fault.field.as_deref() == Some(USES_WAYPOINT));
        let condition = condition(&Binding::of(index, translation, service), service, remarks)?;
        let verdict = Verdict {
            // A Service has no generation.
            generation: None,
            wanted: Wanted::Conditions(vec![condition]),
        };
        Some((key, verdict))
    })
}

fn condition(
    binding: &Binding<'_>,
    service: &Service,
    remarks: Option<String>,
) -> Option<Condition> {
    let name = |waypoint: &Waypoint| format!("{}/{}", waypoint.namespace, waypoint.name);
    let bare = |remarks: String| remarks.replace(&format!("{USES_WAYPOINT}: "), "");
    let remarks = remarks.map(bare);
    Some(match binding {
        // What could be meant and is not so; the reasons tell apart what the texts say.
        Binding::None => {
            let why = remarks?;
            let reason = if why.contains("service accounts") {
                "MixedServiceAccounts"
            } else {
                "UnsupportedTrafficType"
            };
            Condition::no(BOUND, reason, why)
        }
        Binding::Absent(host) => {
            let why = remarks.unwrap_or_else(|| {
                format!("waypoint {host} is not there; traffic through it is refused until it is")
            });
            Condition::no(BOUND, "WaypointIsNotReady", why)
        }
        Binding::Denied(waypoint) => Condition::no(
            BOUND,
            "AttachmentDenied",
            format!(
                "waypoint {} does not admit namespace {}, so that traffic through it is refused; change allowedRoutes of \
                 its HBONE listener or use another waypoint",
                name(waypoint),
                service.metadata.namespace
            ),
        ),
        Binding::NotReady(waypoint) => Condition::no(
            BOUND,
            "WaypointIsNotReady",
            format!(
                "waypoint {} had no ready pod yet; traffic through it is refused until it has one",
                name(waypoint)
            ),
        ),
        Binding::Bound(waypoint) => {
            let mut text = format!("Successfully attached to waypoint {}", name(waypoint));
            match service.metadata.label(INGRESS) {
                Some("true") => text.push_str(". Ingress traffic will traverse the waypoint"),
                Some(_) => text.push_str(
                    ". Ingress traffic is not using the waypoint, set the istio.io/ingress-use-waypoint label to true if \
                     desired.",
                ),
                None => {}
            }
            if let Some(remarks) = remarks {
                text.push_str("; ");
                text.push_str(&remarks);
            }
            Condition::yes(BOUND, "WaypointAccepted", text)
        }
    })
}
