//! Tables: manifests in, what ztunnels are told out.

use objects::Change;
use proto::workload::{GatewayAddress, Workload, address, gateway_address::Destination};

use super::*;

mod policies;
mod verdicts;
mod waypoints;
mod workloads;

fn store(text: &str) -> Store {
    let mut store = Store::default();
    for result in objects::parse(text).results {
        let object = result
            .unwrap_or_else(|fault| *Box::new(fault.stand_in.expect("good objects, or guards")));
        store.apply(Change::Upsert(object));
    }
    store
}

fn translated(text: &str) -> Translation {
    let (store, mesh) = (store(text), Mesh::default());
    translate(&mesh.index(&store))
}

fn workload(translation: &Translation, name: &str) -> Workload {
    match &translation.addresses[&format!("Kubernetes//Pod/app/{name}")].r#type {
        Some(address::Type::Workload(workload)) => workload.clone(),
        other => panic!("a workload: {other:?}"),
    }
}

fn service(translation: &Translation, name: &str) -> proto::workload::Service {
    match &translation.addresses[&format!("app/{name}.app.svc.cluster.local")].r#type {
        Some(address::Type::Service(service)) => service.clone(),
        other => panic!("a service: {other:?}"),
    }
}

fn host(address: Option<&GatewayAddress>) -> Option<String> {
    match address?.destination.as_ref()? {
        Destination::Hostname(host) => Some(format!("{}/{}", host.namespace, host.hostname)),
        Destination::Address(_) => None,
    }
}

fn faults(translation: &Translation) -> Vec<String> {
    translation.faults.iter().map(ToString::to_string).collect()
}

fn namespace(labels: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: app, labels: {{{labels}}}}}}}\n---\n"
    )
}

/// A pod `p` of service account `sa` with an address.
fn pod(labels: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: app, labels: {{{labels}}}}}, \
         spec: {{nodeName: n, serviceAccountName: sa{rest}}}, status: {{podIPs: [{{ip: 10.0.0.1}}]}}}}\n---\n"
    )
}

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: app}, spec: {clusterIP: 10.1.0.1, selector: {app: a}, ports: [{port: 80, targetPort: web}]}}\n---\n";
