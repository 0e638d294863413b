//! The property that makes updates safe: after any changes of pods they give what a translation of everything gives.

use objects::{Change, Key};
use proptest::prelude::*;

use super::{
    super::{GATEWAY_NAME, translate},
    *,
};

/// Everything but pods: services with and without selector, waypoints by service, account and namespace, policies.
const WORLD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {istio.io/dataplane-mode: ambient, ambient.causeway.dev/require-waypoint: 'true'}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {istio.io/use-waypoint: wp}}}
---
{apiVersion: v1, kind: Node, metadata: {name: n, labels: {topology.kubernetes.io/zone: z}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: s, namespace: a, labels: {istio.io/use-waypoint: wp}}}
---
{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.1.0.1, selector: {l: x}, ports: [{port: 80, targetPort: web}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: xy, namespace: a}, spec: {clusterIP: 10.1.0.2, selector: {l: x, m: y}, ports: [{port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: sliced, namespace: a}, spec: {clusterIP: 10.1.0.3, ports: [{name: p, port: 82}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sliced-1, namespace: a, labels: {kubernetes.io/service-name: sliced}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p0}}, {addresses: [10.9.9.9]}]
ports: [{name: p, port: 82}]
---
{apiVersion: v1, kind: Service, metadata: {name: none, namespace: a}, spec: {clusterIP: None, selector: {m: y}, ports: [{port: 83}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: of-xy, namespace: a}, spec: {targetRefs: [{kind: Service, name: xy}], rules: [{}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: x, namespace: b}, spec: {clusterIP: 10.1.0.4, selector: {l: x}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: a}, spec: {clusterIP: 10.1.0.5, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{port: 15008}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: a, labels: {istio.io/waypoint-for: all}},
 spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: a}, spec: {selector: {matchLabels: {l: x}}, rules: [{}]}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: b}, spec: {mtls: {mode: STRICT}}}
";

fn world() -> Store {
    let mut store = Store::default();
    for result in objects::parse(WORLD).results {
        store.apply(Change::Upsert(result.expect("good")));
    }
    store
}

/// One change: which pod, and what becomes of it (`None`: gone).
fn change() -> impl Strategy<Value = (usize, &'static str, Option<String>)> {
    let labels = prop_oneof![
        Just("l: x"),
        Just("l: x, m: y"),
        Just("m: y"),
        Just("gateway.networking.k8s.io/gateway-name: wp"),
        Just("istio.io/use-waypoint: nowhere, l: x"),
        Just("ambient.causeway.dev/require-waypoint: 'false', l: x"),
        Just("istio.io/use-waypoint: none, l: x, m: y"),
    ];
    let account = prop_oneof![Just("s"), Just("t")];
    let status = prop_oneof![
        Just(""),
        Just("podIP: 10.0.0.1"),
        Just("podIP: 10.0.0.2, phase: Running, conditions: [{type: Ready, status: 'False'}]"),
        Just("podIP: 10.0.0.1, phase: Succeeded"),
    ];
    let pod = (labels, account, status).prop_map(|(labels, account, status)| {
        format!(
            "labels: {{{labels}}}}}\nspec: {{nodeName: n, serviceAccountName: {account}, \
             containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}\nstatus: {{{status}}}"
        )
    });
    (
        0..4_usize,
        prop_oneof![Just("a"), Just("b")],
        proptest::option::weighted(0.8, pod),
    )
}

fn apply(store: &mut Store, number: usize, namespace: &str, pod: Option<&str>) -> PodName {
    let name = format!("p{number}");
    let change = match pod {
        None => Change::Remove(Key::new(Kind::Pod, namespace, &name)),
        Some(rest) => {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, {rest}\n"
            );
            let result = objects::parse(&text).results.pop();
            Change::Upsert(result.expect("one").expect("good"))
        }
    };
    store.apply(change);
    (namespace.into(), name.into())
}

fn sorted(translation: &Translation) -> Vec<String> {
    let mut faults: Vec<String> = translation.faults.iter().map(ToString::to_string).collect();
    faults.sort();
    faults
}

/// Which pods serve as waypoints, and as whom.
fn servers(store: &Store) -> Vec<(String, String, String)> {
    let is_server = |pod: &&Arc<objects::Pod>| pod.metadata.label(GATEWAY_NAME).is_some();
    let servers = store.pods.all().filter(is_server);
    let named = servers.map(|pod| {
        let (meta, account) = (&pod.metadata, pod.service_account());
        (
            meta.namespace.clone(),
            meta.name.clone(),
            account.to_owned(),
        )
    });
    named.collect()
}

fn named_by(address: &Address) -> Vec<String> {
    match &address.r#type {
        Some(address::Type::Workload(workload)) => workload.authorization_policies.clone(),
        _ => Vec::new(),
    }
}

