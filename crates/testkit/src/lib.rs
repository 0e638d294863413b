//! What the tests of several crates share: real network namespaces, the real binaries as children, a real API server,
//! and small peers (ADS, certificate authority, ZDS, TCP echo) that a test scripts. Dev-only.

pub mod ads;
pub mod apiserver;
pub mod authority;
pub mod ca;
pub mod echo;
pub mod mesh;
pub mod process;
pub mod redirect;
mod serve;
pub mod topology;
pub mod wait;
pub mod zds;

/// Ends the calling test early, with a printed reason, on a machine where namespaces cannot be made.
#[macro_export]
macro_rules! root_or_skip {
    () => {
        if let Err(reason) = $crate::topology::supported() {
            $crate::skip(&reason);
            return $crate::topology::Skipped::skipped();
        }
    };
}

/// Says why a test is skipped, past the capture of a passing test's output, so that `scripts/test` can count it.
pub fn skip(reason: &str) {
    use std::io::Write as _;
    let _nobody_reads = writeln!(std::io::stderr(), "skipped: {reason}");
}
