//! The authority's Secret, the tokens of service accounts, and who gets whose certificate.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use control_plane::{
    ca::{
        Issuers,
        publish::{CONFIG_MAP, FIELD, publish},
        rotation::Plan,
        vault::{Place, ROTATE, Vault},
    },
    follow::Follower,
    serve::{
        self, Parts,
        authenticate::{Authenticator, Tokens},
        authority::{Authority, Grants},
        review::Review,
        tls::ServerTls,
    },
    status::Status,
    translate::Mesh,
};
use identity::{
    Identity,
    ca::{Authority as _, CaClient, CaConfig, CaError},
    certificate::Certificate,
    grpc::{GrpcConfig, RootSource, Token, channel},
    tls::KeyExchange,
};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Secret, ServiceAccount},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use kubernetes::{Wanted, Watch};
use objects::{Kind, Source as _};
use runtime::{Shutdown, metrics::Registry};
use serde_json::json;
use tokio::sync::watch;

use crate::world::{LIMIT, World, run};

fn place(namespace: &str) -> Place {
    let hour = Duration::from_secs(3600);
    Place {
        namespace: namespace.into(),
        secret: "causeway-ca".into(),
        trust_domain: "cluster.local".into(),
        plan: Plan {
            overlap: hour,
            life: hour * 1000,
        },
    }
}

async fn three(world: &World, namespace: &str) -> [Vault; 3] {
    let open = || async {
        Vault::open(world.client.clone(), place(namespace))
            .await
            .expect("an authority")
    };
    let (a, b, c) = tokio::join!(open(), open(), open());
    [a, b, c]
}

fn roots(vault: &Vault) -> String {
    vault.issuers().borrow().roots_pem().to_owned()
}

#[test]
fn three_replicas_that_start_at_once_share_one_root_and_rotate_it_once() {
    run(async |world| {
        world.namespace("ca", json!({})).await;
        world.namespace("other-ca", json!({})).await;
        let mut vaults = three(world, "ca").await;
        let first = roots(&vaults[0]);
        assert!(vaults.iter().all(|vault| roots(vault) == first));
        let secrets = Api::<Secret>::namespaced(world.client.clone(), "ca");
        let asked = json!({"metadata": {"annotations": {ROTATE: "now"}}});
        let patch = Patch::Merge(asked);
        secrets
            .patch("causeway-ca", &PatchParams::default(), &patch)
            .await
            .expect("asked");
        let start = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let mut counts = Vec::new();
        for phase in 0..3 {
            // Whoever is late finds a newer version of the Secret, and takes over at its next look.
            for _ in 0..2 {
                let now = start + hour * phase;
                let [a, b, c] = &mut vaults;
                let looks = tokio::join!(a.look(now), b.look(now), c.look(now));
                assert!(looks.0.is_ok() && looks.1.is_ok() && looks.2.is_ok());
            }
            let all: BTreeSet<String> = vaults.iter().map(roots).collect();
            assert_eq!(all.len(), 1, "all trust the same");
            counts.push(
                all.iter()
                    .map(|pem| pem.matches("BEGIN CERTIFICATE").count())
                    .sum::<usize>(),
            );
        }
        assert_eq!(counts, [2, 2, 1]);
        assert_ne!(roots(&vaults[0]), first);
        let secret = secrets.get("causeway-ca").await.expect("the Secret");
        assert!(
            !secret
                .metadata
                .annotations
                .unwrap_or_default()
                .contains_key(ROTATE)
        );
        // Who starts now signs below the same root.
        let mut late = Vault::open(world.client.clone(), place("ca"))
            .await
            .expect("an authority");
        let last = roots(&vaults[0]);
        assert_eq!(roots(&late), last);
        // A Secret that is gone changes nothing for who runs, and is made again.
        let before = secrets.get("causeway-ca").await.expect("the Secret").data;
        world
            .delete("/api/v1/namespaces/ca/secrets", "causeway-ca")
            .await;
        late.look(start).await.expect("it goes on");
        assert_eq!(roots(&late), last);
        let after = secrets.get("causeway-ca").await.expect("made again").data;
        assert_eq!(before, after);
        // An authority that somebody brings is announced before it signs.
        let other = Vault::open(world.client.clone(), place("other-ca"))
            .await
            .expect("an authority");
        let foreign = Api::<Secret>::namespaced(world.client.clone(), "other-ca")
            .get("causeway-ca")
            .await
            .expect("it");
        let brought = json!({"metadata": {"name": "cacerts"}, "data": foreign.data});
        world.create("/api/v1/namespaces/ca/secrets", brought).await;
        let trusted = |vault: &Vault| roots(vault).matches("BEGIN CERTIFICATE").count();
        late.look(start).await.expect("it goes on");
        assert_eq!(
            (trusted(&late), roots(&late).starts_with(last.trim_end())),
            (2, true)
        );
        late.look(start + hour).await.expect("it goes on");
        late.look(start + hour * 2).await.expect("it goes on");
        assert_eq!(roots(&late), roots(&other));
    });
}

