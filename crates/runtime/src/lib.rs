//! What every binary needs around its work: orderly stopping, settings, admin server, metrics,
//! readiness, logs. It knows nothing about the mesh.

/// What to do about an error of `accept`.
pub mod accept;
/// Log lines written beside the work: bounded, never blocking.
pub mod access;
/// The HTTP server for operators: readiness, metrics, log level, dumps.
pub mod admin;
/// Exit codes of the binaries.
pub mod exit;
/// Logs of the process.
pub mod logs;
/// Metrics of the process.
pub mod metrics;
/// Is this process ready to serve, and if not, what is it waiting for.
pub mod readiness;
/// Settings from the environment.
pub mod settings;
/// Stopping in two steps.
pub mod shutdown;

pub use readiness::Readiness;
pub use settings::Settings;
pub use shutdown::Shutdown;
pub use sys::interfaces::addresses as interface_addresses;
pub use sys::limits::raise_open_files;
