//! The control plane: reads Kubernetes objects, translates them into what ztunnels and waypoints understand, and
//! serves that over delta ADS; it is the certificate authority as well.
//!
//! `translate` is pure (objects in, resources out); `follow` keeps the views of subscribers up to date; `serve`
//! holds the sockets; `ca` keeps the authority's root on Kubernetes. There the elected replica (`lead`) writes too:
//! status (`conditions`) and the waypoints of Gateways (`deploy`); `writing` starts these.

pub mod app;
pub mod ca;
pub mod conditions;
pub mod config;
pub mod deploy;
pub mod follow;
pub mod lead;
pub mod mirror;
pub mod resources;
pub mod serve;
pub mod status;
pub mod store;
pub mod translate;
pub mod writing;
