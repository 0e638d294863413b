use std::collections::BTreeMap;

use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    service::{LoadBalancing, ServicePort, WeightedWaypoint},
    state::{State, Update},
    workload::{
        ApplicationProtocol, ApplicationTunnel, GatewayDestination, Locality, NetworkAddress,
        PortPair, ServicePorts,
    },
};

fn key() -> NamespacedHostname {
    NamespacedHostname::new("app", "echo.app.svc.cluster.local")
}

fn service(change: impl FnOnce(&mut Service)) -> Service {
    let port = |service_port, target_port| ServicePort {
        service_port,
        target_port,
        app_protocol: Default::default(),
    };
    let mut service = Service {
        key: key(),
        ports: [port(80, 8080), port(90, 0)].into(),
        ..Default::default()
    };
    change(&mut service);
    service
}

fn balanced(mode: Mode, scopes: &[Scope]) -> Service {
    service(|s| {
        s.load_balancing = LoadBalancing {
            mode,
            scopes: scopes.into(),
            allow_unhealthy: false,
        }
    })
}

/// A healthy endpoint on port 8080 with one IPv4 address.
fn endpoint(name: &str, change: impl FnOnce(&mut Workload)) -> Workload {
    let ports = [PortPair::new(80, 8080)].into();
    let mut workload = Workload {
        uid: name.into(),
        addresses: [IpAddr::from([10, 0, 0, 1])].into(),
        services: [ServicePorts {
            service: key(),
            ports,
        }]
        .into(),
        ..Default::default()
    };
    change(&mut workload);
    workload
}

fn at(region: &str, zone: &str, node: &str) -> impl FnOnce(&mut Workload) {
    let (region, zone) = (region.into(), zone.into());
    let locality = Some(Arc::new(Locality {
        region,
        zone,
        subzone: "".into(),
    }));
    let node = node.into();
    move |workload| (workload.locality, workload.node) = (locality, node)
}

fn mesh(endpoints: impl IntoIterator<Item = Workload>) -> State {
    let mut state = State::new();
    state.apply(
        endpoints
            .into_iter()
            .map(|workload| Update::Workload(Arc::new(workload)))
            .collect(),
    );
    state
}

/// How often each endpoint is picked in 4,000 lots.
fn lots(state: &State, service: &Service, want: Want, source: &Workload) -> BTreeMap<String, u32> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut counts = BTreeMap::new();
    for _ in 0..4000 {
        match pick(state.current(), service, want, source, &mut rng) {
            Ok(Choice::Endpoint { workload, .. }) => {
                *counts.entry(workload.uid.to_string()).or_default() += 1
            }
            other => panic!("{other:?}"),
        }
    }
    counts
}

fn picked(state: &State, service: &Service, source: &Workload) -> String {
    lots(state, service, Want::Port(80), source)
        .into_keys()
        .collect::<Vec<_>>()
        .join(" ")
}

fn refusal(state: &State, service: &Service, want: Want) -> String {
    let source = Workload::default();
    pick(
        state.current(),
        service,
        want,
        &source,
        &mut StdRng::seed_from_u64(1),
    )
    .unwrap_err()
    .to_string()
}

#[test]
fn lots_fall_by_capacity() {
    let of = |name: &'static str, capacity| endpoint(name, |w| w.capacity = capacity);
    let state = mesh([of("a", 1), of("b", 3), of("c", 0)]);
    let counts = lots(
        &state,
        &service(|_| {}),
        Want::Port(80),
        &Workload::default(),
    );
    assert_eq!(counts.len(), 2);
    assert!((900..1100).contains(&counts["a"]), "{counts:?}");
}

