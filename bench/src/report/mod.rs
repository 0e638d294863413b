//! What is handed over: JSON with everything, tables, a plot. Called by `main`.

mod machine;
mod publish;
mod svg;
mod table;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use crate::goals::{self, GOALS, Judged};
use crate::options::Options;
use crate::outcome::Outcome;
use crate::world::Binaries;

/// Judges, writes the files, and returns the text for the terminal.
///
/// # Errors
/// When a file cannot be written.
pub fn write(options: &Options, binaries: &Binaries, outcomes: &[Outcome]) -> Result<String> {
    // The same figures always have the same intervals.
    let mut rng = StdRng::seed_from_u64(0xca05_e3a1);
    let judged: Vec<Judged> = GOALS
        .iter()
        .map(|goal| goals::judge(goal, outcomes, &mut rng))
        .collect();
    let facts = machine::facts(binaries);
    let head = head(options, binaries, &facts);
    let goals = table::goals(&judged);
    let figures = table::figures(outcomes, &mut rng);
    fs::create_dir_all(&options.out).with_context(|| format!("{}", options.out.display()))?;
    let file = |name: &str| options.out.join(name);
    let everything = json!({
        "machine": facts,
        "rounds": options.rounds,
        "block_seconds": options.block,
        "workers": options.workers,
        "idle_connections": options.idle,
        "quick": options.quick,
        "noise_kept": options.keep_noise,
        "goals": judged,
        "outcomes": outcomes,
    });
    save(
        file("bench.json"),
        serde_json::to_string_pretty(&everything)?,
    )?;
    save(file("bench.svg"), svg::plot(&judged))?;
    let text = format!("{head}\n{goals}\n{figures}");
    save(file("bench.md"), text.clone())?;
    if let Some(document) = &options.publish {
        let before =
            fs::read_to_string(document).with_context(|| format!("{}", document.display()))?;
        let after = publish::between_markers(&before, &text)
            .with_context(|| format!("{}", document.display()))?;
        save(document.clone(), after)?;
    }
    Ok(format!(
        "{text}\nraw blocks and plot: {}\n",
        options.out.display()
    ))
}

fn head(options: &Options, binaries: &Binaries, facts: &[(&'static str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in facts {
        text += &format!("- {name}: {value}\n");
    }
    text += &format!(
        "- {} rounds of blocks of {} s, {} worker threads per ztunnel\n",
        options.rounds, options.block, options.workers
    );
    if options.quick {
        text += "- A QUICK RUN: its figures mean little.\n";
    }
    if options.keep_noise {
        text += "- NOISE WAS KEPT: no block was dropped, whatever else the machine did.\n";
    }
    if binaries.peer.is_none() {
        text +=
            "- NO PEER RAN (PEER_ZTUNNEL is not set): ours is compared with plain relays only.\n";
    }
    text
}

fn save(path: PathBuf, text: String) -> Result<()> {
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
