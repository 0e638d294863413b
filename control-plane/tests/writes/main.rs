//! The writing half of the control plane against a real API server: etcd, kube-apiserver and the garbage collector of
//! kube-controller-manager. Without these binaries nothing runs, and it says so.

use std::time::Duration;

use control_plane::{
    deploy,
    follow::Follower,
    lead::{Candidate, Leadership, Times},
    status::Status,
    translate::Mesh,
    writing,
};
use kube::{Client, core::DynamicObject};
use objects::Event;
use runtime::{Shutdown, metrics::Registry};
use serde_json::{Value, json};

mod cluster;
mod rights;

use cluster::{Cluster, eventually};

/// Short, so that the loss of a leader is seen soon.
const TIMES: Times = Times {
    duration: Duration::from_secs(4),
    renew: Duration::from_secs(3),
    retry: Duration::from_millis(500),
};

/// One control plane as far as it writes.
struct Replica {
    follower: Follower,
    leadership: Leadership,
    shutdown: Shutdown,
}

impl Replica {
    fn start(client: &Client, me: &str) -> Replica {
        let shutdown = Shutdown::new();
        let status = std::sync::Arc::new(Status::new(&Registry::new()));
        let mut follower = Follower::new(Mesh::default(), status);
        let settings = writing::Settings {
            candidate: Candidate {
                namespace: "default".into(),
                lease: "causeway-control-plane".into(),
                me: me.into(),
                times: TIMES,
            },
            deploy: deploy::Settings {
                image: "example.test/causeway/waypoint:1".into(),
                fixed_user: true,
                domain: "cluster.local".into(),
                trust_domain: "cluster.local".into(),
                cluster_id: "Kubernetes".into(),
                root_namespace: "istio-system".into(),
                discovery_address: "istiod.istio-system.svc:15012".into(),
                ca_address: "istiod.istio-system.svc:15012".into(),
                ..deploy::Settings::default()
            },
        };
        let leadership = writing::start(client, settings, follower.verdicts(), &shutdown);
        Replica {
            follower,
            leadership,
            shutdown,
        }
    }

    /// What a watch would have told.
    fn told(&mut self, manifests: &str) {
        let parsed = objects::parse(manifests);
        let mut faults = parsed.warnings;
        let mut objects = Vec::new();
        for result in parsed.results {
            match result {
                Ok(object) => objects.push(object),
                Err(fault) => {
                    objects.extend(fault.stand_in.clone());
                    faults.push(fault);
                }
            }
        }
        self.follower.take(Event::Snapshot {
            objects,
            faults: faults.into(),
        });
    }
}

const GATEWAY: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app}, spec: \
     {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}";
const ROUTE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: app}, spec: {parentRefs: \
     [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: lost, port: 80}]}]}}";
const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: app, labels: {istio.io/use-waypoint: wp}}, spec: \
     {clusterIP: 10.96.0.77, ports: [{port: 80, name: http}]}}";
const POLICY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: l4, namespace: app}, spec: {rules: \
     [{to: [{operation: {methods: [GET]}}]}]}}";
/// The API server takes it; we do not.
const BAD: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: bad, namespace: app}, spec: {parentRefs: \
     [{group: '', kind: Service, name: web}], rules: [{matches: [{headers: [{type: RegularExpression, name: a, value: '('}]}]}]}}";

/// Type, status and reason of each condition.
fn conditions(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let word = |one: &Value, field: &str| one[field].as_str().unwrap_or("?").to_owned();
    list.iter()
        .map(|one| {
            format!(
                "{}={}/{}",
                word(one, "type"),
                word(one, "status"),
                word(one, "reason")
            )
        })
        .collect()
}

async fn value(cluster: &Cluster, kind: &str, name: &str) -> Option<Value> {
    let found: Option<DynamicObject> = cluster
        .api(kind)
        .get_opt(name)
        .await
        .expect("the API server answers");
    found.map(|object| serde_json::to_value(object).expect("JSON"))
}

