//! The CA client, the store and the gRPC channel against a real tonic server over TLS on loopback.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in unit tests only; a panic is the failure report here too"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_identity as identity;
use identity::ca::{Authority, CaClient, CaConfig, CaError};
use identity::certificate::parse_pem;
use identity::grpc::{GrpcConfig, RootSource, Token, channel};
use identity::tls::KeyExchange;
use identity::{Key, Priority, Store};
use testkit::ca::{Asked, TestCa};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;

const HOUR: Duration = Duration::from_secs(3600);

/// Serves `ca` over TLS with a certificate for `names`; connections can be cut.
struct Server {
    address: SocketAddr,
    tasks: tokio::task::JoinSet<()>,
}

async fn serve(ca: &TestCa, signed_by: &TestCa, names: &[&str], at: &str) -> Server {
    let pem = signed_by.issue_server(names);
    let chain = parse_pem(&pem.chain).unwrap();
    let key = Key::from_pem(&pem.key).unwrap();
    let roots = parse_pem(ca.roots_pem()).unwrap();
    let config = identity::tls::grpc_server_config(key, chain, &roots).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, connections) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut pumps = tokio::task::JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            // tonic serves a pipe; a TLS stream is not `Connected`.
            let (mut near, far) = tokio::io::duplex(64 << 10);
            pumps.spawn(async move {
                drop(tokio::io::copy_bidirectional(&mut tls, &mut near).await);
            });
            if sender.send(std::io::Result::Ok(far)).is_err() {
                return;
            }
        }
    });
    let router = tonic::transport::Server::builder().add_service(ca.service());
    let served = router.serve_with_incoming(UnboundedReceiverStream::new(connections));
    tasks.spawn(async move { drop(served.await) });
    Server { address, tasks }
}

fn config(address: SocketAddr, root: RootSource) -> GrpcConfig {
    GrpcConfig {
        address: format!("https://{address}"),
        root,
        alt_hostname: None,
        token: Token::Literal("secret".to_owned()),
        cluster_id: "Kubernetes".to_owned(),
        headers: Vec::new(),
        mark: None,
    }
}

fn client(config: GrpcConfig) -> CaClient {
    let settings = CaConfig {
        ttl: HOUR,
        key_exchange: KeyExchange::Standard,
        impersonate: true,
    };
    CaClient::new(channel(config).unwrap(), settings)
}

fn pem(ca: &TestCa) -> RootSource {
    RootSource::Pem(ca.roots_pem().to_owned())
}

#[tokio::test]
async fn asks_for_an_identity_with_token_cluster_and_life() {
    let ca = TestCa::new("td");
    let server = serve(&ca, &ca, &["127.0.0.1"], "127.0.0.1:0").await;
    let identity = ca.identity("ns", "a");
    let certificate = client(config(server.address, pem(&ca)))
        .issue(&identity)
        .await
        .unwrap();
    assert_eq!(*certificate.identity(), identity);
    assert_eq!(certificate.chain().len(), 2);
    let asked = Asked {
        identity: identity.to_string(),
        authorization: "Bearer secret".to_owned(),
        cluster: "Kubernetes".to_owned(),
        seconds: 3600,
    };
    assert_eq!(ca.asked(), [asked]);
}

