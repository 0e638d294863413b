//! Our translation against what a real istiod sent for the same objects, field by field. Every difference that is
//! accepted stands here with its reason; one that is not there, or more or fewer than stand there, fails.

use std::collections::{BTreeMap, BTreeSet};

use control_plane::{
    store::Store,
    translate::{Mesh, envoy, translate},
};
use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
};
use objects::{Change, Kind, Object};
use prost::Message;
use proto::{discovery::DeltaDiscoveryResponse, security::Authorization, workload::Address};

mod tree;
mod types;

use tree::{Difference, Tree};

/// Path of the differences (`*` stands for anything), how many there are, and why they are accepted.
type Accepted = (&'static str, usize, &'static str);

fn read(name: &str) -> Vec<u8> {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text(name: &str) -> String {
    String::from_utf8(read(name)).expect("manifests are text")
}

/// The objects of a capture. The manifests were written out some minutes later, after a restart of the deployment, so
/// `renamed` puts back the pods' names and addresses of then.
fn store(
    texts: &[(String, &[Kind])],
    renamed: &[(&str, &str)],
    addresses: &[(&str, &str)],
) -> Store {
    let mut store = Store::default();
    for (text, kinds) in texts {
        let text = renamed
            .iter()
            .fold(text.clone(), |text, (from, to)| text.replace(from, to));
        for result in objects::parse(&text).results {
            let mut object = result.expect("every object of a capture is good");
            if !kinds.is_empty() && !kinds.contains(&object.kind()) {
                continue;
            }
            if let Object::Service(service) = &mut object {
                let service = std::sync::Arc::make_mut(service);
                if let Some((_, address)) = addresses
                    .iter()
                    .find(|(name, _)| *name == service.metadata.name)
                {
                    service.spec.cluster_ip = (*address).into();
                    service.spec.cluster_ips = vec![(*address).into()];
                    service.spec.ip_families = vec!["IPv4".into()];
                }
            }
            store.apply(Change::Upsert(object));
        }
    }
    store
}

fn ambient() -> Store {
    let renamed = [
        ("echo-6456f99f9b-rz2lv", "echo-6d5c9cbd6-wsmfc"),
        ("echo-6456f99f9b-g8mj5", "echo-6d5c9cbd6-8krx4"),
        ("6456f99f9b", "6d5c9cbd6"),
        ("10.244.1.9", "10.244.1.5"),
        ("10.244.2.8", "10.244.2.5"),
        // The node agent had not captured the pods yet.
        (
            "ambient.istio.io/redirection: enabled",
            "ambient.istio.io/redirection: \"\"",
        ),
    ];
    let policies = [Kind::Namespace, Kind::HttpRoute, Kind::AuthorizationPolicy];
    store(
        &[
            (text("ambient/app-objects.yaml"), &[]),
            (text("ambient/ambient.yaml"), &policies),
        ],
        &renamed,
        &[],
    )
}

fn rich() -> Store {
    let renamed = [
        ("echo-6456f99f9b-rz2lv", "echo-6d5c9cbd6-nl994"),
        ("echo-6456f99f9b-g8mj5", "echo-6d5c9cbd6-f8rp7"),
        ("6456f99f9b", "6d5c9cbd6"),
        ("10.244.1.6", "10.244.1.7"),
        ("10.244.1.9", "10.244.1.5"),
        ("10.244.2.8", "10.244.2.5"),
        ("wp-5597bdb48b-nbdb7", "wp-5597bdb48b-qg2q9"),
        ("10.244.2.4", "10.244.1.6"),
        ("10.96.144.183", "10.96.116.16"),
    ];
    let addresses = [
        ("echo", "10.96.187.17"),
        ("grpc", "10.96.33.220"),
        ("httpbin", "10.96.250.174"),
        ("wp", "10.96.116.16"),
    ];
    let policies = [Kind::Namespace, Kind::HttpRoute, Kind::AuthorizationPolicy];
    let texts = [
        (text("ambient/app-objects.yaml"), &[][..]),
        (text("ambient/ambient.yaml"), &policies),
        (text("rich/rich.yaml"), &[]),
    ];
    store(&texts, &renamed, &addresses)
}

fn capture<M: Message + Default + std::fmt::Debug>(name: &str) -> BTreeMap<String, Tree> {
    let response = DeltaDiscoveryResponse::decode(&read(name)[..]).expect("a captured response");
    let resources = response.resources.into_iter();
    resources
        .map(|resource| {
            let body = resource.resource.expect("a body").value;
            (
                resource.name,
                tree::of(&M::decode(&body[..]).expect("a resource")),
            )
        })
        .collect()
}

fn ours<M: Message + Default + std::fmt::Debug>(
    resources: &BTreeMap<String, Vec<u8>>,
) -> BTreeMap<String, Tree> {
    resources
        .iter()
        .map(|(name, body)| {
            (
                name.clone(),
                tree::of(&M::decode(&body[..]).expect("what we encoded")),
            )
        })
        .collect()
}

fn encoded<M: Message>(resources: &BTreeMap<String, M>) -> BTreeMap<String, Vec<u8>> {
    resources
        .iter()
        .map(|(name, message)| (name.clone(), message.encode_to_vec()))
        .collect()
}

/// Compares, and holds the differences against the accepted ones; returns how many resources were the same.
fn compare(
    ours: &BTreeMap<String, Tree>,
    theirs: &BTreeMap<String, Tree>,
    accepted: &[Accepted],
) -> usize {
    let mut found = Vec::new();
    let mut same = 0;
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let before = found.len();
        match (ours.get(name), theirs.get(name)) {
            (Some(a), Some(b)) => tree::differences(name, a, b, &mut found),
            (a, _) => {
                let (ours, theirs) = if a.is_some() {
                    ("there", "nothing")
                } else {
                    ("nothing", "there")
                };
                found.push(Difference {
                    path: name.clone(),
                    ours: ours.into(),
                    theirs: theirs.into(),
                });
            }
        }
        same += usize::from(found.len() == before);
    }
    let unexpected: Vec<String> = found
        .iter()
        .filter(|difference| {
            !accepted
                .iter()
                .any(|(pattern, ..)| matches(pattern, &difference.path))
        })
        .map(ToString::to_string)
        .collect();
    assert!(
        unexpected.is_empty(),
        "not accepted ({}):\n{}",
        unexpected.len(),
        unexpected.join("\n")
    );
    let counts: Vec<String> = accepted
        .iter()
        .filter_map(|(pattern, count, _)| {
            let occur = found.iter().filter(|one| matches(pattern, &one.path));
            let occur = occur.count();
            (occur != *count).then(|| format!("{pattern}: {occur} occur, {count} are accepted"))
        })
        .collect();
    assert!(counts.is_empty(), "{}", counts.join("\n"));
    same
}

/// Glob match with `*`.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((head, rest)) => path.strip_prefix(head).is_some_and(|path| {
            path.char_indices()
                .map(|(i, _)| i)
                .chain([path.len()])
                .any(|i| matches(rest, &path[i..]))
        }),
    }
}

mod tests;
