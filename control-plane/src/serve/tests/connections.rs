//! How long a connection may stay.

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
};

use super::*;

/// TLS to the port, and then nothing.
async fn silent(plane: &Plane) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(plane.address).await.unwrap();
    shaken(plane, stream).await.unwrap()
}

async fn shaken(
    plane: &Plane,
    stream: TcpStream,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for root in parse_pem(plane.issuer.roots_pem()).unwrap() {
        roots.add(root).unwrap();
    }
    let mut config = rustls::ClientConfig::builder_with_provider(provider(KeyExchange::Standard))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = "localhost".try_into().unwrap();
    connector.connect(name, stream).await
}

#[tokio::test]
async fn an_address_that_proves_nothing_leaves_room_for_others() {
    let plane = plane().await;
    let mut held = Vec::new();
    // In half of them a handshake is made, in the others not a byte is sent.
    for _ in 0..16 {
        held.push(silent(&plane).await.into_inner().0);
        held.push(TcpStream::connect(plane.address).await.unwrap());
    }
    let more = TcpStream::connect(plane.address).await.unwrap();
    assert!(shaken(&plane, more).await.is_err());
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = elsewhere.connect(plane.address).await.unwrap();
    shaken(&plane, other).await.unwrap();
    drop(held);
    // When it is noticed that they are gone is not told.
    loop {
        let again = TcpStream::connect(plane.address).await.unwrap();
        if shaken(&plane, again).await.is_ok() {
            break;
        }
    }
    plane.shutdown.force();
}

#[tokio::test]
async fn a_connection_on_which_nobody_proves_who_he_is_ends() {
    let plane = plane().await;
    let mut stream = silent(&plane).await;
    // From here on the clock jumps to the next timer whenever nothing else is left to do.
    tokio::time::pause();
    let ended = async {
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).await.unwrap_or(0) > 0 {}
    };
    let in_time = tokio::time::timeout(Duration::from_secs(15), ended).await;
    assert!(in_time.is_ok(), "it is still open");
    plane.shutdown.force();
}

#[tokio::test]
async fn a_call_with_good_credentials_makes_a_connection_last() {
    let mut plane = plane().await;
    let types = [type_url::ADDRESS];
    let mut subscriber = Subscriber::new(plane.token("zt1"), ztunnel(), &types)
        .await
        .unwrap();
    let push = subscriber.next().await;
    subscriber.answer(&push, None).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(15)).await;
    plane.edit("{apiVersion: v1, kind: Service, metadata: {name: more, namespace: app}, spec: {clusterIP: 10.1.0.7, ports: [{port: 80}]}}");
    let push = subscriber.next().await;
    assert_eq!(names(&push), ["app/more.app.svc.cluster.local"]);
    plane.shutdown.force();
}
