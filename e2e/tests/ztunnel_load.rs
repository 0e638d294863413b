//! What size does to a real ztunnel: a mesh of 20,000 workloads. Times are printed beside their bounds (`--nocapture`);
//! only facts fail a test, never time. Needs root and the release binaries.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use proto::type_url::ADDRESS;
use proto::workload::{Address, Port, PortList, Workload, address};
use testkit::echo::{self, Behaviour};
use testkit::mesh::{self, Mesh};

/// All of the workloads are applied within this time.
const APPLIED: Duration = Duration::from_secs(1);
/// One more update is effective within this time.
const EFFECTIVE: Duration = Duration::from_millis(50);

/// A time beside its bound.
fn beside(time: Duration, bound: Duration) -> String {
    let verdict = if time <= bound { "met" } else { "NOT met" };
    format!("{time:?} (at most {bound:?}: {verdict})")
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib * 1024)
}

fn stranger(number: u32) -> Workload {
    let [_, a, b, c] = number.to_be_bytes();
    let (namespace, owner) = (
        format!("ns-{}", number % 100),
        format!("deployment-{}", number / 10),
    );
    let name = format!("{owner}-6456f99f9b-{number:05}");
    let hostname = format!("{owner}.{namespace}.svc.cluster.local");
    let ports = vec![Port {
        service_port: 80,
        target_port: 8080,
        app_protocol: 0,
    }];
    Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{name}"),
        name,
        namespace: namespace.clone(),
        addresses: vec![vec![100, 64 + a, b, c]],
        tunnel_protocol: 1,
        service_account: format!("account-{}", number % 500),
        node: format!("node-{}", number % 200),
        canonical_name: owner.clone(),
        canonical_revision: "v1".to_owned(),
        workload_type: 2,
        workload_name: owner,
        cluster_id: "Kubernetes".to_owned(),
        services: [(format!("{namespace}/{hostname}"), PortList { ports })].into(),
        ..Workload::default()
    }
}

fn encoded(workload: &Workload) -> Vec<u8> {
    Address {
        r#type: Some(address::Type::Workload(workload.clone())),
    }
    .encode_to_vec()
}

#[test]
fn twenty_thousand_workloads_are_small_and_one_more_is_quick() -> Result<()> {
    testkit::root_or_skip!();
    let mut mesh = Mesh::start(1)?;
    let pid = mesh.nodes[0].ztunnel().id();
    let before = resident(pid)?;
    let workloads: Vec<Workload> = (0..20_000).map(stranger).collect();
    let bodies: Vec<(String, Vec<u8>)> = workloads
        .iter()
        .map(|w| (w.uid.clone(), encoded(w)))
        .collect();
    let changes: Vec<_> = bodies
        .iter()
        .map(|(uid, body)| (ADDRESS, uid.as_str(), Some(body.clone())))
        .collect();
    let (begin, used) = (Instant::now(), mesh.nodes[0].ztunnel().cpu_time()?);
    mesh.ads.change(&changes);
    mesh.settle()?;
    let applied = begin.elapsed();
    // The fake control plane takes its time to make the push; this is what ztunnel needs.
    let used = mesh.nodes[0].ztunnel().cpu_time()? - used;
    let after = resident(pid)?;
    println!(
        "20,000 workloads: sent, applied and acknowledged in {}, {used:?} of it CPU time of ztunnel; {} MB before, {} MB after",
        beside(applied, APPLIED),
        before >> 20,
        after >> 20
    );
    ensure!(after <= 60 << 20, "{} MB resident", after >> 20);

    let mut times = Vec::new();
    for number in 20_000..20_050 {
        let workload = stranger(number);
        let begin = Instant::now();
        mesh.publish(&workload);
        mesh.settle()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    println!(
        "one update to its acknowledgement: median {}, worst {:?}; {} MB",
        beside(times[25], EFFECTIVE),
        times[49],
        resident(pid)? >> 20
    );
    Ok(())
}

#[test]
fn a_policy_in_a_large_mesh_cuts_a_live_connection() -> Result<()> {
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let bodies: Vec<(String, Vec<u8>)> = (0..20_000)
        .map(|n| {
            let w = stranger(n);
            (w.uid.clone(), encoded(&w))
        })
        .collect();
    let changes: Vec<_> = bodies
        .iter()
        .map(|(uid, body)| (ADDRESS, uid.as_str(), Some(body.clone())))
        .collect();
    mesh.ads.change(&changes);
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    echo::serve(&server.net.ns, 8080, Behaviour::Echo)?;
    let mut times = Vec::new();
    for round in 0..10 {
        let mut live = echo::connect(&client.net.ns, server.at(8080))?;
        echo::ping(&mut live, b"one")?;
        let name = format!("no-{round}");
        let begin = Instant::now();
        mesh.policy(
            &name,
            proto::security::Scope::Namespace,
            proto::security::Action::Deny,
            mesh::principal("client"),
        );
        ensure!(
            echo::ended(&mut live),
            "round {round}: the policy cut nothing"
        );
        times.push(begin.elapsed());
        mesh.remove_policy(&name);
        mesh.settle()?;
    }
    times.sort_unstable();
    println!(
        "policy pushed to live connection cut, among 20,000 workloads: median {}, worst {:?}",
        beside(times[5], EFFECTIVE),
        times[9]
    );
    Ok(())
}