#[tokio::test]
async fn refusals_and_failures_name_their_reason() {
    let ca = TestCa::new("td");
    let server = serve(&ca, &ca, &["127.0.0.1"], "127.0.0.1:0").await;
    let identity = ca.identity("ns", "a");
    let fail = async |config| {
        client(config)
            .issue(&identity)
            .await
            .unwrap_err()
            .to_string()
    };

    ca.refuse(&identity, true);
    let refused = fail(config(server.address, pem(&ca))).await;
    let want = "certificate authority: PermissionDenied: spiffe://td/ns/ns/sa/a is refused";
    assert_eq!(refused, want);

    let stranger = fail(config(server.address, pem(&TestCa::new("td")))).await;
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");

    let elsewhere = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = fail(config(elsewhere, pem(&ca))).await;
    assert!(
        nobody.contains(&format!("cannot connect to {elsewhere}")),
        "{nobody}"
    );
    assert!(nobody.contains("onnection refused"), "{nobody}");

    let missing = fail(config(
        server.address,
        RootSource::File("/nowhere/root.pem".into()),
    ))
    .await;
    assert!(
        missing.contains("roots from file /nowhere/root.pem: No such file"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_server_of_another_name_needs_the_alternative_name() {
    let ca = TestCa::new("td");
    let server = serve(&ca, &ca, &["istiod.example"], "127.0.0.1:0").await;
    let identity = ca.identity("ns", "a");
    let plain = config(server.address, pem(&ca));
    let error = client(plain.clone())
        .issue(&identity)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("not valid for name"), "{error}");
    for (alternative, good) in [("istiod.example", true), ("other.example", false)] {
        let config = GrpcConfig {
            alt_hostname: Some(alternative.to_owned()),
            ..plain.clone()
        };
        assert_eq!(
            client(config).issue(&identity).await.is_ok(),
            good,
            "{alternative}"
        );
    }
}

#[tokio::test]
async fn roots_are_read_again_when_the_connection_is_made_again() {
    let (old, new) = (TestCa::new("td"), TestCa::new("td"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root.pem");
    std::fs::write(&path, old.roots_pem()).unwrap();
    let mut server = serve(&old, &old, &["127.0.0.1"], "127.0.0.1:0").await;
    let client = client(config(server.address, RootSource::File(path.clone())));
    let identity = old.identity("ns", "a");
    client.issue(&identity).await.unwrap();

    // The control plane comes back at the same address with a certificate of a new root.
    server.tasks.shutdown().await;
    let address = server.address.to_string();
    let _server = serve(&old, &new, &["127.0.0.1"], &address).await;
    let mut refused = String::new();
    while !refused.contains("UnknownIssuer") {
        refused = client.issue(&identity).await.unwrap_err().to_string();
    }
    std::fs::write(&path, new.roots_pem()).unwrap();
    client.issue(&identity).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_does_not_hold_a_fetch_for_ever() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ca = TestCa::new("td");
    // The kernel accepts, nobody speaks TLS.
    let client = client(config(address, pem(&ca)));
    let error = client.issue(&ca.identity("ns", "a")).await.unwrap_err();
    assert!(
        error.to_string().contains("took longer than 5 s"),
        "{error}"
    );
}

#[tokio::test]
async fn the_store_serves_through_the_real_client_and_pairs_can_talk() {
    let ca = TestCa::new("td");
    let server = serve(&ca, &ca, &["127.0.0.1"], "127.0.0.1:0").await;
    let client = client(config(server.address, pem(&ca)));
    let (store, driver) = Store::new(Arc::new(client), |_| {});
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(driver.run(std::future::pending()));
    let mut certificates = Vec::new();
    for i in 0..20 {
        let identity = ca.identity("ns", &format!("a{i}"));
        certificates.push(
            store
                .certificate(&identity, Priority::RealTime)
                .await
                .unwrap(),
        );
    }

    let (a, b) = (certificates[0].clone(), certificates[1].clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = b.clone();
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(accepting.server_config())
            .accept(tcp)
            .await
            .unwrap()
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(a.client_config());
        connector
            .connect(identity::tls::server_name(), tcp)
            .await
            .unwrap()
    };
    let (accepted, dialled) = tokio::join!(accept, dial);
    let seen = identity::peer::peer_identity(accepted.get_ref().1.peer_certificates()).unwrap();
    assert_eq!(seen, *a.identity());
    let expected = [b.identity().clone()];
    identity::peer::expect(dialled.get_ref().1.peer_certificates(), &expected).unwrap();
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_taken() {
    /// Certifies one identity whoever asks.
    struct Confused(TestCa);

    #[tonic::async_trait]
    impl proto::ca::istio_certificate_service_server::IstioCertificateService for Confused {
        async fn create_certificate(
            &self,
            mut request: tonic::Request<proto::ca::IstioCertificateRequest>,
        ) -> Result<tonic::Response<proto::ca::IstioCertificateResponse>, tonic::Status> {
            let value = prost_types::Value {
                kind: Some(prost_types::value::Kind::StringValue(
                    "spiffe://td/ns/x/sa/y".into(),
                )),
            };
            let fields = [("ImpersonatedIdentity".to_owned(), value)].into();
            request.get_mut().metadata = Some(prost_types::Struct { fields });
            let chain = self.0.create_certificate(request).await?;
            Ok(chain)
        }
    }

    let ca = TestCa::new("td");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = proto::ca::istio_certificate_service_server::IstioCertificateServiceServer::new(
        Confused(ca.clone()),
    );
    let mut tasks = tokio::task::JoinSet::new();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let router = tonic::transport::Server::builder().add_service(service);
    tasks.spawn(async move { drop(router.serve_with_incoming(incoming).await) });
    // Plaintext, as on loopback.
    let config = GrpcConfig {
        address: format!("http://{address}"),
        ..config(address, pem(&ca))
    };
    let error = client(config)
        .issue(&ca.identity("ns", "a"))
        .await
        .unwrap_err();
    assert!(matches!(error, CaError::WrongIdentity { .. }));
    let want = "certificate authority: asked for spiffe://td/ns/ns/sa/a, \
                got a certificate of spiffe://td/ns/x/sa/y";
    assert_eq!(error.to_string(), want);
}
