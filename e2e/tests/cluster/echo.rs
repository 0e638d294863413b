//! The applications of the cases: a web server on every node, and clients.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bed::{Bed, stdout, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Namespace `name` with one server per node (`web`, port 80, answers with its node's name) and a client on each node
/// (`client1`, `client2`, account `client`), outside of the mesh.
pub fn manifests(name: &str) -> String {
    let clients: String = (1..=2).map(|node| client(name, node)).collect();
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: {name}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: web, namespace: {name}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: client, namespace: {name}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: web, namespace: {name}}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: e2e.local/tools:1
        imagePullPolicy: IfNotPresent
        command: [/bin/pod, serve, "8080"]
        env: [{{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {name}}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
{clients}"#
    )
}

fn client(namespace: &str, node: usize) -> String {
    format!(
        r#"---
apiVersion: v1
kind: Pod
metadata: {{name: client{node}, namespace: {namespace}, labels: {{app: client}}}}
spec:
  serviceAccountName: client
  nodeName: node{node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: client, image: "e2e.local/tools:1", imagePullPolicy: IfNotPresent}}]
"#
    )
}

/// The applications of `manifests`, running, and their service programmed.
pub fn start(bed: &Bed, namespace: &str) -> Result<()> {
    bed.apply(&manifests(namespace))?;
    bed.rollout(namespace, "ds/web")?;
    bed.ready(namespace)?;
    fetch(bed, namespace, "client1").map(drop)
}

/// The namespace goes into the mesh, with all its pods.
pub fn join(bed: &Bed, namespace: &str) -> Result<()> {
    let label = "istio.io/dataplane-mode=ambient";
    bed.kubectl(&["label", "namespace", namespace, label, "--overwrite"])?;
    until(LIMIT, "every pod is captured", || {
        for (pod, captured) in bed.captured(namespace)? {
            ensure!(captured, "{pod} is not captured");
        }
        Ok(())
    })
}

/// What the service `web` of the namespace answers to a pod, as soon as it answers.
pub fn fetch(bed: &Bed, namespace: &str, pod: &str) -> Result<String> {
    let url = format!("http://{}/", bed.service_address(namespace, "web")?);
    let pod = format!("{namespace}/{pod}");
    until(LIMIT, "the service answers", || {
        stdout(bed.exec(&pod, &["curl", "-sf", "-m", "3", &url])?)
    })
}
