//! What names mean, as a table: one small mesh, one question a row.

use mesh::service::{LoadBalancing, Vip, Visibility};
use mesh::state::{State, Update};
use mesh::workload::{NamespacedHostname, PortPair, ServicePorts};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn zone() -> Zone {
    Zone {
        network: "".into(),
        cluster: "Kubernetes".into(),
        domain: "cluster.local".into(),
        preferred: None,
        ipv6: true,
    }
}

fn service(namespace: &str, host: &str, vips: &[&str]) -> Service {
    Service {
        key: NamespacedHostname::new(namespace, host),
        name: host.split('.').next().unwrap().into(),
        vips: vips.iter().map(|vip| Vip::address("", ip(vip))).collect(),
        ..Service::default()
    }
}

fn pod(namespace: &str, name: &str, host: &str, addresses: &[&str]) -> Workload {
    let ports = ServicePorts {
        service: NamespacedHostname::new(namespace, host),
        ports: [PortPair::new(80, 80)].into(),
    };
    Workload {
        uid: pod_uid("Kubernetes", namespace, name).into(),
        name: name.into(),
        namespace: namespace.into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        services: [ports].into(),
        healthy: true,
        ..Workload::default()
    }
}

const DB: &str = "db.ns1.svc.cluster.local";
const SINGLE: &str = "single.ns1.svc.cluster.local";
const LATE: &str = "late.ns1.svc.cluster.local";

fn refused(name: &str) -> Update {
    Update::RefusedAddress(Arc::new(RefusedAddress {
        name: name.into(),
        vips: [].into(),
        why: "a field that nobody knows".into(),
    }))
}

fn mesh() -> State {
    let services = [
        service("ns1", "a.ns1.svc.cluster.local", &["10.96.0.1"]),
        service("ns2", "b.ns2.svc.cluster.local", &["10.96.0.2", "fd96::2"]),
        service("ns1", "www.example.com", &["240.240.0.1"]),
        service("ns1", "*.wild.example.com", &["240.240.0.2", "2001:2::2"]),
        service("ns1", "real.example.com", &[]),
        service("ns1", "real.wild.example.com", &[]),
        service("ns1", DB, &[]),
        service("ns1", "empty.ns1.svc.cluster.local", &[]),
        Service {
            ip_families: IpFamilies::V4Only,
            ..service("ns1", SINGLE, &[])
        },
        Service {
            load_balancing: LoadBalancing {
                allow_unhealthy: true,
                ..LoadBalancing::default()
            },
            ..service("ns1", LATE, &[])
        },
        Service {
            visibility: Visibility::Namespace,
            ..service("ns2", "private.example.com", &["240.240.0.3"])
        },
        Service {
            vips: [Vip::address("far", ip("10.97.0.1"))].into(),
            ..service("ns1", "far.ns1.svc.cluster.local", &[])
        },
        Service {
            vips: [Vip {
                network: "".into(),
                range: "10.1.0.0/16".parse().unwrap(),
            }]
            .into(),
            ..service("ns1", "range.example.com", &[])
        },
        service("ns1", "both.example.com", &["240.240.1.1"]),
        service("ns2", "both.example.com", &["240.240.1.2"]),
        Service {
            canonical: true,
            ..service("ns3", "both.example.com", &["240.240.1.3"])
        },
        service("ns4", "both.example.com", &["240.240.1.4"]),
        service("ns1", "kept.example.com", &["240.240.2.1"]),
        service("ns1", "half.example.com", &["240.240.2.2"]),
    ];
    let pods = [
        pod("ns1", "db-0", DB, &["10.0.0.1", "fd00::1"]),
        pod("ns1", "db-1", DB, &["10.0.0.2", "10.0.9.2"]),
        Workload {
            healthy: false,
            ..pod("ns1", "db-2", DB, &["10.0.0.3"])
        },
        Workload {
            network: "far".into(),
            ..pod("ns1", "db-3", DB, &["10.0.0.1"])
        },
        pod("ns1", "single-0", SINGLE, &["10.0.1.1", "fd00::11"]),
        Workload {
            healthy: false,
            ..pod("ns1", "late-0", LATE, &["10.0.2.1"])
        },
    ];
    let mut state = State::new();
    let services = services.map(|one| Update::Service(Arc::new(one)));
    let pods = pods.map(|one| Update::Workload(Arc::new(one)));
    let refusals = [
        refused("ns1/new.example.com"),
        refused("ns1/*.broken.example.com"),
        refused("ns1/kept.example.com"),
        refused("ns2/half.example.com"),
        refused("Kubernetes//Pod/ns1/www"),
    ];
    state.apply(services.into_iter().chain(pods).chain(refusals).collect());
    state
}

