//! From what a waypoint should be made of and what there is to the next writes. Pure.

use serde_json::Value;

use super::{
    Part,
    gateway::{GATEWAY_NAME, Gateway},
    template::RENDERED,
};

/// Mark of a Deployment that was stopped, so that it differs from whatever may be rendered.
pub(super) const STOPPED: &str = "stopped";

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Server-side apply.
    Apply(Part, Value),
    /// Delete by name.
    Delete(Part, String),
    /// Let a Deployment have no pods: there is no right to delete one.
    Stop(String),
}

/// An object that we would have to take from somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// For people.
    pub why: String,
}

/// The writes that lead to `wanted`. `found` answers with the object of that name, if there is one.
///
/// # Errors
/// An object of a name that we need belongs to somebody else: nothing is written then.
pub(super) fn plan(
    gateway: &Gateway,
    wanted: Vec<(Part, Value)>,
    found: impl Fn(Part, &str) -> Option<Value>,
) -> Result<Vec<Step>, Taken> {
    let mut steps = Vec::new();
    for part in Part::ALL {
        let Some((_, object)) = wanted.iter().find(|(other, _)| *other == part) else {
            let name = gateway.deployment();
            // Only what carries our mark: whoever made one by hand keeps it.
            if found(part, name).is_some_and(|old| belongs(&old, gateway) && is_rendered(&old)) {
                steps.push(Step::Delete(part, name.to_owned()));
            }
            continue;
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match found(part, name) {
            None => steps.push(Step::Apply(part, object.clone())),
            Some(old) if belongs(&old, gateway) => {
                if !holds(object, &old) {
                    steps.push(Step::Apply(part, again(object, &old)));
                }
            }
            // An account that somebody made beforehand is used as it is; what it may do is theirs to say.
            Some(_) if part == Part::ServiceAccount => {}
            Some(_) => {
                return Err(Taken {
                    why: taken(part, name, gateway),
                });
            }
        }
    }
    Ok(steps)
}

/// What is written over what stands there: a Deployment that was stopped under this name has pods again.
fn again(wanted: &Value, old: &Value) -> Value {
    let mut wanted = wanted.clone();
    if old["metadata"]["annotations"][RENDERED] == STOPPED && wanted["spec"]["replicas"].is_null() {
        wanted["spec"]["replicas"] = 1.into();
    }
    wanted
}

/// What is left of a Gateway under another name, which an annotation gave it or has taken from it. Its pods would go on serving
/// as the waypoint, as an account that may be another. They end once the present Deployment has a pod that is available.
pub(super) fn leftovers<'v>(
    gateway: &Gateway,
    all: impl Iterator<Item = (Part, &'v Value)>,
) -> Vec<Step> {
    let name = |object: &Value| {
        object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let present = gateway.deployment();
    let all: Vec<(Part, &Value)> = all.collect();
    let mut deployments = all.iter().filter(|(part, _)| *part == Part::Deployment);
    let serves = deployments.any(|(_, object)| {
        let available = object["status"]["availableReplicas"].as_i64();
        name(object) == present && available.is_some_and(|count| count > 0)
    });
    if !serves {
        return Vec::new();
    }
    let old = all.into_iter().filter(|(_, object)| {
        name(object) != present && belongs(object, gateway) && is_rendered(object)
    });
    old.filter_map(|(part, object)| match part {
        Part::Deployment if object["spec"]["replicas"] != 0 => Some(Step::Stop(name(object))),
        Part::Autoscaler | Part::Budget => Some(Step::Delete(part, name(object))),
        // They change nothing: the Service leads to the pods that there are, and nothing runs as the account.
        Part::Deployment | Part::Service | Part::ServiceAccount => None,
    })
    .collect()
}

fn taken(part: Part, name: &str, gateway: &Gateway) -> String {
    let (_, _, kind, _) = part.resource();
    format!(
        "{kind} {}/{name} is there already and does not belong to this Gateway: give the Gateway another name, or set its \
         annotation gateway.istio.io/name-override, or delete that {kind}",
        gateway.namespace
    )
}

/// Whether an object is part of this Gateway. One of an earlier Gateway of this name counts: it goes with that one or
/// becomes ours.
pub(super) fn belongs(object: &Value, gateway: &Gateway) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let owned = owners.is_some_and(|owners| {
        owners
            .iter()
            .any(|owner| owner["kind"] == "Gateway" && owner["name"] == gateway.name.as_str())
    });
    owned && object["metadata"]["labels"][GATEWAY_NAME] == gateway.name.as_str()
}

fn is_rendered(object: &Value) -> bool {
    !object["metadata"]["annotations"][RENDERED].is_null()
}

/// Whether everything that we want stands there. More may stand there (defaults, what others added). That nothing of an
/// older render is left is told by the mark, which is part of what we want.
pub(super) fn holds(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().all(|(key, value)| {
            found.get(key).is_some_and(|found| holds(value, found)) || is_nothing(value)
        }),
        // Whatever the order and whatever else is in the list: one item of the same name holds it.
        (Value::Array(wanted), Value::Array(found)) => wanted
            .iter()
            .all(|item| found.iter().any(|found| holds(item, found))),
        (Value::String(wanted), Value::String(found)) => {
            wanted == found || is_same_quantity(wanted, found)
        }
        _ => wanted == found,
    }
}

/// The API server leaves out empty maps and lists.
fn is_nothing(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

/// `1000m` is written back as `1`; other spellings are rare enough to be applied again.
fn is_same_quantity(wanted: &str, found: &str) -> bool {
    let millis = |text: &str| match text.strip_suffix('m') {
        Some(millis) => millis.parse::<u64>().ok(),
        None => text
            .parse::<u64>()
            .ok()
            .and_then(|whole| whole.checked_mul(1000)),
    };
    millis(wanted).is_some_and(|wanted| millis(found) == Some(wanted))
}
