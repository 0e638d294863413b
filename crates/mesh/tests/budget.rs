//! What a mesh of 20,000 workloads costs: memory in all, allocation of one update, allocation of a decision.
//! Bytes are asserted, time is not (`--nocapture` prints it).

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use allocation_counter::measure;
use causeway_mesh::{
    authz::{self, Facts},
    balance::{self, Want},
    identity::Identity,
    policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, StringMatch},
    service::{Service, ServicePort, Vip},
    state::{State, Update},
    workload::{NamespacedHostname, PortPair, ServicePorts, TunnelProtocol, Workload, pod_uid},
};
use rand::{SeedableRng, rngs::StdRng};

const WORKLOADS: u32 = 20_000;
/// Workloads per service.
const REPLICAS: u32 = 20;
/// One service that all workloads back besides, as an agent's or a mesh-wide one.
const CROWDED: &str = "crowd.app.svc.cluster.local";

fn address(base: u32, index: u32) -> IpAddr {
    Ipv4Addr::from_bits(base + index).into()
}

/// What replicas have in common, as the decoder's interner would give it to them.
struct Shared {
    strings: [Arc<str>; 6],
    crowd: NamespacedHostname,
    own: NamespacedHostname,
    ports: Arc<[PortPair]>,
    policies: Arc<[PolicyName]>,
    identity: Identity,
}

impl Shared {
    fn of(group: u32, everybody: &Everybody) -> Self {
        let namespace: Arc<str> = format!("namespace-{}", group / 10).into();
        let name: Arc<str> = format!("deployment-{group}").into();
        let hostname = format!("service-{group}.{namespace}.svc.cluster.local");
        let identity = Identity::new("cluster.local", &namespace, &name).expect("a good name");
        let node = format!("node-{}", group % 100).into();
        let [cluster, revision] = everybody.strings.clone();
        Self {
            own: NamespacedHostname::new(namespace.clone(), hostname),
            strings: [namespace.clone(), name, node, cluster, revision, "".into()],
            crowd: everybody.crowd.clone(),
            ports: everybody.ports.clone(),
            policies: [PolicyName::new(namespace, "strict")].into(),
            identity,
        }
    }

    fn workload(&self, index: u32) -> Workload {
        let [namespace, name, node, cluster, revision, empty] = self.strings.clone();
        let pod = format!("{name}-6d5c9cbd6-{index:05}");
        let backs = |service: &NamespacedHostname| ServicePorts {
            service: service.clone(),
            ports: self.ports.clone(),
        };
        Workload {
            uid: pod_uid(&cluster, &namespace, &pod).into(),
            name: pod.into(),
            namespace,
            addresses: [address(0x0a00_0000, index)].into(),
            hostname: empty.clone(),
            network: empty,
            tunnel_protocol: TunnelProtocol::Hbone,
            identity: Some(self.identity.clone()),
            node,
            canonical_name: name.clone(),
            canonical_revision: revision,
            workload_name: name,
            cluster_id: cluster,
            authorization_policies: self.policies.clone(),
            services: [backs(&self.crowd), backs(&self.own)].into(),
            ..everybody_default()
        }
    }

    fn service(&self, group: u32) -> Service {
        let port = ServicePort {
            service_port: 80,
            target_port: 8080,
            app_protocol: Default::default(),
        };
        let vips = [Vip::address("", address(0x6440_0000, group))].into();
        Service {
            key: self.own.clone(),
            vips,
            ports: [port].into(),
            ..Default::default()
        }
    }

    fn policy(&self) -> Policy {
        let one = Match {
            not_principals: [StringMatch::Presence].into(),
            ..Default::default()
        };
        let rules = [Rule {
            clauses: [Clause {
                matches: [one].into(),
            }]
            .into(),
        }]
        .into();
        let name = self.policies[0].clone();
        Policy {
            name,
            scope: Scope::Selector,
            action: Action::Deny,
            rules,
            dry_run: false,
            invalid: None,
        }
    }
}

struct Everybody {
    strings: [Arc<str>; 2],
    crowd: NamespacedHostname,
    ports: Arc<[PortPair]>,
}

/// Empty strings of the default exist once.
fn everybody_default() -> Workload {
    thread_local!(static EMPTY: Workload = Workload::default());
    EMPTY.with(Clone::clone)
}

