//! The waypoint: the mesh's L7 proxy, configured over ADS with Envoy's resources, with HBONE on both sides.

pub mod admin;
pub mod admission;
pub mod app;
pub mod arguments;
pub mod cluster;
pub mod config;
pub mod download;
// Every field is named when a message is taken apart, also those that Envoy calls deprecated.
#[allow(deprecated)]
pub mod envoy;
pub mod filters;
pub mod format;
pub mod forward;
pub mod headers;
pub mod io;
pub mod keepalive;
pub mod listener;
pub mod model;
pub mod node;
pub mod pace;
pub mod path;
pub mod proxy;
pub mod reason;
pub mod report;
pub mod request;
pub mod retry;
pub mod route;
pub mod settings;
pub mod state;
pub mod tcp;
pub mod tunnel;
pub mod upload;
pub mod upstream;
pub mod verdict;