/// As text: sorted addresses behind the CNAME, or what else.
fn told_in(
    snapshot: &Snapshot,
    zone: &Zone,
    (namespace, host, kind): (&str, &str, RecordType),
) -> String {
    let question = Question {
        host,
        kind,
        namespace,
    };
    match answer(snapshot, zone, &question, &mut SmallRng::seed_from_u64(1)) {
        Answer::Addresses {
            meant,
            mut addresses,
        } => {
            addresses.sort();
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let meant = meant.map_or_else(String::new, |meant| format!("{meant}: "));
            format!("{meant}{}", texts.join(" "))
        }
        Answer::NoRecord => "no record".to_owned(),
        Answer::Refused(refused) => format!("refused {}", refused.name),
        Answer::Forward => "forward".to_owned(),
    }
}

fn told(namespace: &str, host: &str, kind: RecordType) -> String {
    told_in(&mesh().snapshot(), &zone(), (namespace, host, kind))
}

#[test]
fn services_are_answered_by_each_of_their_names() {
    use RecordType::{A, AAAA, ANY};
    let rows = [
        ("ns1", "a.ns1.svc.cluster.local", A, "10.96.0.1"),
        ("ns1", "a", A, "10.96.0.1"),
        ("ns1", "a.ns1", A, "10.96.0.1"),
        ("ns1", "a.ns1.svc", A, "10.96.0.1"),
        ("ns2", "a", A, "forward"),
        ("ns2", "a.ns1", A, "10.96.0.1"),
        ("ns1", "a.ns1.svc.cluster.local", AAAA, "no record"),
        ("ns1", "b.ns2", AAAA, "fd96::2"),
        ("ns1", "b.ns2", ANY, "10.96.0.2 fd96::2"),
        // What a resolver makes of a name with its search domains.
        (
            "ns1",
            "a.ns1.svc.cluster.local.ns1.svc.cluster.local",
            A,
            "a.ns1.svc.cluster.local: 10.96.0.1",
        ),
        ("ns1", "a.ns1.ns1.svc.cluster.local", A, "a.ns1: 10.96.0.1"),
        (
            "ns1",
            "www.example.com.ns1.svc.cluster.local",
            A,
            "www.example.com: 240.240.0.1",
        ),
        (
            "ns1",
            "www.example.com.svc.cluster.local",
            A,
            "www.example.com: 240.240.0.1",
        ),
        (
            "ns1",
            "www.example.com.cluster.local",
            A,
            "www.example.com: 240.240.0.1",
        ),
        // Of another namespace's search domain nobody is sure.
        ("ns2", "www.example.com.ns1.svc.cluster.local", A, "forward"),
        ("ns1", "far.ns1.svc.cluster.local", A, "no record"),
        ("ns1", "nobody.ns1.svc.cluster.local", A, "forward"),
        ("ns1", "example.com", A, "forward"),
    ];
    for (namespace, host, kind, expected) in rows {
        assert_eq!(
            told(namespace, host, kind),
            expected,
            "{host} {kind} from {namespace}"
        );
    }
}

#[test]
fn hosts_of_service_entries_and_wildcards_are_answered_with_their_addresses() {
    use RecordType::{A, AAAA};
    let rows = [
        ("www.example.com", A, "240.240.0.1"),
        ("www.example.com", AAAA, "no record"),
        ("x.wild.example.com", A, "240.240.0.2"),
        ("y.x.wild.example.com", AAAA, "2001:2::2"),
        ("wild.example.com", A, "forward"),
        // A wildcard is no alias: the name stays what it is.
        ("x.wild.example.com.ns1.svc.cluster.local", A, "240.240.0.2"),
        // No address of its own: the real one is called.
        ("real.example.com", A, "forward"),
        ("real.wild.example.com", A, "240.240.0.2"),
        ("range.example.com", A, "forward"),
    ];
    for (host, kind, expected) in rows {
        assert_eq!(told("ns1", host, kind), expected, "{host} {kind}");
    }
}

#[test]
fn headless_services_are_answered_with_their_ready_pods_of_our_network() {
    use RecordType::{A, AAAA, ANY};
    let rows = [
        (DB, A, "10.0.0.1 10.0.0.2"),
        (DB, AAAA, "fd00::1"),
        (DB, ANY, "10.0.0.1 10.0.0.2 fd00::1"),
        ("db", A, "10.0.0.1 10.0.0.2"),
        (SINGLE, A, "10.0.1.1"),
        (SINGLE, AAAA, "no record"),
        (LATE, A, "10.0.2.1"),
        ("empty.ns1.svc.cluster.local", A, "no record"),
        ("db-0.db.ns1.svc.cluster.local", A, "10.0.0.1"),
        ("db-0.db", AAAA, "fd00::1"),
        (
            "db-0.db.ns1.ns1.svc.cluster.local",
            A,
            "db-0.db.ns1: 10.0.0.1",
        ),
        ("db-2.db", A, "10.0.0.3"),
        ("db-9.db", A, "forward"),
        ("single-0.db", A, "forward"),
        ("a-0.a", A, "forward"),
    ];
    for (host, kind, expected) in rows {
        assert_eq!(told("ns1", host, kind), expected, "{host} {kind}");
    }
}

