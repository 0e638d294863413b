use mesh::{
    policy::{Action, StringMatch},
    service::{AppProtocol, IpFamilies, Mode, Scope as Near},
    state::State,
    workload::{GatewayDestination, TunnelProtocol},
};
use proto::discovery::DeltaDiscoveryResponse;

use super::*;

mod captures;
mod refusals;
mod refused_policies;
mod roundtrip;

/// A push of a real istiod, as `(type URL, name, body)` per resource.
fn capture(path: &str) -> Vec<(String, String, Vec<u8>)> {
    let path = format!("{}/testdata/captures/{path}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let response = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
    let resources = response.resources.into_iter();
    resources
        .map(|resource| {
            let any = resource.resource.unwrap();
            assert_eq!(any.type_url, response.type_url);
            (any.type_url, resource.name, any.value)
        })
        .collect()
}
