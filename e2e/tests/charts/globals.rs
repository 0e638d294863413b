//! Values under `global`: each is read by the charts that it concerns, and by no other.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{helm, read, run};

const ALL: &[&str] = &["cni", "control-plane", "waypoint", "ztunnel"];
const PROXIES: &[&str] = &["control-plane", "waypoint", "ztunnel"];
/// Of waypoints that the control plane deploys.
const PLANE: &[&str] = &["control-plane"];

/// Each leaf, a value (JSON) that is not its default, and the charts that render otherwise with it.
const LEAVES: [(&str, &str, &[&str]); 25] = [
    ("hub", r#""registry.example/mesh""#, ALL),
    ("tag", r#""v9""#, ALL),
    ("imagePullPolicy", r#""Always""#, ALL),
    ("imagePullSecrets", r#"["pull"]"#, ALL),
    ("platform", r#""openshift""#, ALL),
    // The control plane refuses a namespace that is not its own.
    ("istioNamespace", r#""elsewhere""#, PROXIES),
    (
        "istiodAddress",
        r#""a.example:1""#,
        &["waypoint", "ztunnel"],
    ),
    ("caAddress", r#""ca.example:1""#, PROXIES),
    ("trustDomain", r#""corp""#, PROXIES),
    ("network", r#""east""#, PROXIES),
    ("proxy.clusterDomain", r#""corp.internal""#, PROXIES),
    ("multiCluster.clusterName", r#""east-1""#, PROXIES),
    ("logging.level", r#""debug""#, ALL),
    ("logAsJson", "true", ALL),
    ("networkPolicy.enabled", "true", ALL),
    ("nativeNftables", "false", &["cni"]),
    ("waypoint.resources.requests", r#"{"cpu": "3"}"#, PLANE),
    ("waypoint.resources.limits", r#"{"cpu": "3"}"#, PLANE),
    ("waypoint.resources.claims", r#"[{"name": "a"}]"#, PLANE),
    ("waypoint.affinity.nodeAffinity", r#"{"a": "b"}"#, PLANE),
    ("waypoint.affinity.podAffinity", r#"{"a": "b"}"#, PLANE),
    ("waypoint.affinity.podAntiAffinity", r#"{"a": "b"}"#, PLANE),
    (
        "waypoint.topologySpreadConstraints",
        r#"[{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]"#,
        PLANE,
    ),
    ("waypoint.nodeSelector", r#"{"a": "b"}"#, PLANE),
    ("waypoint.tolerations", r#"[{"operator": "Exists"}]"#, PLANE),
];

/// Names of a schema's leaves, with dots.
fn leaves(at: &str, schema: &Value, found: &mut BTreeSet<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.insert(at.to_owned());
        return;
    };
    for (name, part) in properties {
        let dot = if at.is_empty() { "" } else { "." };
        leaves(&format!("{at}{dot}{name}"), part, found);
    }
}

/// What a chart makes of a value; a refusal that names it is an answer too.
fn answer(helm: &Path, chart: &str, leaf: &str, value: &str) -> String {
    let (path, set) = (format!("charts/{chart}"), format!("global.{leaf}={value}"));
    let namespace = ["--namespace", "istio-system", "--set-json", &set];
    let out = run(helm, &[&["template", "a", &path], &namespace[..]].concat());
    if out.status.success() {
        return String::from_utf8(out.stdout).expect("manifests are UTF-8");
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains(&format!(": global.{leaf}: ")),
        "{chart}: {said}"
    );
    said
}

#[test]
fn every_chart_takes_the_same_globals_and_the_table_has_each() {
    let table: BTreeSet<String> = LEAVES.iter().map(|(leaf, ..)| (*leaf).to_owned()).collect();
    for chart in super::CHARTS {
        let schema: Value =
            serde_json::from_str(&read(format!("charts/{chart}/values.schema.json")))
                .expect("a schema is JSON");
        let mut found = BTreeSet::new();
        leaves("", &schema["properties"]["global"], &mut found);
        assert_eq!(found, table, "{chart}");
    }
}

#[test]
fn each_global_is_read_by_the_charts_that_it_concerns() {
    let Some(helm) = helm() else { return };
    let mut faults = Vec::new();
    for chart in ALL {
        let plain = answer(&helm, chart, "hub", r#""""#);
        for (leaf, value, concerned) in LEAVES {
            let reads = answer(&helm, chart, leaf, value) != plain;
            if reads != concerned.contains(chart) {
                let not = if reads { "" } else { " not" };
                faults.push(format!("{chart} does{not} read global.{leaf}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