async fn version(cluster: &Cluster, kind: &str, name: &str) -> String {
    let found = value(cluster, kind, name).await.expect("it is there");
    found["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned()
}

/// Waits until one of the two leads; the leader first.
async fn elect(mut one: Replica, mut two: Replica) -> (Replica, Replica) {
    let first = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::select! { () = one.leadership.until(true) => true, () = two.leadership.until(true) => false }
    });
    if first.await.expect("one is elected") {
        (one, two)
    } else {
        (two, one)
    }
}

#[test]
fn waypoints_and_status_are_written_by_one_replica_and_by_the_next_when_it_dies() {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    tokio.block_on(async {
        let Some(cluster) = Cluster::start().await else {
            return;
        };
        let client = cluster.with_its_rights().await;
        let replicas = (
            Replica::start(&client, "one"),
            Replica::start(&client, "two"),
        );
        let (mut leader, mut other) = elect(replicas.0, replicas.1).await;
        assert!(!other.leadership.leads(), "two lead");

        a_gateway_gets_its_objects(&cluster).await;
        a_gateway_is_programmed_with_its_first_ready_pod(&cluster).await;
        drift_is_repaired(&cluster).await;
        an_overlay_takes_effect_and_goes(&cluster).await;
        foreign_objects_are_left(&cluster).await;
        conditions_are_written(&cluster, &mut leader, &mut other).await;
        others_conditions_stay(&cluster).await;
        the_next_replica_takes_over(&cluster, leader, &mut other).await;
        what_a_gateway_had_goes_with_it(&cluster).await;
        the_last_one_gives_the_lease_back(&cluster, other).await;
    });
}

async fn a_gateway_gets_its_objects(cluster: &Cluster) {
    eventually("the class is made and accepted", async || {
        let class = value(cluster, "GatewayClass", "causeway-waypoint").await;
        class.is_some_and(|class| {
            conditions(&class["status"]["conditions"]) == ["Accepted=True/Accepted"]
        })
    })
    .await;
    cluster.apply(GATEWAY).await;
    for kind in ["ServiceAccount", "Deployment", "Service"] {
        eventually("its objects appear", async || {
            value(cluster, kind, "wp")
                .await
                .is_some_and(|object| object["metadata"]["ownerReferences"][0]["kind"] == "Gateway")
        })
        .await;
    }
    eventually("it waits for a pod", async || {
        let gateway = value(cluster, "Gateway", "wp").await.expect("there");
        conditions(&gateway["status"]["conditions"])
            == [
                "Accepted=True/Accepted",
                "Programmed=False/Pending",
                "ResolvedRefs=True/ResolvedRefs",
            ]
    })
    .await;
    let gateway = value(cluster, "Gateway", "wp").await.expect("there");
    assert_eq!(gateway["status"]["addresses"], Value::Null);
}

async fn a_gateway_is_programmed_with_its_first_ready_pod(cluster: &Cluster) {
    let ready = |count: u32| json!({"status": {"replicas": 1, "readyReplicas": count, "availableReplicas": count}});
    cluster.patch_status("Deployment", "wp", &ready(1)).await;
    eventually("it is programmed", async || {
        let gateway = value(cluster, "Gateway", "wp").await.expect("there");
        conditions(&gateway["status"]["conditions"])[1] == "Programmed=True/Programmed"
    })
    .await;
    let service = value(cluster, "Service", "wp").await.expect("there");
    let gateway = value(cluster, "Gateway", "wp").await.expect("there");
    assert_eq!(
        gateway["status"]["addresses"][0],
        json!({"type": "IPAddress", "value": service["spec"]["clusterIP"]})
    );
    assert_eq!(gateway["status"]["listeners"][0]["name"], "mesh");
    cluster.patch_status("Deployment", "wp", &ready(0)).await;
}

