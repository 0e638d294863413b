//! Row 6: kinds of workloads and of traffic, each in the mesh: probes, headless services, StatefulSets, Jobs, native sidecars,
//! hostNetwork pods, DNS over UDP and TCP, and a packet filter on the mesh's port. (IPv6 and dual stack: in namespaces,
//! `e2e/tests/ztunnel` and `cni-plugin`, since this cluster has IPv4 alone.)

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed, stdout, until},
    echo,
};

const NAMESPACE: &str = "kinds";
const LIMIT: Duration = Duration::from_secs(60);

/// What it is about, and the test.
type Check = (&'static str, fn(&Bed) -> Result<()>);

/// The case.
pub fn each() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    bed.meshed()?;
    echo::start(bed, NAMESPACE)?;
    echo::join(bed, NAMESPACE)?;
    // Nobody without an identity gets in: what works from here on works by the mesh, or is the kubelet's.
    bed.apply(STRICT)?;
    bed.apply(WORKLOADS)?;
    let mut told = Vec::new();
    let checks: [Check; 7] = [
        ("probes (HTTP, TCP, exec) under STRICT", probes),
        ("StatefulSet behind a headless service", stateful),
        ("Job", job),
        ("native sidecar", sidecar),
        ("hostNetwork", host_network),
        ("DNS over UDP and TCP", dns),
        ("packet filter on 15008", filtered),
    ];
    for (what, check) in checks {
        check(bed).with_context(|| what.to_owned())?;
        told.push(what);
    }
    Ok(Outcome::Passed(told.join(", ")))
}

/// The kubelet's probes pass, and would be seen to fail: a pod whose probe asks a port that nobody serves is not ready.
fn probes(bed: &Bed) -> Result<()> {
    bed.kubectl(&[
        "wait",
        "-n",
        NAMESPACE,
        "--for=condition=Ready",
        "pod/probed",
        "--timeout=60s",
    ])?;
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    let dead = bed.kubectl(&["get", "pod", "-n", NAMESPACE, "dead-probe", "-o", path])?;
    ensure!(dead == "False", "ready with a dead probe: {dead}");
    Ok(())
}

fn stateful(bed: &Bed) -> Result<()> {
    bed.rollout(NAMESPACE, "sts/db")?;
    for pod in ["db-0", "db-1"] {
        let url = format!("http://{pod}.db.{NAMESPACE}.svc.cluster.local:8080/");
        until(LIMIT, "a pod of the set answers by its name", || {
            call(bed, "client1", &url)
        })?;
        let own = bed.kubectl(&[
            "get",
            "pod",
            "-n",
            NAMESPACE,
            pod,
            "-o",
            "jsonpath={.status.podIP}",
        ])?;
        let found = lookup(bed, &format!("{pod}.db.{NAMESPACE}.svc.cluster.local"))?;
        ensure!(found.contains(&own), "{pod} is {own}: {found}");
    }
    // Both by the service's own name.
    let url = format!("http://db.{NAMESPACE}.svc.cluster.local:8080/");
    call(bed, "client2", &url).map(drop)
}

fn job(bed: &Bed) -> Result<()> {
    let done = "--for=condition=Complete";
    bed.kubectl(&["wait", "-n", NAMESPACE, done, "job/caller", "--timeout=90s"])
        .map(drop)
}

/// Its sidecar had to reach a service before the main container started.
fn sidecar(bed: &Bed) -> Result<()> {
    bed.kubectl(&[
        "wait",
        "-n",
        NAMESPACE,
        "--for=condition=Ready",
        "pod/with-sidecar",
        "--timeout=90s",
    ])?;
    let log = bed.kubectl(&["logs", "-n", NAMESPACE, "with-sidecar", "-c", "sidecar"])?;
    ensure!(log.contains("plainly from"), "{log}");
    Ok(())
}

/// Left alone: not captured, refused under STRICT, served where that is lifted.
fn host_network(bed: &Bed) -> Result<()> {
    bed.kubectl(&[
        "wait",
        "-n",
        NAMESPACE,
        "--for=condition=Ready",
        "pod/on-host",
        "--timeout=60s",
    ])?;
    let captured = bed.captured(NAMESPACE)?;
    let own = captured.iter().find(|(pod, _)| pod == "on-host");
    ensure!(own.is_some_and(|(_, captured)| !captured), "{captured:?}");
    // Other pods' way to it is plain, and works.
    let node = bed.kubectl(&[
        "get",
        "pod",
        "-n",
        NAMESPACE,
        "on-host",
        "-o",
        "jsonpath={.status.podIP}",
    ])?;
    until(LIMIT, "a captured pod reaches a pod on the host", || {
        call(bed, "client2", &format!("http://{node}:18080/"))
    })
    .map(drop)
}

