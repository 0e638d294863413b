//! Row 11: the commands of docs/getting-started.md (those for Kubernetes) and docs/operations.md, to the letter, on a cluster.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::bed::{self, Bed};

/// Sections of operations.md, in an order that a cluster can live through.
const OPERATIONS: [&str; 6] = [
    "Install",
    "Upgrade",
    "Rotate the root",
    "Watch",
    "Troubleshoot",
    "Uninstall",
];
/// Images by the names that the pages' charts have.
const IMAGES: [&str; 5] = ["cli", "cni", "control-plane", "waypoint", "ztunnel"];

/// The case.
pub fn commands() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    bed.gone()?;
    prepare(bed)?;
    let mut told = Vec::new();
    let start = blocks("docs/getting-started.md", "sh kubernetes")?;
    ensure!(!start.is_empty(), "no commands in getting-started.md");
    told.push(run(
        bed,
        "getting-started",
        &start.iter().collect::<Vec<_>>(),
    )?);
    let operations = blocks("docs/operations.md", "sh")?;
    let known = |block: &&Block| OPERATIONS.contains(&block.section.as_str());
    ensure!(
        operations.iter().all(|block| known(&block)),
        "operations.md has commands in a section that is not run"
    );
    for section in OPERATIONS {
        let own: Vec<_> = operations.iter().filter(|b| b.section == section).collect();
        ensure!(
            !own.is_empty(),
            "no commands in {section:?} of operations.md"
        );
        told.push(run(bed, section, &own)?);
    }
    Ok(Outcome::Passed(told.join(", ")))
}

/// Commands of a page.
struct Block {
    /// The heading of the second level that it stands under.
    section: String,
    commands: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Charts where the pages look for them, images under the names of the charts.
fn prepare(bed: &Bed) -> Result<()> {
    let packed = Command::new(root().join("scripts/charts"))
        .env("OUT", root().join("target/charts"))
        .env("HELM", bed.program("helm"))
        .output()?;
    bed::stdout(packed).context("scripts/charts")?;
    for node in [1, 2] {
        for image in IMAGES {
            let ours = format!("e2e.local/{image}:1");
            let named = format!("localhost/causeway/{image}:{}", env!("CARGO_PKG_VERSION"));
            let tag = [
                "ctr", "-n", "k8s.io", "images", "tag", "--force", &ours, &named,
            ];
            bed.on_node(node, &tag)?;
        }
    }
    Ok(())
}

/// The fenced blocks of a page whose info string is `info`.
fn blocks(page: &str, info: &str) -> Result<Vec<Block>> {
    let text = fs::read_to_string(root().join(page))?;
    let (mut blocks, mut section, mut open) = (Vec::new(), String::new(), None::<String>);
    let fence = format!("```{info}");
    let mut other = false;
    for line in text.lines() {
        if let Some(commands) = &mut open {
            if line == "```" {
                blocks.push(Block {
                    section: section.clone(),
                    commands: open.take().unwrap_or_default(),
                });
            } else {
                commands.push_str(line);
                commands.push('\n');
            }
        } else if line.starts_with("```") {
            if !other && line == fence {
                open = Some(String::new());
            } else {
                other = !other;
            }
        } else if let Some(heading) = line.strip_prefix("## ").filter(|_| !other) {
            heading.clone_into(&mut section);
        }
    }
    Ok(blocks)
}

fn run(bed: &Bed, what: &str, blocks: &[&Block]) -> Result<String> {
    let start = Instant::now();
    let path = env::var("PATH")?;
    let programs = bed.program("");
    let mut lines = 0;
    for block in blocks {
        let output = bed
            .command("bash")
            .args(["-euo", "pipefail", "-c", &block.commands])
            .env("PATH", format!("{}:{path}", programs.display()))
            .current_dir(root())
            .output()?;
        bed::stdout(output).with_context(|| format!("{what}: {}", block.commands))?;
        lines += block.commands.lines().count();
    }
    Ok(format!(
        "{what}: {lines} lines in {:.0} s",
        start.elapsed().as_secs_f64()
    ))
}
