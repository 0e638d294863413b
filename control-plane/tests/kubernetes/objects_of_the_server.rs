//! Objects from the API server mean what the same objects mean as manifests.

use std::collections::BTreeSet;

use control_plane::{
    store::Store,
    translate::{Mesh, Translation, translate},
};
use objects::{Directory, Event, Kind, Source as _};
use serde_json::{Value, json};

use crate::world::{DEFINITIONS, World, run};

const GATEWAY: &str = "gateway.networking.k8s.io";
const SECURITY: &str = "security.istio.io";

/// Kind, API version and path of everything that is compared.
const KINDS: [(&str, &str, &str); 10] = [
    ("Namespace", "v1", "/api/v1/namespaces"),
    ("Node", "v1", "/api/v1/nodes"),
    ("ServiceAccount", "v1", "/api/v1/serviceaccounts"),
    ("Pod", "v1", "/api/v1/pods"),
    ("Service", "v1", "/api/v1/services"),
    (
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "/apis/discovery.k8s.io/v1/endpointslices",
    ),
    (
        "GatewayClass",
        "gateway.networking.k8s.io/v1",
        "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
    ),
    (
        "Gateway",
        "gateway.networking.k8s.io/v1",
        "/apis/gateway.networking.k8s.io/v1/gateways",
    ),
    (
        "HTTPRoute",
        "gateway.networking.k8s.io/v1",
        "/apis/gateway.networking.k8s.io/v1/httproutes",
    ),
    (
        "AuthorizationPolicy",
        "security.istio.io/v1",
        "/apis/security.istio.io/v1/authorizationpolicies",
    ),
];

