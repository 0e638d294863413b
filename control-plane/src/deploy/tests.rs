//! The pure parts: goldens of what is rendered, against what istiod makes; overlays, plans and status by tables.

use std::path::Path;

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{
    gateway::Gateway,
    overlay::Overlay,
    plan::{self, Step},
    status::{self, Fault, Standing},
    template, *,
};

mod overlays;
mod statuses;

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

fn testdata(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/waypoint")
        .join(name)
}

/// A Gateway `wp` of namespace `app` like that of the capture; `more` is merged into it.
fn gateway(more: &str) -> Gateway {
    let mut object = yaml(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app, uid: u-1, generation: 1,
          resourceVersion: '7', labels: {istio.io/waypoint-for: all}}, spec: {gatewayClassName: causeway-waypoint,
          listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}",
    );
    for (field, value) in yaml(more).as_object().expect("a map") {
        let at = object
            .pointer_mut(field)
            .map(|place| *place = value.clone());
        if at.is_none() {
            let (parent, name) = field.rsplit_once('/').expect("a pointer");
            object.pointer_mut(parent).expect("its parent")[name] = value.clone();
        }
    }
    Gateway::read(serde_json::from_value::<DynamicObject>(object).expect("an object"))
}

fn settings() -> Settings {
    Settings {
        image: "example.test/causeway/waypoint:1".into(),
        pull_policy: "IfNotPresent".into(),
        fixed_user: true,
        discovery_address: "istiod.istio-system.svc:15012".into(),
        ca_address: "istiod.istio-system.svc:15012".into(),
        domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        cluster_id: "Kubernetes".into(),
        root_namespace: "istio-system".into(),
        ..Settings::default()
    }
}

fn overlay(texts: &[(&str, &str)]) -> Overlay {
    Overlay {
        source: "ConfigMap app/overlay".into(),
        texts: texts
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect(),
    }
}

fn render(gateway: &Gateway, overlays: &[Overlay]) -> Vec<(Part, Value)> {
    template::render(gateway, overlays, &settings()).expect("it renders")
}

fn part(parts: &[(Part, Value)], part: Part) -> &Value {
    &parts
        .iter()
        .find(|(other, _)| *other == part)
        .expect("that part")
        .1
}

/// Compares with a golden file; `UPDATE_GOLDEN=1` writes it (then read the difference). The hash of the rest is left out.
fn golden(name: &str, parts: &[(Part, Value)]) {
    let unmarked = |(_, object): &(Part, Value)| {
        let mut object = object.clone();
        let mark = &mut object["metadata"]["annotations"][template::RENDERED];
        assert!(mark.is_string(), "{name}: a mark");
        *mark = json!("…");
        object
    };
    let objects: Vec<Value> = parts.iter().map(unmarked).collect();
    let text = format!(
        "{}\n",
        serde_json::to_string_pretty(&objects).expect("JSON")
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(testdata(name), &text).expect("writable");
    }
    let expected = std::fs::read_to_string(testdata(name)).unwrap_or_default();
    assert_eq!(text, expected, "{name} differs");
}

#[test]
fn what_is_rendered_is_what_the_golden_files_hold() {
    golden("plain.json", &render(&gateway("{}"), &[]));
    let marked = gateway(
        "{/metadata/annotations: {gateway.istio.io/name-override: other, gateway.istio.io/service-account: custom,
           kubectl.kubernetes.io/last-applied-configuration: '{}', sidecar.istio.io/proxyImage: example.test/mine:2},
          /spec/infrastructure: {labels: {team: a, gateway.networking.k8s.io/gateway-name: no}, annotations: {note: b}}}",
    );
    let class = overlay(&[
        ("deployment", "spec: {replicas: 3}"),
        (
            "horizontalPodAutoscaler",
            "spec: {minReplicas: 2, maxReplicas: 5}",
        ),
    ]);
    let own = overlay(&[
        (
            "deployment",
            "spec: {template: {spec: {containers: [{name: istio-proxy, env: [{name: EXTRA, value: '1'}]}]}}}",
        ),
        ("service", "spec: {ports: [{port: 15021, $patch: delete}]}"),
        ("serviceAccount", "metadata: {annotations: {cloud: role}}"),
        ("podDisruptionBudget", "spec: {minAvailable: 1}"),
    ]);
    golden("overlaid.json", &render(&marked, &[class, own]));
}

/// Paths at which a differs from b, with both values; lists of named things by name.
fn differences(at: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let value = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or_default()
                };
                differences(&format!("{at}/{key}"), &value(a), &value(b), found);
            }
        }
        (Value::Array(a), Value::Array(b))
            if a.iter().chain(b).all(|item| item["name"].is_string()) =>
        {
            let by_name = |list: &[Value]| -> Value {
                list.iter()
                    .map(|item| {
                        (
                            item["name"].as_str().unwrap_or_default().to_owned(),
                            item.clone(),
                        )
                    })
                    .collect()
            };
            differences(at, &by_name(a), &by_name(b), found);
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{at}: {ours} instead of {theirs}")),
    }
}

