//! The captured sets of a real istiod, and the corpus of refused shapes with their exact words.

use super::listener::Compiled;
use super::{cluster, endpoint, ignored, listener};
use crate::model::listener::{ChainKind, Inbound};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;

mod kinds;
mod outbound;
pub mod refusals;

/// Name and bytes of each resource in a captured push.
pub fn capture(set: &str, file: &str) -> Vec<(String, String, Vec<u8>)> {
    let path = format!("{}/testdata/{set}/{file}.pb", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let push = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
    let url = push.type_url;
    let resources = push.resources.into_iter();
    resources
        .map(|r| (url.clone(), r.name, r.resource.unwrap().value))
        .collect()
}

/// Compiles all resources of a set; the refusals as `name: text`.
fn compile(set: &str) -> (Vec<String>, usize, Inbound) {
    let mut refused = Vec::new();
    let mut accepted = 0;
    let mut inbound = Inbound::default();
    for file in ["00-Cluster", "05-ClusterLoadAssignment", "01-Listener"] {
        for (_, name, bytes) in capture(set, file) {
            let result = match file {
                "00-Cluster" => cluster::from_bytes(&bytes).map(drop),
                "05-ClusterLoadAssignment" => endpoint::from_bytes(&bytes).map(drop),
                _ => listener::from_bytes(&bytes, None).map(|(_, compiled)| {
                    if let Compiled::Inbound(compiled) = compiled {
                        inbound = compiled;
                    }
                }),
            };
            match result {
                Ok(()) => accepted += 1,
                Err(refusal) => refused.push(format!("{name}: {refusal}")),
            }
        }
    }
    (refused, accepted, inbound)
}

#[test]
fn the_whole_captured_set_compiles() {
    let (refused, accepted, inbound) = compile("istio-master-20260827");
    assert_eq!(refused, Vec::<String>::new());
    assert_eq!(accepted, 16);
    let http = inbound
        .choose("10.96.105.179:80", "10.96.105.179".parse().ok(), 80)
        .unwrap();
    assert_eq!(
        http.fixed().map(|name| &**name),
        Some("inbound-vip|80|http|echo.app.svc.cluster.local")
    );
    let direct = inbound
        .choose("10.244.1.5:9", "10.244.1.5".parse().ok(), 9)
        .unwrap();
    assert_eq!(direct.other.as_deref(), Some("direct-tcp"));
    assert_eq!(direct.http1.as_deref(), Some("direct-http"));
    assert!(
        inbound
            .choose("10.96.105.179:81", "10.96.105.179".parse().ok(), 81)
            .is_none()
    );
    assert!(inbound.choose("echo.app:80", None, 80).is_none());
    let kinds: Vec<_> = inbound
        .chains
        .values()
        .map(|chain| matches!(chain.kind, ChainKind::Http(_)))
        .collect();
    assert_eq!(kinds.iter().filter(|http| **http).count(), 3);
    assert_eq!(kinds.len(), 5);
}

#[test]
fn what_the_rich_set_asks_for_and_is_not_supported_is_named() {
    let (refused, accepted, _) = compile("istio-master-20260827-rich");
    let cds = "type.googleapis.com/envoy.config.cluster.v3.Cluster at ";
    let want = [
        format!("inbound-vip|80|http|httpbin.app.svc.cluster.local: {cds}ring_hash_lb_config: not supported"),
        format!("inbound-vip|80|http/v1|httpbin.app.svc.cluster.local: {cds}ring_hash_lb_config: not supported"),
        format!("inbound-vip|443|tcp|ext2.example.com: {cds}type: discovery type STRICT_DNS is not supported"),
        format!(
            "inbound-vip|80|http|ext2.example.com: {cds}transport_socket.typed_config.transport_socket.typed_config: \
             transport socket type 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext' \
             is not supported"
        ),
        "main_internal: type.googleapis.com/envoy.config.listener.v3.Listener at listener_filters[2].typed_config: \
         filter type 'type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector' is not \
         supported"
            .to_owned(),
    ];
    assert_eq!(refused, want);
    assert_eq!(accepted, 21);
}

#[test]
fn an_unchanged_chain_is_kept() {
    let listeners = capture("istio-master-20260827", "01-Listener");
    let (_, _, bytes) = listeners
        .iter()
        .find(|(_, name, _)| name == "main_internal")
        .unwrap();
    let Compiled::Inbound(first) = listener::from_bytes(bytes, None).unwrap().1 else {
        panic!("not inbound")
    };
    let Compiled::Inbound(again) = listener::from_bytes(bytes, Some(&first)).unwrap().1 else {
        panic!("not inbound")
    };
    for (name, chain) in &again.chains {
        assert!(
            std::sync::Arc::ptr_eq(chain, &first.chains[name]),
            "{name} was compiled again"
        );
    }
}

#[test]
fn the_page_of_ignored_fields_is_up_to_date() {
    let path = format!(
        "{}/../docs/decisions/waypoint-accepted-and-ignored.md",
        env!("CARGO_MANIFEST_DIR")
    );
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == ignored::page(),
        "write this to docs/decisions/waypoint-accepted-and-ignored.md:\n{}",
        ignored::page()
    );
}
