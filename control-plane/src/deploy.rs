//! Waypoints for Gateways: which objects each one needs (pure: `gateway`, `template`, `overlay`, `plan`, `status`) and
//! the loop that keeps them so (`run`, `settle`). Runs in the elected replica only; started by `app`.
//!
//! A Gateway is ours if its GatewayClass names our controller. That field cannot be changed once a class is made, so
//! there is never a doubt whether we or an istiod keeps a waypoint, and the two never write the same Deployment.

mod gateway;
mod overlay;
mod plan;
mod run;
mod settings;
mod settle;
mod status;
mod template;

pub use run::run;
pub use settings::{Settings, Values};

/// Our name as an owner of fields.
pub const FIELD_MANAGER: &str = "causeway-control-plane";
/// The class that is ours.
pub const CLASS: &str = "causeway-waypoint";
/// The class of upstream, ours only when claimed.
pub const ISTIO_CLASS: &str = "istio-waypoint";

/// The objects that a waypoint is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Whom its pods run as.
    ServiceAccount,
    /// Its pods.
    Deployment,
    /// Where it is reached.
    Service,
    /// Only if an overlay asks for it.
    Autoscaler,
    /// Only if an overlay asks for it.
    Budget,
}

impl Part {
    /// All, in the order in which they are made.
    pub const ALL: [Part; 5] = [
        Part::ServiceAccount,
        Part::Deployment,
        Part::Service,
        Part::Autoscaler,
        Part::Budget,
    ];

    /// API group, version, kind and plural.
    #[must_use]
    pub fn resource(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Part::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Part::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Part::Service => ("", "v1", "Service", "services"),
            Part::Autoscaler => (
                "autoscaling",
                "v2",
                "HorizontalPodAutoscaler",
                "horizontalpodautoscalers",
            ),
            Part::Budget => (
                "policy",
                "v1",
                "PodDisruptionBudget",
                "poddisruptionbudgets",
            ),
        }
    }

    /// Its key in an overlay.
    #[must_use]
    pub fn overlay_key(self) -> &'static str {
        match self {
            Part::ServiceAccount => "serviceAccount",
            Part::Deployment => "deployment",
            Part::Service => "service",
            Part::Autoscaler => "horizontalPodAutoscaler",
            Part::Budget => "podDisruptionBudget",
        }
    }

    /// Whether it exists only if an overlay asks for it.
    #[must_use]
    pub fn is_optional(self) -> bool {
        matches!(self, Part::Autoscaler | Part::Budget)
    }
}

#[cfg(test)]
mod tests;
