//! What a peer says of itself and of whom it calls: believed only where it can be bounded or nothing better is known.

use std::sync::Arc;

use hbone::headers::{Baggage, ConnectRequest, Forwarded};
use mesh::identity::Identity;
use mesh::service::Service;
use mesh::state::Update;
use mesh::workload::{NamespacedHostname, ServicePorts, Workload};

use super::super::api::{Connection, Direction, Notice};
use super::hostile::{Peer, good_start};
use super::mesh::{CLIENT, Pair, SERVER, account, workload};

/// The server is an endpoint of `mine`, not of `other`.
fn pair() -> Pair {
    let mut pair = Pair::started(1, |_| {});
    let service = |name: &str| {
        let key = NamespacedHostname::new("app", name);
        Update::Service(Arc::new(Service {
            key,
            name: name.into(),
            ..Service::default()
        }))
    };
    let ports = ServicePorts {
        service: NamespacedHostname::new("app", "mine.app"),
        ports: [].into(),
    };
    let server = Workload {
        services: [ports].into(),
        ..workload(&pair.ca, SERVER)
    };
    let server = Update::Workload(Arc::new(server));
    pair.publish(vec![service("mine.app"), service("other.app"), server]);
    pair
}

/// What is reported of a request of this peer.
fn reported(
    pair: &mut Pair,
    (from, identity): ([u8; 4], &Identity),
    change: impl Fn(&mut ConnectRequest),
) -> Arc<Connection> {
    let mut peer = Peer::connect_as(pair, from, identity);
    let (mut h2, mut bytes) = good_start(0);
    let mut request = ConnectRequest::new("10.0.0.2:8080".parse().unwrap());
    change(&mut request);
    h2.open(&request).unwrap();
    bytes.append(h2.output());
    peer.say(pair, &bytes);
    let opened = pair.notices.iter().rev().find_map(|notice| match notice {
        Notice::Opened(facts) if facts.direction == Direction::Inbound => Some(facts.clone()),
        _ => None,
    });
    opened.expect("the request was taken")
}

#[test]
fn the_service_that_a_peer_names_counts_only_if_the_pod_is_an_endpoint_of_it() {
    let mut pair = pair();
    let identity = pair.ca.identity("evil", "peer");
    let called = [
        ("mine.app", Some("mine.app")),
        ("other.app", None),
        ("invented.app", None),
    ];
    for (said, believed) in called {
        let facts = reported(&mut pair, ([10, 9, 9, 9], &identity), |request| {
            request.forwarded = Some(Forwarded {
                source: None,
                host: Some(said.into()),
            });
        });
        let service = facts.service.as_ref();
        let host = service.map(|service| &*service.key.hostname);
        assert_eq!(host, believed, "{said}");
    }
}

#[test]
fn a_peer_that_is_the_workload_at_its_address_cannot_give_itself_another_name() {
    let mut pair = pair();
    let client = pair.ca.identity("app", account(CLIENT));
    let other = pair.ca.identity("elsewhere", "caller");
    let foreign = |request: &mut ConnectRequest| {
        request.forwarded_network = Some("elsewhere".into());
        request.baggage = Some(Baggage {
            workload: Some("invented".into()),
            ..Baggage::default()
        });
    };
    let facts = reported(&mut pair, ([10, 0, 0, 1], &client), foreign);
    let name = facts.source_workload.as_ref().map(|one| &*one.name);
    assert_eq!((name, &facts.source_baggage), (Some("client"), &None));
    // Through a gateway: its address, the caller's identity.
    let facts = reported(&mut pair, ([10, 0, 0, 1], &other), foreign);
    assert!(facts.source_workload.is_none());
    let said = facts.source_baggage.as_ref();
    assert_eq!(
        said.and_then(|baggage| baggage.workload.as_deref()),
        Some("invented")
    );
}
