//! What `pod call` prints, read back.

use anyhow::{Context as _, Result};

/// The counts of one caller.
#[derive(Debug)]
pub struct Counts {
    pub requests: u64,
    pub failed: u64,
    /// What is said of connections that were cut, and the reasons of failures.
    pub cuts: String,
}

impl Counts {
    /// From the line that the program prints.
    pub fn parse(line: &str) -> Result<Counts> {
        let number = |name: &str| -> Result<u64> {
            let rest = line
                .split_once(name)
                .with_context(|| format!("no {name} in {line:?}"))?
                .1;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits
                .parse()
                .with_context(|| format!("{name} in {line:?}"))
        };
        let cuts = line
            .split_once("connections=")
            .context("no connections=")?
            .1;
        Ok(Counts {
            requests: number("requests=")?,
            failed: number("failed=")?,
            cuts: format!("connections={}", cuts.trim()),
        })
    }
}
