//! Thousands of live connections at once under a policy that changes at random: no verdict, on a new or on a live one, may
//! be one that no policy in force within the last second gives. CAUSEWAY_CHURN="<live> <changes>" sets the size ("5000
//! 40" is the full one). Prints how long a change takes to cut what it forbids.

#[path = "policy_live/engine.rs"]
mod engine;
#[path = "policy_live/history.rs"]
mod history;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use engine::{Engine, Tally};
use history::{ACCOUNTS, Allowed, History};
use proto::type_url::AUTHORIZATION;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::mesh::{Mesh, NAMESPACE};

#[test]
fn live_connections_follow_the_policy() -> Result<()> {
    testkit::root_or_skip!();
    let size = std::env::var("CAUSEWAY_CHURN").unwrap_or_else(|_| "400 12".to_owned());
    let (live, changes) = size
        .split_once(' ')
        .context("CAUSEWAY_CHURN is \"<live> <changes>\"")?;
    let (live, changes): (usize, usize) = (live.parse()?, changes.parse()?);
    let seed = match std::env::var("CAUSEWAY_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random(),
    };
    println!("CAUSEWAY_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mesh = Mesh::start(2)?;
    let mut callers = Vec::new();
    for account in ACCOUNTS {
        callers.push(mesh.pod(0, account, account)?);
    }
    let server = mesh.pod(1, "server", "server")?;
    mesh.settle()?;
    let namespaces = callers.iter().map(|pod| &pod.net.ns).collect();
    let mut engine = Engine::new(namespaces, (&server.net.ns, server.net.ip), live)?;
    let mut history = History::new();
    // All connections stand before the first change.
    let share = live / history::CELLS * history::CELLS;
    let deadline = Instant::now() + testkit::mesh::LIMIT;
    while engine.live() < share {
        ensure!(
            Instant::now() < deadline,
            "{} of {share} connections",
            engine.live()
        );
        engine.run(&history, Instant::now() + Duration::from_millis(50))?;
    }
    for _ in 0..changes {
        let allowed: Allowed = rng.random();
        let policy = history::policy(NAMESPACE, allowed, rng.random());
        history.push(allowed);
        mesh.ads
            .set(AUTHORIZATION, &format!("{NAMESPACE}/churn"), &policy);
        let pause = Duration::from_millis(pause(&mut rng));
        engine.run(&history, Instant::now() + pause)?;
    }
    // The last policy has its second, and every live connection is asked once more.
    engine.run(&history, Instant::now() + Duration::from_secs(2))?;
    report(&mut engine.tally, history.changes());
    let wrong = &engine.tally.wrong;
    ensure!(
        wrong.is_empty(),
        "{} wrong verdicts: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
    ensure!(
        engine.tally.refused > 0 && !engine.tally.cuts.is_empty(),
        "nothing was ever denied"
    );
    Ok(())
}

/// Milliseconds until the next change, 50 to 3,000, short ones more often.
fn pause(rng: &mut SmallRng) -> u64 {
    let most = rng.random_range(100..=3_000);
    rng.random_range(50..=most)
}

fn report(tally: &mut Tally, changes: usize) {
    tally.cuts.sort_unstable();
    let cuts = &tally.cuts;
    let at = |share: usize| {
        cuts.get(cuts.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{changes} changes; {} connections, up to {} live at once; new: {} allowed, {} refused; live: {} answers, {} cuts \
         after {:?} (p50), {:?} (p99), {:?} (most)",
        tally.opened,
        tally.most_live,
        tally.allowed,
        tally.refused,
        tally.answers,
        cuts.len(),
        at(50),
        at(99),
        cuts.last().copied().unwrap_or_default(),
    );
}
