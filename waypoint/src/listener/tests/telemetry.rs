//! What is counted and logged: while connections live, and whatever peers say of themselves.

use super::world::{Changes, ECHO_VIP, TCP_VIP, World, answer, get};
use super::{open, open_tcp};
use hbone::headers::{Baggage, ConnectRequest};
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Waits until the metrics are as wanted.
pub async fn metrics_show(world: &World, wanted: impl Fn(&str) -> bool) -> String {
    let wait = async {
        loop {
            let metrics = world.metrics();
            if wanted(&metrics) {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(30);
    match tokio::time::timeout(limit, wait).await {
        Ok(metrics) => metrics,
        Err(_) => panic!("{}", world.metrics()),
    }
}

pub fn sum(metrics: &str, family: &str) -> u64 {
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(&format!("{family}{{")));
    let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.sum()
}

#[tokio::test]
async fn a_live_tcp_connection_is_counted_before_it_ends() {
    let world = World::new(Changes {
        listener: Some(open_tcp),
        endpoints: Some(vec!["127.0.0.1:9090"]),
        ..Changes::default()
    })
    .await;
    let mut stream = world.tunnel(TCP_VIP).await;
    let mut got = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    let live = metrics_show(&world, |metrics| {
        sum(metrics, "istio_tcp_received_bytes_total") == 5
            && sum(metrics, "istio_tcp_sent_bytes_total") == 5
    })
    .await;
    assert_eq!(sum(&live, "istio_tcp_connections_opened_total"), 1);
    assert_eq!(sum(&live, "istio_tcp_connections_closed_total"), 0);
    stream.write_all(b"more!").await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let done = metrics_show(&world, |metrics| {
        sum(metrics, "istio_tcp_connections_closed_total") == 1
    })
    .await;
    assert_eq!(sum(&done, "istio_tcp_connections_opened_total"), 1);
    assert_eq!(sum(&done, "istio_tcp_received_bytes_total"), 10);
    assert_eq!(sum(&done, "istio_tcp_sent_bytes_total"), 10);
}

#[tokio::test]
async fn what_a_peer_tells_of_itself_makes_a_bounded_number_of_series() {
    let world = World::new(Changes {
        chain: Some(open),
        ..Changes::default()
    })
    .await;
    let carrier = world.carrier(&world.client()).await.unwrap();
    for n in 0..200 {
        let mut connect = ConnectRequest::new(ECHO_VIP.parse().unwrap());
        let long = "v".repeat(1000);
        let told = format!("k8s.deployment.name=w{n},service.name=s,service.version={long}");
        connect.baggage = Some(Baggage::parse(&told));
        let (stream, _) = carrier.open(&connect).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        drop(world.proxy.shutdown.spawn_aside(connection));
        let got = answer(sender.send_request(get("/", &[])).await.unwrap()).await;
        assert_eq!(got.status, 200);
    }
    let metrics = world.metrics();
    let label = |name: &str| -> BTreeSet<String> {
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("istio_requests_total{"));
        let values =
            lines.filter_map(|line| line.split(&format!("{name}=\"")).nth(1)?.split('"').next());
        values.map(str::to_owned).collect()
    };
    let workloads = label("source_workload");
    assert!(workloads.contains("w0") && workloads.contains("unknown"));
    assert!(workloads.len() <= 65, "{}", workloads.len());
    let versions = label("source_version");
    assert_eq!(versions.iter().map(String::len).max(), Some(253));
    assert_eq!(sum(&metrics, "istio_requests_total"), 200);
}

#[tokio::test]
async fn a_refused_connect_is_a_line_of_the_access_log() {
    let world = World::new(Changes::default()).await;
    let refused = world.tunnel_as(&world.client(), "10.1.2.3:80").await;
    assert!(refused.is_err());
    let log = world.log();
    let line = "\"CONNECT - HTTP/2\" 503 NR filter_chain_not_found - \"-\" 0 0 0 ";
    assert!(log.contains(line), "{log}");
    assert!(log.contains("\"10.1.2.3:80\""), "{log}");
    // One that got its tunnel is none.
    let mut stream = world.tunnel(ECHO_VIP).await;
    stream.shutdown().await.unwrap();
    assert_eq!(world.log().matches("CONNECT").count(), 1);
}
