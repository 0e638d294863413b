//! Routing as tables: each row a name, a situation, and where it leads.
//! Long because the table is the specification: one situation a row.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hbone::headers::{Authority, Host};
use mesh::identity::Identity;
use mesh::service::{LoadBalancing, Mode, Service, ServicePort, Vip, WeightedWaypoint};
use mesh::state::{RefusedAddress, Snapshot, State, Update};
use mesh::workload::{
    ApplicationTunnel, GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress,
    PortPair, ServicePorts, TunnelProtocol, Workload,
};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;
use crate::worker::api::{Ports, Reason};

const HOST: &str = "reviews.app.svc.cluster.local";
const WAYPOINT: &str = "waypoint.app.svc.cluster.local";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "app", account).unwrap()
}

fn workload(name: &str, address: &str, protocol: TunnelProtocol) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/app/{name}").into(),
        name: name.into(),
        namespace: "app".into(),
        addresses: [ip(address)].into(),
        tunnel_protocol: protocol,
        identity: Some(identity(name)),
        ..Workload::default()
    }
}

fn backs(workload: Workload, host: &str, ports: (u16, u16)) -> Workload {
    let service = NamespacedHostname::new("app", host);
    let ports = [PortPair::new(ports.0, ports.1)].into();
    Workload {
        services: [ServicePorts { service, ports }].into(),
        ..workload
    }
}

fn by_host(workload: &mut Workload, host: &str) {
    workload.addresses = Box::default();
    workload.hostname = host.into();
    workload.tunnel_protocol = TunnelProtocol::None;
}

fn service(host: &str, vip: &str, ports: (u16, u16)) -> Service {
    let port = ServicePort {
        service_port: ports.0,
        target_port: ports.1,
        app_protocol: mesh::service::AppProtocol::Unknown,
    };
    Service {
        key: NamespacedHostname::new("app", host),
        name: host.split('.').next().unwrap().into(),
        vips: [Vip::address("", ip(vip))].into(),
        ports: [port].into(),
        ..Service::default()
    }
}

fn by_name(host: &str) -> Arc<GatewayAddress> {
    let destination = GatewayDestination::Hostname(NamespacedHostname::new("app", host));
    Arc::new(GatewayAddress {
        destination,
        hbone_mtls_port: 15008,
    })
}

fn by_address(address: &str) -> Arc<GatewayAddress> {
    let address = NetworkAddress {
        network: "".into(),
        address: ip(address),
    };
    Arc::new(GatewayAddress {
        destination: GatewayDestination::Address(address),
        hbone_mtls_port: 15008,
    })
}

/// client 10.0.0.1, server 10.0.0.2 behind reviews (10.96.0.1:80 -> 8080), plain 10.0.0.3, waypoint 10.0.0.9 (10.96.0.9).
struct Mesh {
    client: Workload,
    server: Workload,
    reviews: Service,
    waypoint: Workload,
    waypoint_service: Service,
    more: Vec<Update>,
}

impl Default for Mesh {
    fn default() -> Self {
        use TunnelProtocol::Hbone;
        Self {
            client: workload("client", "10.0.0.1", Hbone),
            server: backs(workload("server", "10.0.0.2", Hbone), HOST, (80, 8080)),
            reviews: service(HOST, "10.96.0.1", (80, 8080)),
            waypoint: backs(
                workload("waypoint", "10.0.0.9", Hbone),
                WAYPOINT,
                (15008, 15008),
            ),
            waypoint_service: service(WAYPOINT, "10.96.0.9", (15008, 15008)),
            more: vec![Update::Workload(Arc::new(workload(
                "plain",
                "10.0.0.3",
                TunnelProtocol::None,
            )))],
        }
    }
}

impl Mesh {
    fn build(self) -> (Arc<Snapshot>, Workload) {
        let mut state = State::new();
        let workloads = [self.client.clone(), self.server, self.waypoint]
            .map(|one| Update::Workload(Arc::new(one)));
        let services =
            [self.reviews, self.waypoint_service].map(|one| Update::Service(Arc::new(one)));
        state.apply(
            workloads
                .into_iter()
                .chain(services)
                .chain(self.more)
                .collect(),
        );
        (state.snapshot(), self.client)
    }

