//! A mesh of some hundred workloads, and the decisions that are made for a connection in it. Called by `main`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mesh::authz::{self, Decision, Facts};
use mesh::identity::Identity;
use mesh::policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, StringMatch};
use mesh::service::{Service, ServicePort, Vip};
use mesh::state::{Snapshot, State, Update};
use mesh::workload::{NamespacedHostname, PortPair, ServicePorts, TunnelProtocol, Workload};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use ztunnel::route::{self, Outbound, Route};
use ztunnel::worker::api::Ports;

const PODS: u8 = 200;
const HOST: &str = "reviews.app.svc.cluster.local";
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 0, number).into()
}

fn identity(number: u8) -> Identity {
    Identity::new("cluster.local", "app", &format!("account-{number}")).expect("a good name")
}

/// The first twenty back the service.
fn workload(number: u8) -> Workload {
    let backs = ServicePorts {
        service: NamespacedHostname::new("app", HOST),
        ports: [PortPair::new(80, 8080)].into(),
    };
    Workload {
        uid: format!("Kubernetes//Pod/app/pod-{number}").into(),
        name: format!("pod-{number}").into(),
        namespace: "app".into(),
        addresses: [address(number)].into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        identity: Some(identity(number)),
        services: if number < 20 {
            [backs].into()
        } else {
            [].into()
        },
        ..Workload::default()
    }
}

/// Allows each of ten callers by a rule of its own; the last is the one that asks.
fn policy() -> Policy {
    let rule = |number: u8| Rule {
        clauses: [Clause {
            matches: [Match {
                principals: [StringMatch::Exact(
                    format!("cluster.local/ns/app/sa/account-{number}").into(),
                )]
                .into(),
                ..Match::default()
            }]
            .into(),
        }]
        .into(),
    };
    Policy {
        name: PolicyName::new("app", "callers"),
        scope: Scope::Namespace,
        action: Action::Allow,
        rules: (91..=100).map(rule).collect(),
        dry_run: false,
        invalid: None,
    }
}

fn snapshot() -> Arc<Snapshot> {
    let service = Service {
        key: NamespacedHostname::new("app", HOST),
        name: "reviews".into(),
        vips: [Vip::address("", VIP.into())].into(),
        ports: [ServicePort {
            service_port: 80,
            target_port: 8080,
            app_protocol: Default::default(),
        }]
        .into(),
        ..Service::default()
    };
    let mut updates = vec![
        Update::Service(Arc::new(service)),
        Update::Policy(Arc::new(policy())),
    ];
    updates.extend((0..PODS).map(|number| Update::Workload(Arc::new(workload(number)))));
    let mut state = State::new();
    state.apply(updates);
    state.snapshot()
}

/// Makes one decision so many times.
pub fn run(name: &str, times: u32) -> u64 {
    let snapshot = snapshot();
    let mut rng = SmallRng::seed_from_u64(1);
    let caller = snapshot.workload_at("", address(100)).expect("the caller");
    let called = snapshot
        .workload_at("", address(7))
        .expect("the called one");
    let (names, now) = (route::Names::default(), std::time::Instant::now());
    let mut route = |destination: SocketAddr| {
        let request = Outbound {
            source: Some(caller),
            destination,
            network: "",
            ports: Ports::default(),
            names: (&names, now),
        };
        let route = route::outbound(&snapshot, black_box(&request), &mut rng);
        assert!(matches!(route, Route::Tunnel(_)), "{route:?}");
    };
    let facts = Facts {
        source: Some(identity(100)),
        source_ip: address(100),
        destination: SocketAddr::new(address(7), 8080),
    };
    for _ in 0..times {
        match name {
            "route to a service" => route(SocketAddr::new(VIP.into(), 80)),
            "route to a pod" => route(SocketAddr::new(address(7), 8080)),
            "policy decision" => {
                let decision = authz::authorize(&snapshot, called, black_box(&facts));
                assert!(matches!(decision, Decision::Allow { .. }), "{decision:?}");
            }
            _ => panic!("no such decision: {name}"),
        }
    }
    times.into()
}
