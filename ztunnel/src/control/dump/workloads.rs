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
    let text = |value: &str| Value::from(value);
    let mut object = Map::new();
    put(&mut object, "uid", text(&workload.uid));
    put(&mut object, "name", text(&workload.name));
    put(&mut object, "namespace", text(&workload.namespace));
    put(
        &mut object,
        "workloadIps",
        strings(workload.addresses.iter()),
    );
    put(&mut object, "hostname", text(&workload.hostname));
    put(&mut object, "network", text(&workload.network));
    put(
        &mut object,
        "networkGateway",
        workload.network_gateway.as_deref().map(gateway),
    );
    put(
        &mut object,
        "waypoint",
        workload.waypoint.as_deref().map(gateway),
    );
    put(&mut object, "protocol", protocol(workload.tunnel_protocol));
    put(
        &mut object,
        "networkMode",
        network_mode(workload.network_mode),
    );
    put(
        &mut object,
        "nativeTunnel",
        workload.native_tunnel.then_some(true),
    );
    let trust_domain = workload
        .identity
        .as_ref()
        .map(|identity| identity.trust_domain());
    put(&mut object, "trustDomain", trust_domain);
    put(&mut object, "serviceAccount", workload.service_account());
    put(&mut object, "node", text(&workload.node));
    put(&mut object, "canonicalName", text(&workload.canonical_name));
    put(
        &mut object,
        "canonicalRevision",
        text(&workload.canonical_revision),
    );
    put(
        &mut object,
        "workloadType",
        workload_type(workload.workload_type),
    );
    put(&mut object, "workloadName", text(&workload.workload_name));
    put(&mut object, "clusterId", text(&workload.cluster_id));
    put(
        &mut object,
        "authorizationPolicies",
        strings(workload.authorization_policies.iter()),
    );
    put(
        &mut object,
        "services",
        strings(workload.services.iter().map(|ports| &ports.service)),
    );
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
    put(&mut object, "applicationTunnel", workload.application_tunnel.map(|tunnel| {
        json!({ "protocol": application_protocol(tunnel.protocol), "port": tunnel.port })
    }));
    if let Some(locality) = &workload.locality {
        let (region, zone, subzone) = (&*locality.region, &*locality.zone, &*locality.subzone);
        put(
            &mut object,
            "locality",
            json!({ "region": region, "zone": zone, "subzone": subzone }),
        );
    }
    object.into()
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