async fn drift_is_repaired(cluster: &Cluster) {
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "istio-proxy", "image": "example.test/evil:1"}]}}}});
    cluster.edit("Deployment", "wp", &image).await;
    eventually("the edited Deployment is repaired", async || {
        let found = value(cluster, "Deployment", "wp").await.expect("there");
        found["spec"]["template"]["spec"]["containers"][0]["image"]
            == "example.test/causeway/waypoint:1"
    })
    .await;
    cluster.delete("Service", "wp").await;
    eventually("the deleted Service is back", async || {
        value(cluster, "Service", "wp").await.is_some()
    })
    .await;
    // A number of replicas that somebody set is not ours to change.
    cluster
        .edit("Deployment", "wp", &json!({"spec": {"replicas": 3}}))
        .await;
    let before = version(cluster, "Deployment", "wp").await;
    cluster
        .edit(
            "Gateway",
            "wp",
            &json!({"metadata": {"annotations": {"looked": "again"}}}),
        )
        .await;
    eventually("the annotation is copied", async || {
        value(cluster, "Deployment", "wp")
            .await
            .is_some_and(|found| found["metadata"]["annotations"]["looked"] == "again")
    })
    .await;
    assert_ne!(version(cluster, "Deployment", "wp").await, before);
    assert_eq!(
        value(cluster, "Deployment", "wp").await.expect("there")["spec"]["replicas"],
        3
    );
}

async fn an_overlay_takes_effect_and_goes(cluster: &Cluster) {
    let map = |text: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: params, namespace: app}}, data: {{{text}}}}}"
        )
    };
    let reference = json!({"spec": {"infrastructure": {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "params"}}}});
    cluster.edit("Gateway", "wp", &reference).await;
    eventually("a missing ConfigMap is told", async || {
        let gateway = value(cluster, "Gateway", "wp").await.expect("there");
        conditions(&gateway["status"]["conditions"])[0] == "Accepted=False/InvalidParameters"
    })
    .await;
    let both = "podDisruptionBudget: 'spec: {minAvailable: 1}', deployment: 'spec: {template: {spec: {priorityClassName: system-cluster-critical}}}'";
    cluster.apply(&map(both)).await;
    eventually("the budget appears", async || {
        value(cluster, "PodDisruptionBudget", "wp").await.is_some()
    })
    .await;
    eventually("the pods get their priority", async || {
        let found = value(cluster, "Deployment", "wp").await.expect("there");
        found["spec"]["template"]["spec"]["priorityClassName"] == "system-cluster-critical"
    })
    .await;
    cluster.apply(&map("")).await;
    cluster
        .edit("ConfigMap", "params", &json!({"data": null}))
        .await;
    eventually("what the overlay asked for goes with it", async || {
        let found = value(cluster, "Deployment", "wp").await.expect("there");
        found["spec"]["template"]["spec"]["priorityClassName"].is_null()
            && value(cluster, "PodDisruptionBudget", "wp").await.is_none()
    })
    .await;
}

async fn foreign_objects_are_left(cluster: &Cluster) {
    let shop = "{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: app}, spec: {selector: {app: shop}, ports: [{port: 80}]}}";
    cluster.apply(shop).await;
    let before = version(cluster, "Service", "shop").await;
    cluster
        .apply(&GATEWAY.replace("name: wp", "name: shop"))
        .await;
    eventually("it is told that the name is taken", async || {
        let gateway = value(cluster, "Gateway", "shop").await.expect("there");
        conditions(&gateway["status"]["conditions"])
            .get(1)
            .is_some_and(|text| text == "Programmed=False/Invalid")
    })
    .await;
    assert_eq!(version(cluster, "Service", "shop").await, before);
    assert!(value(cluster, "Deployment", "shop").await.is_none());
    cluster.delete("Gateway", "shop").await;
}

