//! The property that makes updates safe: after any changes of pods they give what a translation of everything gives.

use objects::{Change, Key};
use proptest::prelude::*;

use super::{super::translate, *};

/// Everything but pods: services with and without selector, waypoints by service, account and namespace, policies.
const WORLD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {istio.io/dataplane-mode: ambient}}}
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

proptest! {
    #[test]
    fn updates_give_what_a_translation_of_everything_gives(
        batches in proptest::collection::vec(proptest::collection::vec(change(), 1..4), 1..8),
    ) {
        let (mut store, mesh) = (world(), Mesh::default());
        let mut updated = translate(&mesh.index(&store));
        for batch in batches {
            let before = updated.addresses.clone();
            let pods = batch.iter().map(|(number, namespace, pod)| {
                apply(&mut store, *number, namespace, pod.as_deref())
            }).collect();
            let touched = update(&mut updated, &store, &mesh, &pods);
            let whole = translate(&mesh.index(&store));
            prop_assert_eq!(&updated.addresses, &whole.addresses);
            prop_assert!(!touched.lacking);
            // One that no workload names any more may stay until everything is translated anew.
            for (name, policy) in &whole.authorizations {
                prop_assert_eq!(updated.authorizations.get(name), Some(policy));
            }
            prop_assert_eq!(sorted(&updated), sorted(&whole));
            // What is said to differ is exactly what does.
            let names: BTreeSet<&String> = before.keys().chain(whole.addresses.keys()).collect();
            let differing = names.into_iter().filter(|name| before.get(*name) != whole.addresses.get(*name));
            let differing: BTreeSet<String> = differing.cloned().collect();
            prop_assert_eq!(touched.addresses, differing);
        }
    }
}