fn updates() -> Vec<Update> {
    let everybody = Everybody {
        strings: ["Kubernetes".into(), "v1".into()],
        crowd: NamespacedHostname::new("app", CROWDED),
        ports: [PortPair::new(80, 8080)].into(),
    };
    let mut updates = Vec::new();
    for group in 0..WORKLOADS / REPLICAS {
        let shared = Shared::of(group, &everybody);
        updates.push(Update::Service(Arc::new(shared.service(group))));
        updates.push(Update::Policy(Arc::new(shared.policy())));
        let replicas = group * REPLICAS..(group + 1) * REPLICAS;
        updates.extend(replicas.map(|index| Update::Workload(Arc::new(shared.workload(index)))));
    }
    updates
}

fn mesh() -> State {
    let mut state = State::new();
    state.apply(updates());
    state
}

#[test]
fn a_mesh_of_20k_workloads_fits_in_30_mb() {
    let mut state = None;
    let started = Instant::now();
    let cost = measure(|| state = Some(mesh()));
    println!(
        "20k workloads: {:.1} MB held, {:.1} MB at most, built and applied in {:?}",
        cost.bytes_current as f64 / 1e6,
        cost.bytes_max as f64 / 1e6,
        started.elapsed()
    );
    assert_eq!(state.unwrap().current().workloads().len(), 20_000);
    assert!(cost.bytes_current < 30_000_000, "{cost:?}");
}

#[test]
fn one_update_over_20k_workloads_allocates_less_than_64_kib() {
    let mut state = mesh();
    let victim = state
        .current()
        .workload_at("", address(0x0a00_0000, 777))
        .unwrap()
        .clone();
    let service = state
        .current()
        .service_at("", address(0x6440_0000, 7), "x")
        .unwrap()
        .clone();
    let moved = Workload {
        addresses: [address(0x0b00_0000, 1)].into(),
        ..(*victim).clone()
    };
    let sick = Workload {
        healthy: false,
        ..(*victim).clone()
    };
    let fresh = Workload {
        uid: "Kubernetes//Pod/x/new".into(),
        ..moved.clone()
    };
    let cases: [(&str, Update); 6] = [
        ("health", Update::Workload(Arc::new(sick))),
        ("move", Update::Workload(Arc::new(moved))),
        ("add", Update::Workload(Arc::new(fresh))),
        ("remove", Update::RemoveAddress(victim.uid.clone())),
        (
            "service",
            Update::Service(Arc::new(Service {
                canonical: true,
                ..(*service).clone()
            })),
        ),
        (
            "policy",
            Update::RemovePolicy(victim.authorization_policies[0].clone()),
        ),
    ];
    for (what, update) in cases {
        // A reader holds the old version, so that every change must copy what it touches.
        let held = state.snapshot();
        let cost = measure(|| {
            black_box(state.apply(vec![update]));
            black_box(state.snapshot());
        });
        println!(
            "one update ({what}): {} bytes in {} allocations",
            cost.bytes_total, cost.count_total
        );
        assert!(cost.bytes_total < 64 * 1024, "{what}: {cost:?}");
        assert_ne!(held.generation(), state.current().generation(), "{what}");
    }
}

#[test]
fn lookups_decisions_and_picks_do_not_allocate() {
    let state = mesh();
    let snapshot = state.current();
    let source = snapshot.workload_at("", address(0x0a00_0000, 1)).unwrap();
    let crowd = Service {
        key: NamespacedHostname::new("app", CROWDED),
        ports: [ServicePort {
            service_port: 80,
            target_port: 8080,
            app_protocol: Default::default(),
        }]
        .into(),
        ..Default::default()
    };
    let facts = Facts {
        source: source.identity.clone(),
        source_ip: source.addresses[0],
        destination: (address(0x0a00_0000, 777), 8080).into(),
    };
    let mut rng = StdRng::seed_from_u64(1);
    let cost = measure(|| {
        let target = snapshot.workload_at("", facts.destination.ip()).unwrap();
        assert!(black_box(authz::authorize(snapshot, target, &facts)).is_allowed());
        let anonymous = Facts {
            source: None,
            ..facts.clone()
        };
        assert!(!black_box(authz::authorize(snapshot, target, &anonymous)).is_allowed());
        let service = snapshot
            .service_at("", address(0x6440_0000, 7), "app")
            .unwrap();
        assert!(
            black_box(balance::pick(
                snapshot,
                service,
                Want::Port(80),
                source,
                &mut rng
            ))
            .is_ok()
        );
        assert!(
            black_box(balance::pick(
                snapshot,
                &crowd,
                Want::Port(80),
                source,
                &mut rng
            ))
            .is_ok()
        );
        assert_eq!(snapshot.endpoints(&crowd.key).count(), 20_000);
        assert!(snapshot.service("app", "none").is_none());
    });
    assert_eq!(cost.count_total, 0, "{cost:?}");
}
