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