#[test]
fn huge_capacities_do_not_overflow() {
    let state = mesh(["a", "b"].map(|name| endpoint(name, |w| w.capacity = u32::MAX)));
    let counts = lots(
        &state,
        &service(|_| {}),
        Want::Port(80),
        &Workload::default(),
    );
    assert!(
        counts.values().all(|count| (1800..2200).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn the_target_port_is_the_endpoints_then_the_services_then_with_a_tunnel_the_asked_one() {
    let plain = endpoint("a", |_| {});
    let own = endpoint("a", |w| {
        w.services[0].ports = [PortPair::new(80, 9999), PortPair::new(90, 9090)].into()
    });
    let unsaid = endpoint("a", |w| w.services[0].ports = [PortPair::new(80, 0)].into());
    let tunnel = endpoint("a", |w| {
        w.application_tunnel = Some(ApplicationTunnel {
            protocol: ApplicationProtocol::None,
            port: 0,
        });
    });
    let service = service(|_| {});
    assert_eq!(target_port(&service, &own, 80), Some(9999));
    assert_eq!(target_port(&service, &own, 90), Some(9090));
    assert_eq!(target_port(&service, &unsaid, 80), Some(8080));
    assert_eq!(target_port(&service, &plain, 90), None);
    assert_eq!(target_port(&service, &tunnel, 90), Some(90));
    assert_eq!(target_port(&service, &plain, 81), None);
}

#[test]
fn a_waypoint_is_picked_whatever_its_ports() {
    let state = mesh([endpoint("a", |w| w.services[0].ports = [].into())]);
    let none = service(|s| s.ports = [].into());
    let picked = pick(
        state.current(),
        &none,
        Want::Any,
        &Workload::default(),
        &mut StdRng::seed_from_u64(1),
    );
    assert!(matches!(picked, Ok(Choice::Endpoint { port: None, .. })));
}

#[test]
fn unhealthy_endpoints_are_used_only_where_the_service_allows_it() {
    let state = mesh([endpoint("a", |w| w.healthy = false), endpoint("b", |_| {})]);
    assert_eq!(picked(&state, &service(|_| {}), &Workload::default()), "b");
    assert_eq!(
        picked(
            &state,
            &service(|s| s.load_balancing.allow_unhealthy = true),
            &Workload::default()
        ),
        "a b"
    );
}

#[test]
fn passthrough_chooses_nothing() {
    let state = mesh([]);
    let service = balanced(Mode::Passthrough, &[]);
    let choice = pick(
        state.current(),
        &service,
        Want::Port(1),
        &Workload::default(),
        &mut StdRng::seed_from_u64(1),
    );
    assert_eq!(choice, Ok(Choice::Passthrough));
}

#[test]
fn strict_demands_all_scopes() {
    let source = endpoint("me", at("r", "z1", "n1"));
    let state = mesh([
        endpoint("same-node", at("r", "z1", "n1")),
        endpoint("same-zone", at("r", "z1", "n2")),
        endpoint("same-region", at("r", "z2", "n3")),
    ]);
    assert_eq!(
        picked(&state, &balanced(Mode::Strict, &[Scope::Node]), &source),
        "same-node"
    );
    assert_eq!(
        picked(
            &state,
            &balanced(Mode::Strict, &[Scope::Region, Scope::Zone]),
            &source
        ),
        "same-node same-zone"
    );
    let elsewhere = endpoint("me", at("r", "z1", "n9"));
    let rng = &mut StdRng::seed_from_u64(1);
    let refused = pick(
        state.current(),
        &balanced(Mode::Strict, &[Scope::Node]),
        Want::Port(80),
        &elsewhere,
        rng,
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "service app/echo.app.svc.cluster.local port 80 has no usable endpoint among 3: 3 outside of the scopes that the service demands"
    );
}

#[test]
fn failover_keeps_those_with_most_scopes_in_common_counted_from_the_first() {
    let scopes = [Scope::Network, Scope::Region, Scope::Zone];
    let source = endpoint("me", at("r", "z1", "n1"));
    let near = || endpoint("same-zone", at("r", "z1", "n2"));
    let middle = || endpoint("same-region", at("r", "z2", "n3"));
    // Same zone name in another region: the region differs first, so the zone does not count.
    let far = || endpoint("far", at("q", "z1", "n4"));
    let service = balanced(Mode::Failover, &scopes);
    assert_eq!(
        picked(&mesh([near(), middle(), far()]), &service, &source),
        "same-zone"
    );
    assert_eq!(
        picked(&mesh([middle(), far()]), &service, &source),
        "same-region"
    );
    assert_eq!(picked(&mesh([far()]), &service, &source), "far");
    let sick = endpoint("same-zone", |w| {
        at("r", "z1", "n2")(w);
        w.healthy = false;
    });
    assert_eq!(
        picked(&mesh([sick, middle()]), &service, &source),
        "same-region"
    );
}

#[test]
fn every_scope_compares_its_own_field() {
    let base = |w: &mut Workload| {
        at("r", "z", "n")(w);
        (w.cluster_id, w.network) = ("c".into(), "net".into());
        w.locality = w.locality.as_ref().map(|l| {
            Arc::new(Locality {
                subzone: "s".into(),
                ..(**l).clone()
            })
        });
    };
    let source = endpoint("me", base);
    let locality = |w: &mut Workload, change: fn(&mut Locality)| {
        let mut changed = (**w.locality.as_ref().unwrap()).clone();
        change(&mut changed);
        w.locality = Some(Arc::new(changed));
    };
    type Change = Box<dyn Fn(&mut Workload)>;
    let cases: [(Scope, Change); 6] = [
        (
            Scope::Region,
            Box::new(move |w| locality(w, |l| l.region = "x".into())),
        ),
        (
            Scope::Zone,
            Box::new(move |w| locality(w, |l| l.zone = "x".into())),
        ),
        (
            Scope::Subzone,
            Box::new(move |w| locality(w, |l| l.subzone = "x".into())),
        ),
        (Scope::Node, Box::new(|w| w.node = "x".into())),
        (Scope::Cluster, Box::new(|w| w.cluster_id = "x".into())),
        (Scope::Network, Box::new(|w| w.network = "x".into())),
    ];
    for (scope, change) in cases {
        let other = endpoint("other", |w| {
            base(w);
            change(w);
        });
        let state = mesh([endpoint("same", base), other]);
        assert_eq!(
            picked(&state, &balanced(Mode::Strict, &[scope]), &source),
            "same",
            "{scope:?}"
        );
    }
}

#[test]
fn an_endpoint_needs_an_address_a_host_name_or_from_another_network_a_gateway() {
    let gateway = || {
        let address = NetworkAddress {
            network: "far".into(),
            address: [1, 2, 3, 4].into(),
        };
        Some(Arc::new(GatewayAddress {
            destination: GatewayDestination::Address(address),
            hbone_mtls_port: 15008,
        }))
    };
    let bare = |name: &'static str, network: &'static str| {
        endpoint(name, |w| {
            (w.addresses, w.network, w.network_gateway) = ([].into(), network.into(), gateway())
        })
    };
    let source = endpoint("me", |w| w.network = "here".into());
    let named = endpoint("named", |w| {
        (w.addresses, w.hostname) = ([].into(), "x.example".into())
    });
    let state = mesh([bare("near", "here"), bare("far", "far"), named]);
    assert_eq!(picked(&state, &service(|_| {}), &source), "far named");
}

#[test]
fn the_address_family_is_the_services_then_the_callers() {
    let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "fd00::1".parse().unwrap());
    let both = [v4, v6];
    assert_eq!(address(&both, IpFamilies::Automatic, v6), Some(v6));
    assert_eq!(address(&both, IpFamilies::Dual, v4), Some(v4));
    assert_eq!(address(&both, IpFamilies::V4Only, v6), Some(v4));
    assert_eq!(address(&both, IpFamilies::V6Only, v4), Some(v6));
    assert_eq!(address(&[v4], IpFamilies::Automatic, v6), Some(v4));
    assert_eq!(address(&[v4], IpFamilies::V6Only, v6), None);
    assert_eq!(
        address(
            &both,
            IpFamilies::Automatic,
            "::ffff:1.2.3.4".parse().unwrap()
        ),
        Some(v4)
    );
    let state = mesh([endpoint("a", |_| {})]);
    let service = service(|s| s.ip_families = IpFamilies::V6Only);
    assert!(
        refusal(&state, &service, Want::Any)
            .ends_with("among 1: 1 without an address that can be called")
    );
}

#[test]
fn refusals_say_how_many_fell_out_for_what() {
    assert_eq!(
        refusal(&mesh([]), &service(|_| {}), Want::Port(80)),
        "service app/echo.app.svc.cluster.local port 80 has no endpoints"
    );
    let state = mesh([
        endpoint("a", |w| w.healthy = false),
        endpoint("b", |w| w.healthy = false),
        endpoint("c", |w| w.capacity = 0),
        endpoint("d", |w| w.addresses = [].into()),
    ]);
    assert_eq!(
        refusal(&state, &service(|_| {}), Want::Port(80)),
        "service app/echo.app.svc.cluster.local port 80 has no usable endpoint among 4: 2 not healthy, \
         1 without an address that can be called, 1 with capacity 0"
    );
    assert!(
        refusal(&state, &service(|_| {}), Want::Port(81)).contains("among 4: 3 without this port")
    );
}

#[test]
fn weighted_waypoints_share_by_weight_and_are_never_bypassed() {
    let named = |host: &str| {
        let destination = GatewayDestination::Hostname(NamespacedHostname::new("app", host));
        Arc::new(GatewayAddress {
            destination,
            hbone_mtls_port: 15008,
        })
    };
    let weighted = |weights: [u32; 2]| {
        service(|s| {
            s.weighted_waypoints = [("one", weights[0]), ("two", weights[1])]
                .map(|(host, weight)| WeightedWaypoint {
                    destination: named(host),
                    weight,
                })
                .into();
        })
    };
    let mut rng = StdRng::seed_from_u64(3);
    let mut share = |service: &Service| {
        (0..1000)
            .filter(|_| waypoint(service, &mut rng).unwrap().to_string() == "app/two:15008")
            .count()
    };
    assert!((60..140).contains(&share(&weighted([90, 10]))));
    assert_eq!(share(&weighted([0, 10])), 1000);
    assert_eq!(share(&weighted([0, 0])), 0);
    let single = service(|s| s.waypoint = Some(named("only")));
    assert_eq!(
        waypoint(&single, &mut rng).unwrap().to_string(),
        "app/only:15008"
    );
    assert_eq!(waypoint(&service(|_| {}), &mut rng), None);
}

#[test]
fn a_pick_depends_only_on_the_set_of_endpoints_and_the_lot() {
    let names: Vec<_> = (0..100).map(|index| format!("w{index}")).collect();
    let forward = mesh(names.iter().map(|name| endpoint(name, |_| {})));
    let backward = mesh(names.iter().rev().map(|name| endpoint(name, |_| {})));
    let pick = |state: &State, seed| match pick(
        state.current(),
        &service(|_| {}),
        Want::Port(80),
        &Workload::default(),
        &mut StdRng::seed_from_u64(seed),
    ) {
        Ok(Choice::Endpoint { workload, .. }) => workload.uid.clone(),
        other => panic!("{other:?}"),
    };
    (0..50).for_each(|seed| assert_eq!(pick(&forward, seed), pick(&backward, seed)));
}
