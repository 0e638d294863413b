//! Where objects of a kind are on an API server.

use kube::core::GroupVersion;
use objects::Kind;

/// Versions that are tried, in this order. What we read is the same in both.
pub(crate) const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The path of all objects of `kind` in the cluster, in API version `version`.
pub(crate) fn path(kind: Kind, version: &str) -> String {
    let gvk = GroupVersion::gv(kind.group(), version).with_kind(kind.name());
    let plural = kube::core::ApiResource::from_gvk(&gvk).plural;
    match kind.group() {
        "" => format!("/api/{version}/{plural}"),
        group => format!("/apis/{group}/{version}/{plural}"),
    }
}

/// Whether the kind comes from a CustomResourceDefinition, so that a server may not have it.
pub(crate) fn may_be_absent(kind: Kind) -> bool {
    !matches!(kind.group(), "" | "discovery.k8s.io")
}

/// The field selector that leaves out what nobody reads: pods that have ended, and pods of other nodes when one is
/// named.
pub(crate) fn selector(kind: Kind, node: Option<&str>) -> Option<String> {
    let ended = "status.phase!=Succeeded,status.phase!=Failed";
    match (kind, node) {
        (Kind::Pod, None) => Some(ended.to_owned()),
        (Kind::Pod, Some(node)) => Some(format!("spec.nodeName={node},{ended}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_api_servers() {
        let table = [
            (Kind::Pod, "/api/v1/pods"),
            (
                Kind::EndpointSlice,
                "/apis/discovery.k8s.io/v1/endpointslices",
            ),
            (
                Kind::GatewayClass,
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
            ),
            (
                Kind::HttpRoute,
                "/apis/gateway.networking.k8s.io/v1/httproutes",
            ),
            (
                Kind::AuthorizationPolicy,
                "/apis/security.istio.io/v1/authorizationpolicies",
            ),
            (
                Kind::PeerAuthentication,
                "/apis/security.istio.io/v1/peerauthentications",
            ),
        ];
        for (kind, expected) in table {
            assert_eq!(path(kind, "v1"), expected);
        }
        assert_eq!(
            path(Kind::Gateway, "v1beta1"),
            "/apis/gateway.networking.k8s.io/v1beta1/gateways"
        );
    }

    #[test]
    fn pods_that_have_ended_or_are_elsewhere_are_not_asked_for() {
        let ended = "status.phase!=Succeeded,status.phase!=Failed";
        assert_eq!(selector(Kind::Pod, None).as_deref(), Some(ended));
        let here = format!("spec.nodeName=n1,{ended}");
        assert_eq!(selector(Kind::Pod, Some("n1")), Some(here));
        assert_eq!(selector(Kind::Service, Some("n1")), None);
    }
}
