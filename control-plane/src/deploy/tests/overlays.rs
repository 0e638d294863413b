//! Overlays by table: the rules of a strategic merge, and what is refused in which words.

use super::*;

fn merged(part_of: Part, text: &str) -> Result<Value, String> {
    let overlays = [overlay(&[(part_of.overlay_key(), text)])];
    let parts =
        template::render(&gateway("{}"), &overlays, &settings()).map_err(|bad| bad.to_string())?;
    Ok(part(&parts, part_of).clone())
}

fn at(part_of: Part, text: &str, pointer: &str) -> Value {
    merged(part_of, text)
        .expect("it merges")
        .pointer(pointer)
        .cloned()
        .unwrap_or_default()
}

const CONTAINER: &str = "/spec/template/spec/containers/0";

fn container(patch: &str) -> String {
    format!("spec: {{template: {{spec: {{containers: [{{name: istio-proxy, {patch}}}]}}}}}}")
}

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect()
}

#[test]
fn lists_of_named_things_are_merged_by_name() {
    let env = at(
        Part::Deployment,
        &container("env: [{name: CA_ADDR, value: x}, {name: NEW, value: y}]"),
        &format!("{CONTAINER}/env"),
    );
    let value = |name: &str| {
        env.as_array()
            .and_then(|env| env.iter().find(|one| one["name"] == name))
            .map(|one| one["value"].clone())
    };
    assert_eq!(
        (value("CA_ADDR"), value("NEW")),
        (Some(json!("x")), Some(json!("y")))
    );
    assert!(names(&env).contains(&"POD_NAME"));

    let ports = at(
        Part::Deployment,
        &container("ports: [{containerPort: 15090, $patch: delete}]"),
        &format!("{CONTAINER}/ports"),
    );
    assert_eq!(names(&ports), ["metrics", "status-port"]);

    let containers = at(
        Part::Deployment,
        "spec: {template: {spec: {containers: [{name: more, image: i}]}}}",
        "/spec/template/spec/containers",
    );
    assert_eq!(names(&containers), ["istio-proxy", "more"]);

    let mounts = at(
        Part::Deployment,
        &container("volumeMounts: [{mountPath: /etc/istio/pod, name: x}]"),
        &format!("{CONTAINER}/volumeMounts"),
    );
    assert_eq!(
        names(&mounts),
        [
            "workload-socket",
            "istiod-ca-cert",
            "istio-data",
            "istio-token",
            "x"
        ]
    );
}

#[test]
fn other_lists_are_replaced_and_null_takes_away() {
    let args = at(
        Part::Deployment,
        &container("args: [a]"),
        &format!("{CONTAINER}/args"),
    );
    assert_eq!(args, json!(["a"]));
    let security = at(
        Part::Deployment,
        &container("securityContext: {runAsUser: null}"),
        &format!("{CONTAINER}/securityContext"),
    );
    assert_eq!(security["runAsUser"], Value::Null);
    assert_eq!(security["runAsGroup"], 1337);
    let resources = at(
        Part::Deployment,
        &container("resources: {$patch: replace, limits: {memory: 2Gi}}"),
        &format!("{CONTAINER}/resources"),
    );
    assert_eq!(resources, json!({"limits": {"memory": "2Gi"}}));
    let strategy = at(
        Part::Deployment,
        "spec: {strategy: {$retainKeys: [type], type: Recreate}}",
        "/spec/strategy",
    );
    assert_eq!(strategy, json!({"type": "Recreate"}));
    let kind = at(
        Part::Service,
        "spec: {type: LoadBalancer, loadBalancerClass: c}",
        "/spec/type",
    );
    assert_eq!(kind, "LoadBalancer");
}

#[test]
fn a_number_of_replicas_stands_unless_an_autoscaler_decides() {
    assert_eq!(
        at(Part::Deployment, "spec: {replicas: 3}", "/spec/replicas"),
        3
    );
    let both = overlay(&[
        ("deployment", "spec: {replicas: 3}"),
        ("horizontalPodAutoscaler", "spec: {maxReplicas: 4}"),
    ]);
    let parts = render(&gateway("{}"), &[both]);
    assert_eq!(
        part(&parts, Part::Deployment)["spec"]["replicas"],
        Value::Null
    );
    assert_eq!(
        part(&parts, Part::Autoscaler)["spec"]["scaleTargetRef"]["name"],
        "wp"
    );
}

#[test]
fn what_cannot_be_applied_is_refused_in_words() {
    let refused = |part: Part, text: &str| merged(part, text).expect_err(text);
    let key = "ConfigMap app/overlay: key";
    let table = [
        (
            Part::Deployment,
            "metadata: {name: x}",
            "`deployment`: must not change metadata.name",
        ),
        (
            Part::Deployment,
            "spec: {selector: {matchLabels: {a: b}}}",
            "`deployment`: must not change spec.selector",
        ),
        (
            Part::Service,
            "spec: {selector: null}",
            "`service`: must not change spec.selector",
        ),
        (
            Part::Service,
            "kind: Secret",
            "`service`: must not change kind",
        ),
        (
            Part::Service,
            "$patch: delete",
            "`service`: must not change apiVersion",
        ),
        (
            Part::ServiceAccount,
            "metadata: {ownerReferences: [{uid: u-1, $patch: delete}]}",
            "`serviceAccount`: must not change metadata.ownerReferences",
        ),
        (
            Part::Budget,
            "[]",
            "`podDisruptionBudget`: must be a part of an object, as YAML",
        ),
    ];
    for (part, text, why) in table {
        assert_eq!(refused(part, text), format!("{key} {why}"));
    }
    assert!(
        refused(Part::Deployment, "spec: {")
            .starts_with(&format!("{key} `deployment`: not valid YAML: "))
    );
    let unknown = overlay(&[("deploment", "{}")]);
    let bad = template::render(&gateway("{}"), &[unknown], &settings()).expect_err("a slip");
    assert_eq!(
        bad.to_string(),
        format!(
            "{key} `deploment`: is not known; allowed are serviceAccount, deployment, service, horizontalPodAutoscaler, \
             podDisruptionBudget"
        )
    );
}

#[test]
fn hostile_overlays_end() {
    let deep = format!("spec: {}1{}", "{a: ".repeat(2000), "}".repeat(2000));
    assert!(merged(Part::Deployment, &deep).is_err());
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]";
    assert!(merged(Part::Deployment, bomb).is_err());
}
