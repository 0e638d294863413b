//! Pods, bare endpoints and services.

use proto::workload::{TunnelProtocol, WorkloadStatus};

use super::*;

#[test]
fn labels_enrol_pods_where_nobody_annotates_them() {
    let ambient = "istio.io/dataplane-mode: ambient";
    let none = "istio.io/dataplane-mode: none";
    let table = [
        (namespace(ambient), pod("", ""), TunnelProtocol::Hbone),
        (namespace(""), pod("", ""), TunnelProtocol::None),
        (String::new(), pod(ambient, ""), TunnelProtocol::Hbone),
        (namespace(ambient), pod(none, ""), TunnelProtocol::None),
        (namespace(none), pod(ambient, ""), TunnelProtocol::Hbone),
        (
            namespace(ambient),
            pod("", ", hostNetwork: true"),
            TunnelProtocol::None,
        ),
        (
            namespace(ambient),
            pod("gateway.networking.k8s.io/gateway-name: wp", ""),
            TunnelProtocol::None,
        ),
        (
            namespace(""),
            pod("networking.istio.io/tunnel: http", ""),
            TunnelProtocol::Hbone,
        ),
    ];
    for (namespace, pod, tunnel) in table {
        let workload = workload(&translated(&(namespace.clone() + &pod)), "p");
        assert_eq!(workload.tunnel_protocol(), tunnel, "{namespace}{pod}");
    }
    let annotated = |value: &str| {
        let pod = pod("", "").replace(
            "namespace: app,",
            &format!("namespace: app, annotations: {{ambient.istio.io/redirection: {value}}},"),
        );
        workload(&translated(&(namespace(ambient) + &pod)), "p").tunnel_protocol()
    };
    assert_eq!(annotated("enabled"), TunnelProtocol::Hbone);
    assert_eq!(
        annotated("disabled"),
        TunnelProtocol::None,
        "what the agent says goes before labels"
    );
    let store = store(&(namespace(ambient) + &pod("", "")));
    let mesh = Mesh {
        labels_enrol: false,
        ..Mesh::default()
    };
    assert_eq!(
        workload(&translate(&mesh.index(&store)), "p").tunnel_protocol(),
        TunnelProtocol::None
    );
}

#[test]
fn pods_without_address_or_with_an_end_are_no_workloads() {
    for status in [
        "{}",
        "{phase: Succeeded, podIP: 10.0.0.1}",
        "{phase: Failed, podIP: 10.0.0.1}",
    ] {
        let text =
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, status: {status}}}");
        assert!(translated(&text).addresses.is_empty(), "{status}");
    }
}

#[test]
fn health_follows_the_ready_condition_if_there_are_conditions() {
    let table = [
        ("podIP: 10.0.0.1", WorkloadStatus::Healthy),
        ("podIP: 10.0.0.1, phase: Pending", WorkloadStatus::Unhealthy),
        (
            "podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]",
            WorkloadStatus::Healthy,
        ),
        (
            "podIP: 10.0.0.1, conditions: [{type: Ready, status: 'False'}]",
            WorkloadStatus::Unhealthy,
        ),
        (
            "podIP: 10.0.0.1, conditions: [{type: Initialized, status: 'True'}]",
            WorkloadStatus::Unhealthy,
        ),
    ];
    for (status, health) in table {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: app}}, status: {{{status}}}}}"
        );
        assert_eq!(
            workload(&translated(&text), "p").status(),
            health,
            "{status}"
        );
    }
}

#[test]
fn owners_and_labels_name_the_workload() {
    let table = [
        ("kind: ReplicaSet, name: echo-6d5c9cbd6", "", "echo"),
        (
            "kind: ReplicaSet, name: echo-6d5c9cbd6",
            "pod-template-hash: other",
            "echo-6d5c9cbd6",
        ),
        ("kind: Job, name: nightly-29012345", "", "nightly"),
        ("kind: Job, name: once-1", "", "once-1"),
        ("kind: StatefulSet, name: db", "", "db"),
    ];
    for (owner, labels, name) in table {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: app, labels: {{{labels}}}, ownerReferences: [{{{owner}, controller: true}}]}}, status: {{podIP: 10.0.0.1}}}}"
        );
        let workload = workload(&translated(&text), "p");
        assert_eq!(
            (
                workload.workload_name.as_str(),
                workload.canonical_name.as_str()
            ),
            (name, name),
            "{owner}"
        );
        assert_eq!(workload.canonical_revision, "latest");
    }
    let workload = workload(
        &translated(&pod("app: a, app.kubernetes.io/name: b, version: v2", "")),
        "p",
    );
    assert_eq!(
        (
            workload.canonical_name.as_str(),
            workload.canonical_revision.as_str()
        ),
        ("b", "v2")
    );
}

