//! Pods and bare endpoints to WDS workloads.

use std::collections::BTreeMap;

use objects::{EndpointSlice, Fault, IntOrString, Key, Kind, Meta, Pod, ServicePort, enroll};
use proto::workload::{
    Address, Locality, NetworkMode, Port, PortList, TunnelProtocol, Workload, WorkloadStatus,
    WorkloadType, address,
};

use super::{
    Index, binding,
    index::SERVICE_NAME,
    policy, require,
    service::{is_tcp, octets, resource_name},
};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const TUNNEL: &str = "networking.istio.io/tunnel";
const NETWORK: &str = "topology.istio.io/network";

/// Wraps a workload.
pub(super) fn address(workload: Workload) -> Address {
    Address {
        r#type: Some(address::Type::Workload(workload)),
    }
}

/// The workload of a pod; none while it has no address, and after it has ended.
pub(super) fn of_pod(index: &Index<'_>, pod: &Pod, faults: &mut Vec<Fault>) -> Option<Workload> {
    let addresses = pod.addresses();
    if addresses.is_empty() || pod.is_finished() {
        return None;
    }
    let (mesh, meta) = (index.mesh, &pod.metadata);
    let key = Key::new(Kind::Pod, &meta.namespace, &meta.name);
    let native_tunnel = meta.label(TUNNEL) == Some("http");
    let tunnel = if native_tunnel || is_captured(index, pod) {
        TunnelProtocol::Hbone
    } else {
        TunnelProtocol::None
    };
    let workload_name = workload_name(meta);
    let mode = if pod.spec.host_network {
        NetworkMode::HostNetwork
    } else {
        NetworkMode::Standard
    };
    let status = if is_healthy(pod) {
        WorkloadStatus::Healthy
    } else {
        WorkloadStatus::Unhealthy
    };
    Some(Workload {
        uid: format!("{}//Pod/{}/{}", mesh.cluster_id, meta.namespace, meta.name),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        addresses: addresses.into_iter().map(octets).collect(),
        network: network(index, meta),
        tunnel_protocol: tunnel.into(),
        native_tunnel,
        trust_domain: if mesh.trust_domain == "cluster.local" {
            String::new()
        } else {
            mesh.trust_domain.clone()
        },
        service_account: pod.service_account().into(),
        waypoint: binding::of_pod(index, pod).told(&key, faults).address,
        node: pod.spec.node_name.clone(),
        canonical_name: canonical_name(meta, &workload_name),
        canonical_revision: canonical_revision(meta),
        workload_type: WorkloadType::Pod.into(),
        workload_name,
        services: services(index, pod),
        authorization_policies: [
            policy::names_for(index, meta),
            require::names_for(index, pod),
        ]
        .concat(),
        status: status.into(),
        cluster_id: mesh.cluster_id.clone(),
        locality: locality(index, &pod.spec.node_name),
        network_mode: mode.into(),
        ..Workload::default()
    })
}

/// Whether ztunnel has the pod's traffic: the node agent said so, or its labels enrol it where that is taken for the
/// fact.
fn is_captured(index: &Index<'_>, pod: &Pod) -> bool {
    if let Some(redirection) = pod.metadata.annotation(REDIRECTION) {
        return redirection == "enabled";
    }
    let namespace = index.store.namespaces.find("", &pod.metadata.namespace);
    index.mesh.labels_enrol
        && enroll::decide(pod, namespace.map(AsRef::as_ref)) == enroll::Decision::In
}

/// Ready; a pod of a manifest that was never given conditions counts as ready unless its phase says otherwise.
fn is_healthy(pod: &Pod) -> bool {
    let unwatched =
        pod.status.conditions.is_empty() && matches!(pod.status.phase.as_str(), "" | "Running");
    pod.is_ready() || unwatched && pod.metadata.deletion_timestamp.is_none()
}

fn network(index: &Index<'_>, meta: &Meta) -> String {
    let system = index.store.namespaces.find("", &index.mesh.root_namespace);
    let default = || {
        system
            .and_then(|system| system.metadata.label(NETWORK))
            .unwrap_or(&index.mesh.network)
    };
    meta.label(NETWORK).unwrap_or_else(default).into()
}

/// The name of what the user deployed: the Deployment behind the ReplicaSet, the CronJob behind the Job, else the
/// controller, else the pod.
fn workload_name(meta: &Meta) -> String {
    let Some(owner) = meta.owner_references.iter().find(|owner| owner.controller) else {
        return meta.name.clone();
    };
    let without_suffix = |is_suffix: fn(&str) -> bool| {
        owner
            .name
            .rsplit_once('-')
            .filter(|(_, suffix)| is_suffix(suffix))
            .map(|(head, _)| head)
    };
    let name = match owner.kind.as_str() {
        "ReplicaSet" => without_suffix(|suffix| {
            !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_alphanumeric())
        })
        .filter(|_| {
            meta.label("pod-template-hash")
                .is_none_or(|hash| owner.name.ends_with(hash))
        }),
        "Job" => {
            without_suffix(|suffix| suffix.len() >= 8 && suffix.bytes().all(|b| b.is_ascii_digit()))
        }
        _ => None,
    };
    name.unwrap_or(&owner.name).to_owned()
}

