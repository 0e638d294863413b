//! Both roles against the `h2` crate: random sizes, cuts, half-closes, resets and slow readers; every byte is compared.
//! HBONE_INTEROP_BYTES sets how much crosses per role and direction (the 10 GB run: 5000000000, with --release).

mod support;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use causeway_hbone as hbone;
use hbone::headers::{ConnectRequest, ConnectResponse};
use hbone::proto::{Config, ErrorCode};
use hbone::tokio::{Error, Stream, client, server};
use std::sync::atomic::Ordering;
use support::{CHECKED, Chunked, Plan, Rng, Table, budget, small_windows};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};

/// What the h2 client says of itself: it repeats, so that the encoder names it from its table.
const BAGGAGE: &str = "k8s.cluster.name=c,k8s.namespace.name=ns,k8s.deployment.name=d";
/// Tunnels at once.
const PARALLEL: usize = 24;

/// A run in which no byte comes for so long has stalled.
const STALL: Duration = Duration::from_secs(60);

/// How reading ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Orderly,
    Reset,
}

async fn ours_write(
    mut half: impl AsyncWrite + Unpin,
    table: &Table,
    seed: usize,
    total: usize,
    mut rng: Rng,
) {
    let mut at = 0;
    while at < total {
        let chunk = table.chunk(seed, at, rng.chunk().min(total - at));
        half.write_all(chunk).await.expect("write");
        at += chunk.len();
        rng.pause().await;
    }
}

async fn ours_read(
    mut half: impl AsyncRead + Unpin,
    table: &Table,
    seed: usize,
    mut rng: Rng,
) -> (usize, End) {
    let (mut at, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let max = rng.chunk();
        match half.read(&mut buffer[..max]).await {
            Ok(0) => return (at, End::Orderly),
            Ok(n) => {
                table.check(seed, at, &buffer[..n]);
                at += n;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
                return (at, End::Reset);
            }
        }
        rng.pause().await;
    }
}

/// Our end of a tunnel, either role.
async fn ours(mut stream: Stream, plan: Plan, is_client: bool, table: &Table) {
    let rng = Rng::new(plan.seed as u64 ^ u64::from(is_client));
    let (send, receive) = plan.sides(is_client);
    if plan.resets(is_client) {
        ours_write(&mut stream, table, send.0, plan.reset_at, rng).await;
        stream.reset(ErrorCode::CONNECT_ERROR);
        return;
    }
    if plan.resets(!is_client) {
        let (got, end) = ours_read(&mut stream, table, receive.0, rng).await;
        assert!(
            got <= plan.reset_at && end == End::Reset,
            "{plan:?} {is_client} {got} {end:?}"
        );
        return;
    }
    let (reader, mut writer) = tokio::io::split(stream);
    let write = async {
        ours_write(&mut writer, table, send.0, send.1, rng.clone()).await;
        writer.shutdown().await.expect("shutdown");
    };
    let read = ours_read(reader, table, receive.0, Rng::new(plan.seed as u64 + 7));
    let ((), got) = tokio::join!(write, read);
    assert_eq!(got, (receive.1, End::Orderly), "{plan:?}");
}

async fn h2_write(
    send: &mut h2::SendStream<Bytes>,
    table: &Table,
    seed: usize,
    total: usize,
    mut rng: Rng,
) {
    let mut at = 0;
    while at < total {
        send.reserve_capacity(rng.chunk().min(total - at));
        // `poll_capacity` tells of new capacity only.
        while send.capacity() == 0 {
            let granted = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
            granted.expect("the stream lives").expect("no error");
        }
        let granted = send.capacity();
        let chunk = table.chunk(seed, at, granted.min(total - at));
        send.send_data(Bytes::copy_from_slice(chunk), false)
            .expect("send");
        at += chunk.len();
        rng.pause().await;
    }
}

async fn h2_read(
    mut body: h2::RecvStream,
    table: &Table,
    seed: usize,
    mut rng: Rng,
) -> (usize, End) {
    let mut at = 0;
    while let Some(data) = body.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) => {
                assert_eq!(error.reason(), Some(h2::Reason::CONNECT_ERROR), "{error}");
                return (at, End::Reset);
            }
        };
        table.check(seed, at, &data);
        at += data.len();
        rng.pause().await;
        body.flow_control()
            .release_capacity(data.len())
            .expect("release");
    }
    (at, End::Orderly)
}

/// The h2 crate's end of a tunnel, either role.
async fn theirs(
    mut send: h2::SendStream<Bytes>,
    body: h2::RecvStream,
    plan: Plan,
    is_client: bool,
    table: &Table,
) {
    let rng = Rng::new(plan.seed as u64 ^ u64::from(is_client));
    let (sending, receive) = plan.sides(is_client);
    if plan.resets(is_client) {
        h2_write(&mut send, table, sending.0, plan.reset_at, rng).await;
        send.send_reset(h2::Reason::CONNECT_ERROR);
        return;
    }
    if plan.resets(!is_client) {
        let (got, end) = h2_read(body, table, receive.0, rng).await;
        assert!(
            got <= plan.reset_at && end == End::Reset,
            "{plan:?} {is_client} {got} {end:?}"
        );
        return;
    }
    let write = async {
        h2_write(&mut send, table, sending.0, sending.1, rng.clone()).await;
        send.send_data(Bytes::new(), true).expect("end");
    };
    let ((), got) = tokio::join!(
        write,
        h2_read(body, table, receive.0, Rng::new(plan.seed as u64 + 9))
    );
    assert_eq!(got, (receive.1, End::Orderly), "{plan:?}");
}