async fn conditions_are_written(cluster: &Cluster, leader: &mut Replica, other: &mut Replica) {
    for manifest in [SERVICE, ROUTE, POLICY, BAD] {
        cluster.apply(manifest).await;
    }
    let addressed = GATEWAY.replace(
        "}]}}",
        "}]}, status: {addresses: [{type: Hostname, value: wp.app.svc.cluster.local}]}}",
    );
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: app}}";
    let manifests = [namespace, &addressed, SERVICE, ROUTE, POLICY, BAD].join("\n---\n");
    for replica in [leader, other] {
        replica.told(&manifests);
    }
    let table = [
        (
            "HTTPRoute",
            "r",
            "/status/parents/0/conditions",
            "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound ResolvedWaypoints=True/ResolvedWaypoints",
        ),
        (
            "HTTPRoute",
            "bad",
            "/status/parents/0/conditions",
            "Accepted=False/UnsupportedValue",
        ),
        (
            "Service",
            "web",
            "/status/conditions",
            "istio.io/WaypointBound=True/WaypointAccepted",
        ),
        (
            "AuthorizationPolicy",
            "l4",
            "/status/conditions",
            "ZtunnelAccepted=True/UnsupportedValue",
        ),
    ];
    for (kind, name, pointer, expected) in table {
        eventually("its conditions are written", async || {
            let found = value(cluster, kind, name).await.expect("there");
            conditions(&found.pointer(pointer).cloned().unwrap_or_default()).join(" ") == expected
        })
        .await;
    }
    eventually("the refusal has its event", async || {
        let events = cluster.events().await;
        events.iter().any(|event| {
            event["regarding"]["name"] == "bad"
                && event["reason"] == "Refused"
                && event["type"] == "Warning"
        })
    })
    .await;
    let events = cluster.events().await;
    let note = events
        .iter()
        .find(|event| event["regarding"]["name"] == "bad")
        .map(|event| event["note"].clone());
    let note = note.unwrap_or_default();
    assert!(
        note.as_str()
            .is_some_and(|note| note.contains("is no regular expression")),
        "{note}"
    );
}

async fn others_conditions_stay(cluster: &Cluster) {
    let one = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-11-30T00:00:00Z"});
    let other = json!({"controllerName": "example.test/other", "parentRef": {"name": "front"}, "conditions": [one]});
    let theirs = json!({"status": {"parents": [other]}});
    // Somebody writes over everything: theirs stays, ours comes back.
    cluster.patch_status("HTTPRoute", "r", &theirs).await;
    eventually("ours is back beside theirs", async || {
        let found = value(cluster, "HTTPRoute", "r").await.expect("there");
        let names: Vec<Value> = found["status"]["parents"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| one["controllerName"].clone())
            .collect();
        names == ["example.test/other", "causeway.dev/waypoint-controller"]
    })
    .await;
}

/// Killed without a farewell: the lease ends by itself.
async fn the_next_replica_takes_over(cluster: &Cluster, leader: Replica, other: &mut Replica) {
    leader.shutdown.force();
    let died = std::time::Instant::now();
    cluster.delete("Deployment", "wp").await;
    let taken = tokio::time::timeout(Duration::from_secs(30), other.leadership.until(true));
    taken.await.expect("the other takes over");
    println!(
        "the other took over {:?} after the leader was killed (lease {:?})",
        died.elapsed(),
        TIMES.duration
    );
    eventually("the next one writes", async || {
        value(cluster, "Deployment", "wp").await.is_some()
    })
    .await;
}

async fn what_a_gateway_had_goes_with_it(cluster: &Cluster) {
    cluster.delete("Gateway", "wp").await;
    for kind in ["Deployment", "Service", "ServiceAccount"] {
        eventually("what it owned goes with it", async || {
            value(cluster, kind, "wp").await.is_none()
        })
        .await;
    }
}

async fn the_last_one_gives_the_lease_back(cluster: &Cluster, other: Replica) {
    other.shutdown.drain();
    eventually("the lease is nobody's", async || {
        let lease = cluster.lease("causeway-control-plane").await;
        lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .is_empty()
    })
    .await;
    assert!(!other.leadership.leads());
}
