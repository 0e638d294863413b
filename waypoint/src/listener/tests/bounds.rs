//! Deadlines and sizes that a client meets, and what one peer may hold.

use super::open;
use super::world::{Changes, World, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
