//! Kept connections.

use super::*;
use crate::model::cluster::{Balance, Cluster, Discovery, Endpoints, Limits};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn live() -> Live {
    let config = Cluster {
        name: "c".into(),
        discovery: Discovery::Eds("c".into()),
        balance: Balance::RoundRobin,
        connect_timeout: Duration::from_secs(10),
        limits: Limits::default(),
        outlier: None,
        panic_percent: 0,
        http: Default::default(),
        idle_timeout: None,
        max_requests_per_connection: None,
        service: Default::default(),
        peers: Vec::new(),
        mutual_tls: false,
    };
    Live::new(Arc::new(config), None::<&Endpoints>, None)
}

/// An upstream side, and the key of a server that serves each connection with `serve`.
async fn world<F>(http2: bool, serve: fn(TcpStream) -> F) -> (Upstream, Key)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Plain(listener.local_addr().unwrap());
    let shutdown = runtime::Shutdown::new();
    let tasks = shutdown.clone();
    drop(shutdown.spawn_aside(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(tasks.spawn_aside(serve(stream)));
        }
    }));
    let dialer = Dialer::new(Arc::new(|| None), Arc::new(|| None), 1, shutdown.clone());
    let key = Key {
        cluster: "c".into(),
        target,
        original: None,
        http2,
    };
    (Upstream::new(dialer, shutdown), key)
}

/// Answers as soon as a head has come, and reads on.
async fn hasty(mut stream: TcpStream) {
    let mut seen = Vec::new();
    while stream.read_buf(&mut seen).await.is_ok_and(|n| n > 0) {
        if seen.windows(4).any(|four| four == b"\r\n\r\n") {
            seen.clear();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    }
}

/// HTTP/2 that never answers.
async fn silent(stream: TcpStream) {
    let service =
        service_fn(|_| std::future::pending::<Result<Response<String>, std::io::Error>>());
    let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A body of which one piece comes and the rest never.
struct Stuck(bool);

impl Body for Stuck {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part")))))
    }
}

/// One request that is answered; its connection is given back.
async fn exchange(upstream: &Upstream, live: &Live, key: &Key, body: UpBody) -> bool {
    let connection = upstream.connection(live, key.clone()).await.unwrap();
    let reused = connection.reused;
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = "/".parse().unwrap();
    let (response, connection) = connection.send(upstream, live, request).await.unwrap();
    response.into_body().collect().await.unwrap();
    connection.keep();
    reused
}

#[tokio::test]
async fn a_connection_is_used_again_but_not_while_its_last_request_is_still_sent() {
    let (upstream, key) = world(false, hasty).await;
    let live = live();
    let empty = || UpBody::new(Empty::new().map_err(|never| match never {}));
    assert!(!exchange(&upstream, &live, &key, empty()).await);
    assert!(exchange(&upstream, &live, &key, empty()).await);
    // Answered early: the client of this one may take all day, and the next must not wait for it.
    assert!(exchange(&upstream, &live, &key, UpBody::new(Stuck(false))).await);
    let next = exchange(&upstream, &live, &key, empty());
    let next = tokio::time::timeout(Duration::from_secs(20), next).await;
    assert!(!next.expect("the next request does not wait"));
}

#[tokio::test]
async fn a_full_http2_connection_gets_a_second_one_beside_it() {
    let (upstream, key) = world(true, silent).await;
    let live = live();
    let mut busy = Vec::new();
    for n in 0..=STREAMS_PER_CONNECTION {
        let connection = upstream.connection(&live, key.clone()).await.unwrap();
        let fresh = n == 0 || n == STREAMS_PER_CONNECTION;
        assert_eq!(connection.reused, !fresh, "{n}");
        busy.push(connection);
    }
    busy.clear();
    assert!(upstream.connection(&live, key).await.unwrap().reused);
}
