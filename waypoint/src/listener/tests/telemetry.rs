//! What is counted and logged: while connections live, and whatever peers say of themselves.

use super::world::{Changes, ECHO_VIP, World};
use tokio::io::AsyncWriteExt;

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