/// The waypoint of a service follows from the accounts of all its endpoints, and with it who is let in.
#[test]
fn a_pod_that_takes_its_services_waypoint_away_leaves_no_other_open() {
    let text = "
{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {ambient.causeway.dev/require-waypoint: 'true'}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: s, namespace: a, labels: {istio.io/use-waypoint: wp}}}
---
{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.1.0.1, selector: {l: x}, ports: [{port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: a},
 spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
";
    let (mut store, mesh) = (Store::default(), Mesh::default());
    for result in objects::parse(text).results {
        store.apply(Change::Upsert(result.expect("good")));
    }
    let pod = |account: &str, ip: &str| {
        format!(
            "labels: {{l: x}}}}\nspec: {{nodeName: n, serviceAccountName: {account}}}\nstatus: {{podIP: {ip}}}"
        )
    };
    apply(&mut store, 0, "a", Some(&pod("s", "10.0.0.1")));
    let mut updated = translate(&mesh.index(&store));
    let policies = |translation: &Translation| {
        let pod = ("a".into(), "p0".into());
        workload_of(translation, &mesh, &pod)
            .map(|workload| workload.authorization_policies.clone())
    };
    let through = vec!["a/istio_allow_waypoint_a_wp".to_owned()];
    assert_eq!(policies(&updated), Some(through.clone()));
    let nobody = vec!["a/istio_allow_no_waypoint".to_owned()];
    for (account, expected) in [(Some("t"), nobody), (None, through)] {
        let rest = account.map(|account| pod(account, "10.0.0.2"));
        let changed = apply(&mut store, 1, "a", rest.as_deref());
        let touched = update(&mut updated, &store, &mesh, &[changed].into());
        assert_eq!(policies(&updated), Some(expected));
        if touched.lacking {
            updated = translate(&mesh.index(&store));
        }
    }
}

proptest! {
    #[test]
    fn updates_give_what_a_translation_of_everything_gives(
        batches in proptest::collection::vec(proptest::collection::vec(change(), 1..4), 1..8),
    ) {
        let (mut store, mesh) = (world(), Mesh::default());
        let mut updated = translate(&mesh.index(&store));
        for batch in batches {
            let (before, served_by) = (updated.addresses.clone(), servers(&store));
            let pods = batch.iter().map(|(number, namespace, pod)| {
                apply(&mut store, *number, namespace, pod.as_deref())
            }).collect();
            let touched = update(&mut updated, &store, &mesh, &pods);
            let whole = translate(&mesh.index(&store));
            prop_assert_eq!(&updated.addresses, &whole.addresses);
            // Policies that workloads name are there, or everything is translated anew. One that none names any more may stay.
            let named: BTreeSet<String> = whole.addresses.values().flat_map(named_by).collect();
            let lacks = |name: &String| !updated.authorizations.contains_key(name);
            prop_assert_eq!(touched.lacking, named.iter().any(lacks));
            // A change of a waypoint's own pods is none for `update`: they decide about others (`follow`).
            let same_servers = servers(&store) == served_by;
            for name in named.iter().filter(|name| same_servers && !lacks(name)) {
                prop_assert_eq!(&updated.authorizations[name], &whole.authorizations[name]);
            }
            prop_assert_eq!(sorted(&updated), sorted(&whole));
            // What is said to differ is exactly what does.
            let names: BTreeSet<&String> = before.keys().chain(whole.addresses.keys()).collect();
            let differing = names.into_iter().filter(|name| before.get(*name) != whole.addresses.get(*name));
            let differing: BTreeSet<String> = differing.cloned().collect();
            prop_assert_eq!(touched.addresses, differing);
            if touched.lacking || !same_servers {
                updated = whole;
            }
        }
    }
}
