//! The rights of docs/kubernetes-rights.md as a ClusterRole, so that the page cannot lack what the control plane needs.

use std::path::Path;

use serde_json::{Value, json};

/// One rule for each row of the page's tables.
pub fn role() -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes-rights.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let rules: Vec<Value> = page.lines().filter_map(rule).collect();
    assert!(rules.len() > 10, "only {} rows", rules.len());
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "control-plane" }, "rules": rules,
    })
}

/// Given to the user `control-plane`.
pub fn binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "control-plane" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "control-plane" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "control-plane" }],
    })
}

/// `| group | resource | verbs | why |`; the names are in code quotes, the core group is not.
fn rule(line: &str) -> Option<Value> {
    let mut cells = line.strip_prefix('|')?.split('|');
    let (groups, resources, verbs) = (cells.next()?, quoted(cells.next()?), quoted(cells.next()?));
    if resources.is_empty() || verbs.is_empty() {
        return None;
    }
    let group = quoted(groups).first().copied().unwrap_or_default();
    let mut rule = json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    if line.contains(", only `") {
        rule["resources"] = json!([resources[0]]);
        rule["resourceNames"] = json!(resources[1..]);
    }
    Some(rule)
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}