fn dns(bed: &Bed) -> Result<()> {
    let name = format!("web.{NAMESPACE}.svc.cluster.local");
    let address = bed.service_address(NAMESPACE, "web")?;
    let udp = lookup(bed, &name)?;
    ensure!(udp.contains(&address), "{udp}");
    // A query by TCP, two bytes of length before it (RFC 1035, 4.2.2); the answer has the address in its last four bytes.
    let mut question = String::from(r"\000\007\001\000\000\001\000\000\000\000\000\000");
    for label in name.split('.') {
        question += &format!(r"\{:03o}{label}", label.len());
    }
    question += r"\000\000\001\000\001";
    let length = 12 + name.len() + 2 + 4;
    let script = format!(
        r"printf '\{:03o}\{:03o}{question}' | nc -w 3 $(sed -n 's/^nameserver //p' /etc/resolv.conf) 53 | od -An -v -tu1 | tr -s ' \n' ' '",
        length >> 8,
        length & 0xff
    );
    let wanted = address.replace('.', " ");
    until(LIMIT, "an answer by TCP", || {
        let answer = stdout(bed.exec(&format!("{NAMESPACE}/client1"), &["sh", "-c", &script])?)?;
        ensure!(answer.trim_end().ends_with(&wanted), "{answer}");
        Ok(())
    })
}

/// Packets to the mesh's port are dropped on the way to one pod: the caller fails, within its time, in plain text never, and
/// the log says what it may be.
fn filtered(bed: &Bed) -> Result<()> {
    let address = bed.pod_address(NAMESPACE, "app=web", "node2")?;
    let url = format!("http://{address}:8080/");
    until(LIMIT, "it answers before", || call(bed, "client1", &url))?;
    let drop_it = format!(
        "add table inet drop15008; add chain inet drop15008 forward {{ type filter hook forward priority 0 ; }}; \
         add rule inet drop15008 forward ip daddr {address} tcp dport 15008 drop"
    );
    // New tunnels and those that are there.
    bed.on_node(2, &["nft", &drop_it])?;
    let refused = bed.exec(
        &format!("{NAMESPACE}/client1"),
        &["curl", "-s", "-m", "30", &url],
    )?;
    let told = until(LIMIT, "the log says what it may be", || {
        let query = ["logs", "-n", bed::SYSTEM, "-l", "app=ztunnel", "--tail=200"];
        let log = bed.kubectl(&query)?;
        ensure!(
            log.contains("maybe a NetworkPolicy is blocking HBONE port 15008"),
            "not a word"
        );
        Ok(())
    });
    bed.on_node(2, &["nft", "delete table inet drop15008"])?;
    ensure!(
        !refused.status.success(),
        "answered without the mesh's port"
    );
    told?;
    until(LIMIT, "it answers again", || call(bed, "client1", &url)).map(drop)
}

fn call(bed: &Bed, who: &str, url: &str) -> Result<String> {
    let pod = format!("{NAMESPACE}/{who}");
    stdout(bed.exec(&pod, &["curl", "-sf", "-m", "3", url])?)
}

fn lookup(bed: &Bed, name: &str) -> Result<String> {
    let pod = format!("{NAMESPACE}/client1");
    until(LIMIT, "the name is known", || {
        stdout(bed.exec(&pod, &["nslookup", name])?)
    })
}

const STRICT: &str = r#"apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: kinds}
spec: {mtls: {mode: STRICT}}
"#;

const WORKLOADS: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: kinds}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/tools:1
    imagePullPolicy: IfNotPresent
    command: [/bin/pod, serve, "8080"]
    startupProbe: {exec: {command: [ls, /]}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: dead-probe, namespace: kinds}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/tools:1
    imagePullPolicy: IfNotPresent
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: kinds}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: kinds}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: e2e.local/tools:1
        imagePullPolicy: IfNotPresent
        command: [/bin/pod, serve, "8080"]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: batch/v1
kind: Job
metadata: {name: caller, namespace: kinds}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: e2e.local/tools:1
        imagePullPolicy: IfNotPresent
        command: [curl, -sf, -m, "10", "http://web.kinds.svc.cluster.local/"]
---
apiVersion: v1
kind: Pod
metadata: {name: with-sidecar, namespace: kinds}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: sidecar
    image: e2e.local/tools:1
    imagePullPolicy: IfNotPresent
    restartPolicy: Always
    command: [sh, -c, "curl -sf -m 10 http://web.kinds.svc.cluster.local/ && exec /bin/pod serve 9090"]
    startupProbe: {tcpSocket: {port: 9090}, periodSeconds: 1}
  containers:
  - name: main
    image: e2e.local/tools:1
    imagePullPolicy: IfNotPresent
    command: [/bin/pod, serve, "8080"]
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: on-host, namespace: kinds}
spec:
  hostNetwork: true
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/tools:1
    imagePullPolicy: IfNotPresent
    command: [/bin/pod, serve, "18080"]
    readinessProbe: {httpGet: {path: /ready, port: 18080}, periodSeconds: 1}
"#;
