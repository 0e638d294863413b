//! Row 9: the mesh is uninstalled, with pods in it: nothing is left on nodes, in pods' namespaces, in the CNI configuration, and
//! pods still talk.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed},
    echo,
};

const NAMESPACE: &str = "removal";

/// The case.
pub fn uninstall() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    bed.meshed()?;
    echo::start(bed, NAMESPACE)?;
    echo::join(bed, NAMESPACE)?;
    // What will be looked for can be seen while it is there.
    for node in [1, 2] {
        let before = traces(bed, node)?;
        for kind in [
            "configuration",
            "binary",
            "socket",
            "host rules",
            "pod rules",
        ] {
            ensure!(
                before.iter().any(|trace| trace.starts_with(kind)),
                "node{node}, in the mesh: no {kind} among {before:?}"
            );
        }
    }
    let start = Instant::now();
    bed.uninstall()?;
    let took = start.elapsed();
    for node in [1, 2] {
        let left = traces(bed, node)?;
        ensure!(left.is_empty(), "node{node}: {left:?}");
    }
    let captured = bed.kubectl(&[
        "get",
        "pod",
        "-A",
        "-o",
        r#"jsonpath={range .items[?(@.metadata.annotations.ambient\.istio\.io/redirection)]}{.metadata.name} {end}"#,
    ])?;
    ensure!(captured.is_empty(), "still marked: {captured}");
    let left = bed.kubectl(&[
        "get",
        "all,cm,secret,sa,role,rolebinding,lease",
        "-n",
        bed::SYSTEM,
        "-o",
        "name",
    ])?;
    let ours: Vec<_> = left.lines().filter(|name| !KEPT.contains(name)).collect();
    ensure!(ours.is_empty(), "left in {}: {ours:?}", bed::SYSTEM);
    let wide = bed.kubectl(&["get", "clusterrole,clusterrolebinding,validatingwebhookconfiguration,mutatingwebhookconfiguration,priorityclass", "-o", "name"])?;
    let ours: Vec<_> = wide
        .lines()
        .filter(|name| {
            ["causeway", "ztunnel", "istio"]
                .iter()
                .any(|word| name.contains(word))
        })
        .collect();
    ensure!(ours.is_empty(), "left in the cluster: {ours:?}");
    for client in ["client1", "client2"] {
        echo::fetch(bed, NAMESPACE, client)?;
    }
    // A new pod starts without the plugin.
    bed.kubectl(&["delete", "pod", "-n", NAMESPACE, "-l", "app=web", "--wait"])?;
    bed.rollout(NAMESPACE, "ds/web")?;
    echo::fetch(bed, NAMESPACE, "client1")?;
    ensure!(took < Duration::from_secs(180), "{took:?}");
    Ok(Outcome::Passed(format!(
        "uninstalled in {:.1} s; no trace on both nodes and in their pods, old and new pods talk",
        took.as_secs_f64()
    )))
}

/// docs/operations.md says that these stay: the root, and what Kubernetes itself makes.
const KEPT: [&str; 5] = [
    "configmap/istio-ca-root-cert",
    "configmap/kube-root-ca.crt",
    "lease.coordination.k8s.io/causeway-control-plane",
    "secret/causeway-ca",
    "serviceaccount/default",
];

/// What the mesh has put on a node, each with its kind.
fn traces(bed: &Bed, node: usize) -> Result<Vec<String>> {
    let script = r#"
        grep -l causeway /etc/cni/net.d/* 2>/dev/null | sed 's/^/configuration /'
        ls /opt/cni/bin/*causeway* 2>/dev/null | sed 's/^/binary /'
        find /run/causeway /var/run/ztunnel /run/ztunnel -type s 2>/dev/null | sed 's/^/socket /'
        nft list tables | grep causeway | sed 's/^/host rules /'
        for pid in $(pgrep -x pause); do
            nsenter -t $pid -n nft list tables | grep causeway | sed "s/^/pod rules $pid /"
            nsenter -t $pid -n ip rule | grep 'lookup 100' | sed "s/^/pod routing $pid /"
        done
        true"#;
    let found = bed.on_node(node, &["sh", "-c", script])?;
    Ok(found.lines().map(str::to_owned).collect())
}
