//! What pure code costs, in instructions that callgrind counts: a frame of the codec, a routing decision, a policy
//! decision. Counts are of the profile that the tests are built in and hardly depend on the machine. Needs valgrind; says
//! so when it is missing.

#[path = "instructions/decisions.rs"]
mod decisions;
#[path = "../../hbone/examples/frames.rs"]
#[expect(dead_code, reason = "its `main` is the example's")]
mod frames;

// As the example calls it.
extern crate hbone as causeway_hbone;

use std::env;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What the process that callgrind watches shall do, and how often.
const WORK: &str = "CAUSEWAY_COUNTED";

/// Each piece of work, how often it is done, and the most instructions that one may cost: about a fifth more than it did
/// when the limit was set, in an unoptimised build.
const LIMITS: [(&str, u32, u64); 4] = [
    ("frame of 1 KiB", 20, 4_700),
    ("route to a service", 300, 73_000),
    ("route to a pod", 300, 7_300),
    ("policy decision", 300, 31_600),
];

/// Does a piece of work so many times; how many units that are.
fn work(name: &str, times: u32) -> u64 {
    match name {
        "frame of 1 KiB" => frames::run(64, 1024, times as usize) as u64,
        name => decisions::run(name, times),
    }
}

#[test]
fn pure_code_costs_no_more_instructions_than_its_limits() -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        testkit::skip("valgrind is missing (apt-get install valgrind): no instruction is counted");
        return Ok(());
    }
    let mut faults = Vec::new();
    for (name, times, limit) in LIMITS {
        // Starting up costs the same in both.
        let (few, many) = (count(name, times)?, count(name, 2 * times)?);
        let units = work(name, 2 * times) - work(name, times);
        let cost = many.saturating_sub(few) / units;
        println!("{name}: {cost} instructions (at most {limit})");
        ensure!(cost > 0, "{name}: nothing was counted");
        if cost > limit {
            faults.push(format!("{name}: {cost} instructions, more than {limit}"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// All instructions of a process that does the work so many times.
fn count(name: &str, times: u32) -> Result<u64> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--exact", "counted_work", "--ignored", "--test-threads=1"])
        .env(WORK, format!("{times} {name}"))
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name}: {} {said}", out.status);
    let line = said
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    let count = line.with_context(|| format!("no count: {said}"))?;
    Ok(count.trim().parse()?)
}

#[test]
#[ignore = "what callgrind watches; started by the other test"]
fn counted_work() -> Result<()> {
    let Ok(wanted) = env::var(WORK) else {
        return Ok(());
    };
    let (times, name) = wanted.split_once(' ').context("times and name")?;
    ensure!(work(name, times.parse()?) > 0);
    Ok(())
}