fn first_label(meta: &Meta, keys: [&str; 3]) -> Option<String> {
    keys.iter()
        .find_map(|key| meta.label(key))
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

fn canonical_name(meta: &Meta, workload_name: &str) -> String {
    let keys = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    first_label(meta, keys).unwrap_or_else(|| workload_name.into())
}

fn canonical_revision(meta: &Meta) -> String {
    let keys = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    first_label(meta, keys).unwrap_or_else(|| "latest".into())
}

fn locality(index: &Index<'_>, node: &str) -> Option<Locality> {
    let meta = &index.store.nodes.find("", node)?.metadata;
    let label = |key: &str| meta.label(key).unwrap_or_default().to_owned();
    let locality = Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    };
    (locality != Locality::default()).then_some(locality)
}

fn services(index: &Index<'_>, pod: &Pod) -> BTreeMap<String, PortList> {
    let services = index
        .services_of
        .get(&(pod.metadata.namespace.as_str(), pod.metadata.name.as_str()));
    let services = services.into_iter().flatten();
    services
        .map(|service| {
            let tcp = service.spec.ports.iter();
            let ports = tcp
                .filter(|port| is_tcp(&port.protocol))
                .filter_map(|port| {
                    let target_port = target_port(pod, port)?.into();
                    Some(Port {
                        service_port: port.port.into(),
                        target_port,
                        app_protocol: 0,
                    })
                });
            (
                resource_name(index.mesh, service),
                PortList {
                    ports: ports.collect(),
                },
            )
        })
        .collect()
}

/// The port of a pod that a service port leads to; a name is looked up in its containers. None if it has none of
/// that name.
pub(super) fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let running = pod
        .spec
        .init_containers
        .iter()
        .filter(|container| container.restart_policy == "Always");
    let protocol = |text: &str| {
        if text.is_empty() {
            "TCP".to_owned()
        } else {
            text.to_owned()
        }
    };
    pod.spec
        .containers
        .iter()
        .chain(running)
        .flat_map(|container| &container.ports)
        .find(|candidate| {
            candidate.name == *name && protocol(&candidate.protocol) == protocol(&port.protocol)
        })
        .map(|candidate| candidate.container_port)
}

/// Workloads of slice endpoints behind which no pod stands: reachable, but without identity, policy or waypoint.
pub(super) fn of_endpoint_slices(index: &Index<'_>) -> Vec<Workload> {
    let slices = index
        .store
        .endpoint_slices
        .all()
        .filter(|slice| slice.address_type != "FQDN");
    slices.flat_map(|slice| of_slice(index, slice)).collect()
}

fn of_slice(index: &Index<'_>, slice: &EndpointSlice) -> Vec<Workload> {
    let meta = &slice.metadata;
    let Some(service) = meta
        .label(SERVICE_NAME)
        .and_then(|name| index.store.services.find(&meta.namespace, name))
    else {
        return Vec::new();
    };
    let target = |port: &ServicePort| {
        let own = slice
            .ports
            .iter()
            .find(|candidate| candidate.name == port.name && is_tcp(&candidate.protocol))?;
        let target_port = own.port?.into();
        Some(Port {
            service_port: port.port.into(),
            target_port,
            app_protocol: 0,
        })
    };
    let ports: Vec<Port> = service
        .spec
        .ports
        .iter()
        .filter(|port| is_tcp(&port.protocol))
        .filter_map(target)
        .collect();
    let cluster = &index.mesh.cluster_id;
    let bare = slice.endpoints.iter().filter(|e| {
        e.target_ref
            .as_ref()
            .is_none_or(|target| target.kind != "Pod")
    });
    bare.filter_map(|endpoint| {
        let address: std::net::IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let ready = endpoint.conditions.ready != Some(false);
        let status = if ready {
            WorkloadStatus::Healthy
        } else {
            WorkloadStatus::Unhealthy
        };
        Some(Workload {
            uid: format!(
                "{cluster}/discovery.k8s.io/EndpointSlice/{}/{}/{address}",
                meta.namespace, meta.name
            ),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            addresses: vec![octets(address)],
            network: network(index, meta),
            services: [(
                resource_name(index.mesh, service),
                PortList {
                    ports: ports.clone(),
                },
            )]
            .into(),
            status: status.into(),
            cluster_id: cluster.clone(),
            network_mode: NetworkMode::HostNetwork.into(),
            ..Workload::default()
        })
    })
    .collect()
}
