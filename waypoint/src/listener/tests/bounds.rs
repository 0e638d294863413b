//! Deadlines and sizes that a client meets, and what one peer may hold.

use super::world::{Changes, World, get};
use super::{open, routes};
use crate::listener::{serve, tunnel_of};
use crate::model::listener::Protocols;
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::route::v3 as rt;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

const IDLE: Duration = Duration::from_secs(7 * 60);

/// Answers by itself, and lets idle connections go after seven minutes.
fn answers_itself(manager: &mut HttpConnectionManager) {
    open(manager);
    manager.common_http_protocol_options = Some(HttpProtocolOptions {
        idle_timeout: Some(ProtoDuration {
            seconds: 7 * 60,
            nanos: 0,
        }),
        ..Default::default()
    });
    for route in routes(manager) {
        route.action = Some(rt::route::Action::DirectResponse(
            rt::DirectResponseAction {
                status: 204,
                ..Default::default()
            },
        ));
    }
}

/// The bytes of a tunnel to the echo service, without sockets, so that the clock may be paused.
async fn inner(world: &World) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 16);
    let peer = world.ca.identity("app", "client");
    let tunnel = tunnel_of(super::ECHO_VIP, &peer, &world.ca.identity("app", "wp"));
    let proxy = world.proxy.clone();
    drop(proxy.clone().shutdown.spawn(async move {
        let protocols = Protocols::always(super::world::ECHO.into());
        serve(proxy, tunnel, &protocols, Box::new(server)).await;
    }));
    client
}

async fn world() -> World {
    World::new(Changes {
        chain: Some(answers_itself),
        ..Changes::default()
    })
    .await
}

/// Reads until the other end closes; how long that took.
async fn closed_after(mut client: DuplexStream) -> (String, Duration) {
    let since = Instant::now();
    let mut got = Vec::new();
    let _ = client.read_to_end(&mut got).await;
    (String::from_utf8_lossy(&got).into_owned(), since.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_request_head_has_a_deadline_also_after_its_first_line() {
    let world = world().await;
    let mut client = inner(&world).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let (_, took) = closed_after(client).await;
    let head = world.proxy.times.head;
    assert!(took >= head && took < head * 2, "{took:?}");
    // The head of a later request on a connection that was in use has the same time.
    let mut client = inner(&world).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: echo.app\r\n\r\n")
        .await
        .unwrap();
    let mut got = String::new();
    while !got.ends_with("\r\n\r\n") {
        got.push(client.read_u8().await.unwrap().into());
    }
    assert!(got.starts_with("HTTP/1.1 204"), "{got}");
    tokio::time::sleep(head * 3).await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (_, took) = closed_after(client).await;
    assert!(took >= head && took < head * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_is_kept_for_its_idle_time() {
    let world = world().await;
    let mut client = inner(&world).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: echo.app\r\n\r\n")
        .await
        .unwrap();
    let (got, took) = closed_after(client).await;
    assert!(got.starts_with("HTTP/1.1 204"), "{got}");
    assert!(took >= IDLE && took < IDLE * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_kept_for_its_idle_time() {
    let world = world().await;
    let client = inner(&world).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
            .await
            .unwrap();
    let ended = world.proxy.shutdown.spawn_aside(connection);
    let request =
        http::Request::get("http://echo.app/").body(http_body_util::Full::new(bytes::Bytes::new()));
    let got = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(got.status(), 204);
    let since = Instant::now();
    let limit = Duration::from_secs(24 * 3600);
    let _ = tokio::time::timeout(limit, ended).await;
    let took = since.elapsed();
    assert!(took >= IDLE && took < IDLE * 2, "{took:?}");
}

#[tokio::test]
async fn a_long_path_arrives_on_an_http_port() {
    let world = World::new(Changes {
        chain: Some(open),
        ..Changes::default()
    })
    .await;
    let path = format!("/{}", "x".repeat(20_000));
    let got = world.send(get(&path, &[])).await;
    assert_eq!((got.status, got.body.len()), (200, path.len() + 5));
}

#[tokio::test]
async fn what_is_no_http_on_an_http_port_is_told_so() {
    let world = World::new(Changes::default()).await;
    let mut stream = world.tunnel(super::ECHO_VIP).await;
    stream
        .write_all(b"\x16\x03\x01\x00\x05hello\r\n\r\n")
        .await
        .unwrap();
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got).await;
    let got = String::from_utf8_lossy(&got);
    assert!(got.starts_with("HTTP/1.1 400"), "{got}");
}
