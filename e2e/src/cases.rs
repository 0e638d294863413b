//! A small test runner with three outcomes: passed, failed, not run. Used by `tests/foreign.rs` and `tests/cluster.rs`.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};

/// What a case that did not fail has to say.
pub enum Outcome {
    /// It ran; the figures.
    Passed(String),
    /// It could not run; what is missing.
    NotRun(String),
}

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    body: fn() -> Result<Outcome>,
}

impl Case {
    /// A test of this name.
    #[must_use]
    pub const fn new(name: &'static str, body: fn() -> Result<Outcome>) -> Self {
        Self { name, body }
    }
}

/// The binary that an environment variable names.
///
/// # Errors
/// The sentence to be printed behind `not run`.
pub fn binary(variable: &str) -> Result<PathBuf, String> {
    let path = env::var_os(variable)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .filter(|path| path.is_file());
    path.ok_or_else(|| format!("{variable} names no binary"))
}

/// Random bytes that cross per role: `E2E_BYTES`, 16 MiB by default.
#[must_use]
pub fn budget() -> u64 {
    let given = env::var("E2E_BYTES").ok();
    given
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or(16 << 20)
}

/// Under `heading`, runs those cases whose name contains one of the arguments (all without arguments), one after the other. With STRICT=1
/// what could not run counts as a failure.
#[expect(
    clippy::print_stderr,
    reason = "this is the test runner; its report is its output"
)]
#[must_use]
pub fn run(heading: &str, cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let (mut passed, mut failed, mut not_run) = (0, 0, Vec::new());
    for case in cases {
        if !filters.is_empty() && !filters.iter().any(|f| case.name.contains(f.as_str())) {
            continue;
        }
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(case.body))
            .unwrap_or_else(|_| Err(anyhow!("panicked, see above")));
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Passed(figures)) => {
                passed += 1;
                eprintln!("passed: {} in {seconds:.1} s: {figures}", case.name);
            }
            Ok(Outcome::NotRun(reason)) => {
                not_run.push(case.name);
                eprintln!("not run: {reason} ({})", case.name);
            }
            Err(error) => {
                failed += 1;
                eprintln!("FAILED: {} after {seconds:.1} s: {error:#}", case.name);
            }
        }
    }
    // `scripts/test` and `scripts/e2e` read this line.
    eprintln!(
        "{heading}: {passed} passed, {failed} failed, {} not run{}{}",
        not_run.len(),
        if not_run.is_empty() { "" } else { ": " },
        not_run.join(" ")
    );
    let strict = env::var("STRICT").is_ok_and(|strict| strict == "1");
    ExitCode::from(u8::from(failed > 0 || strict && !not_run.is_empty()))
}