#[test]
fn of_several_namespaces_the_askers_own_counts_then_the_preferred_then_the_canonical() {
    let both = |namespace| told(namespace, "both.example.com", RecordType::A);
    assert_eq!(both("ns1"), "240.240.1.1");
    assert_eq!(both("ns2"), "240.240.1.2");
    assert_eq!(both("ns9"), "240.240.1.3");
    let preferring = Zone {
        preferred: Some("ns4".into()),
        ..zone()
    };
    let ask = |namespace| {
        let question = (namespace, "both.example.com", RecordType::A);
        told_in(&mesh().snapshot(), &preferring, question)
    };
    assert_eq!(ask("ns9"), "240.240.1.4");
    assert_eq!(ask("ns2"), "240.240.1.2");
}

#[test]
fn who_may_not_see_a_service_does_not_learn_its_address() {
    assert_eq!(
        told("ns2", "private.example.com", RecordType::A),
        "240.240.0.3"
    );
    assert_eq!(told("ns1", "private.example.com", RecordType::A), "forward");
}

#[test]
fn a_refused_service_is_neither_answered_nor_asked_for_elsewhere() {
    let rows = [
        ("ns1", "new.example.com", "refused ns1/new.example.com"),
        ("ns2", "new.example.com", "refused ns1/new.example.com"),
        (
            "ns1",
            "x.broken.example.com",
            "refused ns1/*.broken.example.com",
        ),
        (
            "ns1",
            "new.example.com.ns1.svc.cluster.local",
            "refused ns1/new.example.com",
        ),
        // The last good one counts.
        ("ns1", "kept.example.com", "240.240.2.1"),
        // ns2's own would be meant there, another namespace's would not.
        ("ns2", "half.example.com", "refused ns2/half.example.com"),
        ("ns3", "half.example.com", "240.240.2.2"),
        // A refused workload has no name.
        ("ns1", "www.example.com", "240.240.0.1"),
    ];
    for (namespace, host, expected) in rows {
        assert_eq!(
            told(namespace, host, RecordType::A),
            expected,
            "{host} from {namespace}"
        );
    }
    let mut state = mesh();
    state.apply(vec![Update::RemoveAddress("ns1/new.example.com".into())]);
    let question = ("ns1", "new.example.com", RecordType::A);
    assert_eq!(told_in(&state.snapshot(), &zone(), question), "forward");
}

#[test]
fn other_records_are_asked_for_elsewhere_but_for_those_that_carry_addresses() {
    use RecordType::{HTTPS, MX, SRV, SVCB, TXT};
    for kind in [MX, SRV, TXT] {
        assert_eq!(told("ns1", "www.example.com", kind), "forward");
    }
    for kind in [HTTPS, SVCB] {
        assert_eq!(told("ns1", "www.example.com", kind), "no record");
        assert_eq!(told("ns1", "www.example.org", kind), "forward");
    }
}

#[test]
fn without_ipv6_there_are_no_such_addresses() {
    let zone = Zone {
        ipv6: false,
        ..zone()
    };
    let ask = |host, kind| told_in(&mesh().snapshot(), &zone, ("ns1", host, kind));
    assert_eq!(ask("b.ns2", RecordType::AAAA), "no record");
    assert_eq!(ask("b.ns2", RecordType::ANY), "10.96.0.2");
    assert_eq!(ask(DB, RecordType::AAAA), "no record");
}

#[test]
fn the_order_of_addresses_is_random() {
    let snapshot = mesh().snapshot();
    let zone = zone();
    let firsts: std::collections::BTreeSet<IpAddr> = (0..64)
        .filter_map(|seed| {
            let question = Question {
                host: DB,
                kind: RecordType::A,
                namespace: "ns1",
            };
            match answer(
                &snapshot,
                &zone,
                &question,
                &mut SmallRng::seed_from_u64(seed),
            ) {
                Answer::Addresses { addresses, .. } => Some(addresses[0]),
                _ => None,
            }
        })
        .collect();
    assert_eq!(firsts.len(), 2, "{firsts:?}");
}

proptest! {
    /// Whatever is put around a known name by search domains, it is not asked for elsewhere, and its answer holds nothing
    /// but addresses of that service.
    #[test]
    fn a_known_name_is_never_forwarded(
        short in prop::sample::select(vec!["a", "a.ns1", "a.ns1.svc", "a.ns1.svc.cluster.local", "www.example.com"]),
        suffix in prop::sample::select(vec!["", ".ns1.svc.cluster.local", ".svc.cluster.local", ".cluster.local"]),
        kind in prop::sample::select(vec![RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::HTTPS]),
    ) {
        let told = told("ns1", &format!("{short}{suffix}"), kind);
        let right = ["10.96.0.1", "240.240.0.1", "no record"];
        prop_assert!(right.iter().any(|right| told.ends_with(right)), "{short}{suffix} {kind}: {told}");
    }

    #[test]
    fn any_name_has_an_answer(host in "[a-z*_-]{1,8}(\\.[a-z*]{1,6}){0,12}", namespace in "[a-z]{1,5}") {
        let snapshot = mesh().snapshot();
        let question = Question { host: &host, kind: RecordType::A, namespace: &namespace };
        let _does_not_panic = answer(&snapshot, &zone(), &question, &mut SmallRng::seed_from_u64(1));
    }
}
