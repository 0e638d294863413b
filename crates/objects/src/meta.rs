//! `metadata` and label selectors, as every kind has them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The part of `metadata` that we read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name, unique by kind and namespace.
    pub name: String,
    /// Namespace; empty for cluster-scoped kinds, `default` when a namespaced object names none.
    pub namespace: String,
    /// The API server's UID; in a directory of manifests it may be given or empty.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 time of creation; empty when unknown. Compares as text because the API server writes UTC.
    pub creation_timestamp: String,
    /// Counts changes of `spec`; absent for kinds without one, and in a directory of manifests.
    pub generation: Option<i64>,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Owners; the one with `controller: true` names the workload.
    pub owner_references: Vec<OwnerReference>,
}

impl Meta {
    /// The value of one label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// The value of one annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// One entry of `ownerReferences`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Kind of the owner, for example `ReplicaSet`.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Whether this owner controls the object.
    pub controller: bool,
}

/// Istio's workload selector: all labels must be equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that a pod must carry.
    pub match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether `labels` carries every label of this selector; an empty selector matches all.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        contains(labels, &self.match_labels)
    }
}

/// Kubernetes' label selector with expressions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be equal.
    pub match_labels: BTreeMap<String, String>,
    /// Expressions that must all hold.
    pub match_expressions: Vec<Requirement>,
}

/// One expression of a [`LabelSelector`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values of `In` and `NotIn`.
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether `labels` satisfies this selector; an operator that is not known matches nothing.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        contains(labels, &self.match_labels)
            && self
                .match_expressions
                .iter()
                .all(|want| want.holds(labels.get(&want.key)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&String>) -> bool {
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

fn contains(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
