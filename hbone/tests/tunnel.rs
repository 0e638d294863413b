//! The tokio driver against itself: tunnels, half-close, resets, refusals, drain, pool.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use causeway_hbone as hbone;
use hbone::headers::{Authority, Baggage, ConnectRequest, ConnectResponse};
use hbone::proto::{Config, Connection, ErrorCode};
use hbone::tokio::client::{self, Handle};
use hbone::tokio::pool::{CheckoutError, Limits, Pool};
use hbone::tokio::server::{self, Incoming};
use hbone::tokio::{Error, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

fn request() -> ConnectRequest {
    ConnectRequest::new("10.0.0.1:80".parse::<Authority>().expect("an authority"))
}

/// A connected pair whose drivers run on this thread.
fn pair(buffer: usize) -> (Handle, Incoming) {
    let (near, far) = tokio::io::duplex(buffer);
    let (handle, driver) = client::connect(near, Config::client());
    tokio::task::spawn_local(driver);
    let (incoming, driver) = server::accept(far, Config::server());
    tokio::task::spawn_local(driver);
    (handle, incoming)
}

/// Opens one tunnel on a pair.
async fn tunnel(handle: &Handle, incoming: &mut Incoming) -> (Stream, Stream) {
    let request = request();
    let serve = async {
        let (_, responder) = incoming.next().await.expect("a request");
        responder.accept(&ConnectResponse::ok())
    };
    let (client, server) = tokio::join!(handle.open(&request), serve);
    (client.expect("a tunnel").0, server)
}

async fn local<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(test).await
}

#[tokio::test]
async fn heads_cross_both_ways() {
    local(async {
        let (handle, mut incoming) = pair(1 << 16);
        let mut request = request();
        request.baggage = Some(Baggage::parse(
            "k8s.cluster.name=c1,k8s.namespace.name=ns,k8s.pod.name=p",
        ));
        request.others.push("x-extra", "1");
        let mut response = ConnectResponse::ok();
        response.baggage = Some(Baggage::parse("service.name=s"));
        let serve = async {
            let (head, responder) = incoming.next().await.expect("a request");
            (head, responder.accept(&response))
        };
        let (opened, (head, _server)) = tokio::join!(handle.open(&request), serve);
        assert_eq!(head, request);
        assert_eq!(opened.expect("a tunnel").1, response);
    })
    .await;
}

#[tokio::test]
async fn half_close_reaches_the_peer_and_the_other_half_lives_on() {
    local(async {
        let (handle, mut incoming) = pair(1 << 16);
        let (mut client, mut server) = tunnel(&handle, &mut incoming).await;
        client.write_all(b"ask").await.expect("write");
        client.shutdown().await.expect("shutdown");
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.expect("read");
        assert_eq!(asked, "ask");
        server.write_all(&vec![7; 200_000]).await.expect("write");
        server.shutdown().await.expect("shutdown");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("read");
        assert_eq!(answer, vec![7; 200_000]);
        assert_eq!(
            client.write(b"x").await.expect_err("closed").kind(),
            std::io::ErrorKind::BrokenPipe
        );
    })
    .await;
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_behind_the_bytes_before_it() {
    local(async {
        for code in [
            ErrorCode::CONNECT_ERROR,
            ErrorCode::CANCEL,
            ErrorCode::NO_ERROR,
        ] {
            let (handle, mut incoming) = pair(1 << 16);
            let (mut client, mut server) = tunnel(&handle, &mut incoming).await;
            client.write_all(b"part").await.expect("write");
            let mut part = [0; 4];
            server.read_exact(&mut part).await.expect("read");
            client.reset(code);
            let read = server.read(&mut part).await.map_err(|error| error.kind());
            assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset), "{code}");
        }
    })
    .await;
}

#[tokio::test]
async fn dropping_a_half_read_stream_resets_it() {
    local(async {
        let (handle, mut incoming) = pair(1 << 16);
        let (client, mut server) = tunnel(&handle, &mut incoming).await;
        drop(client);
        let read = server.read(&mut [0; 1]).await.map_err(|error| error.kind());
        assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset));
    })
    .await;
}

