//! Our parts against foreign ones: `hbone` and ztunnel against Envoy, ztunnel against any binary with upstream's
//! interface. Run by `make e2e`, and by `make test` with what is there. Without libtest, because what could not run must not count as passed.

#[path = "foreign/cut.rs"]
mod cut;
#[path = "foreign/envoy.rs"]
mod envoy;
#[path = "foreign/h2spec.rs"]
mod h2spec;
#[path = "foreign/ledger.rs"]
mod ledger;
#[path = "foreign/pair.rs"]
mod pair;
#[path = "foreign/peer.rs"]
mod peer;
#[path = "foreign/plan.rs"]
mod plan;
#[path = "foreign/relay.rs"]
mod relay;
#[path = "foreign/resources.rs"]
mod resources;
#[path = "foreign/responder.rs"]
mod responder;
#[path = "foreign/traffic.rs"]
mod traffic;
#[path = "foreign/tunnel.rs"]
mod tunnel;

use std::process::ExitCode;

use e2e::cases::{self, Case};

fn main() -> ExitCode {
    cases::run(
        "foreign parts",
        &[
            Case::new("h2spec_against_our_codec", h2spec::conformance),
            Case::new("our_client_to_go", relay::our_client_to_go),
            Case::new("go_to_our_server", relay::go_to_our_server),
            Case::new("our_client_to_old_h2", relay::our_client_to_old_h2),
            Case::new("old_h2_to_our_server", relay::old_h2_to_our_server),
            Case::new("our_client_to_python_h2", relay::our_client_to_python),
            Case::new("python_h2_to_our_server", relay::python_to_our_server),
            Case::new(
                "our_client_through_nghttpx_to_our_server",
                relay::through_nghttpx,
            ),
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
        ],
    )
}
