//! The comparisons, one type of resource each.

use super::*;

const NO_INPUT: &str = "the objects of this namespace are not among the manifests";
const SERVICE_ENTRY: &str = "ServiceEntry and WorkloadEntry are not read yet";

const DESTINATION_RULE: &str = "DestinationRule is not read yet";
const JWT: &str = "RequestAuthentication is not read yet; a condition on a token holds for no request, which allows less";
const TRACING: &str = "no tracing provider can be set yet; trace headers are passed on without it";

fn resources(
    store: &Store,
) -> (
    BTreeMap<String, Address>,
    BTreeMap<String, Authorization>,
    envoy::Resources,
) {
    let mesh = Mesh {
        labels_enrol: false,
        ..Mesh::default()
    };
    let index = mesh.index(store);
    let translation = translate(&index);
    let waypoint = index.waypoints().next().expect("the waypoint");
    let envoy = envoy::translate(&index, &translation, waypoint, &mut Vec::new());
    (translation.addresses, translation.authorizations, envoy)
}

#[test]
fn addresses_are_istiods() {
    let accepted = [
        ("Kubernetes//Pod/*system/*", 2, NO_INPUT),
        ("Kubernetes//Pod/smoke/*", 2, NO_INPUT),
        (
            "Kubernetes/discovery.k8s.io/EndpointSlice/default/*",
            1,
            NO_INPUT,
        ),
        ("default/kubernetes*", 1, NO_INPUT),
        ("*-system/*.svc.cluster.local", 2, NO_INPUT),
        ("smoke/web*", 1, NO_INPUT),
        (
            "Kubernetes/networking.istio.io/ServiceEntry/*",
            1,
            SERVICE_ENTRY,
        ),
        ("app/ext.example.com", 1, SERVICE_ENTRY),
    ];
    let (addresses, _, _) = resources(&ambient());
    let same = compare(
        &ours::<Address>(&encoded(&addresses)),
        &capture::<Address>("ambient/address.pb"),
        &accepted,
    );
    assert_eq!(
        same, 6,
        "client, two echo pods, wp pod, and the services echo and wp"
    );
}

#[test]
fn authorizations_are_istiods() {
    let (_, authorizations, _) = resources(&ambient());
    let theirs = capture::<Authorization>("ambient/authorization.pb");
    assert_eq!(
        compare(
            &ours::<Authorization>(&encoded(&authorizations)),
            &theirs,
            &[]
        ),
        1
    );
}

#[test]
fn clusters_are_istiods() {
    let accepted = [
        (
            "inbound-vip|*|echo*.max_pending_requests*",
            2,
            DESTINATION_RULE,
        ),
        ("inbound-vip|*|echo*.outlier_detection", 2, DESTINATION_RULE),
        ("inbound-vip|*|echo*.config", 2, DESTINATION_RULE),
        ("inbound-vip|80|http|ext.example.com", 1, SERVICE_ENTRY),
    ];
    let (_, _, envoy) = resources(&ambient());
    let same = compare(
        &ours::<Cluster>(&envoy.clusters),
        &capture::<Cluster>("ambient/cluster.pb"),
        &accepted,
    );
    assert_eq!(same, 5, "the fixed ones");
}

#[test]
fn endpoints_are_istiods() {
    let accepted = [("inbound-vip|80|http|ext.example.com", 1, SERVICE_ENTRY)];
    let (_, _, envoy) = resources(&ambient());
    let theirs = capture::<ClusterLoadAssignment>("ambient/endpoints.pb");
    assert_eq!(
        compare(
            &ours::<ClusterLoadAssignment>(&envoy.endpoints),
            &theirs,
            &accepted
        ),
        2
    );
}

#[test]
fn listeners_are_istiods() {
    let accepted = [
        ("main_internal.*.HttpConnectionManager.tracing", 2, TRACING),
        (
            "main_internal.*.range_matchers.<*240.240.0.1*>",
            1,
            SERVICE_ENTRY,
        ),
        (
            "main_internal.*.range_matchers.<workloads>.ranges*",
            4,
            SERVICE_ENTRY,
        ),
        (
            "main_internal.filter_chains.<inbound-vip|80|http|ext.example.com>",
            1,
            SERVICE_ENTRY,
        ),
        ("main_internal.filter_chains.order", 1, SERVICE_ENTRY),
    ];
    let (_, _, envoy) = resources(&ambient());
    let theirs = capture::<Listener>("ambient/listener.pb");
    let same = compare(&ours::<Listener>(&envoy.listeners), &theirs, &accepted);
    assert_eq!(same, 4, "all but main_internal");
}

#[test]
fn addresses_of_the_rich_set_are_istiods() {
    let accepted = [
        (
            "Kubernetes//Pod/app/wp-5597bdb48b-qg2q9.*.node",
            1,
            "the pod ran on another node when the manifests were written",
        ),
        ("Kubernetes//Pod/*-system/*", 6, NO_INPUT),
        (
            "Kubernetes/discovery.k8s.io/EndpointSlice/default/*",
            1,
            NO_INPUT,
        ),
        ("default/kubernetes*", 1, NO_INPUT),
        ("*-system/*.svc.cluster.local", 2, NO_INPUT),
        ("Kubernetes/networking.istio.io/*", 3, SERVICE_ENTRY),
        ("app/*.example.com", 3, SERVICE_ENTRY),
    ];
    let (addresses, _, _) = resources(&rich());
    let theirs = capture::<Address>("rich/address.pb");
    let same = compare(&ours::<Address>(&encoded(&addresses)), &theirs, &accepted);
    assert_eq!(
        same, 7,
        "client, two echo pods, and the services echo, grpc, httpbin and wp"
    );
}

