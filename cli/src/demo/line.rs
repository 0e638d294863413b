//! What the demo prints: a progress line for each stage, one verdict line for each fact shown, a summary.
//! All text to the terminal goes through here.
#![allow(clippy::print_stdout, reason = "this is the command's output")]
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Prints, and counts what failed.
pub struct Printer {
    start: Instant,
    terminal: bool,
    passed: usize,
    failed: usize,
}

impl Printer {
    /// Starts the clock.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            terminal: std::io::stdout().is_terminal(),
            passed: 0,
            failed: 0,
        }
    }

    /// Runs one stage of the set-up under a progress line.
    ///
    /// # Errors
    /// The stage's own.
    pub fn stage<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.terminal {
            print!("  … {what}\r");
            let _ = std::io::stdout().flush();
        }
        let start = Instant::now();
        let done = work();
        let mark = if done.is_ok() { "✓" } else { "✗" };
        println!("  {mark} {what}  ({})", seconds(start.elapsed()));
        done
    }

    /// Prints one fact that the demo shows: what was found, or why it could not be shown.
    pub fn fact(&mut self, title: &str, shown: Result<String>) {
        match shown {
            Ok(found) => {
                self.passed += 1;
                println!("PASS {title}: {found}");
            }
            Err(fault) => {
                self.failed += 1;
                println!("FAIL {title}: {fault:#}");
            }
        }
    }

    /// A line without a verdict.
    pub fn say(&self, text: &str) {
        println!("{text}");
    }

    /// The closing line; true when every fact was shown.
    pub fn close(&self) -> bool {
        println!(
            "{} of {} lines pass, {} in all",
            self.passed,
            self.passed + self.failed,
            seconds(self.start.elapsed())
        );
        self.failed == 0
    }
}

impl Default for Printer {
    fn default() -> Self {
        Self::new()
    }
}

/// A duration as a person reads it.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
