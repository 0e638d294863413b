//! Who gets a certificate of whom, and who is let in at all.

use super::*;

#[tokio::test]
async fn a_node_proxy_gets_certificates_of_its_node_only() {
    let plane = plane().await;
    let echo = "spiffe://cluster.local/ns/app/sa/echo";
    let certificate = plane.certificate("zt1", echo, true).await.unwrap();
    assert_eq!(certificate.identity().to_string(), echo);
    let life = certificate
        .not_after()
        .duration_since(std::time::SystemTime::now())
        .unwrap();
    assert!(life <= Duration::from_secs(7200), "{life:?}");
    let refusal = plane
        .certificate("zt2", echo, true)
        .await
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("PermissionDenied"), "{refusal}");
    assert!(
        refusal.contains("no pod of it is on node node2"),
        "{refusal}"
    );
    plane.shutdown.force();
}

#[tokio::test]
async fn others_get_their_own_certificate_and_nobody_elses() {
    let plane = plane().await;
    let own = "spiffe://cluster.local/ns/app/sa/wp";
    assert_eq!(
        plane
            .certificate("wp", own, false)
            .await
            .unwrap()
            .identity()
            .to_string(),
        own
    );
    let echo = "spiffe://cluster.local/ns/app/sa/echo";
    let refusal = plane
        .certificate("wp", echo, true)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("it is no node proxy (CA_TRUSTED_NODE_ACCOUNTS)"),
        "{refusal}"
    );
    plane.shutdown.force();
}

#[tokio::test]
async fn nobody_is_served_without_credentials() {
    let plane = plane().await;
    for (channel, text) in [
        (
            plane.channel(Token::None),
            "neither a token nor a client certificate was shown",
        ),
        (plane.token("wrong"), "the bearer token is not known"),
    ] {
        let refused = Subscriber::new(channel, ztunnel(), &[type_url::ADDRESS])
            .await
            .err()
            .unwrap();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unauthenticated, text)
        );
    }
    plane.shutdown.force();
}

/// A channel that proves itself by a certificate of this issuer.
fn certified(
    address: SocketAddr,
    trusted: &Issuer,
    issuer: &Issuer,
    who: &str,
) -> tonic::transport::Channel {
    let key = identity::Key::generate().unwrap();
    let now = std::time::SystemTime::now() - Duration::from_secs(5);
    let chain = issuer
        .sign_key(&key, &who.parse().unwrap(), now, Duration::from_secs(60))
        .unwrap();
    let chain = parse_pem(&chain[..chain.len() - 1].concat()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    parse_pem(trusted.roots_pem())
        .unwrap()
        .into_iter()
        .for_each(|root| roots.add(root).unwrap());
    let certified = rustls::sign::CertifiedKey::new(chain, Arc::new(key));
    let mut config = rustls::ClientConfig::builder_with_provider(provider(KeyExchange::Standard))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let dial = tower::service_fn(move |_: tonic::transport::Uri| {
        let connector = connector.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let stream = connector
                .connect("localhost".try_into().unwrap(), stream)
                .await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(dial)
}

async fn own_certificate(channel: tonic::transport::Channel) -> Result<String, Status> {
    let key = identity::Key::generate().unwrap();
    // Whatever name the request asks for, the caller gets its own.
    let csr = key
        .csr(&"spiffe://cluster.local/ns/app/sa/other".parse().unwrap())
        .unwrap();
    let request = proto::ca::IstioCertificateRequest {
        csr,
        ..Default::default()
    };
    let mut client =
        proto::ca::istio_certificate_service_client::IstioCertificateServiceClient::new(channel);
    let chain = client
        .create_certificate(request)
        .await?
        .into_inner()
        .cert_chain;
    let leaf = parse_pem(&chain[0]).unwrap().swap_remove(0);
    Ok(identity::peer::leaf_identity(&leaf).unwrap().to_string())
}

#[tokio::test]
async fn a_client_certificate_is_as_good_as_a_token() {
    let plane = plane().await;
    let who = "spiffe://cluster.local/ns/app/sa/wp";
    let channel = certified(plane.address, &plane.issuer, &plane.issuer, who);
    assert_eq!(own_certificate(channel).await.unwrap(), who);
    plane.shutdown.force();
}

#[tokio::test]
async fn foreign_and_odd_client_certificates_are_refused() {
    let plane = plane().await;
    let now = std::time::SystemTime::now() - Duration::from_secs(60);
    let foreign = Issuer::new_root("cluster.local", now, Duration::from_secs(600)).unwrap();
    let who = "spiffe://cluster.local/ns/app/sa/wp";
    let channel = certified(plane.address, &plane.issuer, &foreign, who);
    assert!(
        own_certificate(channel).await.is_err(),
        "signed by somebody else"
    );
    let channel = certified(
        plane.address,
        &plane.issuer,
        &plane.issuer,
        "spiffe://other.td/ns/app/sa/wp",
    );
    let refused = own_certificate(channel).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "spiffe://other.td/ns/app/sa/wp is not of trust domain cluster.local"
    );
    plane.shutdown.force();
}

#[tokio::test]
async fn a_rotated_root_signs_at_once_and_the_old_one_is_accepted_while_it_is_trusted() {
    let plane = plane().await;
    let who = "spiffe://cluster.local/ns/app/sa/wp";
    let now = std::time::SystemTime::now() - Duration::from_secs(60);
    let next = Issuer::new_root("cluster.local", now, Duration::from_secs(3600)).unwrap();
    let both = [plane.issuer.roots_pem(), next.roots_pem()].concat();
    let files = identity::issue::CaFiles {
        certificate: next.roots_pem(),
        key: &next.key_pem().unwrap(),
        chain: "",
        root: &both,
    };
    let next = Issuer::from_pem(&files).unwrap();
    let old = certified(plane.address, &plane.issuer, &plane.issuer, who);
    assert_eq!(own_certificate(old).await.unwrap(), who);
    plane
        .rotate
        .send_replace(Arc::new(Issuer::from_pem(&files).unwrap()));
    // The server's own certificate is of the new root now, so a client must trust both; its own may be of the old one.
    let trusting = certified(plane.address, &next, &plane.issuer, who);
    assert_eq!(own_certificate(trusting).await.unwrap(), who);
    let behind = certified(plane.address, &plane.issuer, &plane.issuer, who);
    assert!(own_certificate(behind).await.is_err());
    plane.shutdown.force();
}
