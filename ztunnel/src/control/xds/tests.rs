use prost_types::value::Kind;

use super::*;
use crate::config::Config;
use crate::worker;

fn config(pairs: &[(&str, &str)]) -> Config {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(runtime::Settings::from_pairs(pairs)).unwrap()
}

fn applier() -> Applier {
    let config = config(&[]);
    let state = State::new();
    let (workers, _notices) = worker::start(config.worker, 1, state.snapshot()).unwrap();
    let published = Published::new(state.snapshot(), Arc::new(workers));
    Applier {
        decoder: Decoder::new(),
        state,
        published,
    }
}

fn upsert(name: &str, body: &impl prost::Message) -> ResourceUpdate {
    ResourceUpdate::Upsert {
        name: name.to_owned(),
        version: "1".to_owned(),
        body: body.encode_to_vec(),
    }
}

fn workload(uid: &str, address: Vec<u8>) -> ResourceUpdate {
    let workload = proto::workload::Workload {
        uid: uid.to_owned(),
        name: uid.to_owned(),
        namespace: "app".to_owned(),
        addresses: vec![address],
        ..Default::default()
    };
    let kind = proto::workload::address::Type::Workload(workload);
    upsert(uid, &proto::workload::Address { r#type: Some(kind) })
}

#[test]
fn a_refused_resource_is_named_and_the_rest_is_in_force() {
    let mut applier = applier();
    let push = vec![
        workload("good", vec![10, 0, 0, 1]),
        workload("bad", vec![1, 2, 3]),
    ];
    let rejected = applier.apply(ADDRESS, push);
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].name, "bad");
    assert!(
        rejected[0].reason.contains("addresses[0]"),
        "{}",
        rejected[0].reason
    );
    let snapshot = applier.published.current();
    assert!(snapshot.workload("good").is_some());
    assert!(snapshot.workload("bad").is_none());
}

#[test]
fn a_policy_that_cannot_be_read_denies_in_its_place() {
    let mut applier = applier();
    let body = b"\xff\xff\xff".to_vec();
    let update = ResourceUpdate::Upsert {
        name: "app/odd".to_owned(),
        version: "1".to_owned(),
        body,
    };
    assert_eq!(applier.apply(AUTHORIZATION, vec![update]).len(), 1);
    let snapshot = applier.published.current();
    let policy = snapshot
        .policy(&mesh::policy::PolicyName::new("app", "odd"))
        .unwrap();
    assert!(policy.invalid.is_some());
}

#[test]
fn a_push_that_changes_nothing_makes_no_new_generation() {
    let mut applier = applier();
    applier.apply(ADDRESS, vec![workload("one", vec![10, 0, 0, 1])]);
    let generation = applier.published.current().generation();
    applier.apply(ADDRESS, vec![workload("one", vec![10, 0, 0, 1])]);
    assert_eq!(applier.published.current().generation(), generation);
    applier.apply(
        ADDRESS,
        vec![ResourceUpdate::Remove {
            name: "one".to_owned(),
        }],
    );
    assert!(applier.published.current().workload("one").is_none());
}

#[test]
fn the_node_says_what_istiod_reads() {
    let own = config(&[
        ("POD_NAME", "ztunnel-x"),
        ("POD_NAMESPACE", "istio-system"),
        ("INSTANCE_IP", "10.1.2.3"),
        ("NODE_NAME", "node1"),
        ("ISTIO_META_ISTIO_VERSION", "1.30"),
        ("ISTIO_METAJSON_LABELS", "{\"app\":\"ztunnel\"}"),
    ]);
    let node = node(&own.own);
    assert_eq!(
        node.id,
        "ztunnel~10.1.2.3~ztunnel-x.istio-system~istio-system.svc.cluster.local"
    );
    let fields = node.metadata.unwrap().fields;
    let text = |key: &str| match fields[key].kind.clone() {
        Some(Kind::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    };
    for (key, value) in [
        ("NAME", "ztunnel-x"),
        ("NAMESPACE", "istio-system"),
        ("INSTANCE_IPS", "10.1.2.3"),
        ("NODE_NAME", "node1"),
        ("ISTIO_VERSION", "1.30"),
    ] {
        assert_eq!(text(key), value);
    }
    let Some(Kind::StructValue(labels)) = &fields["LABELS"].kind else {
        panic!("{:?}", fields["LABELS"])
    };
    assert_eq!(
        labels.fields["app"].kind,
        Some(Kind::StringValue("ztunnel".to_owned()))
    );
}
