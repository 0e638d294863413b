//! What callers see of a drain that lingers.

use super::world::{Changes, ECHO_VIP, World, answer, get};
use hyper_util::rt::TokioIo;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3600);

async fn lingering(linger: Duration) -> World {
    let changes = Changes {
        linger,
        ..Changes::default()
    };
    World::new(changes).await
}

#[tokio::test]
async fn new_connections_are_served_while_a_drain_lingers_and_refused_after() {
    let world = lingering(LONG).await;
    world.proxy.shutdown.drain();
    assert_eq!(world.send(get("/", &[])).await.status, 200);

    let world = lingering(Duration::ZERO).await;
    world.proxy.shutdown.drain();
    world.proxy.shutdown.closed().await;
    let refused = world.tunnel_as(&world.client(), ECHO_VIP).await;
    let error = refused.unwrap_err();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn an_idle_http1_connection_outlives_the_begin_of_a_drain_and_ends_with_its_next_answer() {
    let world = lingering(LONG).await;
    let stream = world.tunnel(ECHO_VIP).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let ended = world.proxy.shutdown.spawn_aside(connection);
    let first = answer(sender.send_request(get("/", &[])).await.unwrap()).await;
    assert_eq!((first.status, first.headers.get("connection")), (200, None));
    world.proxy.shutdown.drain();
    sender.ready().await.unwrap();
    let last = answer(sender.send_request(get("/", &[])).await.unwrap()).await;
    assert_eq!(last.status, 200);
    assert_eq!(last.headers["connection"], "close");
    ended.await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_http1_connection_is_closed_when_the_drain_has_lingered() {
    let world = lingering(Duration::ZERO).await;
    let stream = world.tunnel(ECHO_VIP).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let ended = world.proxy.shutdown.spawn_aside(connection);
    let first = answer(sender.send_request(get("/", &[])).await.unwrap()).await;
    assert_eq!(first.status, 200);
    world.proxy.shutdown.drain();
    ended.await.unwrap().unwrap().unwrap();
}
