//! Pushes: the refused resource is named, the rest applies.

use super::*;
use crate::envoy::tests::capture;

fn push(file: &str) -> Vec<ResourceUpdate> {
    let all = capture("istio-master-20260827", file).into_iter();
    all.map(|(_, name, body)| ResourceUpdate::Upsert {
        name,
        version: "1".into(),
        body,
    })
    .collect()
}

#[test]
fn one_bad_resource_does_not_spoil_the_push() {
    let config = Config::default();
    let mut updates = push("00-Cluster");
    updates.push(ResourceUpdate::Upsert {
        name: "bad".into(),
        version: "1".into(),
        body: vec![0xff],
    });
    let rejected = config.apply(types::CLUSTER, updates);
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].name, "bad");
    assert!(rejected[0].reason.starts_with(
        "type.googleapis.com/envoy.config.cluster.v3.Cluster at .: cannot be decoded"
    ));
    assert_eq!(config.snapshot().load().clusters.len(), 8);
    assert!(
        config
            .apply(types::LISTENER, push("01-Listener"))
            .is_empty()
    );
    assert!(config.snapshot().load().terminate.is_some());
    config.apply(
        types::CLUSTER,
        vec![ResourceUpdate::Remove {
            name: "encap".into(),
        }],
    );
    assert_eq!(config.snapshot().load().clusters.len(), 7);
}

/// A client that is never run: what is asked for stays in its queue.
fn asking() -> Config {
    let config = Config::default();
    let client = xds::client::ClientConfig {
        node: Default::default(),
        subscriptions: subscriptions(),
        observer: Arc::new(()),
    };
    let (_client, handle) = xds::client::Client::new(client, Box::new(config.clone()));
    config.connect(handle);
    config
}

#[test]
fn what_is_no_longer_asked_for_is_forgotten() {
    const ECHO: &str = "inbound-vip|80|http|echo.app.svc.cluster.local";
    let config = asking();
    let hosts = || config.snapshot().load().clusters[ECHO].hosts.len();
    config.apply(types::CLUSTER, push("00-Cluster"));
    config.apply(types::ENDPOINT, push("05-ClusterLoadAssignment"));
    assert_eq!(hosts(), 2);
    let gone = ResourceUpdate::Remove { name: ECHO.into() };
    config.apply(types::CLUSTER, vec![gone]);
    // It comes back: its endpoints are those that will be sent, not those of before.
    config.apply(types::CLUSTER, push("00-Cluster"));
    assert_eq!(hosts(), 0);
    assert!(config.snapshot().load().clusters[ECHO].warming);
    config.apply(types::ENDPOINT, push("05-ClusterLoadAssignment"));
    assert_eq!(hosts(), 2);
}
