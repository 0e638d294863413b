//! Random pushes over a small world, so that names, addresses and VIPs collide all the time.

use mesh::workload::pod_uid;
use prost::Message as _;
use proto::{security, type_url, workload as pb};
use rand::{
    Rng, RngExt,
    seq::{IndexedRandom, SliceRandom},
};

use super::naive::Fold;

pub const NETWORKS: [&str; 2] = ["", "far"];
pub const NAMESPACES: [&str; 3] = ["app", "web", "root"];
pub const HOSTS: [&str; 3] = ["a.example", "b.example", "c.example"];
pub const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "10.1.0.1",
    "10.1.2.3",
    "192.168.0.1",
    "fd00::1",
    "fd00::2",
];
/// Address and prefix length.
const RANGES: [(&str, u32); 6] = [
    ("10.0.0.0", 8),
    ("10.1.0.0", 16),
    ("10.1.2.0", 24),
    ("0.0.0.0", 0),
    ("fd00::", 8),
    ("10.0.0.0", 24),
];

/// What one response brings.
pub struct Push {
    pub type_url: &'static str,
    pub changes: Vec<Change>,
}

pub enum Change {
    Put(Resource),
    Remove(String),
}

pub struct Resource {
    pub name: String,
    pub body: Vec<u8>,
    /// Must be refused.
    pub bad: bool,
    /// Scope that can be read off a bad policy.
    pub scope: i32,
}

impl Change {
    pub fn name(&self) -> &str {
        match self {
            Self::Put(resource) => &resource.name,
            Self::Remove(name) => name,
        }
    }
}

impl Push {
    pub fn random(rng: &mut impl Rng) -> Self {
        let type_url = if rng.random_bool(0.7) {
            type_url::ADDRESS
        } else {
            type_url::AUTHORIZATION
        };
        let count = rng.random_range(1..8);
        let changes = (0..count).map(|_| change(type_url, rng)).collect();
        Self { type_url, changes }
    }

    /// What a control plane says after a reconnect in which we could not say what we hold: everything of one
    /// type, in any order.
    pub fn everything(fold: &Fold, rng: &mut impl Rng) -> Self {
        let put = |name: &str, body| {
            Change::Put(Resource {
                name: name.to_owned(),
                body,
                bad: false,
                scope: 0,
            })
        };
        let (type_url, mut changes): (_, Vec<_>) = if rng.random_bool(0.5) {
            let all = fold
                .addresses
                .iter()
                .map(|(name, message)| put(name, message.encode_to_vec()));
            (type_url::ADDRESS, all.collect())
        } else {
            let all = fold
                .policies
                .iter()
                .map(|(name, message)| put(name, message.encode_to_vec()));
            (type_url::AUTHORIZATION, all.collect())
        };
        changes.shuffle(rng);
        Self { type_url, changes }
    }
}

fn change(type_url: &str, rng: &mut impl Rng) -> Change {
    let remove = rng.random_bool(0.25);
    if type_url == type_url::AUTHORIZATION {
        let name = format!("{}/{}", any(&NAMESPACES, rng), any(&["p", "q"], rng));
        return if remove {
            Change::Remove(name)
        } else {
            Change::Put(policy(name, rng))
        };
    }
    let service = rng.random_bool(0.3);
    let name = if service { service_name(rng) } else { uid(rng) };
    match (remove, service) {
        (true, _) => Change::Remove(name),
        (false, true) => Change::Put(self::service(name, rng)),
        (false, false) => Change::Put(workload(name, rng)),
    }
}

fn uid(rng: &mut impl Rng) -> String {
    match rng.random_range(0..10) {
        // Written by hand, so that it loses against pods; and one that looks like a service.
        0 => "c/networking.istio.io/WorkloadEntry/app/vm".into(),
        1 => service_name(rng),
        pod => pod_uid("c", any(&NAMESPACES, rng), &format!("pod{}", pod % 4)),
    }
}

fn service_name(rng: &mut impl Rng) -> String {
    format!("{}/{}", any(&NAMESPACES, rng), any(&HOSTS, rng))
}

