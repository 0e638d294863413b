//! Random messages with every field in use: what we decode we encode to the same message, and the same model
//! always gives the same bytes.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::*;

fn text(rng: &mut impl Rng) -> String {
    ["", "a", "b.c", "d-1"][rng.random_range(0..4)].into()
}

fn name(rng: &mut impl Rng) -> String {
    ["a", "b.c", "d-1"][rng.random_range(0..3)].into()
}

fn several<T, R: Rng>(rng: &mut R, mut one: impl FnMut(&mut R) -> T) -> Vec<T> {
    let count = rng.random_range(0..3);
    (0..count).map(|_| one(rng)).collect()
}

fn ip(rng: &mut impl Rng) -> Vec<u8> {
    match rng.random() {
        true => rng.random::<[u8; 4]>().into(),
        // Never mapped IPv4.
        false => [&[0xfd], &rng.random::<[u8; 15]>()[..]].concat(),
    }
}

fn gateway(rng: &mut impl Rng) -> pb::GatewayAddress {
    use pb::gateway_address::Destination;
    let destination = match rng.random() {
        true => Destination::Hostname(pb::NamespacedHostname {
            namespace: text(rng),
            hostname: name(rng),
        }),
        false => Destination::Address(pb::NetworkAddress {
            network: text(rng),
            address: ip(rng),
            length: None,
        }),
    };
    pb::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: rng.random_range(1..65536),
    }
}

fn maybe<T, R: Rng>(rng: &mut R, one: impl FnOnce(&mut R) -> T) -> Option<T> {
    rng.random::<bool>().then(|| one(rng))
}

fn port(rng: &mut impl Rng) -> pb::Port {
    pb::Port {
        service_port: rng.random_range(1..65536),
        target_port: rng.random_range(0..65536),
        app_protocol: rng.random_range(0..6),
    }
}

fn workload(rng: &mut impl Rng) -> pb::Workload {
    let service_account = text(rng);
    let trust_domain = match service_account.is_empty() || rng.random() {
        true => "",
        false => "other.example",
    };
    pb::Workload {
        uid: name(rng),
        name: text(rng),
        namespace: name(rng),
        addresses: several(rng, ip),
        network: text(rng),
        tunnel_protocol: rng.random_range(0..3),
        trust_domain: trust_domain.into(),
        service_account,
        waypoint: maybe(rng, gateway),
        node: text(rng),
        canonical_name: text(rng),
        canonical_revision: text(rng),
        workload_type: rng.random_range(0..4),
        workload_name: text(rng),
        native_tunnel: rng.random(),
        authorization_policies: several(rng, |rng| format!("{}/{}", name(rng), name(rng))),
        status: rng.random_range(0..2),
        cluster_id: text(rng),
        network_gateway: maybe(rng, gateway),
        hostname: text(rng),
        services: several(rng, |rng| {
            let unsaid = |rng: &mut _| pb::Port {
                app_protocol: 0,
                ..port(rng)
            };
            (
                format!("{}/{}", name(rng), name(rng)),
                pb::PortList {
                    ports: several(rng, unsaid),
                },
            )
        })
        .into_iter()
        .collect(),
        application_tunnel: maybe(rng, |rng| pb::ApplicationTunnel {
            protocol: rng.random_range(0..2),
            port: rng.random_range(0..65536),
        }),
        locality: maybe(rng, |rng| pb::Locality {
            region: text(rng),
            zone: text(rng),
            subzone: text(rng),
        }),
        network_mode: rng.random_range(0..2),
        extensions: Vec::new(),
        capacity: [None, Some(0), Some(2), Some(u32::MAX)][rng.random_range(0..4)],
    }
}

fn service(rng: &mut impl Rng) -> pb::Service {
    let balancing = |rng: &mut _| pb::LoadBalancing {
        routing_preference: (1..=RngExt::random_range(rng, 1..7)).collect(),
        mode: RngExt::random_range(rng, 0..4),
        health_policy: RngExt::random_range(rng, 0..2),
    };
    pb::Service {
        name: text(rng),
        namespace: name(rng),
        hostname: name(rng),
        addresses: several(rng, |rng| {
            let address = ip(rng);
            let bits = u32::try_from(address.len()).unwrap() * 8;
            pb::NetworkAddress {
                network: text(rng),
                length: maybe(rng, |rng| rng.random_range(0..bits)),
                address,
            }
        }),
        ports: several(rng, port),
        subject_alt_names: several(rng, name),
        waypoint: maybe(rng, gateway),
        load_balancing: maybe(rng, balancing),
        ip_families: rng.random_range(0..4),
        extensions: Vec::new(),
        canonical: rng.random(),
        ingress_use_waypoint: rng.random(),
        weighted_waypoints: several(rng, |rng| pb::WeightedWaypoint {
            destination: Some(gateway(rng)),
            weight: rng.random(),
        }),
        visibility: rng.random_range(0..2),
    }
}

