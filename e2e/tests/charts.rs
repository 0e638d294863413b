//! The charts as Helm sees them: they pass its lint, a wrong values file is refused with the key and what is allowed, each
//! platform renders what its golden file shows, and what they set are settings that exist. Run by `make test`; without `HELM`
//! the parts that need it say that they were skipped.
//!
//! `CAUSEWAY_WRITE_GOLDEN=1` writes the golden files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

#[path = "charts/files.rs"]
mod files;
#[path = "charts/globals.rs"]
mod globals;
#[path = "charts/rights.rs"]
mod rights;

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
fn manifests(text: &str) -> Vec<Value> {
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
    let rendered = manifests(&render(&helm, "causeway", &set));
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
        "--set",
        "meshConfig.defaultConfig.proxyMetadata.NETWORK=east,network=west",
        "--set",
        "meshConfig.defaultConfig.proxyMetadata.WORKER_SPIN=1us",
    ];
    let rendered = manifests(&render(&helm, "ztunnel", &set));
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
    assert_eq!(values["NETWORK"], ["east"]);
    assert!(values.values().all(|v| v.len() == 1), "{values:?}");
}