#[test]
fn a_deployment_differs_from_istiods_only_where_we_mean_it() {
    let captured =
        std::fs::read_to_string(testdata("istiod-deployment.yaml")).expect("the capture");
    let theirs = yaml(&captured);
    let parts = render(&gateway("{/spec/gatewayClassName: istio-waypoint}"), &[]);
    let ours = part(&parts, Part::Deployment);
    let mut found = Vec::new();
    for field in ["/metadata/labels", "/spec/selector", "/spec/template"] {
        let value = |object: &Value| object.pointer(field).cloned().unwrap_or_default();
        differences(field, &value(ours), &value(&theirs), &mut found);
    }
    // What the API server adds to every pod.
    let defaults = [
        "/defaultMode",
        "/fieldRef/apiVersion",
        "/dnsPolicy",
        "/restartPolicy",
        "/schedulerName",
        "/terminationGracePeriodSeconds",
        "/terminationMessagePath",
        "/terminationMessagePolicy",
        "/spec/securityContext",
        "/spec/serviceAccount:",
        // The same items, which carry no name.
        "/volumes/istio-podinfo/downwardAPI/items",
    ];
    found.retain(|line| !defaults.iter().any(|default| line.contains(default)));
    let meant = [
        // Our image, and the address of the control plane told outright.
        "/spec/template/spec/containers/istio-proxy/image: ",
        "/spec/template/spec/containers/istio-proxy/env/PROXY_CONFIG/value: ",
        // What only Go programs, Envoy or a mesh in transition read.
        "/spec/template/spec/containers/istio-proxy/env/GOMAXPROCS/",
        "/spec/template/spec/containers/istio-proxy/env/GOMEMLIMIT/",
        "/spec/template/spec/containers/istio-proxy/env/ISTIO_META_ENABLE_HBONE/",
        "/spec/template/spec/containers/istio-proxy/env/GOMAXPROCS: ",
        "/spec/template/spec/containers/istio-proxy/env/GOMEMLIMIT: ",
        "/spec/template/spec/containers/istio-proxy/env/ISTIO_META_ENABLE_HBONE: ",
        "/spec/template/spec/containers/istio-proxy/volumeMounts/istio-envoy: ",
        "/spec/template/spec/volumes/go-proxy-data: ",
        "/spec/template/spec/volumes/go-proxy-envoy: ",
        "/spec/template/spec/volumes/istio-envoy: ",
    ];
    let stray: Vec<&String> = found
        .iter()
        .filter(|line| !meant.iter().any(|meant| line.starts_with(meant)))
        .collect();
    assert!(stray.is_empty(), "{stray:#?}");
    for meant in [
        "image: ",
        "env/PROXY_CONFIG/value: ",
        "volumes/istio-envoy: ",
    ] {
        assert!(
            found.iter().any(|line| line.contains(meant)),
            "{meant} no longer differs"
        );
    }
}

/// As the API server would have it: our objects, made by us.
fn made(parts: &[(Part, Value)]) -> impl Fn(Part, &str) -> Option<Value> {
    let parts = parts.to_vec();
    move |wanted, name| {
        let found = parts
            .iter()
            .find(|(part, object)| *part == wanted && object["metadata"]["name"] == name);
        found.map(|(_, object)| object.clone())
    }
}

fn steps(
    gateway: &Gateway,
    wanted: &[(Part, Value)],
    found: impl Fn(Part, &str) -> Option<Value>,
) -> Vec<String> {
    let steps = plan::plan(gateway, wanted.to_vec(), found).expect("nobody else's");
    texts(&steps)
}

fn texts(steps: &[Step]) -> Vec<String> {
    let text = |step: &Step| match step {
        Step::Apply(part, _) => format!("apply {part:?}"),
        Step::Delete(part, name) => format!("delete {part:?} {name}"),
        Step::Stop(name) => format!("stop {name}"),
    };
    steps.iter().map(text).collect()
}

#[test]
fn what_is_missing_is_made_and_what_stands_is_left() {
    let gateway = gateway("{}");
    let parts = render(&gateway, &[]);
    assert_eq!(
        steps(&gateway, &parts, |_, _| None),
        ["apply ServiceAccount", "apply Deployment", "apply Service"]
    );
    assert!(steps(&gateway, &parts, made(&parts)).is_empty());
}

