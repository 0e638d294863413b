//! The charts as Helm sees them: they pass its lint, a wrong values file is refused with the key and what is allowed, each
//! platform renders what its golden file shows, and what they set are settings that exist. Run by `make test`; without `HELM`
//! the parts that need it say that they were skipped.
//!
//! `CAUSEWAY_WRITE_GOLDEN=1` writes the golden files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const CHARTS: [&str; 6] = [
    "causeway",
    "cni",
    "control-plane",
    "crds",
    "waypoint",
    "ztunnel",
];
const PLATFORMS: [&str; 6] = ["gke", "k3d", "k3s", "microk8s", "minikube", "openshift"];
/// The Kubernetes that renders are made for; Helm's own default may be any.
const KUBERNETES: &str = "1.36.0";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the workspace")
        .to_path_buf()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

/// The files of a directory below the root, in order.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(directory)).expect("a directory of the charts");
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    files
}

/// Helm, by the setting `HELM`; says so when it is not there.
fn helm() -> Option<PathBuf> {
    let found = std::env::var_os("HELM").map(PathBuf::from);
    if found.is_none() {
        println!("skipped: HELM is not set; `e2e/tool helm` finds or builds it");
    }
    found
}

fn run(helm: &Path, arguments: &[&str]) -> Output {
    Command::new(helm)
        .args(arguments)
        .args(["--kube-version", KUBERNETES])
        .current_dir(root())
        .output()
        .expect("helm starts")
}

/// What `helm template` prints, without Helm's own remarks.
fn render(helm: &Path, chart: &str, arguments: &[&str]) -> String {
    let path = format!("charts/{chart}");
    let mut all = vec!["template", "causeway", &path, "--namespace", "istio-system"];
    all.extend(arguments);
    let out = run(helm, &all);
    assert!(
        out.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("manifests are UTF-8")
}

/// The objects of a render.
fn objects(text: &str) -> Vec<Value> {
    text.split("\n---\n")
        .map(yaml)
        .filter(|object| !object.is_null())
        .collect()
}

/// Compares with a golden file, or writes it when asked to.
fn golden(name: &str, text: &str) {
    let path = root().join("e2e/charts/golden").join(name);
    if std::env::var_os("CAUSEWAY_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("a golden file can be written");
        return;
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = differences(&wanted, text);
    assert!(
        differing.is_empty(),
        "{name} differs (- golden, + now; CAUSEWAY_WRITE_GOLDEN=1 takes it over):\n{differing}"
    );
}

/// The lines that differ, by diff(1).
fn differences(old: &str, new: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [a, b] = [("old", old), ("new", new)].map(|(name, text)| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a temporary file");
        path
    });
    let out = Command::new("diff")
        .args([
            "--unchanged-line-format=",
            "--old-line-format=-%L",
            "--new-line-format=+%L",
        ])
        .args([a, b])
        .output()
        .expect("diff starts");
    String::from_utf8(out.stdout).expect("manifests are UTF-8")
}

#[test]
fn each_chart_has_the_same_shared_template() {
    let shared = read("charts/shared/_causeway.tpl");
    for chart in CHARTS.iter().filter(|chart| **chart != "crds") {
        let copy = read(format!("charts/{chart}/templates/_causeway.tpl"));
        assert!(
            copy == shared,
            "charts/{chart}/templates/_causeway.tpl is not charts/shared/_causeway.tpl: copy it"
        );
    }
}

#[test]
fn charts_have_the_version_of_what_they_install() {
    let version = env!("CARGO_PKG_VERSION");
    for chart in CHARTS {
        let about = yaml(&read(format!("charts/{chart}/Chart.yaml")));
        assert_eq!(about["version"], version, "{chart}");
        assert_eq!(about["appVersion"], version, "{chart}");
        assert_eq!(about["name"], chart);
        for part in about["dependencies"].as_array().into_iter().flatten() {
            assert_eq!(part["version"], version, "{chart}: {}", part["name"]);
        }
    }
}

/// Faults of a part of a schema: an object that is closed must say which names it takes, so that Helm's message does.
fn closed(at: &str, schema: &Value, faults: &mut Vec<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        let listed: BTreeSet<_> = schema["propertyNames"]["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if schema["additionalProperties"] != Value::Bool(false) {
            faults.push(format!("{at}: takes any name"));
        }
        if listed != properties.keys().map(String::as_str).collect() {
            faults.push(format!("{at}: propertyNames is not what properties has"));
        }
        for (name, part) in properties {
            closed(&format!("{at}.{name}"), part, faults);
        }
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            closed(&format!("{at}[]"), &schema[part], faults);
        }
    }
}

