//! The port as its clients see it: real TLS, real gRPC, manifests in memory.

use identity::{
    Identity,
    ca::{Authority as _, CaClient, CaConfig, CaError},
    certificate::{Certificate, parse_pem},
    grpc::{GrpcChannel, GrpcConfig, RootSource, Token, channel},
    issue::Issuer,
    tls::{KeyExchange, provider},
};
use objects::{Change, Event};
use prost_types::{Struct, Value, value::Kind};
use proto::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    type_url,
};
use runtime::metrics::Registry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{authority::Grants, *};
use crate::{follow::Follower, translate::Mesh};

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: app, labels: {app: echo}}
spec: {nodeName: node1, serviceAccountName: echo}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: wp, namespace: app, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {nodeName: node2, serviceAccountName: wp}
status: {podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: app}
spec: {clusterIP: 10.1.0.1, selector: {app: echo}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: wp, namespace: app}
spec: {clusterIP: 10.1.0.2, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{port: 15008, name: mesh}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: app}
spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";
const TOKENS: &str =
    "zt1 istio-system/ztunnel node=node1\nzt2 istio-system/ztunnel node=node2\nwp app/wp\n";

struct Plane {
    follower: Follower,
    status: Arc<crate::status::Status>,
    address: SocketAddr,
    issuer: Arc<Issuer>,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

async fn plane() -> Plane {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokens"), TOKENS).unwrap();
    let registry = Registry::new();
    let status = Arc::new(crate::status::Status::new(&registry));
    let mut follower = Follower::new(Mesh::default(), status.clone());
    let objects = objects::parse(MANIFESTS)
        .results
        .into_iter()
        .map(|result| result.unwrap());
    follower.take(Event::Snapshot {
        objects: objects.collect(),
        faults: Arc::new([]),
    });
    let issuer =
        Arc::new(root::open(dir.path(), "cluster.local", std::time::SystemTime::now()).unwrap());
    let grants = Grants {
        node_accounts: vec![("istio-system".into(), "ztunnel".into())],
        default_ttl: Duration::from_secs(3600),
        max_ttl: Duration::from_secs(86_400),
    };
    let parts = Parts {
        views: follower.views(),
        authenticator: Authenticator::new(Some(dir.path().join("tokens")), "cluster.local"),
        authority: Authority::new(issuer.clone(), grants, follower.views(), &registry),
        tls: ServerTls::new(
            issuer.clone(),
            vec!["localhost".into(), "istiod.istio-system.svc".into()],
        )
        .unwrap(),
    };
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    serve(listener, parts, &shutdown);
    Plane {
        follower,
        status,
        address,
        issuer,
        shutdown,
        _dir: dir,
    }
}

impl Plane {
    fn channel(&self, token: Token) -> GrpcChannel {
        channel(GrpcConfig {
            address: format!("https://localhost:{}", self.address.port()),
            root: RootSource::Pem(self.issuer.roots_pem().to_owned()),
            alt_hostname: None,
            token,
            cluster_id: "Kubernetes".into(),
            headers: Vec::new(),
            mark: None,
        })
        .unwrap()
    }

    fn token(&self, token: &str) -> GrpcChannel {
        self.channel(Token::Literal(token.into()))
    }

    async fn certificate(
        &self,
        token: &str,
        of: &str,
        impersonate: bool,
    ) -> Result<Certificate, CaError> {
        let ttl = Duration::from_secs(7200);
        let config = CaConfig {
            ttl,
            key_exchange: KeyExchange::Standard,
            impersonate,
        };
        CaClient::new(self.token(token), config)
            .issue(&of.parse::<Identity>().unwrap())
            .await
    }

    fn edit(&mut self, text: &str) {
        let upsert =
            |result: Result<objects::Object, objects::Fault>| Change::Upsert(result.unwrap());
        let changes = objects::parse(text)
            .results
            .into_iter()
            .map(upsert)
            .collect();
        self.follower.take(Event::Changes {
            changes,
            faults: Arc::new([]),
        });
    }
}

/// A subscriber's stream.
struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pushes: Streaming<DeltaDiscoveryResponse>,
}

impl Subscriber {
    async fn new(channel: GrpcChannel, node: Node, types: &[&str]) -> Result<Subscriber, Status> {
        let (requests, receiver) = mpsc::channel(16);
        for (i, url) in types.iter().enumerate() {
            let node = (i == 0).then(|| node.clone());
            let request = DeltaDiscoveryRequest {
                node,
                type_url: (*url).into(),
                ..Default::default()
            };
            requests.send(request).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let pushes = client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Subscriber { requests, pushes })
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.pushes.message().await.unwrap().expect("a push")
    }

