//! Is this pod in the mesh? Pure: the pod, its namespace, and the labels of Istio ambient decide. One answer for both
//! who must agree: the node agent (for a CNI ADD and whenever labels change) and the control plane, which tells peers
//! how the pod is reached. If they differed, peers would speak plain text to a captured pod, or HBONE to one that is not.
use std::fmt;

use crate::{Namespace, Pod};

/// The label that opts in (`ambient`) or out (`none`), on the pod or its namespace.
pub const MODE_LABEL: &str = "istio.io/dataplane-mode";
/// Present on pods that have a sidecar; those are not captured twice.
const SIDECAR_ANNOTATION: &str = "sidecar.istio.io/status";
/// On pods that serve a Gateway, waypoints among them: they speak HBONE themselves.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The pod's traffic is captured.
    In,
    /// It is not, because:
    Out(Why),
}

/// Why a pod is not in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It shares the node's network namespace, which is never captured.
    HostNetwork,
    /// It has ended.
    Finished,
    /// Its own label says `none`.
    PodOptedOut,
    /// Its namespace's label says `none`, and its own says nothing.
    NamespaceOptedOut,
    /// A sidecar serves it.
    Sidecar,
    /// It serves a Gateway.
    Gateway,
    /// Neither label says `ambient`.
    NoLabel,
    /// Whoever decides has its namespace excluded by a setting.
    Excluded,
    /// None of the selectors that replace the labels of Istio ambient selects it.
    NotSelected,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostNetwork => "it uses the node's network",
            Self::Finished => "it has ended",
            Self::PodOptedOut => "its label istio.io/dataplane-mode is none",
            Self::NamespaceOptedOut => "its namespace's label istio.io/dataplane-mode is none",
            Self::Sidecar => "it has a sidecar",
            Self::Gateway => "it serves a Gateway",
            Self::NoLabel => "neither it nor its namespace has istio.io/dataplane-mode=ambient",
            Self::Excluded => "its namespace is excluded by EXCLUDE_NAMESPACES",
            Self::NotSelected => "no selector of AMBIENT_ENABLEMENT_SELECTOR selects it",
        })
    }
}

/// Why a pod cannot be captured, whatever is said of it; `None` when it can.
#[must_use]
pub fn barred(pod: &Pod) -> Option<Why> {
    if pod.spec.host_network {
        Some(Why::HostNetwork)
    } else if pod.is_finished() {
        Some(Why::Finished)
    } else if pod.metadata.annotation(SIDECAR_ANNOTATION).is_some() {
        Some(Why::Sidecar)
    } else if pod.metadata.label(GATEWAY_LABEL).is_some() {
        Some(Why::Gateway)
    } else {
        None
    }
}

/// Decides. The pod's own label wins over its namespace's; a value that is neither `ambient` nor
/// `none` counts as no label, as upstream reads it. A namespace that is not known has no labels.
#[must_use]
pub fn decide(pod: &Pod, namespace: Option<&Namespace>) -> Decision {
    if let Some(why) = barred(pod) {
        return Decision::Out(why);
    }
    let of_namespace = namespace.and_then(|namespace| namespace.metadata.label(MODE_LABEL));
    match (pod.metadata.label(MODE_LABEL), of_namespace) {
        (Some("ambient"), _) => Decision::In,
        (Some("none"), _) => Decision::Out(Why::PodOptedOut),
        (_, Some("ambient")) => Decision::In,
        (_, Some("none")) => Decision::Out(Why::NamespaceOptedOut),
        _ => Decision::Out(Why::NoLabel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Decision::{In, Out};

    fn pod(label: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        let label = label.map(|value| (MODE_LABEL.to_owned(), value.to_owned()));
        pod.metadata.labels = label.into_iter().collect();
        pod
    }

    fn namespace(label: Option<&str>) -> Namespace {
        Namespace {
            metadata: pod(label).metadata,
        }
    }

    #[test]
    fn the_pods_label_wins_over_its_namespaces() {
        let (ambient, none, other) = (Some("ambient"), Some("none"), Some("sidecar"));
        for (of_pod, of_namespace, expected) in [
            (None, None, Out(Why::NoLabel)),
            (None, ambient, In),
            (None, none, Out(Why::NamespaceOptedOut)),
            (None, other, Out(Why::NoLabel)),
            (ambient, None, In),
            (ambient, none, In),
            (ambient, ambient, In),
            (none, None, Out(Why::PodOptedOut)),
            (none, ambient, Out(Why::PodOptedOut)),
            (other, ambient, In),
            (Some(""), None, Out(Why::NoLabel)),
            (Some("Ambient"), None, Out(Why::NoLabel)),
        ] {
            let found = decide(&pod(of_pod), Some(&namespace(of_namespace)));
            assert_eq!(
                found, expected,
                "pod {of_pod:?}, namespace {of_namespace:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_captured_is_out_whatever_the_labels_say() {
        let labelled = namespace(Some("ambient"));
        let host = {
            let mut pod = pod(Some("ambient"));
            pod.spec.host_network = true;
            pod
        };
        assert_eq!(decide(&host, Some(&labelled)), Out(Why::HostNetwork));
        let mut ended = pod(Some("ambient"));
        ended.status.phase = "Succeeded".into();
        assert_eq!(decide(&ended, Some(&labelled)), Out(Why::Finished));
        let mut sidecar = pod(None);
        sidecar
            .metadata
            .annotations
            .insert(SIDECAR_ANNOTATION.into(), "{}".into());
        assert_eq!(decide(&sidecar, Some(&labelled)), Out(Why::Sidecar));
        let mut waypoint = pod(Some("ambient"));
        let name = (GATEWAY_LABEL.to_owned(), "waypoint".to_owned());
        waypoint.metadata.labels.extend([name]);
        assert_eq!(decide(&waypoint, Some(&labelled)), Out(Why::Gateway));
    }

    #[test]
    fn the_sidecar_injection_label_means_nothing_here() {
        let mut pod = pod(None);
        pod.metadata
            .labels
            .insert("sidecar.istio.io/inject".into(), "false".into());
        assert_eq!(decide(&pod, Some(&namespace(Some("ambient")))), In);
    }

    #[test]
    fn an_unknown_namespace_has_no_labels() {
        assert_eq!(decide(&pod(None), None), Out(Why::NoLabel));
        assert_eq!(decide(&pod(Some("ambient")), None), In);
    }
}
