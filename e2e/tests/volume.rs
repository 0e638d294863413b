//! Bytes through two real ztunnels, both ways at once, over many connections: random chunks, half-closes, resets, slow and
//! stalled readers. CAUSEWAY_VOLUME="<MiB> <connections>" sets the size ("1024 2000" is the full one).

#[path = "volume/end.rs"]
mod end;
#[path = "volume/engine.rs"]
mod engine;
#[path = "volume/plan.rs"]
mod plan;

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use end::Outcome;
use engine::{Engine, Place};
use plan::{Plan, Side};
use testkit::mesh::{LIMIT, Mesh, Node};
use testkit::wait;

const PORT: u16 = 8080;

#[test]
fn every_byte_arrives_or_the_reset_does() -> Result<()> {
    testkit::root_or_skip!();
    let (mib, connections) = size()?;
    let seed = match std::env::var("CAUSEWAY_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random(),
    };
    println!("CAUSEWAY_SEED={seed}");
    let mesh = Mesh::start(2)?;
    let pods = [mesh.pod(0, "left", "left")?, mesh.pod(1, "right", "right")?];
    mesh.settle()?;
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT);
    let place = |here: usize| -> Result<Place<'_>> {
        Ok(Place {
            namespace: &pods[here].net.ns,
            target: pods[1 - here].at(PORT),
            listener: pods[here].net.ns.listen(any)?,
        })
    };
    // Resets keep about a fifth from being sent.
    let plans = plan::draw(seed, connections, (mib << 20) * 13 / 10);
    let mut engine = Engine::new([place(0)?, place(1)?], plans.clone(), seed)?;
    let begin = Instant::now();
    engine.run()?;
    let seconds = begin.elapsed().as_secs_f64();
    let tally = judge(&engine, &plans)?;
    for node in &mesh.nodes {
        all_closed(node)?;
    }
    let rate = tally.bytes as f64 / seconds / 1e6;
    println!("{tally:?}, {seconds:.1} s, {rate:.0} MB/s");
    for node in &mesh.nodes {
        println!("ztunnel peak memory: {}", memory(node)?);
    }
    Ok(())
}

fn size() -> Result<(u64, u32)> {
    let Ok(text) = std::env::var("CAUSEWAY_VOLUME") else {
        return Ok((64, 200));
    };
    let (mib, connections) = text
        .split_once(' ')
        .context("CAUSEWAY_VOLUME is \"<MiB> <connections>\"")?;
    Ok((mib.parse()?, connections.parse()?))
}

/// What was seen, all of it right.
#[derive(Debug, Default)]
struct Tally {
    bytes: u64,
    orderly: usize,
    reset_by_client: usize,
    reset_by_server: usize,
    never_arrived: usize,
    bytes_before_resets: u64,
}

/// Holds each connection against its plan.
fn judge(engine: &Engine<'_>, plans: &[Plan]) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut faults = Vec::new();
    for plan in plans {
        let id = plan.id as usize;
        let outcomes = [Side::Client, Side::Server].map(|side| engine.outcome(id, side));
        for (side, other) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
            let Some((outcome, received)) = outcomes[side as usize] else {
                tally.never_arrived += 1;
                continue;
            };
            let wanted = match plan.resets(side) {
                _ if plan.is_orderly() => Outcome::Closed,
                Some(_) => Outcome::Reset,
                None => Outcome::WasReset,
            };
            let sent = engine.sent(id, other);
            if *outcome != wanted || received > sent {
                faults.push(format!(
                    "{side:?} of {plan:?}: {outcome:?}, received {received} of {sent}"
                ));
            }
            tally.bytes += received;
            tally.bytes_before_resets += if plan.is_orderly() { 0 } else { received };
        }
        match (plan.is_orderly(), plan.resets(Side::Client)) {
            (true, _) => tally.orderly += 1,
            (false, Some(_)) => tally.reset_by_client += 1,
            (false, None) => tally.reset_by_server += 1,
        }
    }
    faults.extend(
        engine
            .nameless()
            .filter(|one| **one != Outcome::WasReset)
            .map(|one| format!("nameless: {one:?}")),
    );
    ensure!(
        faults.is_empty(),
        "{} faults: {:#?}",
        faults.len(),
        &faults[..faults.len().min(20)]
    );
    Ok(tally)
}

/// Nothing may stay behind in the ztunnel once the applications are done.
fn all_closed(node: &Node) -> Result<()> {
    wait::until(
        "every opened connection is reported as closed",
        LIMIT,
        || {
            let opened = node.metric("istio_tcp_connections_opened_total", &[])?;
            let closed = node.metric("istio_tcp_connections_closed_total", &[])?;
            ensure!(
                opened == closed && opened > 0.0,
                "{opened} opened, {closed} closed"
            );
            Ok(())
        },
    )
}

/// The most that the node's ztunnel ever held.
fn memory(node: &Node) -> Result<String> {
    let id = node.ztunnel.as_ref().context("it runs")?.id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(peak.context("VmHWM")?.trim().to_owned())
}
