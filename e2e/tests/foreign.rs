//! Our parts against foreign ones (tier T2): `hbone` and ztunnel against Envoy, ztunnel against any binary with upstream's
//! interface. Run by `make e2e`. Without libtest, because what could not run must not count as passed.

#[path = "foreign/cases.rs"]
mod cases;
#[path = "foreign/envoy.rs"]
mod envoy;
#[path = "foreign/ledger.rs"]
mod ledger;
#[path = "foreign/pair.rs"]
mod pair;
#[path = "foreign/peer.rs"]
mod peer;
#[path = "foreign/plan.rs"]
mod plan;
#[path = "foreign/resources.rs"]
mod resources;
#[path = "foreign/traffic.rs"]
mod traffic;
#[path = "foreign/tunnel.rs"]
mod tunnel;

use std::process::ExitCode;

use cases::Case;

fn main() -> ExitCode {
    cases::run(&[
        Case::new("our_hbone_client_through_envoy", tunnel::our_client),
        Case::new("envoy_through_our_hbone_server", tunnel::our_server),
        Case::new("our_ztunnel_to_envoy", pair::ztunnel_to_envoy),
        Case::new("envoy_to_our_ztunnel", pair::envoy_to_ztunnel),
        Case::new("two_of_our_ztunnels_by_upstreams_interface", peer::ours),
        Case::new("our_ztunnel_and_the_peer_both_ways", peer::given),
        Case::new(
            "envoy_loads_our_control_planes_resources",
            resources::validated,
        ),
    ])
}
