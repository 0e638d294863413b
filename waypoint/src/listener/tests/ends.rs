//! What ends a request before its answer has ended: a client that leaves.

use super::telemetry::{metrics_show, sum};
use super::world::{Changes, ECHO, ECHO_VIP, World};
use super::{action, open};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use std::sync::atomic::Ordering::Relaxed;
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
    while world.seen.lock().unwrap().len() == before {
        tokio::task::yield_now().await;
    }
    stream
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
