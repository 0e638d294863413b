//! Overlays: parts of objects in a ConfigMap that are merged into what the template makes, by the rules of
//! Kubernetes' strategic merge patch for the kinds at hand. Pure.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use super::Part;

/// Nesting and size of one overlay; no real one comes near.
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 20_000;

/// The overlays of one ConfigMap.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Overlay {
    /// `ConfigMap namespace/name`, for people.
    pub source: String,
    /// YAML by key.
    pub texts: BTreeMap<String, String>,
}

/// Why an overlay cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadOverlay {
    source: String,
    key: String,
    why: String,
}

impl fmt::Display for BadOverlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: key `{}`: {}", self.source, self.key, self.why)
    }
}

impl Overlay {
    /// Whether it speaks of this part.
    pub fn has(&self, part: Part) -> bool {
        self.texts.contains_key(part.overlay_key())
    }

    /// A key that is not known is a slip of its author.
    pub fn check(&self) -> Result<(), BadOverlay> {
        let known = Part::ALL.map(Part::overlay_key);
        match self.texts.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.bad(
                key,
                format!("is not known; allowed are {}", known.join(", ")),
            )),
            None => Ok(()),
        }
    }

    fn bad(&self, key: &str, why: String) -> BadOverlay {
        BadOverlay {
            source: self.source.clone(),
            key: key.to_owned(),
            why,
        }
    }

    fn of(&self, part: Part) -> Result<Option<Value>, BadOverlay> {
        let key = part.overlay_key();
        let Some(text) = self.texts.get(key) else {
            return Ok(None);
        };
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_NODES, max_documents: 2, },
            with_snippet: false,
            // As manifests are read: `no` and `0755` are texts.
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
        };
        match serde_saphyr::from_str_with_options::<Value>(text, options) {
            Ok(Value::Null) => Ok(Some(Value::Object(Map::new()))),
            Ok(value @ Value::Object(_)) => Ok(Some(value)),
            Ok(_) => Err(self.bad(key, "must be a part of an object, as YAML".into())),
            Err(error) => {
                let text = error.without_snippet().to_string();
                let first = text.lines().next().unwrap_or("not valid YAML").to_owned();
                Err(self.bad(key, format!("not valid YAML: {first}")))
            }
        }
    }
}

/// Merges the overlays of a part, in order.
///
/// # Errors
/// The first overlay that cannot be read, or that changes what an object is known by.
pub(super) fn apply(part: Part, object: Value, overlays: &[Overlay]) -> Result<Value, BadOverlay> {
    let mut merged = object;
    for overlay in overlays {
        let Some(patch) = overlay.of(part)? else {
            continue;
        };
        let before = fixed(part, &merged);
        let (_, _, kind, _) = part.resource();
        let result = merge(&[kind], merged, patch);
        let after = fixed(part, &result);
        if let Some(field) = (0..before.len()).find(|i| before[*i].1 != after[*i].1) {
            let why = format!("must not change {}", before[field].0);
            return Err(overlay.bad(part.overlay_key(), why));
        }
        merged = result;
    }
    Ok(merged)
}

/// What must stay: by it we and others find the object again.
fn fixed(part: Part, object: &Value) -> Vec<(&'static str, Value)> {
    let mut paths = vec![
        ("apiVersion", "/apiVersion"),
        ("kind", "/kind"),
        ("metadata.name", "/metadata/name"),
        ("metadata.namespace", "/metadata/namespace"),
        ("metadata.ownerReferences", "/metadata/ownerReferences"),
        (
            "metadata.labels[gateway.networking.k8s.io/gateway-name]",
            "/metadata/labels/gateway.networking.k8s.io~1gateway-name",
        ),
        (
            "metadata.labels[gateway.networking.k8s.io/gateway-class-name]",
            "/metadata/labels/gateway.networking.k8s.io~1gateway-class-name",
        ),
    ];
    match part {
        Part::Deployment => paths.extend([
            ("spec.selector", "/spec/selector"),
            (
                "spec.template.metadata.labels[gateway.networking.k8s.io/gateway-name]",
                "/spec/template/metadata/labels/gateway.networking.k8s.io~1gateway-name",
            ),
        ]),
        Part::Service => paths.push(("spec.selector", "/spec/selector")),
        _ => {}
    }
    let value = |path: &str| object.pointer(path).cloned().unwrap_or_default();
    paths
        .into_iter()
        .map(|(field, path)| (field, value(path)))
        .collect()
}

