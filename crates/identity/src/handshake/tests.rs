//! Handshakes over in-memory pipes: the peer, the refusals, the deadline.

use std::time::SystemTime;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::issue::Issuer;
use crate::key::Key;
use crate::tls::KeyExchange;

const DEADLINE: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

fn identity(trust_domain: &str, account: &str) -> Identity {
    Identity::new(trust_domain, "ns", account).unwrap()
}

fn issuer() -> Issuer {
    Issuer::new_root("td", SystemTime::now() - HOUR, 100 * HOUR).unwrap()
}

fn certificate(issuer: &Issuer, identity: &Identity) -> Certificate {
    let key = Key::generate().unwrap();
    let chain = issuer
        .sign_key(&key, identity, SystemTime::now() - HOUR, 2 * HOUR)
        .unwrap();
    Certificate::from_chain(key, &chain, KeyExchange::Standard).unwrap()
}

#[tokio::test]
async fn both_ends_know_each_other_and_bytes_flow() {
    let issuer = issuer();
    let (a, b) = (identity("td", "a"), identity("td", "b"));
    let (client, server) = (certificate(&issuer, &a), certificate(&issuer, &b));
    let (near, far) = duplex(1024);
    let expected = [b.clone()];
    let (dialled, accepted) = tokio::join!(
        connect(near, &client, &expected, DEADLINE),
        accept(far, &server, DEADLINE)
    );
    let ((mut dialled, seen_b), (mut accepted, seen_a)) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!((seen_a, seen_b), (a, b));
    dialled.write_all(b"hello").await.unwrap();
    let mut read = [0; 5];
    accepted.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello");
}

#[tokio::test]
async fn an_unexpected_peer_is_left_before_a_byte_is_sent() {
    let issuer = issuer();
    let client = certificate(&issuer, &identity("td", "a"));
    let server = certificate(&issuer, &identity("td", "b"));
    let (near, far) = duplex(1024);
    let expected = [identity("td", "c")];
    let (dialled, accepted) = tokio::join!(
        connect(near, &client, &expected, DEADLINE),
        accept(far, &server, DEADLINE)
    );
    let want = "peer is spiffe://td/ns/ns/sa/b, expected spiffe://td/ns/ns/sa/c";
    assert_eq!(dialled.map(|_| ()).unwrap_err().to_string(), want);
    let mut read = Vec::new();
    let end = accepted.unwrap().0.read_to_end(&mut read).await;
    assert!(end.is_err() && read.is_empty(), "{end:?}");
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_named() {
    let issuer = issuer();
    let client = certificate(&issuer, &identity("there", "a"));
    let server = certificate(&issuer, &identity("here", "b"));
    let (near, far) = duplex(16384);
    let expected = [server.identity().clone()];
    let (_, accepted) = tokio::join!(
        connect(near, &client, &expected, DEADLINE),
        accept(far, &server, DEADLINE)
    );
    let want = "peer spiffe://there/ns/ns/sa/a is of another trust domain, ours is here";
    assert_eq!(accepted.map(|_| ()).unwrap_err().to_string(), want);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_ends_with_the_deadline_on_both_sides() {
    let own = certificate(&issuer(), &identity("td", "a"));
    let (near, _held) = duplex(16384);
    let error = accept(near, &own, DEADLINE).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "TLS handshake took longer than 5000 ms");
    let (near, _held) = duplex(16384);
    let error = connect(near, &own, &[], DEADLINE)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), "TLS handshake took longer than 5000 ms");
}

#[tokio::test]
async fn what_is_not_tls_and_what_breaks_off_are_told_apart() {
    let own = certificate(&issuer(), &identity("td", "a"));
    let (near, mut far) = duplex(16384);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = accept(near, &own, DEADLINE).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, HandshakeError::Tls(_)), "{error}");
    let (near, far) = duplex(16384);
    drop(far);
    let error = accept(near, &own, DEADLINE).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, HandshakeError::Io(_)), "{error}");
}
