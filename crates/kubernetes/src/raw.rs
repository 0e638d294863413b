//! An object as the API server sends it, without the parts that nobody reads and that are often most of it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// The copy of the whole object that `kubectl apply` leaves in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object; `managedFields` and the copy that `kubectl apply` leaves never become values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw(pub Value);

impl Raw {
    /// `metadata.<field>`, empty when absent.
    pub fn meta(&self, field: &str) -> &str {
        let value = self.0.get("metadata").and_then(|meta| meta.get(field));
        value.and_then(Value::as_str).unwrap_or_default()
    }
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    pub metadata: PageMeta,
    #[serde(default)]
    pub items: Vec<Raw>,
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PageMeta {
    pub resource_version: String,
    pub r#continue: String,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        let level = Level("", &["metadata"], &[]);
        deserializer.deserialize_map(level).map(Raw)
    }
}

/// Reads a map: name of the level, fields that have a level of their own, fields that are left out.
struct Level(
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

impl Level {
    fn below(field: &str) -> Level {
        match field {
            "metadata" => Level("metadata", &["annotations"], &["managedFields", "selfLink"]),
            _ => Level("annotations", &[], &[LAST_APPLIED]),
        }
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("an object"),
            name => write!(f, "a map as `{name}`"),
        }
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(field) = map.next_key::<String>()? {
            if self.2.contains(&&*field) {
                map.next_value::<IgnoredAny>()?;
            } else if self.1.contains(&&*field) {
                let value = map.next_value_seed(Seed(Level::below(&field)))?;
                fields.insert(field, value);
            } else {
                fields.insert(field, map.next_value()?);
            }
        }
        Ok(Value::Object(fields))
    }
}

struct Seed(Level);

impl<'de> serde::de::DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // `any`, because a map that is null is read as none.
        deserializer.deserialize_any(self.0)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::WatchEvent;

    use super::*;

    #[test]
    fn what_nobody_reads_is_left_out() {
        let text = r#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a","namespace":"n","managedFields":[{"x":{}}],
            "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","keep":"1"}},"spec":{"managedFields":2}}}"#;
        let WatchEvent::Added(raw) = serde_json::from_str::<WatchEvent<Raw>>(text).unwrap() else {
            panic!("added")
        };
        let expected = serde_json::json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "n", "annotations": {"keep": "1"}},
            "spec": {"managedFields": 2}});
        assert_eq!(raw.0, expected);
        assert_eq!((raw.meta("name"), raw.meta("uid")), ("a", ""));
    }

    #[test]
    fn odd_shapes_are_no_error_here() {
        for text in [
            r#"{"metadata":null}"#,
            r#"{"metadata":{"annotations":null}}"#,
            "{}",
        ] {
            let raw: Raw = serde_json::from_str(text).unwrap();
            assert_eq!(raw.meta("name"), "");
        }
    }

    #[test]
    fn a_page_may_have_no_items() {
        let page: Page = serde_json::from_str(r#"{"metadata":{"resourceVersion":"7"}}"#).unwrap();
        assert_eq!(
            (page.items.len(), &*page.metadata.resource_version),
            (0, "7")
        );
    }
}
