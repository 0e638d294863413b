//! What 20,000 workloads cost from the wire to the state: memory held, and the allocation of one more update.
//! Bytes are asserted, time is not (`--nocapture` prints it).

use std::{hint::black_box, time::Instant};

use allocation_counter::measure;
use causeway_xds::wds::Decoder;
use mesh::{state::State, workload::pod_uid};
use prost::Message as _;
use proto::{type_url, workload as pb};

const WORKLOADS: u32 = 20_000;
const REPLICAS: u32 = 20;

/// A pod as istiod sends it: name of the resource and its body.
fn pod(index: u32, healthy: bool) -> (String, Vec<u8>) {
    let group = index / REPLICAS;
    let (namespace, owner) = (
        format!("namespace-{}", group / 10),
        format!("deployment-{group}"),
    );
    let name = format!("{owner}-6d5c9cbd6-{index:05}");
    let uid = pod_uid("Kubernetes", &namespace, &name);
    let ports = vec![pb::Port {
        service_port: 80,
        target_port: 8080,
        app_protocol: 0,
    }];
    let service = format!("{namespace}/service-{group}.{namespace}.svc.cluster.local");
    let waypoint = pb::NamespacedHostname {
        namespace: namespace.clone(),
        hostname: "wp.svc.cluster.local".into(),
    };
    let message = pb::Workload {
        uid: uid.clone(),
        name,
        addresses: vec![(0x0a00_0000 + index).to_be_bytes().to_vec()],
        tunnel_protocol: pb::TunnelProtocol::Hbone.into(),
        service_account: owner.clone(),
        waypoint: Some(pb::GatewayAddress {
            destination: Some(pb::gateway_address::Destination::Hostname(waypoint)),
            hbone_mtls_port: 15008,
        }),
        node: format!("node-{}", index % 200),
        canonical_name: owner.clone(),
        canonical_revision: "v1".into(),
        workload_type: pb::WorkloadType::Pod.into(),
        workload_name: owner,
        services: [(service, pb::PortList { ports })].into(),
        authorization_policies: vec![
            format!("{namespace}/l4"),
            "istio-system/istio_converted_static_strict".into(),
        ],
        cluster_id: "Kubernetes".into(),
        status: i32::from(!healthy),
        namespace,
        ..Default::default()
    };
    (
        uid,
        pb::Address {
            r#type: Some(pb::address::Type::Workload(message)),
        }
        .encode_to_vec(),
    )
}

fn put(state: &mut State, decoder: &mut Decoder, pods: &[(String, Vec<u8>)]) {
    let decode = |(name, body): &(String, Vec<u8>)| {
        decoder
            .decode(type_url::ADDRESS, name, body)
            .expect("a good pod")
    };
    let updates = pods.iter().map(decode).collect();
    black_box(state.apply(updates));
}

#[test]
fn twenty_thousand_workloads_fit_and_one_update_costs_little() {
    let pods: Vec<_> = (0..WORKLOADS).map(|index| pod(index, true)).collect();
    let (mut state, mut decoder) = (State::new(), Decoder::new());
    let started = Instant::now();
    let all = measure(|| put(&mut state, &mut decoder, &pods));
    println!(
        "20k workloads from the wire: {:.1} MB held, {:.1} MB at most, {:?}",
        all.bytes_current as f64 / 1e6,
        all.bytes_max as f64 / 1e6,
        started.elapsed()
    );
    assert_eq!(state.current().workloads().len(), 20_000);
    assert!(all.bytes_max < 30_000_000, "{all:?}");
    let updates = [
        ("health", pod(777, false)),
        ("a new pod of a new service", pod(WORKLOADS, true)),
    ];
    for (what, update) in updates {
        // A reader holds the old version.
        let held = state.snapshot();
        let one = measure(|| put(&mut state, &mut decoder, std::slice::from_ref(&update)));
        println!(
            "one update ({what}): {} bytes in {} allocations",
            one.bytes_total, one.count_total
        );
        assert!(one.bytes_total < 64 * 1024, "{what}: {one:?}");
        assert_ne!(held.generation(), state.current().generation());
    }
}

#[test]
fn a_mesh_that_changes_for_long_does_not_grow() {
    let (mut state, mut decoder) = (State::new(), Decoder::new());
    let mut round = |first: u32, gone: Option<u32>| {
        let pods: Vec<_> = (first..first + 2000)
            .map(|index| pod(index, true))
            .collect();
        put(&mut state, &mut decoder, &pods);
        let gone = gone.map(|first| (first..first + 2000).map(|index| pod(index, true).0));
        let removals = gone
            .into_iter()
            .flatten()
            .filter_map(|name| decoder.remove(type_url::ADDRESS, &name))
            .collect();
        black_box(state.apply(removals));
    };
    let first = measure(|| round(0, None));
    let later = measure(|| (1..10).for_each(|index| round(index * 2000, Some((index - 1) * 2000))));
    assert!(
        later.bytes_current < first.bytes_current,
        "first {first:?} later {later:?}"
    );
}
