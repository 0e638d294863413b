//! What ends a request before its answer has ended: a client that leaves, a policy, and time.

use super::policies::rbac;
use super::telemetry::{metrics_show, sum};
use super::world::{Changes, ECHO, ECHO_VIP, World};
use super::{action, open};
use envoy_types::pb::envoy::config::rbac::v3 as rb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No policies, and no time limit.
fn without_time(manager: &mut HttpConnectionManager) {
    open(manager);
    action(manager).timeout = Some(ProtoDuration::default());
}

/// A tunnel on which this was sent, and that has reached the endpoint.
async fn sent(world: &World, bytes: &str) -> hbone::tokio::Stream {
    let before = world.seen.lock().unwrap().len();
    let mut stream = world.tunnel(ECHO_VIP).await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    until_seen(world, before + 1).await;
    stream
}

async fn until_seen(world: &World, count: usize) {
    while world.seen.lock().unwrap().len() < count {
        tokio::task::yield_now().await;
    }
}

/// The head of an answer.
async fn head(stream: &mut hbone::tokio::Stream) -> String {
    let mut got = String::new();
    while !got.ends_with("\r\n\r\n") {
        got.push(stream.read_u8().await.unwrap().into());
    }
    got
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_http1_request() {
    let world = World::new(Changes {
        chain: Some(without_time),
        ..Changes::default()
    })
    .await;
    let head = "GET /never HTTP/1.1\r\nhost: echo.app\r\n\r\n";
    let gone = sent(&world, head).await;
    drop(gone);
    let mut half = sent(&world, head).await;
    half.shutdown().await.unwrap();
    metrics_show(&world, |metrics| {
        metrics.contains("response_flags=\"DC\"") && sum(metrics, "istio_requests_total") == 2
    })
    .await;
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    let snapshot = world.proxy.snapshot.load();
    let counters = &snapshot.cluster(ECHO).unwrap().counters;
    assert_eq!(counters.requests.load(Relaxed), 0);
}

/// Forbids everybody.
fn closed(manager: &mut HttpConnectionManager) {
    without_time(manager);
    manager.http_filters.insert(0, rbac(rb::Rbac::default()));
}

#[tokio::test]
async fn a_request_under_way_is_cut_when_a_policy_forbids_it() {
    let world = World::new(Changes {
        chain: Some(without_time),
        ..Changes::default()
    })
    .await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: echo.app\r\n\r\n");
    let mut stream = sent(&world, &request("/stream")).await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    let mut waiting = sent(&world, &request("/never")).await;
    // A change that forbids nothing ends nothing.
    world.push(&Changes {
        chain: Some(|manager| {
            without_time(manager);
            manager.server_name = "other".into();
        }),
        ..Changes::default()
    });
    world.push(&Changes {
        chain: Some(closed),
        ..Changes::default()
    });
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    // The first piece, and no last one.
    assert_eq!(String::from_utf8_lossy(&rest), "5\r\nfirst\r\n");
    let answer = head(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let log = world.log();
    let denied = "rbac_access_denied_matched_policy[none]";
    assert!(log.contains(&format!("200 UAEX {denied}")), "{log}");
    assert!(log.contains(&format!("403 - {denied}")), "{log}");
}

/// Nothing else that is timed has so little time.
const LIMIT: ProtoDuration = ProtoDuration {
    seconds: 5,
    nanos: 0,
};

/// Lets more than that pass. The log once the answer, of which the head was read, has ended for it.
async fn cut_short(world: &World, mut stream: hbone::tokio::Stream) -> String {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(String::from_utf8_lossy(&rest), "5\r\nfirst\r\n");
    world.log()
}

#[tokio::test]
async fn a_routes_time_begins_with_the_end_of_a_request_that_was_answered_before() {
    let world = World::new(Changes {
        chain: Some(|manager| {
            open(manager);
            action(manager).timeout = Some(LIMIT);
        }),
        ..Changes::default()
    })
    .await;
    let request = "POST /early HTTP/1.1\r\nhost: echo.app\r\ncontent-length: 6\r\n\r\nabc";
    let mut stream = sent(&world, request).await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    stream.write_all(b"def").await.unwrap();
    until_seen(&world, 2).await;
    let log = cut_short(&world, stream).await;
    assert!(log.contains(" 200 UT response_timeout "), "{log}");
}

#[tokio::test]
async fn the_time_of_a_try_is_for_its_whole_answer() {
    let world = World::new(Changes {
        chain: Some(|manager| {
            without_time(manager);
            let retry = action(manager).retry_policy.as_mut().unwrap();
            retry.per_try_timeout = Some(LIMIT);
        }),
        ..Changes::default()
    })
    .await;
    let mut stream = sent(&world, "GET /stream HTTP/1.1\r\nhost: echo.app\r\n\r\n").await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    let log = cut_short(&world, stream).await;
    assert!(log.contains(" 200 UT upstream_per_try_timeout "), "{log}");
}
