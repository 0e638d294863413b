//! What it costs to keep a mesh of 50,000 pods up to date: figures, for whoever changes translation or ADS. Not among the
//! usual tests: `cargo test --release -p control-plane --test cost -- --ignored --nocapture`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane::{follow::Follower, status::Status, translate::Mesh};
use identity::Identity;
use objects::{Change, Event, Kind, Object};
use proto::{
    discovery::{DeltaDiscoveryRequest, Node},
    type_url,
};
use runtime::metrics::Registry;
use serde_json::{Value, json};
use xds::server::{Client, Session, Source as _};

const PODS: usize = 50_000;
/// Pods of one service.
const BEHIND_ONE: usize = 20;
const NODES: usize = 500;
const SUBSCRIBERS: usize = 20;
/// Pods that change together: what 50 changes a second are in a tenth of it.
const BATCH: usize = 5;

fn object(kind: Kind, value: Value) -> Object {
    let mut parsed = objects::read(kind, value);
    parsed.results.pop().expect("one").expect("good")
}

fn pod(number: usize, namespaces: usize, ready: bool) -> Object {
    let (app, namespace) = (number / BEHIND_ONE, number / BEHIND_ONE % namespaces);
    let ip = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
    let labels =
        json!({"app": format!("app{app}"), "pod-template-hash": "5d4f8c7b9d", "version": "v1"});
    let meta = json!({"name": format!("pod-{number}"), "namespace": format!("ns{namespace}"), "labels": labels,
        "ownerReferences": [{"kind": "ReplicaSet", "name": format!("app{app}-5d4f8c7b9d"), "controller": true}]});
    let ready = if ready { "True" } else { "False" };
    let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": ready}]});
    let spec = json!({"nodeName": format!("node{}", number % NODES), "serviceAccountName": format!("app{app}"),
        "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]});
    object(
        Kind::Pod,
        json!({"metadata": meta, "spec": spec, "status": status}),
    )
}

fn world(namespaces: usize) -> Vec<Object> {
    let mut objects = Vec::new();
    for namespace in 0..namespaces {
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        let meta = json!({"name": format!("ns{namespace}"), "labels": labels});
        objects.push(object(Kind::Namespace, json!({"metadata": meta})));
    }
    for node in 0..NODES {
        let labels = json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": format!("z{}", node % 3)});
        let meta = json!({"name": format!("node{node}"), "labels": labels});
        objects.push(object(Kind::Node, json!({"metadata": meta})));
    }
    for app in 0..PODS / BEHIND_ONE {
        let meta =
            json!({"name": format!("app{app}"), "namespace": format!("ns{}", app % namespaces)});
        let spec = json!({"clusterIP": format!("10.96.{}.{}", app >> 8, app & 255), "selector": {"app": format!("app{app}")},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        objects.push(object(
            Kind::Service,
            json!({"metadata": meta, "spec": spec}),
        ));
    }
    objects.extend((0..PODS).map(|number| pod(number, namespaces, true)));
    objects
}

fn subscriber() -> Client {
    let identity: Identity = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
        .parse()
        .expect("an identity");
    Client {
        node: Node {
            id: "ztunnel~1~z~istio-system".into(),
            ..Node::default()
        },
        identity: Some(identity),
        stream: 1,
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "figures, not facts; see the head of this file"]
fn keeping_a_large_mesh_up_to_date() {
    for namespaces in [100, 1] {
        let mut follower = Follower::new(Mesh::default(), Arc::new(Status::new(&Registry::new())));
        let start = Instant::now();
        let objects = world(namespaces);
        let faults: Arc<[_]> = Arc::new([]);
        let parsed = start.elapsed();
        let start = Instant::now();
        follower.take(Event::Snapshot {
            objects,
            faults: faults.clone(),
        });
        let whole = start.elapsed();
        let views = follower.views();
        let mut sessions: Vec<(Session, _)> = Vec::new();
        for _ in 0..SUBSCRIBERS {
            let (mut session, view) = (
                Session::new(),
                views.subscribe(&subscriber()).expect("a view"),
            );
            let all = DeltaDiscoveryRequest {
                type_url: type_url::ADDRESS.into(),
                ..DeltaDiscoveryRequest::default()
            };
            session.request(all);
            let push = session.push(&view.borrow()).expect("everything");
            session.request(ack(&push.nonce));
            sessions.push((session, view));
        }
        let (mut publish, mut push) = (Vec::new(), Vec::new());
        for round in 0..20 {
            let changed = (0..BATCH).map(|i| {
                pod(
                    (round * 7919 + i * 104_729) % PODS,
                    namespaces,
                    round % 2 == 1,
                )
            });
            let changes = changed.map(Change::Upsert).collect();
            let start = Instant::now();
            follower.take(Event::Changes {
                changes,
                faults: faults.clone(),
            });
            publish.push(start.elapsed());
            let start = Instant::now();
            for (session, view) in &mut sessions {
                if let Some(push) = session.push(&view.borrow_and_update().clone()) {
                    session.request(ack(&push.nonce));
                }
            }
            push.push(start.elapsed());
        }
        println!(
            "{PODS} pods in {namespaces} namespaces: read {parsed:?}, translated as a whole {whole:?}; {BATCH} pods change: \
             published in {:?}, {SUBSCRIBERS} subscribers brought up in {:?} (medians of {})",
            median(publish.clone()),
            median(push),
            publish.len()
        );
    }
}

fn ack(nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url::ADDRESS.into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    }
}