/// Faults of values that the schema does not describe, and the other way round.
fn described(at: &str, values: &Value, schema: &Value, faults: &mut Vec<String>) {
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object())
    else {
        return;
    };
    for (name, value) in values {
        match properties.get(name) {
            Some(part) => described(&format!("{at}.{name}"), value, part, faults),
            None => faults.push(format!("{at}.{name}: in values.yaml, not in the schema")),
        }
    }
    // Further down, not every name has a default; these two are the umbrella's.
    let elsewhere = ["global", "enabled"];
    if CHARTS.contains(&at) {
        let missing = properties
            .keys()
            .filter(|name| !values.contains_key(*name) && !elsewhere.contains(&name.as_str()));
        faults
            .extend(missing.map(|name| format!("{at}.{name}: in the schema, not in values.yaml")));
    }
}

#[test]
fn schemas_describe_every_value_and_list_every_name() {
    let mut faults = Vec::new();
    for chart in CHARTS {
        let schema: Value =
            serde_json::from_str(&read(format!("charts/{chart}/values.schema.json")))
                .expect("a schema is JSON");
        let values = yaml(&read(format!("charts/{chart}/values.yaml")));
        closed(chart, &schema, &mut faults);
        described(chart, &values, &schema, &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Words of expressions that look like metrics of ours.
fn metrics(text: &str) -> BTreeSet<String> {
    let prefixes = ["causeway_", "istio_", "workload_manager_"];
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .map(|word| {
            let suffix = ["_total", "_bucket", "_sum", "_count"];
            let base = suffix.iter().find_map(|s| word.strip_suffix(s));
            // These end so by their own name.
            let whole = word.ends_with("_proxy_count");
            base.filter(|_| !whole).unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn dashboards_and_alerts_ask_for_metrics_that_exist() {
    let sources = [
        "ztunnel/src/report/metrics.rs",
        "ztunnel/src/pods.rs",
        "ztunnel/src/control/xds.rs",
        "ztunnel/src/control/missing.rs",
        "waypoint/src/report/metrics.rs",
        "control-plane/src/status.rs",
        "control-plane/src/serve/authority.rs",
        "cni-plugin/src/agent/admin.rs",
    ];
    let code: String = sources.iter().map(read).collect();
    let mut asked = 0;
    for chart in ["ztunnel", "cni", "control-plane"] {
        let rules = yaml(&read(format!("charts/{chart}/rules.yaml")));
        assert!(
            rules["groups"][0]["rules"][0]["alert"].is_string(),
            "{chart}"
        );
        let mut texts = vec![rules.to_string()];
        for board in files(&format!("charts/{chart}/dashboards")) {
            let board: Value = serde_json::from_str(&read(&board)).expect("a dashboard is JSON");
            assert!(board["panels"].as_array().is_some_and(|p| p.len() > 3));
            texts.push(board["panels"].to_string());
        }
        for name in texts.iter().flat_map(|text| metrics(text)) {
            asked += 1;
            assert!(
                code.contains(&format!("\"{name}\"")),
                "{chart}: {name} is no metric of ours"
            );
        }
    }
    assert!(
        asked > 20,
        "only {asked} names were found in the expressions"
    );
}

#[test]
fn every_chart_passes_helms_lint() {
    let Some(helm) = helm() else { return };
    for chart in CHARTS {
        let out = run(&helm, &["lint", "--strict", &format!("charts/{chart}")]);
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && text.contains("0 chart(s) failed"),
            "{chart}: {text}"
        );
    }
}

#[test]
fn wrong_values_are_refused_with_the_key_and_what_is_allowed() {
    let Some(helm) = helm() else { return };
    let wrong = files("e2e/charts/wrong");
    assert!(wrong.len() >= 20, "only {} files", wrong.len());
    for file in wrong {
        let text = read(&file);
        let said = |key: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|l| l.strip_prefix(key));
            lines.map(str::to_owned).collect()
        };
        let chart = format!("charts/{}", said("# chart: ")[0]);
        let path = file.display().to_string();
        let out = run(&helm, &["template", "causeway", &chart, "--values", &path]);
        let answer = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{path} is not refused");
        for wanted in said("# says: ") {
            assert!(
                answer.contains(&wanted),
                "{path}: no {wanted:?} in:\n{answer}"
            );
        }
    }
}

#[test]
fn each_platform_renders_its_golden_file() {
    let Some(helm) = helm() else { return };
    let plain = render(&helm, "causeway", &[]);
    golden("default.yaml", &plain);
    for platform in PLATFORMS {
        let set = format!("global.platform={platform}");
        let text = render(&helm, "causeway", &["--set", &set]);
        golden(&format!("{platform}.diff"), &differences(&plain, &text));
    }
    golden("waypoint.yaml", &render(&helm, "waypoint", &[]));
}

#[test]
fn with_an_istiod_the_objects_have_istios_names() {
    let Some(helm) = helm() else { return };
    let istiod = "global.istiodAddress=istiod-canary.istio-system.svc:15012";
    let set = ["--set", "controlPlane.enabled=false", "--set", istiod];
    let rendered = objects(&render(&helm, "causeway", &set));
    let names: BTreeSet<String> = rendered
        .iter()
        .filter(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null())
        .map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', ""))
        .collect();
    let wanted = [
        "ClusterRole istio-cni-istio-system",
        "ClusterRoleBinding istio-cni-istio-system",
        "ConfigMap istio-cni-config",
        "DaemonSet istio-cni-node",
        "DaemonSet ztunnel",
        "Role istio-cni",
        "RoleBinding istio-cni",
        "ServiceAccount istio-cni",
        "ServiceAccount ztunnel",
    ];
    assert_eq!(names, wanted.map(str::to_owned).into());
    let ztunnel = rendered
        .iter()
        .find(|object| object["metadata"]["name"] == "ztunnel" && object["kind"] == "DaemonSet")
        .expect("ztunnel");
    let pod = &ztunnel["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["app"], "ztunnel");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["name"], "istio-proxy");
    for name in ["XDS_ADDRESS", "CA_ADDRESS"] {
        let variables = container["env"].as_array().expect("variables");
        let address = variables.iter().find(|v| v["name"] == name).expect(name);
        assert_eq!(address["value"], "istiod-canary.istio-system.svc:15012");
    }
}

#[test]
fn a_variable_of_the_user_wins_and_stands_there_once() {
    let Some(helm) = helm() else { return };
    let set = [
        "--set",
        "env.SAME_NODE=tunnel",
        "--set",
        "env.WORKER_SPIN=50us",
    ];
    let rendered = objects(&render(&helm, "ztunnel", &set));
    let set = rendered.iter().find(|object| object["kind"] == "DaemonSet");
    let env = &set.expect("a DaemonSet")["spec"]["template"]["spec"]["containers"][0]["env"];
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for variable in env.as_array().expect("variables") {
        let name = variable["name"].as_str().expect("a name");
        values
            .entry(name)
            .or_default()
            .push(variable["value"].as_str().unwrap_or("(field)"));
    }
    assert_eq!(values["SAME_NODE"], ["tunnel"]);
    assert_eq!(values["WORKER_SPIN"], ["50us"]);
    assert!(values.values().all(|v| v.len() == 1), "{values:?}");
}

/// Names of variables that containers of this image get.
fn variables(rendered: &[Value], image: &str) -> BTreeSet<String> {
    // The job of the CNI chart runs another command of that image.
    let lasting = rendered.iter().filter(|object| object["kind"] != "Job");
    let pods = lasting.map(|object| &object["spec"]["template"]["spec"]);
    let containers = pods.flat_map(|pod| pod["containers"].as_array().into_iter().flatten());
    let ours = containers.filter(|c| {
        let name = c["image"].as_str().unwrap_or_default();
        name.contains(&format!("/{image}:"))
    });
    let env = ours.flat_map(|c| c["env"].as_array().into_iter().flatten());
    env.map(|v| v["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn what_the_charts_set_are_settings_that_exist() {
    let Some(helm) = helm() else { return };
    let page = read("docs/configuration.md");
    let mut rendered = objects(&render(
        &helm,
        "causeway",
        &["--set", "global.trustDomain=t,global.network=n"],
    ));
    rendered.extend(objects(&render(&helm, "waypoint", &[])));
    let config = rendered
        .iter()
        .find(|object| object["metadata"]["name"] == "istio-cni-config");
    let mut faults = Vec::new();
    for (image, section) in [("ztunnel", "ztunnel"), ("waypoint", "waypoint")] {
        let after = page
            .split(&format!("\n## {section}\n"))
            .nth(1)
            .expect(section);
        let known = after.split("\n## ").next().expect("a section");
        let mut names = variables(&rendered, image);
        assert!(names.len() > 2, "{image}: {names:?}");
        if image == "cni" {
            let map = config.expect("the agent's ConfigMap")["data"].as_object();
            names.extend(map.expect("its settings").keys().cloned());
        }
        let strange = names.iter().filter(|name| {
            let free = name.starts_with("ISTIO_META_") && known.contains("`ISTIO_META_*`");
            !free && !known.contains(&format!("`{name}`"))
        });
        faults.extend(strange.map(|name| format!("{image}: {name}")));
    }
    assert!(
        faults.is_empty(),
        "not in docs/configuration.md:\n{}",
        faults.join("\n")
    );
}
