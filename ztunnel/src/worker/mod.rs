//! The data path: one event loop per core that accepts, shakes hands, tunnels and copies. See `docs/paths.md`
//! (a, b). Words here: a *tunnel* is one TLS + HTTP/2 carrier between two proxies, a *stream* one CONNECT on it, a
//! *link* one application connection with whatever carries its other half.

pub mod api;
pub mod listeners;
mod shell;
mod threads;

pub use threads::{Gone, Workers, start};
