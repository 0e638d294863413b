//! The benchmark end to end, as short as it can be: our ztunnels under our control plane, and plain relays, carry bulk,
//! requests, and a connection for each request; every byte is checked. What it measures is not looked at.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use causeway_bench::scenario::closed;
use causeway_bench::world::{Binaries, Name, Plan, World};

#[test]
fn bulk_requests_and_connections_pass_with_every_byte_right() -> Result<()> {
    testkit::root_or_skip!();
    let binaries = Binaries::find(None, PathBuf::from(env!("CARGO_BIN_EXE_causeway-bench")))?;
    let plan = Plan::new(&[Name::Ours, Name::Relay, Name::Bare], 2);
    let world = World::start(&plan, &binaries)?;
    for subject in &world.subjects {
        for id in [
            "bulk-up-1",
            "bulk-down-16",
            "rr-1k-64",
            "crr-16",
            "near-rr-64-1",
        ] {
            let scenario = closed::ALL.iter().find(|scenario| scenario.id == id);
            let scenario = scenario.context("a load of this name")?;
            let block = closed::block(&world, subject, scenario, Duration::from_millis(50))
                .with_context(|| format!("{id} with {}", subject.name.text()))?;
            let rate = block.values.get("gbps").or(block.values.get("per_s"));
            assert!(rate.is_some_and(|rate| *rate > 0.0), "{id}: {block:?}");
        }
    }
    Ok(())
}
