//! The Kubernetes objects of a world, as text for the control plane's directory. Pure; called by `world`.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Kubernetes namespace of all pods.
pub const NAMESPACE: &str = "bench";
/// Namespaces that the policies of others are spread over.
const OTHERS: usize = 100;
const RULES: usize = 10;

/// A pod, as the control plane is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Service account.
    pub account: String,
    /// Node.
    pub node: String,
    /// Address.
    pub address: IpAddr,
}

/// Which policies there are besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Policies {
    /// None.
    None,
    /// So many, in other namespaces.
    Elsewhere(usize),
    /// So many, all on the pods' own namespace: half of them allow, of which one matches; half deny, of which none does.
    Here(usize),
}

/// Namespace, nodes, accounts and pods.
#[must_use]
pub fn mesh(pods: &[Entry]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels: {{istio.io/dataplane-mode: ambient}}\n"
    );
    let mut nodes: Vec<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut accounts: Vec<&str> = pods.iter().map(|pod| pod.account.as_str()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    // Writing to a string cannot fail.
    for node in nodes {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}"
        );
    }
    for account in accounts {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {account}, namespace: {NAMESPACE}}}"
        );
    }
    for Entry {
        name,
        account,
        node,
        address,
    } in pods
    {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n  labels: {{app: {name}}}\n\
             spec:\n  serviceAccountName: {account}\n  nodeName: {node}\n  containers:\n  - {{name: app, image: bench}}\n\
             status:\n  phase: Running\n  podIP: {address}\n  podIPs: [{{ip: {address}}}]\n  \
             conditions: [{{type: Ready, status: \"True\"}}]"
        );
    }
    text
}

/// The policies; `account` is the one that may call.
#[must_use]
pub fn policies(policies: Policies, account: &str) -> String {
    let mut text = String::new();
    match policies {
        Policies::None => {}
        Policies::Elsewhere(count) => {
            for number in 0..count {
                let namespace = format!("other-{}", number % OTHERS);
                let action = if number % 2 == 0 { "ALLOW" } else { "DENY" };
                policy(&mut text, &namespace, number, action, None);
            }
        }
        Policies::Here(count) => {
            for number in 0..count {
                let action = if number % 2 == 0 { "ALLOW" } else { "DENY" };
                // The one that matches stands in the middle.
                let matches = number == count / 4 * 2;
                policy(
                    &mut text,
                    NAMESPACE,
                    number,
                    action,
                    matches.then_some(account),
                );
            }
        }
    }
    text
}

fn policy(text: &mut String, namespace: &str, number: usize, action: &str, account: Option<&str>) {
    let _ = writeln!(
        text,
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: policy-{number}, namespace: {namespace}}}\nspec:\n  action: {action}\n  rules:"
    );
    for rule in 0..RULES {
        let stranger = format!("caller-{number}-{rule}");
        let account = match account {
            Some(account) if rule == RULES / 2 => account,
            _ => &stranger,
        };
        let _ = writeln!(
            text,
            "  - from: [{{source: {{principals: [cluster.local/ns/{NAMESPACE}/sa/{account}]}}}}]\n    \
             to: [{{operation: {{ports: [\"8080\", \"8081\"]}}}}]"
        );
    }
}

#[cfg(test)]
mod tests;