fn string(rng: &mut impl Rng) -> security::StringMatch {
    use security::string_match::MatchType;
    let match_type = match rng.random_range(0..4) {
        0 => MatchType::Exact(text(rng)),
        1 => MatchType::Prefix(text(rng)),
        2 => MatchType::Suffix(text(rng)),
        _ => MatchType::Presence(()),
    };
    security::StringMatch {
        match_type: Some(match_type),
    }
}

fn range(rng: &mut impl Rng) -> security::Address {
    let address = ip(rng);
    let bits = u32::try_from(address.len()).unwrap() * 8;
    security::Address {
        address,
        length: rng.random_range(0..=bits),
    }
}

fn one_match(rng: &mut impl Rng) -> security::Match {
    let number = |rng: &mut _| RngExt::random_range(rng, 0..65536_u32);
    let account = |rng: &mut _| security::ServiceAccountMatch {
        namespace: text(rng),
        service_account: name(rng),
    };
    security::Match {
        namespaces: several(rng, string),
        not_namespaces: several(rng, string),
        principals: several(rng, string),
        not_principals: several(rng, string),
        source_ips: several(rng, range),
        not_source_ips: several(rng, range),
        destination_ips: several(rng, range),
        not_destination_ips: several(rng, range),
        destination_ports: several(rng, number),
        not_destination_ports: several(rng, number),
        service_accounts: several(rng, account),
        not_service_accounts: several(rng, account),
        extensions: Vec::new(),
    }
}

fn authorization(rng: &mut impl Rng) -> security::Authorization {
    let clause = |rng: &mut _| security::Clause {
        matches: several(rng, one_match),
    };
    security::Authorization {
        name: name(rng),
        namespace: text(rng),
        scope: rng.random_range(0..3),
        action: rng.random_range(0..2),
        rules: several(rng, |rng| security::Rule {
            clauses: several(rng, clause),
        }),
        dry_run: rng.random(),
        extensions: Vec::new(),
    }
}

#[test]
fn every_message_comes_back_as_it_was() {
    let (mut rng, mut decoder) = (StdRng::seed_from_u64(5), Decoder::new());
    for _ in 0..1000 {
        let message = workload(&mut rng);
        let model = decoder.workload(&message).unwrap();
        assert_eq!(workload_message(&model), message);
        assert_eq!(
            encode_workload(&model),
            encode_workload(&Decoder::new().workload(&message).unwrap())
        );
        let mut message = service(&mut rng);
        if message.load_balancing == Some(pb::LoadBalancing::default()) {
            message.load_balancing = None;
        }
        assert_eq!(
            service_message(&decoder.service(&message).unwrap()),
            message
        );
        let message = authorization(&mut rng);
        assert_eq!(policy_message(&decoder.policy(&message).unwrap()), message);
    }
}

#[test]
fn a_workload_finds_its_ports_for_services_of_namespaces_that_start_alike() {
    let keys = ["team-a/h", "team.b/h", "team/h", "team/h-2", "team0/h"];
    let list = |service_port| pb::PortList {
        ports: vec![pb::Port {
            service_port,
            target_port: 8080,
            app_protocol: 0,
        }],
    };
    let services = keys.iter().zip(1..);
    let message = pb::Workload {
        uid: "u".into(),
        services: services
            .map(|(key, port)| (key.to_string(), list(port)))
            .collect(),
        ..Default::default()
    };
    let workload = Decoder::new().workload(&message).unwrap();
    for (key, port) in keys.iter().zip(1..) {
        let (namespace, hostname) = key.split_once('/').unwrap();
        let found = workload
            .ports_of(&mesh::workload::NamespacedHostname::new(
                namespace, hostname,
            ))
            .unwrap_or_else(|| panic!("no ports for {key}"));
        assert_eq!(found.ports[0].service_port, port, "{key}");
    }
}