#[test]
fn a_secret_that_makes_no_authority_is_refused_and_not_written_over() {
    run(async |world| {
        world.namespace("odd", json!({})).await;
        let odd = json!({"metadata": {"name": "causeway-ca"}, "stringData": {"ca-cert.pem": "x", "ca-key.pem": "y"}});
        let path = "/api/v1/namespaces/odd/secrets";
        world.create(path, odd).await;
        let refusal = Vault::open(world.client.clone(), place("odd"))
            .await
            .err()
            .expect("a refusal");
        let text = refusal.to_string();
        assert!(text.starts_with("Secret odd/causeway-ca: "), "{text}");
        let secrets = Api::<Secret>::namespaced(world.client.clone(), "odd");
        let data = secrets
            .get("causeway-ca")
            .await
            .expect("it")
            .data
            .unwrap_or_default();
        assert_eq!(data["ca-cert.pem"].0, b"x");
    });
}

/// A pod of the account on the node, and a token of it.
async fn pod_with_token(
    world: &World,
    namespace: &str,
    account: &str,
    node: &str,
    audience: &str,
) -> String {
    let name = format!("{account}-{node}");
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let spec = json!({"nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]});
    let made = world
        .create(&pods, json!({"metadata": {"name": name}, "spec": spec}))
        .await;
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.into()],
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name),
                uid: made["metadata"]["uid"].as_str().map(str::to_owned),
            }),
            expiration_seconds: Some(3600),
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(world.client.clone(), namespace);
    let made = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await;
    made.expect("a token").status.expect("a status").token
}

async fn account(world: &World, namespace: &str, name: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    world
        .create(&path, json!({"metadata": {"name": name}}))
        .await;
}

fn review(world: &World) -> Review {
    Review::new(
        world.client.clone(),
        vec!["istio-ca".into()],
        "cluster.local",
    )
}

async fn refusal(world: &World, token: &str) -> (tonic::Code, String) {
    let status = review(world)
        .caller(token, None)
        .await
        .expect_err("refused");
    (status.code(), status.message().to_owned())
}

