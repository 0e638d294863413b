//! Policies on requests that came through other proxies, and on tunnels that are there when a policy changes.

use super::world::{Changes, World, get};
use super::open;
use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3 as rb;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use prost::Message;

/// An HTTP filter with these rules.
fn rbac(rules: rb::Rbac) -> HttpFilter {
    let filter = Rbac {
        rules: Some(rules),
        ..Rbac::default()
    };
    HttpFilter {
        config_type: Some(http_filter::ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC".into(),
            value: filter.encode_to_vec(),
        })),
        ..HttpFilter::default()
    }
}

/// Denies 203.0.113.0/24, as istiod writes `remoteIpBlocks`.
fn deny_remote_block(manager: &mut HttpConnectionManager) {
    let block = CidrRange {
        address_prefix: "203.0.113.0".into(),
        prefix_len: Some(UInt32Value { value: 24 }),
    };
    let policy = rb::Policy {
        permissions: vec![rb::Permission {
            rule: Some(rb::permission::Rule::Any(true)),
        }],
        principals: vec![rb::Principal {
            identifier: Some(rb::principal::Identifier::RemoteIp(block)),
        }],
        ..Default::default()
    };
    let rules = rb::Rbac {
        action: rb::rbac::Action::Deny as i32,
        policies: [("ns[app]-policy[block]-rule[0]".to_owned(), policy)].into(),
        ..Default::default()
    };
    open(manager);
    manager.http_filters.insert(0, rbac(rules));
}

#[tokio::test]
async fn the_remote_address_is_the_last_one_that_proxies_tell() {
    let world = World::new(Changes {
        chain: Some(deny_remote_block),
        ..Changes::default()
    })
    .await;
    let cases: [(&[&str], u16); 9] = [
        (&["203.0.113.7"], 403),
        (&["198.51.100.1, 203.0.113.7"], 403),
        (&["198.51.100.1,203.0.113.7 "], 403),
        (&["198.51.100.1", "203.0.113.7"], 403),
        (&["203.0.113.7", ""], 403),
        (&["203.0.113.7, 198.51.100.1"], 200),
        // Not an address: the connection's own counts, as in Envoy.
        (&["203.0.113.7:80"], 200),
        (&["203.0.113.7,"], 200),
        (&[], 200),
    ];
    for (told, want) in cases {
        let headers: Vec<_> = told
            .iter()
            .map(|value| ("x-forwarded-for", *value))
            .collect();
        let got = world.send(get("/", &headers)).await;
        assert_eq!(got.status, want, "{told:?}");
    }
    let log = world.log();
    assert!(
        log.contains("matched_policy[ns[app]-policy[block]-rule[0]]"),
        "{log}"
    );
}
