//! Deadlines and sizes that a client meets, and what one peer may hold.

use super::policies::push_terminate;
use super::world::{Changes, World, get};
use super::{open, routes};
use crate::admission::Limits;
use crate::listener::{drive, serve, tunnel_of};
use crate::model::listener::Protocols;
use crate::pace::{Busy, Pace};
use envoy_types::pb::envoy::config::core::v3::{self as core, HttpProtocolOptions};
use envoy_types::pb::envoy::config::route::v3 as rt;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, Sleep};

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

/// A connection on which a request comes while it is being closed, and takes a minute; or on which none does.
struct Crossed {
    pace: Arc<Pace>,
    comes: bool,
    request: Option<(Busy, Pin<Box<Sleep>>)>,
}

impl Future for Crossed {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.request {
            Some((_, end)) => end.as_mut().poll(cx).map(Ok),
            None => Poll::Pending,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crosses_the_farewell_of_an_idle_connection_is_served() {
    let world = world().await;
    let minute = Duration::from_secs(60);
    for (comes, expected) in [(true, minute), (false, world.proxy.times.handshake)] {
        let pace = Pace::begin();
        let connection = Crossed {
            pace: pace.clone(),
            comes,
            request: None,
        };
        let since = Instant::now();
        let finish = |it: Pin<&mut Crossed>| {
            let it = it.get_mut();
            let end = Box::pin(tokio::time::sleep(Duration::from_secs(60)));
            it.request = it.comes.then(|| (it.pace.request(), end));
        };
        let parting = world.proxy.shutdown.draining();
        drive(&world.proxy, &pace, (IDLE, parting), connection, finish)
            .await
            .unwrap();
        assert_eq!(since.elapsed(), IDLE + expected);
    }
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

const FEW: Limits = Limits {
    handshakes: 8,
    handshakes_of_one: 1,
    carriers: 8,
    carriers_of_one: 2,
};

#[tokio::test]
async fn one_address_holds_a_bounded_number_of_carriers_and_of_handshakes() {
    let world = World::new(Changes {
        limits: Some(FEW),
        ..Changes::default()
    })
    .await;
    let client = world.client();
    let connect = || async { world.tunnel_as(&client, super::ECHO_VIP).await };
    // A peer that says nothing: as long as it is there, none of the same address is let in.
    let silent = tokio::net::TcpStream::connect(world.address).await.unwrap();
    assert!(connect().await.is_err());
    drop(silent);
    // When its end is noticed is not told.
    let first = loop {
        if let Ok(stream) = connect().await {
            break stream;
        }
    };
    let _second = connect().await.unwrap();
    assert!(connect().await.is_err());
    drop(first);
    while connect().await.is_err() {}
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_let_go_of() {
    let world = World::new(Changes::default()).await;
    push_terminate(&world, |manager| {
        let options = manager.http2_protocol_options.as_mut().unwrap();
        let millis = |n: i32| {
            let nanos = n * 1_000_000;
            Some(ProtoDuration { seconds: 0, nanos })
        };
        options.connection_keepalive = Some(core::KeepaliveSettings {
            interval: millis(20),
            timeout: millis(200),
            ..Default::default()
        });
    });
    let mut carrier = world.raw_carrier(&world.client()).await;
    // HTTP/2's beginning, and not a word after it.
    carrier
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut got = Vec::new();
    let _ = carrier.read_to_end(&mut got).await;
    // PING, no flags, stream 0.
    let ping = got.windows(9).any(|at| at == b"\0\0\x08\x06\0\0\0\0\0");
    assert!(ping, "{got:?}");
}

#[tokio::test]
async fn the_head_of_a_connect_is_as_long_as_the_listener_says() {
    let world = World::new(Changes::default()).await;
    let client = world.client();
    let connect = || async {
        let mut request = hbone::headers::ConnectRequest::new(super::ECHO_VIP.parse().unwrap());
        request.others.push("x-long", &"x".repeat(1200));
        let carrier = world.carrier(&client).await.unwrap();
        carrier.open(&request).await.map(drop)
    };
    assert!(connect().await.is_ok());
    push_terminate(&world, |manager| {
        manager.max_request_headers_kb = Some(UInt32Value { value: 1 });
    });
    let refused = connect().await.unwrap_err().to_string();
    assert!(refused.contains("431"), "{refused}");
}