/// Runs plans until the budget is used up, some at once.
async fn many<F: Future<Output = ()> + 'static>(seed: u64, one: impl Fn(Plan) -> F) -> usize {
    let (mut rng, mut left, mut done) = (Rng::new(seed), budget(), 0);
    let mut running = tokio::task::JoinSet::new();
    while left > 0 {
        let plan = Plan::random(&mut rng, left);
        left = left.saturating_sub(plan.up.max(plan.down).max(1));
        running.spawn_local(one(plan));
        if running.len() >= PARALLEL {
            running
                .join_next()
                .await
                .expect("one runs")
                .expect("no panic");
            done += 1;
        }
    }
    while let Some(end) = running.join_next().await {
        end.expect("no panic");
        done += 1;
    }
    done
}

async fn our_client_against_h2(seed: u64, config: Config) -> usize {
    let table = Table::shared();
    let (near, far) = Chunked::pair(seed);
    let (handle, driver) = client::connect(near, config);
    let client_end = spawn_local(driver);
    let server_end = spawn_local(async move {
        let mut connection = h2::server::handshake(far).await.expect("handshake");
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request.expect("a request");
            assert_eq!(request.method(), http::Method::CONNECT);
            let plan = Plan::parse(request.uri().host().expect("a host"));
            spawn_local(async move {
                let send = respond
                    .send_response(http::Response::new(()), false)
                    .expect("respond");
                theirs(send, request.into_body(), plan, false, table).await;
            });
        }
    });
    let opener = handle.clone();
    let done = many(seed, |plan| {
        let handle = opener.clone();
        async move {
            let request = ConnectRequest::new(plan.authority());
            match handle.open(&request).await {
                Ok((stream, _)) => ours(stream, plan, true, table).await,
                // The h2 crate drops what is queued, also its response, when it resets.
                Err(Error::Reset(ErrorCode::CONNECT_ERROR)) if plan.resets(false) => {}
                Err(error) => panic!("{plan:?}: {error}"),
            }
        }
    })
    .await;
    drop((handle, opener));
    client_end.await.expect("no panic").expect("a graceful end");
    server_end.await.expect("no panic");
    done
}

async fn h2_client_against_us(seed: u64, config: Config) -> usize {
    let table = Table::shared();
    let (near, far) = Chunked::pair(seed);
    let (mut incoming, driver) = server::accept(far, config);
    let server_end = spawn_local(driver);
    spawn_local(async move {
        while let Some((request, responder)) = incoming.next().await {
            let baggage = request.baggage.expect("baggage").to_string();
            assert_eq!(baggage, BAGGAGE);
            let authority = request.authority.to_string();
            let plan = Plan::parse(authority.split(':').next().expect("a host"));
            let stream = responder.accept(&ConnectResponse::ok());
            spawn_local(ours(stream, plan, false, table));
        }
    });
    let (opener, connection) = h2::client::handshake(near).await.expect("handshake");
    let client_end = spawn_local(connection);
    let done = many(seed, |plan| {
        let opener = opener.clone();
        async move {
            let mut opener = opener.ready().await.expect("ready");
            let uri = http::Uri::builder()
                .authority(plan.authority().to_string())
                .build()
                .expect("a URI");
            let request = http::Request::builder()
                .header("baggage", BAGGAGE)
                .method(http::Method::CONNECT)
                .uri(uri)
                .body(());
            let (response, send) = opener
                .send_request(request.expect("a request"), false)
                .expect("send");
            let response = response.await.expect("a response");
            assert_eq!(response.status(), 200);
            theirs(send, response.into_body(), plan, true, table).await;
        }
    })
    .await;
    drop(opener);
    client_end.await.expect("no panic").expect("a graceful end");
    server_end.await.expect("no panic").expect("a graceful end");
    done
}

/// Runs to the end, unless no byte has been compared for `STALL`.
async fn unstalled<T>(run: impl Future<Output = T>) -> T {
    let mut run = std::pin::pin!(run);
    let mut before = CHECKED.load(Ordering::Relaxed);
    loop {
        if let Ok(done) = tokio::time::timeout(STALL, &mut run).await {
            return done;
        }
        let now = CHECKED.load(Ordering::Relaxed);
        assert_ne!(now, before, "no byte has come for {STALL:?}");
        before = now;
    }
}

#[tokio::test]
async fn our_client_and_the_h2_server_carry_every_byte() {
    let run = async {
        let done = our_client_against_h2(1, Config::client()).await;
        done + our_client_against_h2(2, small_windows(Config::client())).await
    };
    let done = LocalSet::new().run_until(unstalled(run)).await;
    println!(
        "{done} tunnels, {} bytes compared so far",
        CHECKED.load(Ordering::Relaxed)
    );
}

#[tokio::test]
async fn the_h2_client_and_our_server_carry_every_byte() {
    let run = async {
        let done = h2_client_against_us(3, Config::server()).await;
        done + h2_client_against_us(4, small_windows(Config::server())).await
    };
    let done = LocalSet::new().run_until(unstalled(run)).await;
    println!(
        "{done} tunnels, {} bytes compared so far",
        CHECKED.load(Ordering::Relaxed)
    );
}