async fn populate(world: &World) {
    world
        .define(GATEWAY, "Gateway", "gateways", "Namespaced")
        .await;
    world
        .define(GATEWAY, "GatewayClass", "gatewayclasses", "Cluster")
        .await;
    world
        .define(GATEWAY, "HTTPRoute", "httproutes", "Namespaced")
        .await;
    world
        .define(
            SECURITY,
            "AuthorizationPolicy",
            "authorizationpolicies",
            "Namespaced",
        )
        .await;
    world
        .namespace(
            "shop",
            json!({"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "wp"}),
        )
        .await;
    let zone = json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"});
    world
        .create(
            "/api/v1/nodes",
            json!({"metadata": {"name": "node1", "labels": zone}}),
        )
        .await;
    let shop = |path: &str| format!("{path}/namespaces/shop");
    world
        .create(
            &format!("{}/serviceaccounts", shop("/api/v1")),
            json!({"metadata": {"name": "cart"}}),
        )
        .await;
    for (name, ip) in [("cart-1", "10.0.0.1"), ("cart-2", "10.0.0.2")] {
        let annotations = json!({"ambient.istio.io/redirection": "enabled",
            "kubectl.kubernetes.io/last-applied-configuration": "{}"});
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "cart"}, "annotations": annotations},
            "spec": {"nodeName": "node1", "serviceAccountName": "cart",
                "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.0.2.9",
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        world
            .create_with_status(&format!("{}/pods", shop("/api/v1")), pod)
            .await;
    }
    let ended = json!({"metadata": {"name": "job", "labels": {"app": "cart"}},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Succeeded", "podIP": "10.0.0.3", "podIPs": [{"ip": "10.0.0.3"}]}});
    world
        .create_with_status(&format!("{}/pods", shop("/api/v1")), ended)
        .await;
    guards_and_services(world).await;
}

async fn guards_and_services(world: &World) {
    let shop = |path: &str| format!("{path}/namespaces/shop");
    let service = json!({"metadata": {"name": "cart"},
        "spec": {"selector": {"app": "cart"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}});
    world
        .create(&format!("{}/services", shop("/api/v1")), service)
        .await;
    let bare = json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"name": "tcp", "port": 5432}]}});
    world
        .create(&format!("{}/services", shop("/api/v1")), bare)
        .await;
    let slice = json!({"metadata": {"name": "outside-1", "labels": {"kubernetes.io/service-name": "outside"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"name": "tcp", "port": 5432}]});
    world
        .create(
            &format!("{}/endpointslices", shop("/apis/discovery.k8s.io/v1")),
            slice,
        )
        .await;
    let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "wp"},
        "spec": {"gatewayClassName": "causeway-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}});
    world
        .create(
            &format!("{}/gateways", shop("/apis/gateway.networking.k8s.io/v1")),
            gateway,
        )
        .await;
    let waypoint = json!({"metadata": {"name": "wp"}, "spec": {"ports": [{"name": "mesh", "port": 15008}],
        "selector": {"gateway.networking.k8s.io/gateway-name": "wp"}}});
    world
        .create(&format!("{}/services", shop("/api/v1")), waypoint)
        .await;
    let policy = |name: &str, spec: Value| json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name}, "spec": spec});
    let policies = format!(
        "{}/authorizationpolicies",
        shop("/apis/security.istio.io/v1")
    );
    let good =
        json!({"action": "ALLOW", "rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]});
    world.create(&policies, policy("good", good)).await;
    // Its definition lets everything through, so this slip arrives; it must deny, and hide nothing else.
    world
        .create(&policies, policy("slip", json!({"acton": "DENY"})))
        .await;
}

/// What the objects mean, with the faults as text (without the names of files).
fn meaning(store: &Store, source_faults: &[objects::Fault]) -> (Translation, BTreeSet<String>) {
    let mesh = Mesh {
        labels_enrol: false,
        ..Mesh::default()
    };
    let translation = translate(&mesh.index(store));
    let mut faults: BTreeSet<String> = BTreeSet::new();
    for fault in source_faults.iter().chain(&translation.faults) {
        let nameless = objects::Fault {
            file: None,
            ..fault.clone()
        };
        faults.insert(nameless.to_string());
    }
    (translation, faults)
}

fn stored(event: Event) -> (Store, Vec<objects::Fault>) {
    let Event::Snapshot { objects, faults } = event else {
        panic!("the first event is the list")
    };
    let mut store = Store::default();
    objects
        .into_iter()
        .for_each(|object| store.apply(objects::Change::Upsert(object)));
    (store, faults.to_vec())
}

#[test]
fn objects_from_the_server_mean_what_they_mean_as_manifests() {
    run(async |world| {
        populate(world).await;
        let mut watch = world.watch(Kind::ALL).watch;
        let (store, faults) = stored(watch.next().await);
        let from_server = meaning(&store, &faults);

        let mut items = Vec::new();
        for (kind, version, path) in KINDS {
            for mut item in world.list(path).await {
                (item["kind"], item["apiVersion"]) = (kind.into(), version.into());
                items.push(item);
            }
        }
        let dir = tempfile::tempdir().expect("a directory");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        std::fs::write(dir.path().join("all.json"), list.to_string()).expect("written");
        let (store, faults) = stored(Directory::new(dir.path()).look().expect("a list"));
        let from_files = meaning(&store, &faults);

        assert_eq!(from_server.0.addresses, from_files.0.addresses);
        assert_eq!(from_server.0.authorizations, from_files.0.authorizations);
        assert_eq!(from_server.1, from_files.1);
        for name in [
            "Kubernetes//Pod/shop/cart-1",
            "shop/cart.shop.svc.cluster.local",
        ] {
            assert!(from_server.0.addresses.contains_key(name), "{name}");
        }
        assert!(
            !from_server
                .0
                .addresses
                .contains_key("Kubernetes//Pod/shop/job")
        );
        let policies: Vec<&String> = from_server.0.authorizations.keys().collect();
        assert_eq!(policies, ["shop/good", "shop/slip"]);
        let slip = |fault: &String| fault.contains("shop/slip: spec.acton: unknown field");
        assert!(from_server.1.iter().any(slip), "{:?}", from_server.1);
    });
}

#[test]
fn a_kind_that_is_defined_later_is_read_then_and_let_go_with_its_definition() {
    run(async |world| {
        world.namespace("later", json!({})).await;
        let mut heard = world.watch(&[Kind::Namespace, Kind::PeerAuthentication]);
        let all = heard.next().await;
        assert!(all.contains(&"+Namespace later".to_owned()), "{all:?}");
        assert_eq!(heard.faults, Vec::<String>::new());
        world
            .define(
                SECURITY,
                "PeerAuthentication",
                "peerauthentications",
                "Namespaced",
            )
            .await;
        let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "strict"},
            "spec": {"mtls": {"mode": "STRICT"}}});
        let path = "/apis/security.istio.io/v1/namespaces/later/peerauthentications";
        world.create(path, strict).await;
        heard.until(&["+PeerAuthentication later/strict"]).await;
        world
            .delete(DEFINITIONS, "peerauthentications.security.istio.io")
            .await;
        heard.until(&["-PeerAuthentication later/strict"]).await;
    });
}
