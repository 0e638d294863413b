//! The waypoint: the mesh's L7 proxy, configured over ADS with Envoy's resources, with HBONE on both sides.

// Every field is named when a message is taken apart, also those that Envoy calls deprecated.
#[allow(deprecated)]
pub mod envoy;
pub mod filters;
pub mod format;
pub mod model;
pub mod path;
pub mod route;
