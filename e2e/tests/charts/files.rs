//! What the files of the charts say, without Helm: equal copies, versions, schemas that describe every value, metrics that exist.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{CHARTS, files, read, yaml};

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

/// What a user may take away (`null`): templates do without.
const MAY_GO: [&str; 11] = [
    "affinity",
    "dnsConfig",
    "global",
    "minAvailable",
    "multiCluster",
    "networkPolicy",
    "priorityClassName",
    "resources",
    "seLinuxOptions",
    "seccompProfile",
    "updateStrategy",
];

/// Faults of a schema that lets go what templates need.
fn required(at: &str, values: &Value, schema: &Value, faults: &mut Vec<String>) {
    let (Some(values), Some(_)) = (values.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for (name, value) in values {
        let part = &schema["properties"][name];
        let needed = match value {
            Value::Object(_) => part["properties"].is_object(),
            Value::String(text) => !text.is_empty(),
            Value::Array(_) | Value::Null => false,
            Value::Bool(_) | Value::Number(_) => true,
        };
        if MAY_GO.contains(&name.as_str()) || !needed {
            continue;
        }
        let listed = schema["required"].as_array();
        if !listed.is_some_and(|names| names.contains(&Value::from(name.as_str()))) {
            faults.push(format!("{at}.{name}: not in `required` of the schema"));
        }
        required(&format!("{at}.{name}"), value, part, faults);
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
        required(chart, &values, &schema, &mut faults);
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
        "ztunnel/src/control/dns/metrics.rs",
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
