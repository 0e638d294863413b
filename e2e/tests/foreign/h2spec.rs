//! The conformance suite h2spec against `hbone::proto` (through `responder.rs`). The binary comes from `e2e/tool`;
//! `e2e/h2spec/left-out.txt` lists the cases that do not apply, with reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::responder;
use e2e::cases::{self, Outcome};

/// Cases that do not apply: name, white space, reason. Lines with `#` explain the file.
const LEFT_OUT: &str = include_str!("../../h2spec/left-out.txt");
/// Cases of the pinned version, strict ones included.
const CASES: usize = 146;
/// How many must run at least.
const LEAST: usize = 130;

/// How one case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Skipped,
    Failed,
}

/// Every case that is not left out runs and passes.
pub fn conformance() -> Result<Outcome> {
    let binary = match cases::binary("H2SPEC") {
        Ok(binary) => binary,
        Err(missing) => return Ok(Outcome::NotRun(missing)),
    };
    let address = responder::start()?;
    let dir = tempfile::tempdir()?;
    let report = dir.path().join("report.xml");
    let output = Command::new(&binary)
        .args(["--strict", "--host", "127.0.0.1", "--port"])
        .arg(address.port().to_string())
        .arg("--junit-report")
        .arg(&report)
        .output()
        .with_context(|| binary.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = fs::read_to_string(&report).with_context(|| format!("no report; {text}"))?;
    judge(&ends(&report), &left_out()).with_context(|| text.into_owned())
}

fn left_out() -> BTreeSet<&'static str> {
    let lines = LEFT_OUT.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

fn judge(ends: &BTreeMap<String, End>, left_out: &BTreeSet<&str>) -> Result<Outcome> {
    ensure!(ends.len() == CASES, "{} cases, not {CASES}", ends.len());
    let (mut passed, mut faults) = (0, Vec::new());
    for (case, end) in ends {
        match (end, left_out.contains(&**case)) {
            (End::Passed, false) => passed += 1,
            // The list must stay true.
            (End::Passed, true) => faults.push(format!("{case} passes, but is left out")),
            (_, true) => {}
            (end, false) => faults.push(format!("{case}: {end:?}")),
        }
    }
    let unknown = left_out.iter().filter(|case| !ends.contains_key(**case));
    faults.extend(unknown.map(|case| format!("{case} is left out, but no case")));
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    ensure!(passed >= LEAST, "only {passed} cases ran");
    Ok(Outcome::Passed(format!(
        "{passed} of {CASES} cases passed, {} left out: {}",
        left_out.len(),
        left_out.iter().copied().collect::<Vec<_>>().join(", ")
    )))
}

/// The end of every case of a JUnit report; a case is named by its section and its number in there.
fn ends(report: &str) -> BTreeMap<String, End> {
    let (mut ends, mut counts) = (BTreeMap::new(), BTreeMap::<&str, usize>::new());
    for case in report.split("<testcase package=\"").skip(1) {
        let section = case.split('"').next().unwrap_or_default();
        let body = case.split("</testcase>").next().unwrap_or_default();
        let end = if body.contains("<failure>") || body.contains("<error>") {
            End::Failed
        } else if body.contains("<skipped>") {
            End::Skipped
        } else {
            End::Passed
        };
        let count = counts.entry(section).or_default();
        *count += 1;
        ends.insert(format!("{section}/{count}"), end);
    }
    ends
}
