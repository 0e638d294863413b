//! What the status of routes, policies and services should say: a pure function of the objects, their translation
//! and its faults. `follow` works it out with each translation; `conditions::write`, in the elected replica, writes
//! what differs.

use std::{borrow::Cow, collections::BTreeMap, num::NonZeroI64, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use objects::{Fault, Key, Kind, Severity};

use crate::translate::{Index, Translation, verdict};

mod binding;
pub mod merge;
mod object;
mod policy;
mod route;
mod write;

pub use write::{Writer, write};
pub(crate) use write::{refusal, reporter};

/// Name of us in `controllerName` of classes and of the parents of routes.
pub const CONTROLLER: &str = "causeway.dev/waypoint-controller";

/// One condition as it should be. The time of its last change is kept from what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `type`.
    pub kind: &'static str,
    /// `status`: `True` or `False`.
    pub holds: bool,
    /// One word for machines.
    pub reason: &'static str,
    /// For people: what is the matter and what to do.
    pub message: Cow<'static, str>,
}

impl Condition {
    /// A condition that holds.
    #[must_use]
    pub fn yes(
        kind: &'static str,
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Condition {
        Condition {
            kind,
            holds: true,
            reason,
            message: message.into(),
        }
    }

    /// A condition that does not hold.
    #[must_use]
    pub fn no(
        kind: &'static str,
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Condition {
        Condition {
            holds: false,
            ..Condition::yes(kind, reason, message)
        }
    }
}

impl From<verdict::Condition> for Condition {
    fn from(told: verdict::Condition) -> Condition {
        Condition {
            kind: told.r#type,
            holds: told.status,
            reason: told.reason,
            message: told.message.into(),
        }
    }
}

/// One parent of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// `parentRef` as the route has it.
    pub reference: serde_json::Value,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// What the status of one object should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `status.conditions` of these types, and none of the others that are ours.
    Conditions(Vec<Condition>),
    /// `status.parents` that are ours.
    Parents(Vec<Parent>),
    /// The object is refused: each of its parents (or the object itself) is told why.
    Refused(String),
}

/// The verdict on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which version was judged; `None` when it is not known (then what stands now is meant).
    pub generation: Option<i64>,
    /// What its status should say.
    pub wanted: Wanted,
}

/// Verdicts on all objects whose status is ours to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// By object. An object that is not here has nothing of ours in its status.
    pub by_object: BTreeMap<Key, Verdict>,
    /// What is refused now, with the reason: each is worth an event.
    pub refused: BTreeMap<Key, String>,
}

/// Judges everything.
#[must_use]
pub fn judge(index: &Index<'_>, translation: &Translation, faults: &[Fault]) -> Verdicts {
    let by_key = ByKey::new(faults);
    let mut verdicts = Verdicts {
        refused: by_key.refused(),
        ..Verdicts::default()
    };
    let judged = route::judge(index, translation)
        .chain(policy::judge(index, translation, &by_key))
        .chain(binding::judge(index, translation));
    verdicts.by_object.extend(judged);
    for (key, why) in &verdicts.refused {
        if is_route(key.kind) || key.kind == Kind::AuthorizationPolicy {
            let refused = Verdict {
                generation: by_key.refused_version(key),
                wanted: Wanted::Refused(why.clone()),
            };
            verdicts.by_object.insert(key.clone(), refused);
        }
    }
    verdicts
}

/// Whether its status is by parent.
fn is_route(kind: Kind) -> bool {
    matches!(kind, Kind::HttpRoute | Kind::GrpcRoute)
}

/// Faults by the object that they are about.
struct ByKey<'f>(BTreeMap<&'f Key, Vec<&'f Fault>>);

impl<'f> ByKey<'f> {
    fn new(faults: &'f [Fault]) -> ByKey<'f> {
        let mut by_key = BTreeMap::<&Key, Vec<&Fault>>::new();
        for fault in faults {
            if let Some(key) = &fault.key {
                by_key.entry(key).or_default().push(fault);
            }
        }
        ByKey(by_key)
    }

    fn of(&self, key: &Key) -> &[&'f Fault] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn refused(&self) -> BTreeMap<Key, String> {
        let texts = |faults: &Vec<&Fault>| {
            let errors = faults
                .iter()
                .filter(|fault| fault.severity == Severity::Error);
            let texts: Vec<String> = errors.map(|fault| text(fault)).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        };
        let all = self.0.iter();
        all.filter_map(|(key, faults)| Some(((*key).clone(), texts(faults)?)))
            .collect()
    }

    /// The version that is refused; a newer one may be on its way.
    fn refused_version(&self, key: &Key) -> Option<i64> {
        let faults = self.of(key).iter();
        let errors = faults.filter(|fault| fault.severity == Severity::Error);
        let versions = errors.filter_map(|fault| fault.generation);
        versions.map(NonZeroI64::get).max()
    }

    /// What is to be said about an object that is used, one remark after the other.
    fn remarks(&self, key: &Key, keep: impl Fn(&Fault) -> bool) -> Option<String> {
        let warnings = self
            .of(key)
            .iter()
            .filter(|fault| fault.severity == Severity::Warning && keep(fault));
        let mut texts: Vec<String> = warnings.map(|fault| text(fault)).collect();
        texts.dedup();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

/// A fault without the object, which the reader has before their eyes.
fn text(fault: &Fault) -> String {
    match &fault.field {
        Some(field) => format!("{field}: {}", fault.why),
        None => fault.why.to_string(),
    }
}

/// The time at hand as the API writes times.
pub(crate) fn timestamp() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What is published; none before the first translation.
pub type Published = tokio::sync::watch::Receiver<Option<Arc<Verdicts>>>;

#[cfg(test)]
mod tests;
