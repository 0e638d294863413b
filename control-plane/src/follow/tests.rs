//! Views: who sees what, and that nothing is published for nothing.

use std::sync::Arc;

use identity::Identity;
use objects::Change;
use prost_types::{Struct, Value, value::Kind};
use runtime::metrics::Registry;

use super::*;

const WAYPOINT: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app}, spec: {gatewayClassName: causeway-waypoint}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app}, spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}}
";
const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: app}, spec: {nodeName: n, serviceAccountName: sa}, status: {podIP: 10.0.0.1}}";

fn follower() -> Follower {
    let mut follower = Follower::new(Mesh::default(), Arc::new(Status::new(&Registry::new())));
    follower.take(Event::Snapshot {
        objects: Vec::new(),
        faults: Arc::new([]),
    });
    follower
}

fn edit(follower: &mut Follower, text: &str) {
    let objects = objects::parse(text)
        .results
        .into_iter()
        .map(|result| result.expect("good objects"));
    follower.take(Event::Changes {
        changes: objects.map(Change::Upsert).collect(),
        faults: Arc::new([]),
    });
}

fn client(id: &str, labels: Option<&str>) -> Client {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    let labels = labels.map(|name| {
        let labels = Struct {
            fields: [(GATEWAY_NAME.to_owned(), text(name))].into(),
        };
        (
            "LABELS".to_owned(),
            Value {
                kind: Some(Kind::StructValue(labels)),
            },
        )
    });
    let mut fields: std::collections::BTreeMap<_, _> =
        [("NAMESPACE".to_owned(), text("app"))].into();
    fields.extend(labels);
    let node = Node {
        id: id.into(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    };
    let identity: Identity = "spiffe://cluster.local/ns/app/sa/wp"
        .parse()
        .expect("an identity");
    Client {
        node,
        identity: Some(identity),
        stream: 1,
    }
}

#[test]
fn a_waypoint_that_waits_for_its_gateway_gets_its_view_when_it_appears() {
    let mut follower = follower();
    let view = follower
        .views()
        .subscribe(&client("waypoint~1~wp~app", Some("wp")))
        .expect("a view");
    assert!(view.borrow().of(type_url::LISTENER).is_none());
    edit(&mut follower, WAYPOINT);
    assert_eq!(
        view.borrow()
            .of(type_url::LISTENER)
            .map(|listeners| listeners.len()),
        Some(5)
    );
}

#[test]
fn an_event_that_changes_nothing_publishes_nothing() {
    let mut follower = follower();
    edit(&mut follower, &format!("{WAYPOINT}\n---\n{POD}"));
    let mut view = follower
        .views()
        .subscribe(&client("waypoint~1~wp~app", Some("wp")))
        .expect("a view");
    let mut all = follower
        .views()
        .subscribe(&client("ztunnel~1~z~app", None))
        .expect("a view");
    view.mark_unchanged();
    all.mark_unchanged();
    edit(&mut follower, POD);
    assert!(!view.has_changed().expect("open") && !all.has_changed().expect("open"));
    edit(&mut follower, &POD.replace("10.0.0.1", "10.0.0.2"));
    assert!(view.has_changed().expect("open") && all.has_changed().expect("open"));
}

#[test]
fn clients_that_do_not_say_who_they_are_are_told_what_is_missing() {
    let views = follower().views();
    let refusal = |client: Client| {
        views
            .subscribe(&client)
            .expect_err("refused")
            .message()
            .to_owned()
    };
    assert_eq!(
        refusal(client("waypoint~1~wp~app", None)),
        "node metadata LABELS has no gateway.networking.k8s.io/gateway-name"
    );
    assert_eq!(
        refusal(client("sidecar~1~x~app", None)),
        "node id \"sidecar~1~x~app\" must begin with `ztunnel~` or `waypoint~`"
    );
    let nobody = Client {
        identity: None,
        ..client("ztunnel~1~z~app", None)
    };
    assert_eq!(
        refusal(nobody),
        "neither a token nor a client certificate was shown"
    );
}

#[test]
fn identities_are_where_their_pods_are() {
    let mut follower = follower();
    edit(&mut follower, POD);
    let views = follower.views();
    assert!(views.runs_on("n", "app", "sa"));
    assert!(!views.runs_on("m", "app", "sa") && !views.runs_on("n", "app", "default"));
    edit(
        &mut follower,
        &POD.replace("podIP", "phase: Succeeded, podIP"),
    );
    assert!(!views.runs_on("n", "app", "sa"));
}
