//! The `workloads` of a dump.

use mesh::state::Snapshot;
use mesh::workload::{ApplicationProtocol, NetworkMode, TunnelProtocol, Workload, WorkloadType};
use serde_json::{Map, Value, json};

use super::{gateway, put};

/// All workloads, by uid.
pub(super) fn all(snapshot: &Snapshot) -> Vec<Value> {
    let mut workloads: Vec<_> = snapshot.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    workloads
        .into_iter()
        .map(|workload| one(workload))
        .collect()
}

fn one(workload: &Workload) -> Value {
    let mut object = Map::new();
    place(&mut object, workload);
    owner(&mut object, workload);
    let policies = strings(workload.authorization_policies.iter());
    put(&mut object, "authorizationPolicies", policies);
    let services = strings(workload.services.iter().map(|ports| &ports.service));
    put(&mut object, "services", services);
    put(
        &mut object,
        "status",
        if workload.healthy {
            "Healthy"
        } else {
            "Unhealthy"
        },
    );
    put(&mut object, "capacity", workload.capacity);
    let tunnel = workload.application_tunnel.map(
        |tunnel| json!({ "protocol": application_protocol(tunnel.protocol), "port": tunnel.port }),
    );
    put(&mut object, "applicationTunnel", tunnel);
    object.into()
}

/// Where it is and how it is reached.
fn place(object: &mut Map<String, Value>, workload: &Workload) {
    put(object, "workloadIps", strings(workload.addresses.iter()));
    put(object, "hostname", &*workload.hostname);
    put(object, "network", &*workload.network);
    put(
        object,
        "networkGateway",
        workload.network_gateway.as_deref().map(gateway),
    );
    put(
        object,
        "waypoint",
        workload.waypoint.as_deref().map(gateway),
    );
    put(object, "protocol", protocol(workload.tunnel_protocol));
    put(object, "networkMode", network_mode(workload.network_mode));
    put(
        object,
        "nativeTunnel",
        workload.native_tunnel.then_some(true),
    );
    put(object, "node", &*workload.node);
    put(object, "clusterId", &*workload.cluster_id);
    if let Some(locality) = &workload.locality {
        let (region, zone, subzone) = (&*locality.region, &*locality.zone, &*locality.subzone);
        put(
            object,
            "locality",
            json!({ "region": region, "zone": zone, "subzone": subzone }),
        );
    }
}

/// What it is called and whose it is.
fn owner(object: &mut Map<String, Value>, workload: &Workload) {
    put(object, "uid", &*workload.uid);
    put(object, "name", &*workload.name);
    put(object, "namespace", &*workload.namespace);
    put(
        object,
        "trustDomain",
        workload
            .identity
            .as_ref()
            .map(|identity| identity.trust_domain()),
    );
    put(object, "serviceAccount", workload.service_account());
    put(object, "canonicalName", &*workload.canonical_name);
    put(object, "canonicalRevision", &*workload.canonical_revision);
    put(
        object,
        "workloadType",
        workload_type(workload.workload_type),
    );
    put(object, "workloadName", &*workload.workload_name);
}

fn strings<T: ToString>(values: impl Iterator<Item = T>) -> Value {
    values
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .into()
}

fn protocol(protocol: TunnelProtocol) -> &'static str {
    match protocol {
        TunnelProtocol::None => "TCP",
        TunnelProtocol::Hbone => "HBONE",
        TunnelProtocol::LegacyIstioMtls => "LegacyIstioMtls",
    }
}

fn network_mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Standard => "Standard",
        NetworkMode::HostNetwork => "HostNetwork",
    }
}

fn workload_type(kind: WorkloadType) -> &'static str {
    match kind {
        WorkloadType::Deployment => "deployment",
        WorkloadType::CronJob => "cronjob",
        WorkloadType::Pod => "pod",
        WorkloadType::Job => "job",
    }
}

fn application_protocol(protocol: ApplicationProtocol) -> &'static str {
    match protocol {
        ApplicationProtocol::None => "NONE",
        ApplicationProtocol::Proxy => "PROXY",
    }
}