#[tokio::test]
async fn a_refusal_carries_its_status_and_an_unanswered_request_is_reset() {
    local(async {
        let (handle, mut incoming) = pair(1 << 16);
        let request = request();
        let refuse = async {
            let (_, responder) = incoming.next().await.expect("a request");
            responder.refuse(&ConnectResponse::status(401));
            let (_, responder) = incoming.next().await.expect("a request");
            drop(responder);
        };
        let ask = async {
            let refused = handle.open(&request).await;
            assert!(matches!(refused, Err(Error::Refused(response)) if response.status == 401));
            assert!(matches!(handle.open(&request).await, Err(Error::Reset(_))));
        };
        tokio::join!(refuse, ask);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_was_reset_before_anybody_took_it_is_withdrawn() {
    local(async {
        let (handle, mut incoming) = pair(1 << 16);
        let to = |port: u16| ConnectRequest::new(Authority::name("h", port).expect("an authority"));
        for _ in 0..300 {
            let given_up = to(1);
            tokio::select! {
                biased;
                opened = handle.open(&given_up) => panic!("{:?}", opened.err()),
                () = tokio::task::yield_now() => {}
            }
        }
        // The server has read all that when it answers.
        assert!(handle.ping().await);
        let kept = to(2);
        let next = async {
            let (head, responder) = incoming.next().await.expect("a request");
            assert_eq!(head.authority, kept.authority);
            responder.accept(&ConnectResponse::ok())
        };
        let (opened, _server) = tokio::join!(handle.open(&kept), next);
        opened.expect("a tunnel");
    })
    .await;
}

#[tokio::test]
async fn streams_that_the_peer_resets_count_until_their_user_lets_go() {
    local(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (handle, driver) = client::connect(near, Config::client());
        tokio::task::spawn_local(driver);
        let config = Config {
            max_concurrent_streams: 2,
            ..Config::server()
        };
        let (mut incoming, driver) = server::accept(far, config);
        tokio::task::spawn_local(driver);
        let mut held = Vec::new();
        for _ in 0..4 {
            let (client, server) = tunnel(&handle, &mut incoming).await;
            held.push(server);
            drop(client);
        }
        let refused = handle.open(&request()).await;
        assert!(matches!(
            refused,
            Err(Error::Reset(ErrorCode::REFUSED_STREAM))
        ));
        held.clear();
        tunnel(&handle, &mut incoming).await;
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_holds_its_writer_and_not_its_neighbour() {
    local(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (handle, driver) = client::connect(near, Config::client());
        tokio::task::spawn_local(driver);
        let (mut incoming, driver) = server::accept(
            far,
            Config {
                stream_window: 100_000,
                ..Config::server()
            },
        );
        tokio::task::spawn_local(driver);
        let (mut stuck, mut slow) = tunnel(&handle, &mut incoming).await;
        let (mut client, mut server) = tunnel(&handle, &mut incoming).await;
        let writer = tokio::task::spawn_local(async move {
            stuck.write_all(&vec![1; 1_000_000]).await.expect("write");
            stuck.shutdown().await.expect("shutdown");
            stuck
        });
        let mut part = vec![2; 10_000];
        for _ in 0..100 {
            client.write_all(&part).await.expect("write");
            server.read_exact(&mut part).await.expect("read");
        }
        assert!(!writer.is_finished());
        let mut all = Vec::new();
        slow.read_to_end(&mut all).await.expect("read");
        assert_eq!(all, vec![1; 1_000_000]);
        writer.await.expect("the writer ends");
    })
    .await;
}

#[tokio::test]
async fn drain_lets_streams_finish_and_then_ends_both_drivers() {
    local(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (handle, driver) = client::connect(near, Config::client());
        let client_end = tokio::task::spawn_local(driver);
        let (mut incoming, driver) = server::accept(far, Config::server());
        let server_end = tokio::task::spawn_local(driver);
        let (mut client, mut server) = tunnel(&handle, &mut incoming).await;
        incoming.drainer().drain();
        client.write_all(b"late").await.expect("write");
        server.read_exact(&mut [0; 4]).await.expect("read");
        server.write_all(b"more").await.expect("write");
        client.read_exact(&mut [0; 4]).await.expect("read");
        assert!(!handle.is_open());
        assert!(matches!(
            handle.open(&request()).await,
            Err(Error::NotOpened(_))
        ));
        client.shutdown().await.expect("shutdown");
        server.shutdown().await.expect("shutdown");
        assert_eq!(client.read(&mut [0; 1]).await.expect("read"), 0);
        drop((client, server, handle));
        assert!(incoming.next().await.is_none());
        client_end.await.expect("no panic").expect("a graceful end");
        server_end.await.expect("no panic").expect("a graceful end");
    })
    .await;
}

#[tokio::test]
async fn a_cut_carrier_resets_streams_and_fails_opens() {
    local(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (handle, driver) = client::connect(near, Config::client());
        tokio::task::spawn_local(driver);
        let (mut incoming, driver) = server::accept(far, Config::server());
        let server_driver = tokio::task::spawn_local(driver);
        let (mut client, _server) = tunnel(&handle, &mut incoming).await;
        assert!(handle.ping().await);
        server_driver.abort();
        let read = client.read(&mut [0; 1]).await.map_err(|error| error.kind());
        assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset));
        assert!(!handle.ping().await);
        assert!(matches!(handle.open(&request()).await, Err(Error::Closed)));
    })
    .await;
}

