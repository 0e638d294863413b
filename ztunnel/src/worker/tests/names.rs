//! Endpoints that are known by host name only: who waits, for how long, and for what.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh::service::{Service, ServicePort, Vip};
use mesh::state::Update;
use mesh::workload::{NamespacedHostname, PortPair, ServicePorts, TunnelProtocol, Workload};

use super::super::api::{Ask, Notice, Reason};
use super::mesh::{CLIENT, Pair};
use super::sim::TEST;
use crate::route::{Name, Names};

const SECOND: Duration = Duration::from_secs(1);
const HOST: &str = "db.example.com";

fn database() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 5432))
}

/// A service at 10.96.0.7 whose one endpoint is a host name, and that host, which listens.
fn pair() -> Pair {
    let mut pair = Pair::started(1, |_| {});
    let key = NamespacedHostname::new("app", HOST);
    let ports = ServicePorts {
        service: key.clone(),
        ports: [PortPair::new(5432, 5432)].into(),
    };
    let endpoint = Workload {
        uid: "Kubernetes/networking.istio.io/ServiceEntry/app/db".into(),
        namespace: "app".into(),
        hostname: HOST.into(),
        tunnel_protocol: TunnelProtocol::None,
        services: [ports].into(),
        ..Workload::default()
    };
    let port = ServicePort {
        service_port: 5432,
        target_port: 5432,
        app_protocol: mesh::service::AppProtocol::Unknown,
    };
    let service = Service {
        key,
        vips: [Vip::address("", [10, 96, 0, 7].into())].into(),
        ports: [port].into(),
        ..Service::default()
    };
    pair.publish(vec![
        Update::Service(Arc::new(service)),
        Update::Workload(Arc::new(endpoint)),
    ]);
    pair.net.borrow_mut().listen(TEST, database());
    pair
}

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 7], 5432))
}

/// Control has resolved the name, for so long.
fn resolve(pair: &mut Pair, found: Result<IpAddr, &str>, life: Duration) {
    let name = Name {
        found: found.map(|address| [address].into()).map_err(Into::into),
        until: pair.now + life,
        resolved: pair.now,
    };
    let mut names = Names::default();
    names.put(HOST.into(), name, pair.now);
    let (now, names) = (pair.now, Arc::new(names));
    let Pair { workers, ios, .. } = pair;
    workers[CLIENT].adopt_names(names, now, &mut ios[CLIENT]);
    pair.pass(Duration::ZERO);
    pair.settle();
}

fn asked(pair: &Pair) -> usize {
    let is =
        |notice: &&Notice| matches!(notice, Notice::Ask(Ask::Name { host }) if **host == *HOST);
    pair.notices.iter().filter(is).count()
}

#[test]
fn a_call_waits_until_the_name_is_resolved_and_the_next_ones_use_it_as_long_as_it_counts() {
    let mut pair = pair();
    let first = pair.call(vip());
    pair.settle();
    assert_eq!(asked(&pair), 1);
    assert!(pair.net.borrow_mut().accept(database()).is_none());
    resolve(&mut pair, Ok(database().ip()), 30 * SECOND);
    let server = pair
        .net
        .borrow_mut()
        .accept(database())
        .expect("it was dialled");
    assert_eq!(pair.write(first, b"select"), 6);
    pair.settle();
    assert_eq!(pair.read(server).0, b"select");

    pair.pass(29 * SECOND);
    let second = pair.call(vip());
    pair.settle();
    assert!(pair.net.borrow_mut().accept(database()).is_some());
    pair.pass(SECOND);
    let third = pair.call(vip());
    pair.settle();
    assert_eq!(asked(&pair), 2, "it does not count any more");
    assert!(pair.net.borrow_mut().accept(database()).is_none());
    for call in [second, third] {
        assert!(!pair.net.borrow().was_reset(call));
    }
}

#[test]
fn a_name_that_does_not_resolve_ends_the_call_and_the_report_says_why() {
    let mut pair = pair();
    let call = pair.call(vip());
    pair.settle();
    resolve(
        &mut pair,
        Err("the name server says: Non-Existent Domain"),
        5 * SECOND,
    );
    assert!(pair.net.borrow().was_reset(call));
    assert_eq!(pair.reasons(), [Reason::NoEndpoint]);
    let told = pair.details();
    assert!(
        told.contains("db.example.com does not resolve: the name server says: Non-Existent Domain"),
        "{told}"
    );
}

#[test]
fn nobody_waits_for_a_name_for_ever() {
    let mut pair = pair();
    let call = pair.call(vip());
    pair.settle();
    pair.pass(9 * SECOND);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(call));
    pair.pass(SECOND);
    pair.settle();
    assert!(pair.net.borrow().was_reset(call));
    assert_eq!(pair.reasons(), [Reason::NoEndpoint]);
    assert!(pair.details().contains("was not resolved in time"));
}
