//! `WaypointAccepted` and `ZtunnelAccepted` of AuthorizationPolicies, in upstream's reasons. One with targets is for
//! waypoints, one without for ztunnels.

use objects::{AuthorizationPolicy, Key, Kind, PolicyAction, TargetRef};

use super::{ByKey, Condition, Verdict, Wanted, binding};
use crate::translate::{Index, Translation};

/// The condition of a policy that waypoints enforce.
pub(super) const WAYPOINT: &str = "WaypointAccepted";
/// The condition of a policy that ztunnels enforce.
pub(super) const ZTUNNEL: &str = "ZtunnelAccepted";

/// What became of one target.
struct Outcome {
    bound: bool,
    reason: &'static str,
    message: String,
    target: String,
}

pub(super) fn judge<'a>(
    index: &'a Index<'_>,
    translation: &'a Translation,
    faults: &'a ByKey<'_>,
) -> impl Iterator<Item = (Key, Verdict)> + 'a {
    index
        .store
        .authorization_policies
        .all()
        .filter(|policy| policy.invalid.is_none())
        .map(move |policy| {
            let meta = &policy.metadata;
            let key = Key::new(Kind::AuthorizationPolicy, &meta.namespace, &meta.name);
            let condition = if policy.spec.targets().next().is_some() {
                at_waypoints(
                    index,
                    translation,
                    policy,
                    faults.remarks(&key, |fault| !is_about_target(fault.field.as_deref())),
                )
            } else {
                at_ztunnels(policy, faults.remarks(&key, |_| true))
            };
            let verdict = Verdict {
                generation: meta.generation,
                wanted: Wanted::Conditions(vec![condition]),
            };
            (key, verdict)
        })
}

/// A target that leads nowhere is told in our own words here.
fn is_about_target(field: Option<&str>) -> bool {
    field.is_some_and(|field| field.starts_with("spec.targetRefs["))
}

fn at_ztunnels(policy: &AuthorizationPolicy, remarks: Option<String>) -> Condition {
    let idle = policy.spec.action == PolicyAction::Audit
        || policy.metadata.annotation("istio.io/dry-run") == Some("true");
    match (idle, remarks) {
        (true, remarks) => Condition::no(
            ZTUNNEL,
            "UnsupportedValue",
            remarks.unwrap_or_else(|| "this policy decides nothing at ztunnels".into()),
        ),
        (false, Some(remarks)) => Condition::yes(ZTUNNEL, "UnsupportedValue", remarks),
        (false, None) => Condition::yes(ZTUNNEL, "Accepted", "attached to ztunnel"),
    }
}

fn at_waypoints(
    index: &Index<'_>,
    translation: &Translation,
    policy: &AuthorizationPolicy,
    remarks: Option<String>,
) -> Condition {
    let targets = policy.spec.targets();
    let outcomes: Vec<Outcome> = targets
        .map(|target| outcome(index, translation, &policy.metadata.namespace, target))
        .collect();
    let (good, bad): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.bound);
    let join = |list: &[&Outcome], text: fn(&Outcome) -> String| {
        list.iter()
            .map(|one| text(one))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let with = |text: String| match &remarks {
        Some(remarks) => format!("{text}; {remarks}"),
        None => text,
    };
    match (good.as_slice(), bad.as_slice()) {
        (good, []) => {
            let reason = if remarks.is_some() {
                "UnsupportedValue"
            } else {
                "Accepted"
            };
            Condition::yes(
                WAYPOINT,
                reason,
                with(join(good, |one| one.message.clone())),
            )
        }
        ([], [one]) => Condition::no(WAYPOINT, one.reason, with(one.message.clone())),
        ([], bad) => Condition::no(WAYPOINT, "Invalid", with(join(bad, why))),
        (_, bad) => Condition::yes(
            WAYPOINT,
            "PartiallyInvalid",
            with(format!("Invalid targetRefs: {}", join(bad, why))),
        ),
    }
}

fn why(outcome: &Outcome) -> String {
    format!("{}: {}", outcome.target, outcome.message)
}

fn outcome(
    index: &Index<'_>,
    translation: &Translation,
    namespace: &str,
    target: &TargetRef,
) -> Outcome {
    let group = if target.group.is_empty() {
        "core"
    } else {
        &target.group
    };
    let (bound, reason, message) = judge_target(index, translation, namespace, target);
    Outcome {
        bound,
        reason,
        message,
        target: format!("{}.{group}:{namespace}/{}", target.kind, target.name),
    }
}

fn judge_target(
    index: &Index<'_>,
    translation: &Translation,
    namespace: &str,
    target: &TargetRef,
) -> (bool, &'static str, String) {
    let name = target.name.as_str();
    let accepted = |to: String| (true, "Accepted", format!("bound to {to}"));
    let lost = |what: &str| {
        (
            false,
            "TargetNotFound",
            format!("{what} {namespace}/{name} was not found"),
        )
    };
    match target.kind.as_str() {
        "GatewayClass" if namespace != index.mesh.root_namespace => (
            false,
            "Invalid",
            format!(
                "AuthorizationPolicy must be in the root namespace `{}` when referencing a GatewayClass",
                index.mesh.root_namespace
            ),
        ),
        "GatewayClass" if index.store.gateway_classes.find("", name).is_none() => (
            false,
            "TargetNotFound",
            format!("GatewayClass {name} was not found"),
        ),
        "GatewayClass" => accepted(name.to_owned()),
        "Gateway" => match index
            .waypoints()
            .find(|w| w.namespace == namespace && w.name == name)
        {
            Some(waypoint) => accepted(format!("{}/{}", waypoint.namespace, waypoint.name)),
            None if index.store.gateways.find(namespace, name).is_some() => (
                false,
                "Invalid",
                format!("Gateway {namespace}/{name} is no waypoint"),
            ),
            None => lost("Gateway"),
        },
        "Service" => match index.store.services.find(namespace, name) {
            None => lost("Service"),
            Some(service) => match binding::of(index, translation, service) {
                Some((waypoint, true)) => {
                    accepted(format!("{}/{}", waypoint.namespace, waypoint.name))
                }
                _ => (
                    false,
                    "AncestorNotBound",
                    format!("Service {namespace}/{name} is not bound to a waypoint"),
                ),
            },
        },
        other => (
            false,
            "TargetNotFound",
            format!("{other} {namespace}/{name}: this kind of target is not supported"),
        ),
    }
}
