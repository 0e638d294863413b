//! `/config_dump`: what this ztunnel knows, in the JSON that istioctl reads from upstream's (reference: a dump of a
//! running istio, `testdata/config_dump.json`). Pure: values in, JSON out. Called by `admin`.
//!
//! No key material can get here: a [`Certificate`](identity::Certificate) does not give its key away.

mod certificates;
mod policies;
mod services;
mod workloads;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use identity::Identity;
use identity::store::Status;
use mesh::state::Snapshot;
use serde_json::{Map, Value, json};

use crate::pods::PodState;
use crate::worker::api::{Connection, Direction};

/// Everything a dump is made of.
pub struct Sources<'a> {
    /// The mesh.
    pub snapshot: &'a Snapshot,
    /// What is held of each identity.
    pub certificates: Vec<(Identity, Status)>,
    /// Pods by uid.
    pub pods: BTreeMap<Arc<str>, PodState>,
    /// Open connections.
    pub connections: Vec<Arc<Connection>>,
    /// The settings, already as JSON.
    pub config: Value,
    /// To tell an expired certificate.
    pub now: SystemTime,
}

/// The whole dump.
pub fn config_dump(sources: &Sources<'_>) -> Value {
    let snapshot = sources.snapshot;
    let staged = snapshot
        .staged_services()
        .map(|name| (name.to_string(), services::endpoints(snapshot, name, None)));
    json!({
        "certificates": certificates::all(&sources.certificates, sources.now),
        "config": sources.config,
        "policies": policies::all(snapshot),
        "services": services::all(snapshot),
        "stagedServices": staged.collect::<Map<_, _>>(),
        "staticConfig": { "policies": [], "services": [], "workloads": [] },
        "version": version(),
        "workloadState": workload_state(&sources.pods, &sources.connections),
        "workloads": workloads::all(snapshot),
    })
}

/// The facts of this build.
pub fn version() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": "unknown",
        "rustVersion": env!("CARGO_PKG_RUST_VERSION"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": "unknown",
        "istioVersion": "unknown",
        "cryptoProvider": "tls-aws-lc",
    })
}

fn workload_state(pods: &BTreeMap<Arc<str>, PodState>, connections: &[Arc<Connection>]) -> Value {
    let of_pod = |pod: &PodState, direction: Direction| {
        let own = connections.iter().filter(|connection| {
            let workload = match connection.direction {
                Direction::Inbound => &connection.destination_workload,
                Direction::Outbound => &connection.source_workload,
            };
            let matches = |w: &Arc<_>| is_pod(w, pod);
            connection.direction == direction && workload.as_ref().is_some_and(matches)
        });
        own.map(|connection| self::connection(connection))
            .collect::<Vec<_>>()
    };
    let state = |pod: &PodState| {
        json!({
            "connections": {
                "inbound": of_pod(pod, Direction::Inbound),
                "outbound": of_pod(pod, Direction::Outbound),
            },
            "info": {
                "name": &*pod.name,
                "namespace": &*pod.namespace,
                "serviceAccount": &*pod.service_account,
            },
            "state": if pod.up { "Up" } else { "Pending" },
        })
    };
    pods.iter()
        .map(|(uid, pod)| (uid.to_string(), state(pod)))
        .collect::<Map<_, _>>()
        .into()
}

fn is_pod(workload: &mesh::workload::Workload, pod: &PodState) -> bool {
    workload.name == pod.name && workload.namespace == pod.namespace
}

fn connection(connection: &Connection) -> Value {
    let plain = |address: SocketAddr| {
        SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
    };
    let original = connection
        .hbone
        .as_ref()
        .map_or_else(|| plain(connection.destination), ToString::to_string);
    json!({
        "src": plain(connection.source),
        "originalDst": original,
        "actualDst": plain(connection.destination),
        "protocol": if connection.hbone.is_some() { "HBONE" } else { "TCP" },
        "bytesSent": connection.bytes.sent(),
        "bytesReceived": connection.bytes.received(),
    })
}

/// Adds `key` unless `value` is what upstream leaves out: empty.
fn put(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let empty = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    if !empty {
        object.insert(key.to_owned(), value);
    }
}

/// Both ways to name a gateway, as one string.
fn gateway(gateway: &mesh::workload::GatewayAddress) -> Value {
    use mesh::workload::GatewayDestination::{Address, Hostname};
    let destination = match &gateway.destination {
        Hostname(name) => name.to_string(),
        Address(address) => address.to_string(),
    };
    json!({ "destination": destination, "hboneMtlsPort": gateway.hbone_mtls_port })
}

#[cfg(test)]
mod tests;
