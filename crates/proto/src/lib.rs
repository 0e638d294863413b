//! The protobuf interfaces that we speak, generated from our own `.proto` texts (upstream's names and
//! field numbers). Used by every crate that puts bytes on a control wire: xds, identity, zds.
//!
//! This crate does not know Envoy's resource types; those come from `envoy-types` in the two crates
//! that read or write them.

/// Generated code: comments come from the .proto texts, and its lints are not ours to mend.
macro_rules! generated {
    ($(#[$doc:meta])* $module:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::wildcard_imports)]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// WDS: `istio.workload`.
    workload, "istio.workload");
generated!(
    /// L4 policies: `istio.security`.
    security, "istio.security");
generated!(
    /// Certificate authority: `istio.v1.auth`.
    ca, "istio.v1.auth");
generated!(
    /// Node agent to ztunnel: `istio.workload.zds`.
    zds, "istio.workload.zds");
generated!(
    /// Delta ADS: `envoy.service.discovery.v3`.
    discovery, "envoy.service.discovery.v3");

/// Type URLs of the resources that travel over ADS.
pub mod type_url {
    /// A workload or a service (WDS).
    pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
    /// A workload alone; a waypoint may ask for this instead of `ADDRESS`.
    pub const WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";
    /// An L4 authorization policy.
    pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
    /// Envoy cluster (CDS).
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// Envoy endpoints (EDS).
    pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// Envoy listener (LDS).
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// Envoy routes (RDS).
    pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
}

/// A gRPC status as one line for logs and users: code, message, and the chain of causes below it (a
/// failed connection hides its reason there).
pub fn explain(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let line = error.to_string();
        // The transport's own word for any of its causes says nothing.
        if line != "transport error" && !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