/// One step of a strategic merge. `at` is the kind and the fields on the way down.
fn merge(at: &[&str], object: Value, patch: Value) -> Value {
    let (mut object, mut patch) = match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => (object, patch),
        (Value::Array(object), Value::Array(patch)) => return merge_lists(at, object, patch),
        (_, patch) => return without_directives(patch),
    };
    match patch.remove("$patch").as_ref().and_then(Value::as_str) {
        Some("replace") => return without_directives(Value::Object(patch)),
        Some("delete") => return Value::Null,
        _ => {}
    }
    let kept = patch.remove("$retainKeys");
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(from)), Value::Array(gone)) = (object.get_mut(list), value) {
                from.retain(|item| !gone.contains(item));
            }
        } else if key.starts_with('$') {
            // `$setElementOrder` and the like say nothing about content.
        } else if value.is_null() {
            object.remove(&key);
        } else {
            let below: Vec<&str> = at.iter().copied().chain([key.as_str()]).collect();
            let merged = match object.remove(&key) {
                Some(old) => merge(&below, old, value),
                None => without_directives(value),
            };
            if !merged.is_null() {
                object.insert(key, merged);
            }
        }
    }
    if let Some(Value::Array(kept)) = kept {
        object.retain(|key, _| kept.iter().any(|keep| keep == key));
    }
    Value::Object(object)
}

fn merge_lists(at: &[&str], mut object: Vec<Value>, patch: Vec<Value>) -> Value {
    let replaces = patch.iter().any(|item| item["$patch"] == "replace");
    let Some(keys) = merge_key(at).filter(|_| !replaces) else {
        let items = patch.into_iter().filter(|item| item["$patch"] != "replace");
        return items.map(without_directives).collect();
    };
    for item in patch {
        let same = |old: &Value| {
            keys.iter()
                .all(|key| identity(key, old) == identity(key, &item))
        };
        let found = object.iter().position(same);
        match (found, item["$patch"] == "delete") {
            (Some(i), true) => drop(object.remove(i)),
            (None, true) => {}
            (Some(i), false) => object[i] = merge(at, std::mem::take(&mut object[i]), item),
            (None, false) => object.push(without_directives(item)),
        }
    }
    Value::Array(object)
}

/// The protocol of a port is TCP when nothing is said.
fn identity(key: &str, item: &Value) -> Value {
    match (key, &item[key]) {
        ("protocol", Value::Null) => "TCP".into(),
        (_, value) => value.clone(),
    }
}

/// By which fields the items of a list are told apart; none = the list is replaced as a whole. From the patch merge
/// keys of Kubernetes' API.
fn merge_key(at: &[&str]) -> Option<&'static [&'static str]> {
    let (kind, field) = (at.first()?, at.last()?);
    let parent = at
        .len()
        .checked_sub(2)
        .and_then(|i| at.get(i))
        .copied()
        .unwrap_or_default();
    Some(match (*kind, parent, *field) {
        (
            _,
            _,
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "env"
            | "volumes"
            | "imagePullSecrets",
        ) => &["name"],
        ("ServiceAccount", _, "secrets") => &["name"],
        (_, _, "volumeMounts") => &["mountPath"],
        (_, _, "volumeDevices") => &["devicePath"],
        ("Service", "spec", "ports") => &["port"],
        (_, _, "ports") => &["containerPort", "protocol"],
        (_, _, "hostAliases") => &["ip"],
        (_, _, "topologySpreadConstraints") => &["topologyKey", "whenUnsatisfiable"],
        (_, "metadata", "ownerReferences") => &["uid"],
        (_, _, "resourceClaims") => &["name"],
        _ => return None,
    })
}

fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map
                .into_iter()
                .filter(|(key, value)| !key.starts_with('$') && !value.is_null());
            Value::Object(
                kept.map(|(key, value)| (key, without_directives(value)))
                    .collect(),
            )
        }
        Value::Array(items) => items.into_iter().map(without_directives).collect(),
        other => other,
    }
}