#[test]
fn drift_is_repaired_and_what_others_add_is_not_drift() {
    let gateway = gateway("{}");
    let parts = render(&gateway, &[]);
    let edited = |pointer: &str, value: Value| {
        let mut edited = parts.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        edited[1].1.pointer_mut(parent).expect("there")[field] = value;
        edited
    };
    let table = [
        (
            "/spec/template/spec/containers/0/image",
            json!("example.test/evil:1"),
            true,
        ),
        ("/spec/template/spec/containers/0/args", json!([]), true),
        (
            "/metadata/labels",
            json!({"gateway.networking.k8s.io/gateway-name": "wp"}),
            true,
        ),
        ("/spec/replicas", json!(4), false),
        ("/status", json!({"readyReplicas": 1}), false),
        (
            "/spec/template/spec/containers/0/resources/limits/cpu",
            json!("2000m"),
            false,
        ),
        (
            "/spec/template/spec/dnsPolicy",
            json!("ClusterFirst"),
            false,
        ),
    ];
    for (pointer, value, repaired) in table {
        let edited = edited(pointer, value);
        assert_eq!(
            !steps(&gateway, &parts, made(&edited)).is_empty(),
            repaired,
            "{pointer}"
        );
    }
}

#[test]
fn what_an_older_overlay_left_is_taken_away() {
    let gateway = gateway("{}");
    let before = render(
        &gateway,
        &[overlay(&[
            (
                "deployment",
                "spec: {template: {spec: {containers: [{name: istio-proxy, env: [{name: OLD, value: '1'}]}]}}}",
            ),
            ("podDisruptionBudget", "spec: {minAvailable: 1}"),
        ])],
    );
    let now = render(&gateway, &[]);
    assert_eq!(
        steps(&gateway, &now, made(&before)),
        ["apply Deployment", "delete Budget wp"]
    );
}

#[test]
fn pods_of_an_older_name_end_when_there_are_others() {
    let budget = overlay(&[("podDisruptionBudget", "spec: {minAvailable: 1}")]);
    let before = render(&gateway("{}"), &[budget]);
    let renamed = gateway("{/metadata/annotations: {gateway.istio.io/name-override: other}}");
    let now = render(&renamed, &[]);
    let left = |now: &[(Part, Value)], before: &[(Part, Value)]| {
        let all = before
            .iter()
            .chain(now)
            .map(|(part, object)| (*part, object));
        texts(&plan::leftovers(&renamed, all))
    };
    assert!(left(&now, &before).is_empty(), "nobody serves yet");
    let of = |list: &[(Part, Value)], field: &str, value: Value| {
        let mut list = list.to_vec();
        let deployment = list.iter_mut().find(|(part, _)| *part == Part::Deployment);
        *deployment
            .expect("one")
            .1
            .pointer_mut(field)
            .expect("a place") = value;
        list
    };
    let mut serving = now.clone();
    let deployment = serving
        .iter_mut()
        .find(|(part, _)| *part == Part::Deployment);
    deployment.expect("one").1["status"] = json!({"availableReplicas": 1});
    assert_eq!(left(&serving, &before), ["stop wp", "delete Budget wp"]);
    // One that somebody else made under the label stays.
    let by_hand = of(&before, "/metadata/annotations", json!({}));
    assert_eq!(left(&serving, &by_hand), ["delete Budget wp"]);
    let mut stopped = before.clone();
    stopped.retain(|(part, _)| *part == Part::Deployment);
    stopped[0].1["spec"]["replicas"] = json!(0);
    assert!(left(&serving, &stopped).is_empty());
    // Under its former name again, it has pods again.
    stopped[0].1["metadata"]["annotations"][template::RENDERED] = json!(plan::STOPPED);
    let wanted = render(&gateway("{}"), &[]);
    let steps = plan::plan(&gateway("{}"), wanted.clone(), made(&stopped)).expect("ours");
    let deployment = steps.iter().find_map(|step| match step {
        Step::Apply(Part::Deployment, object) => Some(object),
        _ => None,
    });
    assert_eq!(deployment.expect("applied")["spec"]["replicas"], 1);
    assert!(part(&wanted, Part::Deployment)["spec"]["replicas"].is_null());
}

#[test]
fn what_belongs_to_others_is_never_taken() {
    let gateway = gateway("{}");
    let parts = render(&gateway, &[]);
    let foreign = |wanted: Part| {
        move |part: Part, name: &str| {
            (part == wanted).then(|| json!({"metadata": {"name": name, "namespace": "app", "labels": {"app": "shop"}}}))
        }
    };
    let taken =
        plan::plan(&gateway, parts.clone(), foreign(Part::Service)).expect_err("a user's Service");
    assert_eq!(
        taken.why,
        "Service app/wp is there already and does not belong to this Gateway: give the Gateway another name, or set its \
         annotation gateway.istio.io/name-override, or delete that Service"
    );
    // An account made beforehand is used; a budget made by hand stays.
    assert_eq!(
        steps(&gateway, &parts, foreign(Part::ServiceAccount)),
        ["apply Deployment", "apply Service"]
    );
    assert_eq!(steps(&gateway, &parts, foreign(Part::Budget)).len(), 3);
}
