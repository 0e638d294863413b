//! Parts are killed or stopped while clients call: what went on, how long recovery took, and that nothing went in plain text.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed, until},
    counts::Counts,
    echo, wire,
};

const NAMESPACE: &str = "trouble";
const LIMIT: Duration = Duration::from_secs(90);

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
    let troubles: [Trouble; 4] = [
        Trouble {
            what: "node agent killed",
            seconds: "15",
            // Running pods do not need it.
            unnoticed: true,
            happens: |bed| kill(bed, "cni-agent"),
            over: |bed| bed.rollout(bed::SYSTEM, "ds/istio-cni-node"),
        },
        Trouble {
            what: "API server stopped for 20 s",
            seconds: "40",
            unnoticed: true,
            happens: |bed| {
                bed.signal("kube-apiserver", "STOP")?;
                std::thread::sleep(Duration::from_secs(20));
                bed.signal("kube-apiserver", "CONT")
            },
            over: |bed| bed.meshed(),
        },
        Trouble {
            what: "containerd restarted",
            seconds: "20",
            unnoticed: true,
            happens: |bed| bed.restart_containerd(1),
            over: |bed| bed.meshed(),
        },
        Trouble {
            what: "ztunnel killed",
            seconds: "25",
            unnoticed: false,
            happens: |bed| kill(bed, "ztunnel"),
            over: |bed| bed.rollout(bed::SYSTEM, "ds/ztunnel"),
        },
    ];
    let mut told = Vec::new();
    for trouble in &troubles {
        told.push(trouble.told(bed).with_context(|| trouble.what)?);
    }
    Ok(Outcome::Passed(told.join("; ")))
}

struct Trouble {
    what: &'static str,
    /// How long clients call, beginning before.
    seconds: &'static str,
    /// Must no request fail?
    unnoticed: bool,
    happens: fn(&Bed) -> Result<()>,
    /// Returns when it is over.
    over: fn(&Bed) -> Result<()>,
}

impl Trouble {
    fn told(&self, bed: &Bed) -> Result<String> {
        let url = format!("http://{}/", bed.service_address(NAMESPACE, "web")?);
        let mut took = Duration::ZERO;
        let mut counts = None;
        let seen = wire::looked_at(bed, || {
            let caller = caller(bed, &url, self.seconds)?;
            let start = Instant::now();
            (self.happens)(bed)?;
            until(LIMIT, "it is over", || (self.over)(bed))?;
            until(LIMIT, "the client is answered", || {
                echo::fetch(bed, NAMESPACE, "client2")
            })?;
            took = start.elapsed();
            counts = Some(Counts::parse(&bed::stdout(caller.wait_with_output()?)?)?);
            Ok(())
        })?;
        let counts = counts.context("counted")?;
        ensure!(seen.plain == 0, "{} packets of plain text", seen.plain);
        ensure!(seen.tls > 0, "the look at packets saw nothing");
        ensure!(counts.requests > 20, "{counts:?}");
        ensure!(!self.unnoticed || counts.failed == 0, "{counts:?}");
        // And both nodes' clients are as before.
        for client in ["client1", "client2"] {
            echo::fetch(bed, NAMESPACE, client)?;
        }
        Ok(format!(
            "{}: over after {:.1} s, {} of {} requests failed, 0 packets plain",
            self.what,
            took.as_secs_f64(),
            counts.failed,
            counts.requests
        ))
    }
}

/// Begins to call from the client of the second node, which stays; past the API server, which does not always.
fn caller(bed: &Bed, url: &str, seconds: &str) -> Result<Child> {
    const CLIENT: &str = "labels.\"io.kubernetes.pod.name\"==client2,labels.\"io.kubernetes.pod.namespace\"==trouble,\
        labels.\"io.kubernetes.container.name\"==client";
    let ctr = ["ctr", "-n", "k8s.io"];
    let list = ["containers", "ls", "-q", CLIENT];
    let containers = bed.on_node(2, &[&ctr[..], &list].concat())?;
    // Those of an earlier pod of that name have no process.
    let tasks = bed.on_node(2, &[&ctr[..], &["tasks", "ls"]].concat())?;
    let runs = |id: &&str| {
        let mut tasks = tasks.lines().filter(|line| line.starts_with(id));
        tasks.any(|line| line.contains("RUNNING"))
    };
    let container = containers.split_whitespace().find(runs);
    let container = container.context("the client does not run")?;
    let run = ["tasks", "exec", "--exec-id", "caller", container];
    let call = ["/bin/pod", "call", "new", url, seconds];
    let mut command = bed.node_command(2, &[&ctr[..], &run, &call].concat())?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

/// Ends the process of that name on the first node as a fault would.
fn kill(bed: &Bed, name: &str) -> Result<()> {
    let pids = bed.on_node(1, &["pgrep", "-x", name])?;
    ensure!(!pids.trim().is_empty(), "no process {name}");
    for pid in pids.split_whitespace() {
        bed.on_node(1, &["kill", "-KILL", pid])?;
    }
    Ok(())
}

impl Bed {
    /// A signal to a process of the control plane, which `up.sh` started.
    fn signal(&self, name: &str, signal: &str) -> Result<()> {
        let pid = std::fs::read_to_string(self.state(&format!("run/{name}.pid")))?;
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), pid.trim()])
            .output()?;
        bed::stdout(sent).map(drop)
    }

    fn restart_containerd(&self, node: usize) -> Result<()> {
        let configuration = self.state(&format!("node{node}/containerd.toml"));
        let script = format!(
            "pkill -x containerd; while pgrep -x containerd; do sleep 0.1; done; \
             setsid containerd --config {} </dev/null >/dev/null 2>&1 & \
             until ctr version; do sleep 0.1; done",
            configuration.display()
        );
        self.on_node(node, &["sh", "-c", &script]).map(drop)
    }
}
