//! Which pods the node's settings put into the mesh: selectors (upstream's AMBIENT_ENABLEMENT_SELECTOR) and excluded
//! namespaces on top of what `objects::enroll` says of labels. Pure. Asked by the agent for each pod that it sees.
use std::collections::{BTreeMap, BTreeSet};

use objects::enroll::{self, Decision, Why};
use objects::{LabelSelector, Namespace, Pod};
use serde::Deserialize;

/// One way into the mesh: both selectors must match; an empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Selector {
    /// Labels of the pod.
    pub pod_selector: LabelSelector,
    /// Labels of its namespace.
    pub namespace_selector: LabelSelector,
}

/// Who may be in the mesh on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Selectors that replace the labels of Istio ambient; `None`: those labels decide.
    pub selectors: Option<Vec<Selector>>,
    /// Namespaces whose pods are never in the mesh.
    pub excluded: BTreeSet<String>,
}

impl Scope {
    /// Decides for one pod. A namespace that is not known has no labels.
    #[must_use]
    pub fn decide(&self, pod: &Pod, namespace: Option<&Namespace>) -> Decision {
        if self.excluded.contains(&pod.metadata.namespace) {
            return Decision::Out(Why::Excluded);
        }
        let Some(selectors) = &self.selectors else {
            return enroll::decide(pod, namespace);
        };
        if let Some(why) = enroll::barred(pod) {
            return Decision::Out(why);
        }
        let none = BTreeMap::new();
        let of_namespace = namespace.map_or(&none, |namespace| &namespace.metadata.labels);
        let selects = |one: &Selector| {
            one.pod_selector.matches(&pod.metadata.labels)
                && one.namespace_selector.matches(of_namespace)
        };
        if selectors.iter().any(selects) {
            Decision::In
        } else {
            Decision::Out(Why::NotSelected)
        }
    }
}

/// Reads the selectors from YAML. `Ok(None)` for an empty text and for the default of upstream's chart: the labels of
/// Istio ambient say the same, and say better why a pod is out.
///
/// # Errors
/// A text that says what is wrong.
pub fn selectors(yaml: &str) -> Result<Option<Vec<Selector>>, String> {
    if yaml.trim().is_empty() {
        return Ok(None);
    }
    let read: Vec<Selector> = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    for want in read.iter().flat_map(requirements) {
        let values = match want.operator.as_str() {
            "In" | "NotIn" => !want.values.is_empty(),
            "Exists" | "DoesNotExist" => want.values.is_empty(),
            _ => false,
        };
        if want.key.is_empty() || !values {
            let (key, operator) = (&want.key, &want.operator);
            return Err(format!(
                "the expression on key {key:?} with operator {operator:?}: In and NotIn take values, Exists and DoesNotExist none"
            ));
        }
    }
    Ok((read != labels_of_istio()).then_some(read))
}

fn requirements(selector: &Selector) -> impl Iterator<Item = &objects::Requirement> {
    let both = [&selector.pod_selector, &selector.namespace_selector];
    both.into_iter().flat_map(|one| &one.match_expressions)
}

/// The default of upstream's chart.
fn labels_of_istio() -> Vec<Selector> {
    let ambient = LabelSelector {
        match_labels: [(enroll::MODE_LABEL.to_owned(), "ambient".to_owned())].into(),
        match_expressions: Vec::new(),
    };
    let not_opted_out = LabelSelector {
        match_labels: BTreeMap::new(),
        match_expressions: vec![objects::Requirement {
            key: enroll::MODE_LABEL.into(),
            operator: "NotIn".into(),
            values: vec!["none".into()],
        }],
    };
    let of_pod = Selector {
        pod_selector: ambient.clone(),
        ..Selector::default()
    };
    let of_namespace = Selector {
        pod_selector: not_opted_out,
        namespace_selector: ambient,
    };
    vec![of_pod, of_namespace]
}

#[cfg(test)]
mod tests {
    use super::*;
    use Decision::{In, Out};

    fn labelled(text: &str) -> objects::Meta {
        let pairs = text.split_whitespace().filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        objects::Meta {
            namespace: "shop".into(),
            labels: pairs.collect(),
            ..objects::Meta::default()
        }
    }

    fn decide(scope: &Scope, pod: &str, namespace: &str) -> Decision {
        let pod = Pod {
            metadata: labelled(pod),
            ..Pod::default()
        };
        let metadata = labelled(namespace);
        scope.decide(&pod, Some(&Namespace { metadata }))
    }

    const DEFAULT: &str = "
- podSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
- podSelector:
    matchExpressions:
    - { key: istio.io/dataplane-mode, operator: NotIn, values: [none] }
  namespaceSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
";

    #[test]
    fn selectors_replace_the_labels_and_any_one_is_enough() {
        let yaml = "[{podSelector: {matchLabels: {mesh: 'on'}}}, {namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}}]";
        let scope = Scope {
            selectors: selectors(yaml).unwrap(),
            ..Scope::default()
        };
        for (pod, namespace, expected) in [
            ("mesh=on", "", In),
            ("", "team=a", In),
            ("mesh=off", "", Out(Why::NotSelected)),
            ("istio.io/dataplane-mode=ambient", "", Out(Why::NotSelected)),
        ] {
            assert_eq!(
                decide(&scope, pod, namespace),
                expected,
                "{pod} {namespace}"
            );
        }
        let mut host = Pod::default();
        host.spec.host_network = true;
        assert_eq!(scope.decide(&host, None), Out(Why::HostNetwork));
    }

    #[test]
    fn the_default_of_upstreams_chart_is_what_the_labels_say() {
        assert_eq!(selectors(DEFAULT).unwrap(), None);
        assert_eq!(selectors(" \n").unwrap(), None);
        let by_selectors = Scope {
            selectors: Some(labels_of_istio()),
            ..Scope::default()
        };
        let values = ["", "ambient", "none", "other"];
        for (pod, namespace) in values.iter().flat_map(|p| values.map(|n| (p, n))) {
            let label = |value: &str| format!("istio.io/dataplane-mode={value}");
            let (pod, namespace) = (label(pod), label(namespace));
            let is_in = |scope| decide(scope, &pod, &namespace) == In;
            assert_eq!(
                is_in(&by_selectors),
                is_in(&Scope::default()),
                "{pod} {namespace}"
            );
        }
    }

    #[test]
    fn an_excluded_namespace_is_out_whatever_it_says() {
        let scope = Scope {
            excluded: ["shop".to_owned()].into(),
            ..Scope::default()
        };
        let said = "istio.io/dataplane-mode=ambient";
        assert_eq!(decide(&scope, said, said), Out(Why::Excluded));
    }

    #[test]
    fn wrong_selectors_are_refused_with_what_is_wrong() {
        for (yaml, says) in [
            ("{podSelector: {}}", "expected"),
            ("[{podSelektor: {}}]", "podSelektor"),
            (
                "[{podSelector: {matchExpressions: [{key: a, operator: Equals, values: [b]}]}}]",
                "\"Equals\"",
            ),
            (
                "[{podSelector: {matchExpressions: [{key: a, operator: In}]}}]",
                "take values",
            ),
        ] {
            let text = selectors(yaml).unwrap_err();
            assert!(text.contains(says), "{yaml}: {text}");
        }
    }
}
