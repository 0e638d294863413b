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

mod certificates;
mod connections;
mod streams;

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
    rotate: tokio::sync::watch::Sender<Arc<Issuer>>,
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
    let (rotate, issuers) = tokio::sync::watch::channel(issuer.clone());
    let grants = Grants {
        node_accounts: vec![("istio-system".into(), "ztunnel".into())],
        default_ttl: Duration::from_secs(3600),
        max_ttl: Duration::from_secs(86_400),
    };
    let parts = Parts {
        views: follower.views(),
        authenticator: Authenticator::new(
            authenticate::Tokens::File(Arc::new(dir.path().join("tokens"))),
            "cluster.local",
        ),
        authority: Authority::new(issuers.clone(), grants, follower.views(), &registry),
        tls: ServerTls::new(
            issuers.clone(),
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
        rotate,
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