#[test]
fn tokens_stand_for_their_account_and_node_and_others_are_refused() {
    run(async |world| {
        world.namespace("tokens", json!({})).await;
        account(world, "tokens", "ztunnel").await;
        let token = pod_with_token(world, "tokens", "ztunnel", "n1", "istio-ca").await;
        let caller = review(world).caller(&token, None).await.expect("accepted");
        assert_eq!(
            caller.identity.to_string(),
            "spiffe://cluster.local/ns/tokens/sa/ztunnel"
        );
        assert_eq!(caller.node.as_deref(), Some("n1"));

        let foreign = pod_with_token(world, "tokens", "ztunnel", "n2", "vault").await;
        for bad in [
            foreign.as_str(),
            "nonsense",
            &format!("{token}x"),
            &"x".repeat(20_000),
        ] {
            let (code, text) = refusal(world, bad).await;
            assert_eq!(code, tonic::Code::Unauthenticated, "{text}");
        }
        // A token ends with the pod that it was made for; the server itself remembers tokens for some seconds.
        world
            .delete("/api/v1/namespaces/tokens/pods", "ztunnel-n1")
            .await;
        let end = Instant::now() + LIMIT;
        while review(world).caller(&token, None).await.is_ok() {
            assert!(Instant::now() < end, "a token outlives its pod");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(refusal(world, &token).await.0, tonic::Code::Unauthenticated);
        world.server.stop_server();
        assert_eq!(refusal(world, &token).await.0, tonic::Code::Unavailable);
    });
}

/// A control plane's port on loopback.
struct Port {
    address: SocketAddr,
    issuers: Issuers,
    shutdown: Shutdown,
}

async fn serve(world: &World, namespace: &str) -> Port {
    let registry = Registry::new();
    let status = Arc::new(Status::new(&registry));
    let mut follower = Follower::new(Mesh::default(), status);
    let kinds = [Kind::Namespace, Kind::Pod];
    follower.take(
        Watch::new(world.client.clone(), Wanted::kinds(kinds))
            .next()
            .await,
    );
    let vault = Vault::open(world.client.clone(), place(namespace))
        .await
        .expect("an authority");
    let issuers = vault.issuers();
    let grants = Grants {
        node_accounts: vec![(namespace.into(), "ztunnel".into())],
        default_ttl: Duration::from_secs(3600),
        max_ttl: Duration::from_secs(3600),
    };
    let parts = Parts {
        views: follower.views(),
        authenticator: Authenticator::new(Tokens::Review(Box::new(review(world))), "cluster.local"),
        authority: Authority::new(issuers.clone(), grants, follower.views(), &registry),
        tls: ServerTls::new(issuers.clone(), vec!["localhost".into()]).expect("a certificate"),
    };
    let listener = serve::bind(([127, 0, 0, 1], 0).into())
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    let shutdown = Shutdown::new();
    serve::serve(listener, parts, &shutdown);
    Port {
        address,
        issuers,
        shutdown,
    }
}

impl Port {
    async fn certificate(
        &self,
        token: &str,
        of: &str,
        impersonate: bool,
    ) -> Result<Certificate, CaError> {
        let channel = channel(GrpcConfig {
            address: format!("https://localhost:{}", self.address.port()),
            root: RootSource::Pem(self.issuers.borrow().roots_pem().to_owned()),
            alt_hostname: None,
            token: Token::Literal(token.into()),
            cluster_id: "Kubernetes".into(),
            headers: Vec::new(),
            mark: None,
        });
        let config = CaConfig {
            ttl: Duration::from_secs(600),
            key_exchange: KeyExchange::Standard,
            impersonate,
        };
        let identity = of.parse::<Identity>().expect("an identity");
        CaClient::new(channel.expect("a channel"), config)
            .issue(&identity)
            .await
    }
}

#[test]
fn a_ztunnel_gets_certificates_of_what_runs_on_its_node_and_nobody_else_gets_any() {
    run(async |world| {
        world.namespace("mesh", json!({})).await;
        for name in ["ztunnel", "cart", "other"] {
            account(world, "mesh", name).await;
        }
        let here = pod_with_token(world, "mesh", "ztunnel", "n1", "istio-ca").await;
        let there = pod_with_token(world, "mesh", "ztunnel", "n2", "istio-ca").await;
        let cart = pod_with_token(world, "mesh", "cart", "n1", "istio-ca").await;
        let port = serve(world, "mesh").await;
        let of = |account: &str| format!("spiffe://cluster.local/ns/mesh/sa/{account}");
        let issued = port
            .certificate(&here, &of("cart"), true)
            .await
            .expect("on its node");
        assert_eq!(issued.identity().to_string(), of("cart"));
        let own = port
            .certificate(&cart, &of("cart"), false)
            .await
            .expect("its own");
        assert_eq!(own.identity().to_string(), of("cart"));
        for (token, wanted, why) in [
            (&there, "cart", "no pod of it is on node n2"),
            (&here, "other", "no pod of it is on node n1"),
            (
                &cart,
                "ztunnel",
                "it is no node proxy (CA_TRUSTED_NODE_ACCOUNTS)",
            ),
        ] {
            let refused = port
                .certificate(token, &of(wanted), true)
                .await
                .expect_err("refused");
            assert!(refused.to_string().contains(why), "{refused}");
        }
        port.shutdown.force();
    });
}

#[test]
fn every_namespace_has_the_roots_and_a_change_of_them_is_mended() {
    run(async |world| {
        world.namespace("roots", json!({})).await;
        let vault = Vault::open(world.client.clone(), place("roots"))
            .await
            .expect("an authority");
        let expected = roots(&vault);
        let (names, namespaces) = watch::channel(Arc::new(BTreeSet::from(["roots".to_owned()])));
        let (leader, led) = watch::channel(false);
        let shutdown = Shutdown::new();
        shutdown.spawn(publish(
            world.client.clone(),
            vault.issuers(),
            namespaces,
            led,
            shutdown.clone(),
        ));
        let holds = async |namespace: &str| {
            let maps = Api::<ConfigMap>::namespaced(world.client.clone(), namespace);
            let end = Instant::now() + LIMIT;
            loop {
                let map = maps.get_opt(CONFIG_MAP).await.expect("an answer");
                let found = map.and_then(|map| map.data).unwrap_or_default();
                if found.get(FIELD) == Some(&expected) {
                    return;
                }
                assert!(Instant::now() < end, "{namespace}: {found:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        leader.send_replace(true);
        holds("roots").await;
        world.namespace("newcomer", json!({})).await;
        // One that is gone again, or never was, stops nothing.
        names.send_replace(Arc::new(
            ["gone", "newcomer", "roots"].map(str::to_owned).into(),
        ));
        holds("newcomer").await;
        let maps = Api::<ConfigMap>::namespaced(world.client.clone(), "newcomer");
        let change = json!({"data": {FIELD: "changed"}});
        maps.patch(CONFIG_MAP, &PatchParams::default(), &Patch::Merge(change))
            .await
            .expect("changed");
        holds("newcomer").await;
        maps.delete(CONFIG_MAP, &kube::api::DeleteParams::default())
            .await
            .expect("deleted");
        holds("newcomer").await;
        shutdown.force();
    });
}