    fn route(self, destination: &str) -> Route {
        let (snapshot, client) = self.build();
        ask(&snapshot, Some(&client), destination)
    }
}

/// One name with addresses, and one that does not resolve.
fn names() -> Names {
    let (mut names, now) = (Names::default(), Instant::now());
    let found = [
        (
            "db.example.com",
            Ok([ip("192.0.2.7"), ip("2001:db8::7")].into()),
        ),
        ("gone.example.com", Err("Non-Existent Domain".into())),
    ];
    for (host, found) in found {
        let name = Name {
            found,
            until: now + Duration::from_secs(60),
            resolved: now,
        };
        names.put(host.into(), name, now);
    }
    names
}

fn ask(snapshot: &Snapshot, source: Option<&Workload>, destination: &str) -> Route {
    let request = Outbound {
        source,
        destination: at(destination),
        network: "",
        ports: Ports::default(),
        names: (&names(), Instant::now()),
    };
    outbound(snapshot, &request, &mut SmallRng::seed_from_u64(1))
}

/// A route in one line.
fn line(route: &Route) -> String {
    match route {
        Route::Passthrough(plain) => format!("plain {}", plain.destination),
        Route::Tunnel(tunnel) => {
            let accepted: Vec<_> = tunnel
                .accepted
                .iter()
                .map(|one| one.service_account().to_owned())
                .collect();
            let service = tunnel.service.as_ref().map_or("-", |service| &service.name);
            let Tunnel {
                next_hop,
                authority,
                ..
            } = tunnel;
            format!(
                "tunnel {next_hop} for {authority} as {} service {service}",
                accepted.join("|")
            )
        }
        Route::WaitForWorkload => "wait".to_owned(),
        Route::WaitForName(host) => format!("wait for {host}"),
        Route::Reject { reason, .. } => format!("reject {reason:?}"),
    }
}

type Change = fn(&mut Mesh);

