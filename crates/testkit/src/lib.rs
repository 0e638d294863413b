//! What the tests of several crates share: real network namespaces, the real binaries as children,
//! and small peers (ADS, certificate authority, ZDS, TCP echo) that a test scripts. Dev-only.

pub mod ads;
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
            eprintln!("skipped: {reason}");
            return $crate::topology::Skipped::skipped();
        }
    };
}
