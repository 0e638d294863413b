//! A connection between two identities that have no tunnel yet: a full handshake each time. Every client pod calls every
//! server pod once, all with accounts of their own; before the next sweep all tunnels are gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Session, ZTUNNELS, rounds};
use crate::load::{Exchange, Kind, Life, Load, Pace};
use crate::meter;
use crate::outcome::{Block, Outcome};
use crate::scenario::closed::percentiles;
use crate::world::{PORT, Plan, Subject, World};

/// Clients, and servers.
const PODS: usize = 12;
const INBOUND: u16 = 15008;
/// A pool lets go of an unused tunnel after this.
const RELEASE: (&str, &str) = ("POOL_UNUSED_RELEASE_TIMEOUT", "1s");
const LIMIT: Duration = Duration::from_secs(30);

/// Each side with the key exchange that it prefers.
///
/// # Errors
/// When a load failed, or a tunnel was used twice.
pub fn defaults(session: &mut Session<'_>) -> Result<Vec<Outcome>> {
    run(session, "crr-new-identity", &[RELEASE])
}

/// Both sides with the post-quantum key exchange alone.
///
/// # Errors
/// As [`defaults`].
pub fn post_quantum(session: &mut Session<'_>) -> Result<Vec<Outcome>> {
    run(
        session,
        "crr-new-identity-pqc",
        &[RELEASE, ("COMPLIANCE_POLICY", "pqc")],
    )
}

fn run(session: &Session<'_>, id: &str, settings: &[(&str, &str)]) -> Result<Vec<Outcome>> {
    let mut plan = Plan::new(&ZTUNNELS, session.workers());
    (plan.clients, plan.servers, plan.many_accounts) = (PODS, PODS, true);
    let settings = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    plan.settings = settings.collect();
    let world = World::start(&plan, session.binaries)?;
    let names = world.present(&ZTUNNELS);
    // Certificates are fetched here, and each pool has seen each pair.
    for name in &names {
        sweep(&world, world.subject(*name)?)?;
    }
    let halves = rounds(session.options.rounds, &names, |name, _| {
        sweep(&world, world.subject(name)?).map(Some)
    })?;
    Ok(vec![Outcome::new(id, halves)])
}

fn sweep(world: &World, subject: &Subject) -> Result<Block> {
    let begin = Instant::now();
    while tunnels(subject)? > 0 {
        ensure!(
            begin.elapsed() < LIMIT,
            "{} tunnels of the last sweep are still there",
            tunnels(subject)?
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let exchange = Exchange {
        connections: 1,
        size: 64,
        life: Life::Once,
        pace: Pace::Closed,
        total: Some(PODS as u64),
    };
    let clients: Vec<_> = subject.clients.iter().map(|pod| &pod.net.ns).collect();
    let servers: Vec<_> = subject.far.iter().map(|pod| &pod.net.ns).collect();
    let targets: Vec<_> = subject.far.iter().map(|pod| pod.at(PORT)).collect();
    let (all, pids) = (world.processes(), subject.pids());
    let (before, cpu) = (meter::look(&all)?, meter::cpu_times(&pids)?);
    let begin = Instant::now();
    let latencies =
        Load::start(&clients, &servers, &targets, Kind::Exchange(exchange))?.finish(LIMIT)?;
    let (cpu, wall) = (
        meter::cpu_times(&pids)? - cpu,
        begin.elapsed().as_secs_f64(),
    );
    let machine = meter::look(&all)?.since(&before);
    let (opened, pairs) = (tunnels(subject)?, PODS * PODS);
    ensure!(opened == pairs, "{pairs} connections made {opened} tunnels");
    let mut values = BTreeMap::from([
        ("cpu_us", cpu.as_secs_f64() / pairs as f64 * 1e6),
        ("per_s", pairs as f64 / wall),
    ]);
    values.extend(percentiles(&latencies));
    Ok(Block {
        values,
        wall,
        machine,
    })
}

fn tunnels(subject: &Subject) -> Result<usize> {
    let count = |pod: &crate::world::Pod| meter::connections_to(&pod.net.ns, INBOUND);
    subject.clients.iter().map(count).sum()
}