/// Name, what is dialled, what is different about the mesh, where it goes.
const OUTBOUND: &[(&str, &str, Change, &str)] = &[
    (
        "own port on loopback",
        "127.0.0.1:15008",
        |_| {},
        "reject SelfCall",
    ),
    (
        "own port on the own address",
        "10.0.0.1:15006",
        |_| {},
        "reject SelfCall",
    ),
    (
        "other port on loopback",
        "127.0.0.1:80",
        |_| {},
        "plain 127.0.0.1:80",
    ),
    (
        "unknown address",
        "192.0.2.1:443",
        |_| {},
        "plain 192.0.2.1:443",
    ),
    (
        "pod outside of the mesh",
        "10.0.0.3:80",
        |_| {},
        "plain 10.0.0.3:80",
    ),
    (
        "pod in the mesh",
        "10.0.0.2:9000",
        |_| {},
        "tunnel 10.0.0.2:15008 for 10.0.0.2:9000 as server service -",
    ),
    (
        "service",
        "10.96.0.1:80",
        |_| {},
        "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 as server service reviews",
    ),
    (
        "service, port it does not have",
        "10.96.0.1:81",
        |_| {},
        "reject NoEndpoint",
    ),
    (
        "service without healthy endpoints",
        "10.96.0.1:80",
        |m| m.server.healthy = false,
        "reject NoEndpoint",
    ),
    (
        "unhealthy endpoints allowed",
        "10.96.0.1:80",
        |m| {
            m.server.healthy = false;
            m.reviews.load_balancing.allow_unhealthy = true;
        },
        "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 as server service reviews",
    ),
    (
        "service with plain endpoints",
        "10.96.0.1:80",
        |m| m.server.tunnel_protocol = TunnelProtocol::None,
        "plain 10.0.0.2:8080",
    ),
    (
        "passthrough service",
        "10.96.0.1:80",
        |m| {
            m.reviews.load_balancing = LoadBalancing {
                mode: Mode::Passthrough,
                ..LoadBalancing::default()
            }
        },
        "plain 10.96.0.1:80",
    ),
    (
        "further names may answer",
        "10.96.0.1:80",
        |m| {
            m.reviews.subject_alt_names =
                [identity("spare").uri().into(), "no identity".into()].into()
        },
        "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 as spare|server service reviews",
    ),
    (
        "nobody may answer",
        "10.0.0.2:80",
        |m| m.server.identity = None,
        "reject Identity",
    ),
    (
        "service behind a waypoint",
        "10.96.0.1:80",
        |m| m.reviews.waypoint = Some(by_name(WAYPOINT)),
        "tunnel 10.0.0.9:15008 for 10.96.0.1:80 as waypoint service reviews",
    ),
    (
        "waypoint by its VIP",
        "10.96.0.1:80",
        |m| m.reviews.waypoint = Some(by_address("10.96.0.9")),
        "tunnel 10.0.0.9:15008 for 10.96.0.1:80 as waypoint service reviews",
    ),
    (
        "waypoint by its pod address",
        "10.96.0.1:80",
        |m| m.reviews.waypoint = Some(by_address("10.0.0.9")),
        "tunnel 10.0.0.9:15008 for 10.96.0.1:80 as waypoint service reviews",
    ),
    (
        "weighted waypoint",
        "10.96.0.1:80",
        |m| {
            m.reviews.weighted_waypoints = [WeightedWaypoint {
                destination: by_name(WAYPOINT),
                weight: 1,
            }]
            .into()
        },
        "tunnel 10.0.0.9:15008 for 10.96.0.1:80 as waypoint service reviews",
    ),
    (
        "waypoint of a port that the service lacks decides itself",
        "10.96.0.1:81",
        |m| m.reviews.waypoint = Some(by_name(WAYPOINT)),
        "tunnel 10.0.0.9:15008 for 10.96.0.1:81 as waypoint service reviews",
    ),
    (
        "waypoint named but absent",
        "10.96.0.1:80",
        |m| m.reviews.waypoint = Some(by_name("gone.app.svc.cluster.local")),
        "reject NoWaypoint",
    ),
    (
        "waypoint address unknown",
        "10.0.0.2:80",
        |m| m.server.waypoint = Some(by_address("10.0.0.77")),
        "reject NoWaypoint",
    ),
    (
        "waypoint without healthy instance",
        "10.96.0.1:80",
        |m| {
            m.reviews.waypoint = Some(by_name(WAYPOINT));
            m.waypoint.healthy = false;
        },
        "reject NoWaypoint",
    ),
    (
        "pod address with a workload waypoint",
        "10.0.0.2:9000",
        |m| m.server.waypoint = Some(by_name(WAYPOINT)),
        "tunnel 10.0.0.9:15008 for 10.0.0.2:9000 as waypoint service -",
    ),
    (
        "a workload waypoint does not matter to calls by service",
        "10.96.0.1:80",
        |m| m.server.waypoint = Some(by_name(WAYPOINT)),
        "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 as server service reviews",
    ),
    (
        "endpoint on another network",
        "10.96.0.1:80",
        |m| {
            m.server.network = "far".into();
            m.server.network_gateway = Some(by_address("203.0.113.1"));
        },
        "reject Unsupported",
    ),
    (
        "endpoint known by name only",
        "10.96.0.1:80",
        |m| {
            m.server.addresses = Box::default();
            m.server.hostname = "server.example.com".into();
        },
        "wait for server.example.com",
    ),
    (
        "endpoint known by a name that was resolved",
        "10.96.0.1:80",
        |m| by_host(&mut m.server, "db.example.com"),
        "plain 192.0.2.7:8080",
    ),
    (
        "a name's address may be called through a tunnel too",
        "10.96.0.1:80",
        |m| {
            by_host(&mut m.server, "db.example.com");
            m.server.tunnel_protocol = TunnelProtocol::Hbone;
        },
        "tunnel 192.0.2.7:15008 for 192.0.2.7:8080 as server service reviews",
    ),
    (
        "a name has an address of the service's families",
        "10.96.0.1:80",
        |m| {
            by_host(&mut m.server, "db.example.com");
            m.reviews.ip_families = mesh::service::IpFamilies::V6Only;
        },
        "plain [2001:db8::7]:8080",
    ),
    (
        "endpoint known by a name that does not resolve",
        "10.96.0.1:80",
        |m| by_host(&mut m.server, "gone.example.com"),
        "reject NoEndpoint",
    ),
    (
        "a waypoint that is known by name only is waited for",
        "10.96.0.1:80",
        |m| {
            m.reviews.waypoint = Some(by_name(WAYPOINT));
            m.waypoint.addresses = Box::default();
            m.waypoint.hostname = "waypoint.example.com".into();
        },
        "wait for waypoint.example.com",
    ),
];