/// Dials a server that holds its tunnels open.
#[tokio::test]
async fn what_arrived_before_the_carrier_broke_is_delivered() {
    local(async {
        let (mut peer, ours) = tokio::io::duplex(1 << 20);
        let mut h2 = Connection::client(Config::client());
        let stream = h2.open(&request()).expect("a stream");
        let mut bytes = std::mem::take(h2.output());
        let payload = vec![7; 10_000];
        bytes.extend(h2.data_header(stream, payload.len(), true));
        bytes.extend(&payload);
        peer.write_all(&bytes).await.expect("room");
        // From here on our writes fail, and nothing of what was sent is read yet.
        drop(peer);
        let (mut incoming, driver) = server::accept(ours, Config::server());
        let driver = tokio::task::spawn_local(driver);
        let (_, responder) = incoming.next().await.expect("the request");
        let mut stream = responder.accept(&ConnectResponse::ok());
        let mut arrived = Vec::new();
        stream.read_to_end(&mut arrived).await.expect("its end");
        assert_eq!(arrived, payload);
        assert!(driver.await.expect("no panic").is_err(), "our half is lost");
    })
    .await;
}

fn dialled(dials: &AtomicUsize) -> Handle {
    dials.fetch_add(1, Ordering::Relaxed);
    let (handle, mut incoming) = pair(1 << 16);
    tokio::task::spawn_local(async move {
        let mut open = Vec::new();
        while let Some((_, responder)) = incoming.next().await {
            open.push(responder.accept(&ConnectResponse::ok()));
        }
    });
    handle
}

#[tokio::test]
async fn the_pool_dials_once_for_many_and_again_at_the_cap() {
    local(async {
        let dials = AtomicUsize::new(0);
        let pool: Pool<&str, ()> = Pool::new(Limits {
            streams_per_connection: 3,
            ..Limits::default()
        });
        let now = Instant::now();
        let request = request();
        let open = || async {
            let dial = || async {
                tokio::task::yield_now().await;
                Ok(dialled(&dials))
            };
            let permit = pool.checkout(&"a", now, dial).await.expect("a permit");
            permit.open(&request).await.expect("a tunnel").0
        };
        let three = tokio::join!(open(), open(), open());
        assert_eq!((dials.load(Ordering::Relaxed), pool.len()), (1, 1));
        let fourth = open().await;
        assert_eq!((dials.load(Ordering::Relaxed), pool.len()), (2, 2));
        drop((three, fourth));
        pool.sweep(now + Duration::from_secs(299));
        assert_eq!(pool.len(), 2);
        pool.sweep(now + Duration::from_secs(301));
        assert!(pool.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_failed_dial_fails_all_who_waited_and_an_abandoned_one_passes_the_turn_on() {
    local(async {
        let pool: Pool<&str, &str> = Pool::new(Limits::default());
        let now = Instant::now();
        let fail = || async {
            tokio::task::yield_now().await;
            Err("refused")
        };
        let never = || async { panic!("only one dials") };
        let (first, second) = tokio::join!(
            pool.checkout(&"a", now, fail),
            pool.checkout(&"a", now, never)
        );
        assert!(matches!(first, Err(CheckoutError::Dial(error)) if *error == "refused"));
        assert!(matches!(second, Err(CheckoutError::Dial(error)) if *error == "refused"));

        let dials = AtomicUsize::new(0);
        let abandoned = pool.checkout(&"a", now, std::future::pending);
        let dial = || async { Ok(dialled(&dials)) };
        let next = pool.checkout(&"a", now, dial);
        tokio::pin!(next);
        tokio::select! {
            biased;
            _ = abandoned => panic!("it never ends"),
            _ = &mut next => panic!("somebody else dials"),
            () = tokio::task::yield_now() => {}
        }
        assert!(next.await.is_ok());
        assert_eq!(dials.load(Ordering::Relaxed), 1);
    })
    .await;
}

#[tokio::test]
async fn a_dial_under_way_is_not_kept_when_its_key_is_released() {
    local(async {
        let dials = AtomicUsize::new(0);
        let pool: Pool<&str, ()> = Pool::new(Limits::default());
        let now = Instant::now();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let dial = || async {
            wait.await.expect("told to go on");
            Ok(dialled(&dials))
        };
        let release = async {
            pool.release(|_| true);
            go.send(()).expect("the dial waits");
        };
        let (permit, ()) = tokio::join!(pool.checkout(&"a", now, dial), release);
        let request = request();
        let opened = permit.expect("a permit").open(&request).await;
        opened.expect("a tunnel");
        assert!(pool.is_empty());
    })
    .await;
}
