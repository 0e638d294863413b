//! Requests that come between a push's parts, or wait while one comes.

use super::world::{Changes, ECHO, World, get, resources};
use super::{action, open};
use crate::state::types;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use xds::ResourceUpdate;

const NEW: &str = "inbound-vip|80|http|new.app.svc.cluster.local";

fn update<M: Message>(message: &M) -> Vec<ResourceUpdate> {
    vec![ResourceUpdate::Upsert {
        name: NEW.into(),
        version: String::new(),
        body: message.encode_to_vec(),
    }]
}

fn echos<M: Message + Default>(type_url: &str) -> M {
    let mut all = resources(&Changes::default()).into_iter();
    let (_, _, body) = all
        .find(|(url, name, _)| url == type_url && name == ECHO)
        .unwrap();
    M::decode(body.as_slice()).unwrap()
}

/// Routes come before the endpoints of a cluster that they lead to, since those are asked for only when the cluster
/// is known.
#[tokio::test]
async fn a_request_waits_for_the_first_endpoints_of_a_new_cluster() {
    let world = Arc::new(World::new(Changes::default()).await);
    let mut cluster: Cluster = echos(types::CLUSTER);
    cluster.name = NEW.into();
    cluster.eds_cluster_config.as_mut().unwrap().service_name = NEW.into();
    let apply = |url: &str, updates| assert_eq!(world.config.apply(url, updates), vec![]);
    apply(types::CLUSTER, update(&cluster));
    world.push(&Changes {
        chain: Some(|manager| {
            open(manager);
            let to = ClusterSpecifier::Cluster(NEW.into());
            action(manager).cluster_specifier = Some(to);
        }),
        ..Changes::default()
    });
    let asking = world.clone();
    let work = async move { asking.send(get("/x", &[])).await };
    let request = runtime::Shutdown::new().spawn_aside(work);
    let waits = || {
        let snapshot = world.proxy.snapshot.load();
        let live = snapshot.cluster(NEW).unwrap();
        live.counters.requests.load(Relaxed) > 0
    };
    while !waits() && !request.is_finished() {
        tokio::task::yield_now().await;
    }
    let mut endpoints: ClusterLoadAssignment = echos(types::ENDPOINT);
    endpoints.cluster_name = NEW.into();
    apply(types::ENDPOINT, update(&endpoints));
    let got = request.await.unwrap().unwrap();
    assert_eq!((got.status, got.body.as_str()), (200, "GET /x "));
    // Endpoints that are taken away are another matter: nobody waits for them.
    let gone = ResourceUpdate::Remove { name: NEW.into() };
    apply(types::ENDPOINT, vec![gone]);
    assert_eq!(world.send(get("/x", &[])).await.status, 503);
}

/// The only endpoint of the request's beginning has no application; it goes while the request waits for its next try.
#[tokio::test]
async fn a_retry_goes_to_the_endpoints_of_its_own_moment() {
    fn patient(manager: &mut HttpConnectionManager) {
        open(manager);
        let policy = action(manager).retry_policy.as_mut().unwrap();
        policy.num_retries = Some(UInt32Value { value: 32 });
        policy.retry_back_off = Some(RetryBackOff {
            base_interval: Some(ProtoDuration {
                seconds: 1,
                nanos: 0,
            }),
            max_interval: None,
        });
    }
    let changes = |endpoint| Changes {
        chain: Some(patient),
        endpoints: Some(vec![endpoint]),
        ..Changes::default()
    };
    let world = Arc::new(World::new(changes("127.0.0.3:8080")).await);
    let asking = world.clone();
    let work = async move { asking.send(get("/x", &[])).await };
    let request = runtime::Shutdown::new().spawn_aside(work);
    let waits = || {
        let snapshot = world.proxy.snapshot.load();
        let live = snapshot.cluster(ECHO).unwrap();
        live.counters.retries.load(Relaxed) > 0
    };
    while !waits() && !request.is_finished() {
        tokio::task::yield_now().await;
    }
    world.push(&changes("127.0.0.1:8080"));
    let got = request.await.unwrap().unwrap();
    assert_eq!((got.status, got.body.as_str()), (200, "GET /x "));
}