#[test]
fn outbound_table() {
    for (name, destination, change, expected) in OUTBOUND {
        let mut mesh = Mesh::default();
        change(&mut mesh);
        assert_eq!(line(&mesh.route(destination)), *expected, "{name}");
    }
}

#[test]
fn traffic_of_a_waypoint_does_not_come_back_to_it() {
    for waypoint in [
        by_name(WAYPOINT),
        by_address("10.96.0.9"),
        by_address("10.0.0.9"),
    ] {
        let mut mesh = Mesh::default();
        mesh.reviews.waypoint = Some(waypoint.clone());
        mesh.server.waypoint = Some(waypoint.clone());
        let source = mesh.waypoint.clone();
        let (snapshot, _) = mesh.build();
        let by_vip = ask(&snapshot, Some(&source), "10.96.0.1:80");
        assert_eq!(
            line(&by_vip),
            "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 as server service reviews",
            "{waypoint}"
        );
        let by_pod = ask(&snapshot, Some(&source), "10.0.0.2:80");
        assert_eq!(
            line(&by_pod),
            "tunnel 10.0.0.2:15008 for 10.0.0.2:80 as server service -",
            "{waypoint}"
        );
    }
}

#[test]
fn nothing_is_decided_before_the_own_workload_is_known() {
    let (snapshot, _) = Mesh::default().build();
    assert_eq!(
        ask(&snapshot, None, "192.0.2.1:443"),
        Route::WaitForWorkload
    );
    assert_eq!(
        line(&ask(&snapshot, None, "127.0.0.1:15001")),
        "reject SelfCall"
    );
}

#[test]
fn a_refusal_says_which_waypoint_or_endpoint_is_missing() {
    let mut mesh = Mesh::default();
    mesh.reviews.waypoint = Some(by_name("gone.app.svc.cluster.local"));
    let Route::Reject { detail, .. } = mesh.route("10.96.0.1:80") else {
        panic!("not refused")
    };
    assert_eq!(
        detail,
        "waypoint app/gone.app.svc.cluster.local:15008 is not known"
    );
}

#[test]
fn an_address_of_a_refused_resource_is_not_called_in_plain_text() {
    let refused = Update::RefusedAddress(Arc::new(RefusedAddress {
        name: "app/h".into(),
        vips: [
            Vip::address("", ip("10.96.0.7")),
            Vip::address("", ip("10.96.0.1")),
        ]
        .into(),
        why: "service.waypoint: odd".into(),
    }));
    let mesh = || Mesh {
        more: vec![refused.clone()],
        ..Mesh::default()
    };
    match mesh().route("10.96.0.7:80") {
        Route::Reject { detail, .. } => assert_eq!(
            detail,
            "10.96.0.7:80 belongs to app/h, which was refused: service.waypoint: odd"
        ),
        other => panic!("{other:?}"),
    }
    // What is known of the address counts first.
    assert!(matches!(mesh().route("10.96.0.1:80"), Route::Tunnel(_)));
    assert!(matches!(
        mesh().route("10.96.0.8:80"),
        Route::Passthrough(_)
    ));
}

