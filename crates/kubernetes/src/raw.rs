//! An object as the API server sends it, without the parts that nobody reads and that are often most of it.
//!
//! `serde_json` gives up on a text that nests more than 128 deep, and with it on the whole answer. An API server stores such
//! objects where a definition preserves unknown fields, so one of them could keep its kind from being read at all.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// The copy of the whole object that `kubectl apply` leaves in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Levels of an object that become values. Every field that we know is far above, so that what is left out is below a
/// field that we do not know, and the object is judged by that one (`docs/decisions/0023`).
const DEEPEST: usize = 100;
/// Stands for what is left out. Not null, which would be read as absent.
const LEFT_OUT: &str = "(left out: nested more than 100 deep)";

/// The object; `managedFields` and the copy that `kubectl apply` leaves never become values, nor does what is nested deeper
/// than anybody reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw(pub(crate) Value);

impl Raw {
    /// `metadata.<field>`, empty when absent.
    pub(crate) fn meta(&self, field: &str) -> &str {
        let value = self.0.get("metadata").and_then(|meta| meta.get(field));
        value.and_then(Value::as_str).unwrap_or_default()
    }

    /// The object.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.0
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
                // This level and the one above it, if there is one.
                let above = if self.0.is_empty() { 1 } else { 2 };
                fields.insert(field, map.next_value_seed(Shallow(DEEPEST - above))?);
            }
        }
        Ok(Value::Object(fields))
    }
}

struct Seed(Level);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // `any`, because a map that is null is read as none.
        deserializer.deserialize_any(self.0)
    }
}

/// Any value, of which this many levels are kept.
#[derive(Clone, Copy)]
struct Shallow(usize);

impl<'de> DeserializeSeed<'de> for Shallow {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0 == 0 {
            // Passes over the text without recursion, however deep it is.
            deserializer.deserialize_ignored_any(IgnoredAny)?;
            return Ok(LEFT_OUT.into());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shallow {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Shallow(self.0 - 1))? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(field) = map.next_key::<String>()? {
            fields.insert(field, map.next_value_seed(Shallow(self.0 - 1))?);
        }
        Ok(fields.into())
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

    /// `{"a":{"a":…1…}}` with so many levels.
    fn nested(levels: usize) -> String {
        format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
    }

    #[test]
    fn what_is_nested_too_deep_is_left_out_and_the_rest_is_read() {
        for deep in [
            nested(500),
            format!("{}{}", "[".repeat(500), "]".repeat(500)),
        ] {
            let text = format!(
                r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{{"metadata":{{"name":"a","managedFields":{deep}}},
                "spec":{{"x":{deep},"y":[-1,1.5,true,"t",null]}},"status":{deep}}},{{"metadata":{{"name":"b"}}}}]}}"#
            );
            let page: Page = serde_json::from_str(&text).unwrap();
            let names: Vec<&str> = page.items.iter().map(|item| item.meta("name")).collect();
            assert_eq!(names, ["a", "b"]);
            let read = &page.items[0].0;
            assert_eq!(
                read["spec"]["y"],
                serde_json::json!([-1, 1.5, true, "t", null])
            );
            assert!(read.to_string().contains(LEFT_OUT));
            // What was read can itself be written and read.
            assert!(serde_json::from_str::<Value>(&read.to_string()).is_ok());
        }
        let shallow = format!(r#"{{"spec":{}}}"#, nested(90));
        let raw: Raw = serde_json::from_str(&shallow).unwrap();
        assert_eq!(raw.0, serde_json::from_str::<Value>(&shallow).unwrap());
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