    async fn answer(&self, push: &DeltaDiscoveryResponse, error: Option<&str>) {
        let error_detail = error.map(|message| proto::discovery::Status {
            message: message.into(),
            ..Default::default()
        });
        let request = DeltaDiscoveryRequest {
            type_url: push.type_url.clone(),
            response_nonce: push.nonce.clone(),
            error_detail,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }
}

fn names(push: &DeltaDiscoveryResponse) -> Vec<&str> {
    push.resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

fn ztunnel() -> Node {
    Node {
        id: "ztunnel~1.1.1.1~zt.istio-system~istio-system.svc.cluster.local".into(),
        ..Node::default()
    }
}

fn waypoint(namespace: &str) -> Node {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    let labels = Struct {
        fields: [(
            "gateway.networking.k8s.io/gateway-name".to_owned(),
            text("wp"),
        )]
        .into(),
    };
    let labels = Value {
        kind: Some(Kind::StructValue(labels)),
    };
    let fields = [
        ("NAMESPACE".to_owned(), text(namespace)),
        ("LABELS".to_owned(), labels),
    ]
    .into();
    Node {
        id: format!("waypoint~10.0.0.2~wp.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}

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
async fn a_ztunnel_sees_everything_and_follows_edits() {
    let mut plane = plane().await;
    let types = [type_url::ADDRESS, type_url::AUTHORIZATION];
    let mut subscriber = Subscriber::new(plane.token("zt1"), ztunnel(), &types)
        .await
        .unwrap();
    let first = subscriber.next().await;
    assert_eq!(first.type_url, type_url::ADDRESS);
    assert_eq!(
        names(&first),
        [
            "Kubernetes//Pod/app/echo",
            "Kubernetes//Pod/app/wp",
            "app/echo.app.svc.cluster.local",
            "app/wp.app.svc.cluster.local"
        ]
    );
    subscriber.answer(&first, None).await;
    let policies = subscriber.next().await;
    assert_eq!(
        (policies.type_url.as_str(), policies.resources.len()),
        (type_url::AUTHORIZATION, 0)
    );
    subscriber.answer(&policies, None).await;
    plane.edit("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: none, namespace: app}, spec: {}}");
    let push = subscriber.next().await;
    assert_eq!(
        (push.type_url.as_str(), names(&push)),
        (type_url::AUTHORIZATION, vec!["app/none"])
    );
    subscriber.answer(&push, Some("app/none: no thanks")).await;
    plane.edit("{apiVersion: v1, kind: Pod, metadata: {name: echo, namespace: app, labels: {app: echo}}, spec: {nodeName: node2, serviceAccountName: echo}, status: {podIPs: [{ip: 10.0.0.1}]}}");
    let push = subscriber.next().await;
    assert_eq!(
        names(&push),
        ["Kubernetes//Pod/app/echo"],
        "only what changed"
    );
    let status = plane.status.to_json();
    assert!(status.contains("app/none: no thanks"), "{status}");
    plane.shutdown.force();
}

#[tokio::test]
async fn a_waypoint_sees_its_own_configuration() {
    let mut plane = plane().await;
    let types = [type_url::CLUSTER, type_url::LISTENER];
    let mut subscriber = Subscriber::new(plane.token("wp"), waypoint("app"), &types)
        .await
        .unwrap();
    let clusters = subscriber.next().await;
    assert_eq!(clusters.type_url, type_url::CLUSTER);
    assert!(
        names(&clusters).contains(&"inbound-vip|80|http|echo.app.svc.cluster.local"),
        "{:?}",
        names(&clusters)
    );
    subscriber.answer(&clusters, None).await;
    let listeners = subscriber.next().await;
    assert_eq!(
        names(&listeners),
        [
            "connect_originate",
            "connect_terminate",
            "inner_connect_originate",
            "main_internal",
            "outer_connect_originate"
        ]
    );
    subscriber.answer(&listeners, None).await;
    plane.edit("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: none, namespace: app}, spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]}}");
    assert_eq!(
        names(&subscriber.next().await),
        ["main_internal"],
        "only what changed"
    );
    plane.shutdown.force();
}

#[tokio::test]
async fn a_waypoint_of_another_namespace_is_refused() {
    let plane = plane().await;
    let mut subscriber =
        Subscriber::new(plane.token("wp"), waypoint("other"), &[type_url::CLUSTER])
            .await
            .unwrap();
    let refused = subscriber.pushes.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "node metadata says namespace other, but the caller is spiffe://cluster.local/ns/app/sa/wp"
    );
    plane.shutdown.force();
}

#[tokio::test]
async fn streams_end_when_drained() {
    let plane = plane().await;
    let mut subscriber = Subscriber::new(plane.token("zt1"), ztunnel(), &[type_url::ADDRESS])
        .await
        .unwrap();
    subscriber.next().await;
    plane.shutdown.drain();
    let ended = subscriber.pushes.message().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Unavailable, "the control plane is stopping")
    );
}