fn arrive(own: Option<&Workload>, local: &str, authority: &str) -> Result<String, (u16, Reason)> {
    let mesh = Mesh::default();
    let (snapshot, _) = mesh.build();
    let authority: Authority = authority.parse().unwrap();
    let request = Inbound {
        workload: own,
        local: at(local),
        authority: &authority,
        ports: Ports::default(),
    };
    match inbound(&snapshot, &request) {
        Ok(arrival) => Ok(arrival.destination.to_string()),
        Err(refusal) => Err((refusal.status, refusal.reason)),
    }
}

type Arrived = Result<&'static str, (u16, Reason)>;

/// Name, the address it came in on, what is asked for, what comes of it.
const INBOUND: &[(&str, &str, &str, Arrived)] = &[
    (
        "own address",
        "10.0.0.2:15008",
        "10.0.0.2:9000",
        Ok("10.0.0.2:9000"),
    ),
    (
        "own address, mapped",
        "[::ffff:10.0.0.2]:15008",
        "10.0.0.2:9000",
        Ok("10.0.0.2:9000"),
    ),
    (
        "own v6 address",
        "[fd00::2]:15008",
        "[fd00::2]:9000",
        Ok("[fd00::2]:9000"),
    ),
    (
        "other address",
        "10.0.0.2:15008",
        "10.0.0.3:9000",
        Err((400, Reason::BadRequest)),
    ),
    (
        "a service's VIP",
        "10.0.0.2:15008",
        "10.96.0.1:80",
        Err((400, Reason::BadRequest)),
    ),
    (
        "own service by name",
        "10.0.0.2:15008",
        "reviews.app.svc.cluster.local:80",
        Ok("10.0.0.2:8080"),
    ),
    (
        "own service, unknown port",
        "10.0.0.2:15008",
        "reviews.app.svc.cluster.local:81",
        Err((503, Reason::NoEndpoint)),
    ),
    (
        "somebody else's service",
        "10.0.0.2:15008",
        "waypoint.app.svc.cluster.local:15008",
        Err((503, Reason::NoEndpoint)),
    ),
    (
        "unknown name",
        "10.0.0.2:15008",
        "nobody.example.com:80",
        Err((503, Reason::NoEndpoint)),
    ),
    (
        "own port",
        "10.0.0.2:15008",
        "10.0.0.2:15001",
        Err((503, Reason::SelfCall)),
    ),
    (
        "own port 15006",
        "10.0.0.2:15008",
        "10.0.0.2:15006",
        Err((503, Reason::SelfCall)),
    ),
    (
        "own port 15008",
        "10.0.0.2:15008",
        "10.0.0.2:15008",
        Err((503, Reason::SelfCall)),
    ),
];

#[test]
fn inbound_table() {
    let own = Mesh::default().server;
    for (name, local, authority, expected) in INBOUND {
        let expected = expected.map(str::to_owned);
        assert_eq!(arrive(Some(&own), local, authority), expected, "{name}");
    }
    assert_eq!(
        arrive(None, "10.0.0.2:15008", "10.0.0.2:80"),
        Err((503, Reason::UnknownWorkload))
    );
}

#[test]
fn a_workload_with_an_application_tunnel_is_refused_clearly() {
    let mut own = Mesh::default().server;
    own.application_tunnel = Some(ApplicationTunnel {
        protocol: mesh::workload::ApplicationProtocol::Proxy,
        port: 15088,
    });
    assert_eq!(
        arrive(Some(&own), "10.0.0.2:15008", "10.0.0.2:80"),
        Err((503, Reason::Unsupported))
    );
}

#[test]
fn an_authority_host_may_be_a_name() {
    let authority: Authority = "reviews.app.svc.cluster.local:80".parse().unwrap();
    assert!(matches!(authority.host, Host::Name(_)));
}