fn workload(uid: String, rng: &mut impl Rng) -> Resource {
    let mut message = pb::Workload {
        name: any(&["x", "y"], rng).into(),
        namespace: any(&NAMESPACES, rng).into(),
        network: any(&NETWORKS, rng).into(),
        service_account: any(&["", "sa"], rng).into(),
        tunnel_protocol: rng.random_range(0..2),
        status: i32::from(rng.random_bool(0.3)),
        network_mode: i32::from(rng.random_bool(0.2)),
        capacity: rng.random_bool(0.2).then(|| rng.random_range(2..5)),
        addresses: some(&ADDRESSES, rng).into_iter().map(bytes).collect(),
        uid: uid.clone(),
        ..Default::default()
    };
    for _ in 0..rng.random_range(0..3) {
        let ports = vec![pb::Port {
            service_port: 80,
            target_port: rng.random_range(0..3),
            app_protocol: 0,
        }];
        message
            .services
            .insert(service_name(rng), pb::PortList { ports });
    }
    message.authorization_policies = some(&["app/p", "web/q", "root/p", "root/never"], rng)
        .into_iter()
        .map(Into::into)
        .collect();
    let bad = spoil(
        rng,
        &[
            &|m: &mut pb::Workload| m.addresses.push(vec![1; 5]),
            &|m| m.tunnel_protocol = 9,
            &|m| m.uid.push('x'),
            &|m| m.service_account = "not/allowed".into(),
            &|m| m.waypoint = Some(pb::GatewayAddress::default()),
            &|m| {
                drop(
                    m.services
                        .insert("no-slash".into(), pb::PortList::default()),
                )
            },
        ],
        &mut message,
    );
    let r#type = Some(pb::address::Type::Workload(message));
    Resource {
        name: uid,
        body: pb::Address { r#type }.encode_to_vec(),
        bad,
        scope: 0,
    }
}

fn service(name: String, rng: &mut impl Rng) -> Resource {
    let (namespace, hostname) = name.split_once('/').expect("namespace/hostname");
    let network = any(&NETWORKS, rng);
    let single = some(&ADDRESSES, rng)
        .into_iter()
        .map(|address| (address, None));
    let ranges = some(&RANGES, rng)
        .into_iter()
        .map(|(address, length)| (address, Some(length)));
    let address = |(address, length)| pb::NetworkAddress {
        network: network.into(),
        address: bytes(address),
        length,
    };
    let mut message = pb::Service {
        namespace: namespace.into(),
        hostname: hostname.into(),
        addresses: single.chain(ranges).map(address).collect(),
        ports: vec![pb::Port {
            service_port: rng.random_range(1..4),
            target_port: 8080,
            app_protocol: 0,
        }],
        canonical: rng.random_bool(0.3),
        visibility: i32::from(rng.random_bool(0.2)),
        ..Default::default()
    };
    let bad = spoil(
        rng,
        &[
            &|m: &mut pb::Service| m.ports[0].service_port = 70_000,
            &|m| m.hostname.push('x'),
            &|m| m.visibility = 5,
            &|m| {
                m.addresses.push(pb::NetworkAddress {
                    length: Some(33),
                    address: vec![1; 4],
                    ..Default::default()
                })
            },
            &|m| m.weighted_waypoints.push(pb::WeightedWaypoint::default()),
        ],
        &mut message,
    );
    let r#type = Some(pb::address::Type::Service(message));
    Resource {
        name,
        body: pb::Address { r#type }.encode_to_vec(),
        bad,
        scope: 0,
    }
}

fn policy(resource: String, rng: &mut impl Rng) -> Resource {
    let (namespace, name) = resource.split_once('/').expect("namespace/name");
    let one = security::Match {
        destination_ports: vec![rng.random_range(1..4)],
        ..Default::default()
    };
    let clauses = vec![security::Clause { matches: vec![one] }];
    let mut message = security::Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope: rng.random_range(0..3),
        action: rng.random_range(0..2),
        rules: vec![security::Rule { clauses }],
        ..Default::default()
    };
    let bad = spoil(
        rng,
        &[
            &|m: &mut security::Authorization| m.action = 7,
            &|m| m.scope = 7,
            &|m| m.name.push('x'),
            &|m| m.extensions.push(security::Extension::default()),
            &|m| {
                m.rules[0].clauses[0].matches[0]
                    .destination_ports
                    .push(70_000)
            },
            &|m| {
                m.rules[0].clauses[0].matches[0]
                    .principals
                    .push(security::StringMatch::default())
            },
        ],
        &mut message,
    );
    // An unknown scope counts as mesh-wide.
    let scope = if message.scope == 7 { 0 } else { message.scope };
    let mut resource = Resource {
        name: resource,
        body: message.encode_to_vec(),
        bad,
        scope,
    };
    if rng.random_bool(0.03) {
        (resource.body, resource.bad, resource.scope) = (vec![0xff; 3], true, 0);
    }
    resource
}

/// Spoils one in six messages in one of the given ways.
fn spoil<M>(rng: &mut impl Rng, ways: &[&dyn Fn(&mut M)], message: &mut M) -> bool {
    let bad = rng.random_bool(1.0 / 6.0);
    if bad {
        ways[rng.random_range(0..ways.len())](message);
    }
    bad
}

fn any<T: Copy>(of: &[T], rng: &mut impl Rng) -> T {
    *of.choose(rng).expect("not empty")
}

/// Up to two, never the same.
fn some<T: Copy>(of: &[T], rng: &mut impl Rng) -> Vec<T> {
    let count = rng.random_range(0..3);
    of.sample(rng, count).copied().collect()
}

fn bytes(address: &str) -> Vec<u8> {
    match address.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => v4.octets().into(),
        std::net::IpAddr::V6(v6) => v6.octets().into(),
    }
}
