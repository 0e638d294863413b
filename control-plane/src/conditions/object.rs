//! An object of any kind as `conditions::write` watches it: like kube's `DynamicObject`, but one that nests deeper than a
//! JSON text may is read too, so that it does not keep the status of all others from being written.

use std::borrow::Cow;

use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta, Resource};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// `metadata`, and the whole as a value.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub metadata: ObjectMeta,
    pub data: Value,
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Watched, D::Error> {
        let mut data = kubernetes::Raw::deserialize(deserializer)?.into_value();
        let metadata = data["metadata"].take();
        let metadata = serde_json::from_value(metadata).map_err(D::Error::custom)?;
        Ok(Watched { metadata, data })
    }
}

impl Resource for Watched {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_nested_too_deep_is_read() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(300), "}".repeat(300));
        let text = format!(
            r#"{{"kind":"AuthorizationPolicy","metadata":{{"name":"a","generation":2,
            "managedFields":[{{"fieldsV1":{deep}}}]}},"spec":{{"targetRef":{{}},"odd":{deep}}}}}"#
        );
        let read: Watched = serde_json::from_str(&text).unwrap();
        assert_eq!(read.metadata.name.as_deref(), Some("a"));
        assert_eq!(read.metadata.generation, Some(2));
        assert!(read.data["spec"]["targetRef"].is_object());
    }
}
