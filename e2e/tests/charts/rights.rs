//! What the charts set and grant, against what the binaries read and need.

use std::collections::BTreeSet;

use objects::Kind;
use serde_json::Value;

use super::{helm, manifests, read, render};

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
    let mut rendered = manifests(&render(
        &helm,
        "causeway",
        &[
            "--set",
            "global.trustDomain=t,global.network=n,global.caAddress=ca:1,global.platform=openshift",
            "--set",
            "global.imagePullPolicy=Always,global.imagePullSecrets={p}",
        ],
    ));
    rendered.extend(manifests(&render(&helm, "waypoint", &[])));
    let config = rendered
        .iter()
        .find(|object| object["metadata"]["name"] == "istio-cni-config");
    let mut faults = Vec::new();
    for (image, section) in [
        ("ztunnel", "ztunnel"),
        ("waypoint", "waypoint"),
        ("cni", "cni-agent"),
        ("control-plane", "control-plane"),
    ] {
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

/// Words in backquotes of a cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// `group/resource verb` of every rule of the control plane's roles.
fn granted(rendered: &[Value]) -> BTreeSet<String> {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule[key].as_array().into_iter().flatten();
        list.map(|w| w.as_str().expect("text").to_owned()).collect()
    };
    let roles = rendered.iter().filter(|o| {
        ["Role", "ClusterRole"]
            .iter()
            .any(|kind| o["kind"] == *kind)
    });
    let rules = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten());
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                let verbs = words(rule, "verbs").into_iter();
                all.extend(verbs.map(|verb| format!("{group}/{resource} {verb}")));
            }
        }
    }
    all
}

/// The resource of a kind, as the API server calls it.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let consonant = |stem: &&str| !stem.ends_with(['a', 'e', 'o', 'u']);
    match (
        kind.strip_suffix('y').filter(consonant),
        kind.ends_with('s'),
    ) {
        (Some(stem), _) => format!("{stem}ies"),
        (None, true) => format!("{kind}es"),
        (None, false) => format!("{kind}s"),
    }
}

/// What one name of a kind is enough for, and what somebody could turn against others.
#[test]
fn what_is_written_under_known_names_is_limited_to_them() {
    let Some(helm) = helm() else { return };
    let rendered = manifests(&render(&helm, "control-plane", &[]));
    let roles = rendered
        .iter()
        .filter(|object| object["kind"] == "ClusterRole");
    let rules = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten());
    let holds = |list: &Value, text: &str| {
        let mut words = list.as_array().into_iter().flatten();
        words.any(|word| word == text)
    };
    let mut limited = 0;
    for rule in
        rules.filter(|rule| holds(&rule["verbs"], "patch") || holds(&rule["verbs"], "create"))
    {
        for resource in ["configmaps", "gatewayclasses", "secrets"] {
            if holds(&rule["resources"], resource) {
                assert!(
                    rule["resourceNames"].is_array(),
                    "{resource} of any name: {rule}"
                );
                limited += 1;
            }
        }
    }
    assert_eq!(limited, 2);
}

#[test]
fn every_kind_that_is_read_may_be_read() {
    let Some(helm) = helm() else { return };
    let granted = granted(&manifests(&render(&helm, "control-plane", &[])));
    for kind in Kind::ALL {
        for verb in ["list", "watch"] {
            let right = format!("{}/{} {verb}", kind.group(), plural(kind.name()));
            assert!(granted.contains(&right), "not granted: {right}");
        }
    }
}

#[test]
fn what_the_control_plane_needs_is_granted() {
    let Some(helm) = helm() else { return };
    let granted = granted(&manifests(&render(&helm, "control-plane", &[])));
    assert!(
        granted.iter().all(|right| !right.contains('*')),
        "a wildcard: {granted:?}"
    );
    let page = read("docs/kubernetes-rights.md");
    let mut missing = Vec::new();
    let mut rows = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (group, verbs) = (cells[1], quoted(cells[3]));
        // A name that the right is limited to stands behind "only" or "by name".
        let whole = cells[2].split(", by name").next().unwrap_or_default();
        let resources = quoted(whole.split(", only").next().unwrap_or_default());
        if verbs.is_empty() || resources.is_empty() {
            continue;
        }
        rows += 1;
        let group = group.trim_matches('`').replace("core", "");
        for (resource, verb) in resources
            .iter()
            .flat_map(|r| verbs.iter().map(move |v| (r, v)))
        {
            let right = format!("{group}/{resource} {verb}");
            if !granted.contains(&right) {
                missing.push(right);
            }
        }
    }
    assert!(rows > 10, "only {rows} rows were found");
    assert!(missing.is_empty(), "not granted: {}", missing.join(", "));
}
