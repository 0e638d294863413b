//! Policies on requests that came through other proxies, and on tunnels that are there when a policy changes.

use super::world::{Changes, TCP_VIP, World, answer, get, request, resources};
use super::{ECHO_VIP, action, open, open_tcp, websocket_upgrade};
use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3 as rb;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use hbone::headers::ConnectRequest;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An HTTP filter with these rules.
pub fn rbac(rules: rb::Rbac) -> HttpFilter {
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

/// Changes the manager of `connect_terminate` and pushes it.
pub fn push_terminate(world: &World, change: impl FnOnce(&mut HttpConnectionManager)) {
    let (url, name, body) = resources(&Changes::default())
        .into_iter()
        .find(|(_, name, _)| name == "connect_terminate")
        .unwrap();
    let mut listener = Listener::decode(body.as_slice()).unwrap();
    let Some(filter::ConfigType::TypedConfig(config)) =
        &mut listener.filter_chains[0].filters[0].config_type
    else {
        panic!()
    };
    let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
    change(&mut manager);
    config.value = manager.encode_to_vec();
    let update = xds::ResourceUpdate::Upsert {
        name,
        version: String::new(),
        body: listener.encode_to_vec(),
    };
    assert_eq!(world.config.apply(&url, vec![update]), vec![]);
}

/// An ALLOW filter without a rule on CONNECTs.
fn forbid_connects(world: &World) {
    push_terminate(world, |manager| {
        manager.http_filters.insert(0, rbac(rb::Rbac::default()));
    });
}

#[tokio::test]
async fn a_policy_on_connects_counts_at_once_on_connections_that_are_there() {
    let world = World::new(Changes {
        listener: Some(open_tcp),
        endpoints: Some(vec!["127.0.0.1:9090"]),
        ..Changes::default()
    })
    .await;
    let carrier = world.carrier(&world.client()).await.unwrap();
    let connect = || ConnectRequest::new(TCP_VIP.parse().unwrap());
    let (mut live, _) = carrier.open(&connect()).await.unwrap();
    live.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    live.read_exact(&mut got).await.unwrap();
    forbid_connects(&world);
    let refused = carrier.open(&connect()).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("403"), "{refused}");
    let mut rest = Vec::new();
    let _ = live.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    let log = world.log();
    assert!(
        log.contains("rbac_access_denied_matched_policy[none]"),
        "{log}"
    );
}

#[tokio::test]
async fn a_policy_on_connects_counts_for_requests_on_tunnels_that_are_there() {
    let world = World::new(Changes {
        chain: Some(open),
        ..Changes::default()
    })
    .await;
    let stream = world.tunnel(ECHO_VIP).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    drop(world.proxy.shutdown.spawn_aside(connection));
    let before = answer(sender.send_request(get("/", &[])).await.unwrap()).await;
    assert_eq!(before.status, 200);
    forbid_connects(&world);
    sender.ready().await.unwrap();
    let after = answer(sender.send_request(get("/", &[])).await.unwrap()).await;
    assert_eq!(
        (after.status, after.body.as_str()),
        (403, "RBAC: access denied")
    );
    push_terminate(&world, |_| {});
    sender.ready().await.unwrap();
    let again = answer(sender.send_request(get("/", &[])).await.unwrap()).await;
    assert_eq!(again.status, 200);
}

fn websockets(manager: &mut HttpConnectionManager) {
    manager.upgrade_configs = vec![websocket_upgrade()];
    action(manager).timeout = None;
}

fn open_websockets(manager: &mut HttpConnectionManager) {
    open(manager);
    websockets(manager);
}

/// A websocket that carries bytes.
async fn websocket(world: &World) -> TokioIo<hyper::upgrade::Upgraded> {
    let stream = world.tunnel(ECHO_VIP).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    drop(world.proxy.shutdown.spawn_aside(connection.with_upgrades()));
    let asks = [("connection", "upgrade"), ("upgrade", "websocket")];
    let response = sender
        .send_request(request("GET", "/ws", &asks, ""))
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    let mut joined = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut got = [0; 5];
    joined.write_all(b"hello").await.unwrap();
    joined.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    joined
}

#[tokio::test]
async fn a_live_websocket_is_cut_when_a_policy_forbids_it() {
    let opened = || Changes {
        chain: Some(open_websockets),
        ..Changes::default()
    };
    let world = World::new(opened()).await;
    let mut joined = websocket(&world).await;
    forbid_connects(&world);
    let mut rest = Vec::new();
    let _ = joined.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    push_terminate(&world, |_| {});
    // The chain's own policies too: they allow this client nothing under `/ws`.
    let mut joined = websocket(&world).await;
    world.push(&Changes {
        chain: Some(|manager| {
            websockets(manager);
            manager.http_filters[0] = rbac(rb::Rbac::default());
        }),
        ..Changes::default()
    });
    let _ = joined.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    let log = world.log();
    assert!(
        log.matches("rbac_access_denied_matched_policy[none]")
            .count()
            == 2,
        "{log}"
    );
}
