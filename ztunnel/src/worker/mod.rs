//! The data path: one event loop per core that accepts, shakes hands, tunnels and copies. See `docs/paths.md`
//! (a, b). Words here: a *tunnel* is one TLS + HTTP/2 carrier between two proxies, a *stream* one CONNECT on it, a
//! *link* one application connection with whatever carries its other half.
//!
//! * `api`, `threads`, `listeners`: what control sees. * `shell`: epoll and real sockets behind `io`.
//! * `state`: the worker and its step. * `pods`: commands, listeners, accept. * `setup`, `teardown`: tunnels from dial to close.
//! * `carrier`, `batch`, `copy`, `relay`: bytes. `ending`: ends that take their time. * `outbound`, `inbound`, `judge`, `facts`: what happens to a link and why.
//! * `share`, `handover`: which worker owns what, and what workers hand each other. `pool`: which tunnel a stream takes. `lease`, `local`: pods of this same node, without TLS.
//! * `tls`, `tunnel`, `link`, `buffers`, `handshakes`, `timers` (and `crate::slots`): plain state and pure parts.

pub mod api;
mod batch;
mod buffers;
mod carrier;
mod copy;
mod ending;
mod facts;
mod handover;
mod held;
mod inbound;
mod io;
mod judge;
mod lease;
mod link;
pub mod listeners;
mod local;
mod outbound;
mod pods;
mod pool;
mod relay;
mod setup;
mod share;
mod shell;
mod sources;
mod state;
mod teardown;
mod threads;
mod timers;
mod tls;
mod tunnel;
mod verdicts;

pub use threads::{Gone, Workers, start};

use crate::slots;

#[cfg(test)]
mod tests;