#[test]
fn authorizations_of_the_rich_set_are_istiods() {
    let (_, authorizations, _) = resources(&rich());
    let theirs = capture::<Authorization>("rich/authorization.pb");
    assert_eq!(
        compare(
            &ours::<Authorization>(&encoded(&authorizations)),
            &theirs,
            &[]
        ),
        4
    );
}

#[test]
fn clusters_of_the_rich_set_are_istiods() {
    let accepted = [
        ("inbound-vip|*.example.com", 4, SERVICE_ENTRY),
        ("inbound-vip|80|http/v1|httpbin*", 1, DESTINATION_RULE),
        (
            "inbound-vip|*.circuit_breakers.thresholds[0].max_*.value",
            5,
            DESTINATION_RULE,
        ),
        ("inbound-vip|*.istio.fields.config", 3, DESTINATION_RULE),
        ("inbound-vip|*.outlier_detection", 3, DESTINATION_RULE),
        (
            "inbound-vip|80|http|httpbin*.connect_timeout.seconds",
            1,
            DESTINATION_RULE,
        ),
        (
            "inbound-vip|80|http|httpbin*.lb_config",
            1,
            DESTINATION_RULE,
        ),
        (
            "inbound-vip|80|http|httpbin*.lb_policy",
            1,
            DESTINATION_RULE,
        ),
        (
            "inbound-vip|80|http|httpbin*.typed_extension_protocol_options",
            1,
            DESTINATION_RULE,
        ),
    ];
    let (_, _, envoy) = resources(&rich());
    let theirs = capture::<Cluster>("rich/cluster.pb");
    let same = compare(&ours::<Cluster>(&envoy.clusters), &theirs, &accepted);
    assert_eq!(same, 6, "the fixed ones and that of grpc");
}

#[test]
fn endpoints_of_the_rich_set_are_istiods() {
    let accepted = [
        ("inbound-vip|*.example.com", 2, SERVICE_ENTRY),
        ("inbound-vip|80|http/v1|httpbin*", 1, DESTINATION_RULE),
    ];
    let (_, _, envoy) = resources(&rich());
    let theirs = capture::<ClusterLoadAssignment>("rich/endpoints.pb");
    let same = compare(
        &ours::<ClusterLoadAssignment>(&envoy.endpoints),
        &theirs,
        &accepted,
    );
    assert_eq!(
        same, 4,
        "echo (two ports), grpc and httpbin, through the tunnel"
    );
}

#[test]
fn listeners_of_the_rich_set_are_istiods() {
    let accepted = [
        ("main_internal.*.HttpConnectionManager.tracing", 4, TRACING),
        (
            "main_internal.*.@stats.PluginConfig",
            6,
            "Telemetry is not read yet: metrics have their default labels",
        ),
        (
            "main_internal.*.range_matchers.<*240.240.*>",
            3,
            SERVICE_ENTRY,
        ),
        (
            "main_internal.*.range_matchers.<workloads>.ranges*",
            5,
            SERVICE_ENTRY,
        ),
        (
            "main_internal.filter_chains.<inbound-vip|*.example.com>",
            4,
            SERVICE_ENTRY,
        ),
        ("main_internal.filter_chains.order", 1, SERVICE_ENTRY),
        (
            "main_internal.listener_filters*",
            2,
            "the only TLS port is that of a ServiceEntry, and TLS is looked into only if a policy asks for the server name",
        ),
        (
            "*<inbound-vip|7070|http|grpc*.RouteConfig.*.cluster_not_found_response_code",
            1,
            "the Gateway API wants UNAVAILABLE for a gRPC backend that is not there; istiod's 500 reads as UNKNOWN",
        ),
        (
            "*<inbound-vip|80|http|httpbin*.RouteConfig.*",
            10,
            "VirtualService is not read yet",
        ),
        (
            "*<inbound-vip|80|http|httpbin*.<envoy.filters.http.jwt_authn>",
            1,
            JWT,
        ),
        ("*<inbound-vip|80|http|httpbin*.http_filters.order", 1, JWT),
        (
            "*.policies.ns[app]-policy[jwt]-rule[0].principals[0].identifier.AndIds.ids[1].*",
            2,
            JWT,
        ),
        (
            "*.policies.ns[app]-policy[jwt]-rule[0].principals[0].identifier.AndIds.ids[2].*",
            2,
            JWT,
        ),
    ];
    let (_, _, envoy) = resources(&rich());
    let theirs = capture::<Listener>("rich/listener.pb");
    let same = compare(&ours::<Listener>(&envoy.listeners), &theirs, &accepted);
    assert_eq!(same, 4, "all but main_internal");
}
