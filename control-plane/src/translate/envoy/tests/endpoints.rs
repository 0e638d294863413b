//! Endpoints: by which way a waypoint reaches them.

use envoy_types::pb::envoy::config::core::v3::{HealthStatus, address::Address};

use super::*;

/// Address and metadata of each endpoint, as text.
fn ways(result: &Result, cluster: &str) -> Vec<String> {
    let way = |endpoint: LbEndpoint| {
        let Some(HostIdentifier::Endpoint(host)) = endpoint.host_identifier else {
            panic!("an endpoint")
        };
        let address = match host.address.and_then(|address| address.address) {
            Some(Address::EnvoyInternalAddress(internal)) => {
                format!("tunnel {}", internal.endpoint_id)
            }
            Some(Address::SocketAddress(socket)) => format!("plain {}", socket.address),
            other => panic!("an address: {other:?}"),
        };
        let waypoint = endpoint.metadata.and_then(|metadata| {
            let part = metadata
                .filter_metadata
                .get(cluster::ORIGINAL_DST)?
                .fields
                .get("waypoint")
                .cloned();
            part.map(|value| format!("{:?}", value.kind))
        });
        let health = if endpoint.health_status == i32::from(HealthStatus::Healthy) {
            ""
        } else {
            " unhealthy"
        };
        format!(
            "{address}{health}{}",
            waypoint.map(|w| format!(" via {w}")).unwrap_or_default()
        )
    };
    result.endpoints(cluster).into_iter().map(way).collect()
}

#[test]
fn captured_pods_are_reached_through_the_tunnel_and_others_plainly() {
    assert_eq!(ways(&waypoint(""), S80), ["tunnel 10.0.0.1:8080"]);
    let out = "{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: app, labels: {app: a, istio.io/dataplane-mode: none}}, spec: {}, status: {podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: 'False'}]}}\n---\n";
    assert_eq!(
        ways(&waypoint(out), S80),
        ["tunnel 10.0.0.1:8080", "plain 10.0.0.2 unhealthy"]
    );
}

#[test]
fn a_service_that_publishes_endpoints_that_are_not_ready_has_only_healthy_ones() {
    let not_ready = "{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: app, labels: {app: a}}, spec: {}, status: {podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: 'False'}]}}\n---\n";
    let service = |publishes: bool| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: app}}, spec: {{clusterIP: 10.1.0.1, selector: {{app: a}}, publishNotReadyAddresses: {publishes}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n{not_ready}"
        )
    };
    let first = "tunnel 10.0.0.1:8080";
    assert_eq!(
        ways(&waypoint(&service(false)), S80),
        [first, "tunnel 10.0.0.2:8080 unhealthy"]
    );
    assert_eq!(
        ways(&waypoint(&service(true)), S80),
        [first, "tunnel 10.0.0.2:8080"]
    );
}

const ROUTE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: app}, spec: {parentRefs: [{group: '', kind: Service, name: s}], rules: [{backendRefs: [{name: t, port: 80}]}]}}\n---\n";

fn other(use_waypoint: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: t, namespace: app, labels: {{istio.io/use-waypoint: {use_waypoint}}}}}, spec: {{clusterIP: 10.1.0.2, selector: {{app: a}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n{ROUTE}"
    )
}

const T80: &str = "inbound-vip|80|http|t.app.svc.cluster.local";

#[test]
fn a_backend_that_no_waypoint_serves_is_reached_directly() {
    assert_eq!(
        ways(&waypoint(&other("none")), T80),
        ["tunnel 10.0.0.1:8080"]
    );
}

#[test]
fn a_backend_of_another_waypoint_is_reached_through_that() {
    let second = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wq, namespace: app}, spec: {gatewayClassName: istio-waypoint}}\n---\n{apiVersion: v1, kind: Service, metadata: {name: wq, namespace: app}, spec: {clusterIP: 10.1.0.8, ports: [{port: 15008}]}}\n---\n";
    let result = waypoint(&(other("wq") + second));
    assert_eq!(
        ways(&result, T80),
        [r#"tunnel 10.1.0.2:80 via Some(StringValue("10.1.0.8:15008"))"#]
    );
    assert!(
        !result
            .listener("main_internal")
            .filter_chains
            .iter()
            .any(|chain| chain.name == T80)
    );
}

#[test]
fn a_backend_whose_waypoint_is_absent_is_not_reached_at_all() {
    assert!(ways(&waypoint(&other("gone")), T80).is_empty());
}

#[test]
fn endpoints_are_grouped_by_place() {
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}}\n---\n";
    let far = "{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: app, labels: {app: a}}, spec: {nodeName: m}, status: {podIPs: [{ip: 10.0.0.2}]}}\n---\n";
    let result = waypoint(&format!("{node}{far}"));
    let assignment = ClusterLoadAssignment::decode(&result.resources.endpoints[S80][..])
        .expect("what we encoded");
    let zones: Vec<String> = assignment
        .endpoints
        .into_iter()
        .filter_map(|e| e.locality)
        .map(|l| l.zone)
        .collect();
    assert_eq!(zones, ["", "z"]);
}
