//! The mesh as plain values: identities, workloads, services, policies, the state they form, and the pure
//! decisions taken from it (who may talk, which endpoint is next). Used by ztunnel, the waypoint, the
//! control plane and `xds::wds`.
//!
//! No tokio, no locks, no clock, no sockets; randomness is passed in. Strings are `Arc<str>` so that
//! what 20,000 workloads have in common exists once.

pub mod authz;
pub mod balance;
pub mod identity;
mod map;
pub mod policy;
pub mod service;
pub mod state;
pub mod workload;
