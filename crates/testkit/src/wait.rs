//! Waiting for a fact with a bound, so that a broken test ends with a sentence instead of a hang.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Polls `fact` every few milliseconds until it holds; `what` names it in the error.
///
/// # Errors
/// The last failure of `fact`, when it did not hold within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut fact: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match fact() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// As [`until`] for a plain condition.
///
/// # Errors
/// When the condition did not hold within `limit`.
pub fn until_true(what: &str, limit: Duration, mut fact: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || {
        if fact() { Ok(()) } else { bail!("still false") }
    })
}