#[test]
fn named_target_ports_are_looked_up_in_the_pod() {
    let ports = |rest: &str| {
        let workload = workload(&translated(&(pod("app: a", rest) + SERVICE)), "p");
        workload.services["app/s.app.svc.cluster.local"]
            .ports
            .iter()
            .map(|port| port.target_port)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ports(", containers: [{ports: [{name: web, containerPort: 8080}]}]"),
        [8080]
    );
    assert_eq!(
        ports(
            ", initContainers: [{restartPolicy: Always, ports: [{name: web, containerPort: 8081}]}]"
        ),
        [8081]
    );
    assert!(ports(", initContainers: [{ports: [{name: web, containerPort: 8081}]}]").is_empty());
    assert!(
        ports(", containers: [{ports: [{name: web, containerPort: 80, protocol: UDP}]}]")
            .is_empty()
    );
    assert_eq!(service(&translated(SERVICE), "s").ports[0].target_port, 0);
}

#[test]
fn endpoints_without_pod_become_bare_workloads() {
    let text = "
{apiVersion: v1, kind: Service, metadata: {name: ext, namespace: app}, spec: {clusterIP: 10.1.0.5, ports: [{name: a, port: 80}, {name: u, port: 53, protocol: UDP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: ext-1, namespace: app, labels: {kubernetes.io/service-name: ext}},
 addressType: IPv4, ports: [{name: a, port: 8080}, {name: u, port: 53, protocol: UDP}],
 endpoints: [{addresses: [192.0.2.1]}, {addresses: [192.0.2.2], conditions: {ready: false}}, {addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}}]}
---
" .to_owned() + &pod("", "");
    let translation = translated(&text);
    let names: Vec<_> = translation.addresses.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "Kubernetes//Pod/app/p",
            "Kubernetes/discovery.k8s.io/EndpointSlice/app/ext-1/192.0.2.1",
            "Kubernetes/discovery.k8s.io/EndpointSlice/app/ext-1/192.0.2.2",
            "app/ext.app.svc.cluster.local",
        ]
    );
    let Some(address::Type::Workload(bare)) = &translation.addresses[names[2]].r#type else {
        panic!("a workload")
    };
    assert_eq!(bare.status(), WorkloadStatus::Unhealthy);
    assert_eq!(
        bare.services["app/ext.app.svc.cluster.local"].ports.len(),
        1,
        "TCP only"
    );
    // The service selects no pods, but its slice names one.
    assert!(
        workload(&translation, "p")
            .services
            .contains_key("app/ext.app.svc.cluster.local")
    );
}

#[test]
fn app_protocols_are_read_like_istios() {
    use proto::workload::AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
    let table = [
        ("http-web", "", 80, Http11),
        ("http2", "", 80, Http2),
        ("grpc-api", "", 80, Grpc),
        ("grpc-web", "", 80, Http11),
        ("https", "", 443, Tls),
        ("tls-x", "", 443, Tls),
        ("mongo", "", 1, Tcp),
        ("web", "", 80, Unknown),
        ("web", "http", 80, Http11),
        ("http", "tcp", 80, Tcp),
        ("web", "kubernetes.io/h2c", 80, Http2),
        ("web", "hbone", 80, Unknown),
        ("db", "", 3306, Tcp),
        ("", "", 80, Unknown),
    ];
    for (name, app_protocol, number, expected) in table {
        let port = objects::ServicePort {
            name: name.into(),
            app_protocol: app_protocol.into(),
            port: number,
            ..Default::default()
        };
        assert_eq!(
            super::service::app_protocol(&port),
            expected,
            "{name} {app_protocol} {number}"
        );
    }
}

#[test]
fn service_options_become_load_balancing() {
    use proto::workload::load_balancing::{HealthPolicy, Mode};
    let balancing = |spec: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: app}}, spec: {{clusterIP: 10.1.0.1, ports: [{{port: 80}}], {spec}}}}}"
        );
        service(&translated(&text), "s").load_balancing
    };
    assert_eq!(balancing("type: ClusterIP"), None);
    let local = balancing("internalTrafficPolicy: Local").unwrap();
    assert_eq!(
        (local.mode(), local.routing_preference.len()),
        (Mode::Strict, 1)
    );
    let close = balancing("trafficDistribution: PreferClose").unwrap();
    assert_eq!(
        (close.mode(), close.routing_preference.len()),
        (Mode::Failover, 3)
    );
    assert_eq!(
        balancing("trafficDistribution: PreferSameNode")
            .unwrap()
            .routing_preference
            .len(),
        5
    );
    assert_eq!(
        balancing("publishNotReadyAddresses: true")
            .unwrap()
            .health_policy(),
        HealthPolicy::AllowAll
    );
}
