//! From what the status says and what it should say to the patch that makes it so, or none. Conditions of others stay,
//! and the time of a condition moves only when its status does. Pure.

use objects::Kind;
use serde_json::{Map, Value, json};

use super::{CONTROLLER, Condition, Parent, Verdict, Wanted, binding, is_route, policy};

/// What the API server has of an object, as far as its status is concerned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Current {
    /// UID, for events.
    pub uid: String,
    /// Generation; 0 for kinds that have none.
    pub generation: i64,
    /// The patch is refused if the object is another by then.
    pub version: String,
    /// `status`.
    pub status: Value,
    /// `spec.parentRefs` of routes.
    pub parents: Vec<Value>,
    /// Whether a policy names targets.
    pub targeted: bool,
}

/// Types of conditions in `status.conditions` that are ours.
fn ours(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => &[binding::BOUND],
        Kind::AuthorizationPolicy => &[policy::WAYPOINT, policy::ZTUNNEL],
        _ => &[],
    }
}

/// The new `status`, if it differs. None too while the verdict is on another version than the one that stands there:
/// the verdict on that one is on its way.
#[must_use]
pub fn status(
    kind: Kind,
    current: &Current,
    verdict: Option<&Verdict>,
    now: &str,
) -> Option<Value> {
    let nothing = Verdict {
        generation: None,
        wanted: if is_route(kind) {
            Wanted::Parents(Vec::new())
        } else {
            Wanted::Conditions(Vec::new())
        },
    };
    let verdict = verdict.unwrap_or(&nothing);
    if verdict
        .generation
        .is_some_and(|generation| generation != current.generation)
    {
        return None;
    }
    let mut status = current.status.clone();
    if !status.is_object() {
        status = Value::Object(Map::new());
    }
    match &verdict.wanted {
        Wanted::Parents(parents) => status["parents"] = parents_of(current, parents.clone(), now),
        Wanted::Refused(why) if is_route(kind) => {
            let told = Condition::no("Accepted", "UnsupportedValue", refused(why));
            let services = current
                .parents
                .iter()
                .filter(|parent| parent["kind"] == "Service");
            let parents = services.map(|parent| Parent {
                reference: parent.clone(),
                conditions: vec![told.clone()],
            });
            status["parents"] = parents_of(current, parents.collect(), now);
        }
        Wanted::Refused(why) => {
            let kind_of = if current.targeted {
                policy::WAYPOINT
            } else {
                policy::ZTUNNEL
            };
            let told = Condition::no(kind_of, "Invalid", refused(why));
            status["conditions"] = conditions_of(kind, current, &[told], now);
        }
        Wanted::Conditions(conditions) => {
            status["conditions"] = conditions_of(kind, current, conditions, now)
        }
    }
    for list in ["parents", "conditions"] {
        let empty = status[list].as_array().is_some_and(Vec::is_empty);
        if empty && current.status.get(list).is_none() {
            status.as_object_mut()?.remove(list);
        }
    }
    (status != current.status && !(status == json!({}) && current.status.is_null()))
        .then_some(status)
}

fn refused(why: &str) -> String {
    format!(
        "{why}; until this is mended, the last version that was good is used, and where there was none, a route does not exist and a policy denies everything in its scope"
    )
}

/// Those of others first, as they stand; then ours.
fn parents_of(current: &Current, wanted: Vec<Parent>, now: &str) -> Value {
    let old = current.status["parents"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let (mine, others): (Vec<Value>, Vec<Value>) = old
        .into_iter()
        .partition(|parent| parent["controllerName"] == CONTROLLER);
    let mut parents = others;
    for parent in wanted {
        let before = mine.iter().find(|old| old["parentRef"] == parent.reference);
        let before = before
            .and_then(|old| old["conditions"].as_array())
            .map_or(&[][..], Vec::as_slice);
        let conditions = merge(
            before,
            &[],
            &parent.conditions,
            Some(json!(current.generation)),
            now,
        );
        parents.push(json!({
            "parentRef": parent.reference,
            "controllerName": CONTROLLER,
            "conditions": conditions,
        }));
    }
    Value::Array(parents)
}

fn conditions_of(kind: Kind, current: &Current, wanted: &[Condition], now: &str) -> Value {
    let old = current.status["conditions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let ours = ours(kind);
    let mine = |one: &Value| {
        one["type"]
            .as_str()
            .is_some_and(|kind| ours.contains(&kind))
    };
    let others: Vec<Value> = old.iter().filter(|one| !mine(one)).cloned().collect();
    let generation = match kind {
        // The API of Istio writes 64 bit numbers as text.
        Kind::AuthorizationPolicy => Some(json!(current.generation.to_string())),
        // It has none.
        Kind::Service => None,
        _ => Some(json!(current.generation)),
    };
    Value::Array(merge(old, &others, wanted, generation, now))
}

/// `kept` as they are, then the wanted ones, each with the time since which its status is what it is.
#[must_use]
pub fn merge(
    old: &[Value],
    kept: &[Value],
    wanted: &[Condition],
    generation: Option<Value>,
    now: &str,
) -> Vec<Value> {
    let mut conditions = kept.to_vec();
    for condition in wanted {
        let status = if condition.holds { "True" } else { "False" };
        let before = old
            .iter()
            .find(|old| old["type"] == condition.kind && old["status"] == status);
        let since = before
            .and_then(|old| old["lastTransitionTime"].as_str())
            .unwrap_or(now);
        let mut one = json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": bounded(&condition.message),
            "lastTransitionTime": since,
        });
        if let Some(generation) = &generation {
            one["observedGeneration"] = generation.clone();
        }
        conditions.push(one);
    }
    conditions
}

/// The API's limit for messages is 32768 bytes; nobody reads more than this.
fn bounded(message: &str) -> String {
    const MAX: usize = 4096;
    let end = message.floor_char_boundary(MAX);
    if end == message.len() {
        message.to_owned()
    } else {
        format!("{}…", &message[..end])
    }
}
