//! What we refuse, with the text that the control plane gets to read; and that no bytes panic us.

use proptest::prelude::*;

use super::*;

const UID: &str = "c//Pod/app/x";

fn pod() -> pb::Workload {
    pb::Workload {
        uid: UID.into(),
        name: "x".into(),
        namespace: "app".into(),
        ..Default::default()
    }
}

fn svc() -> pb::Service {
    pb::Service {
        namespace: "app".into(),
        hostname: "h".into(),
        ..Default::default()
    }
}

fn refusal_of_pod(change: impl FnOnce(&mut pb::Workload)) -> String {
    let mut message = pod();
    change(&mut message);
    let r#type = Some(pb::address::Type::Workload(message));
    refusal(
        type_url::ADDRESS,
        UID,
        &pb::Address { r#type }.encode_to_vec(),
    )
}

fn refusal_of_service(change: impl FnOnce(&mut pb::Service)) -> String {
    let mut message = svc();
    change(&mut message);
    let r#type = Some(pb::address::Type::Service(message));
    refusal(
        type_url::ADDRESS,
        "app/h",
        &pb::Address { r#type }.encode_to_vec(),
    )
}

fn refusal(url: &str, name: &str, body: &[u8]) -> String {
    Decoder::new()
        .decode(url, name, body)
        .unwrap_err()
        .reason
        .to_string()
}

fn gateway(
    destination: Option<pb::gateway_address::Destination>,
    port: u32,
) -> Option<pb::GatewayAddress> {
    Some(pb::GatewayAddress {
        destination,
        hbone_mtls_port: port,
    })
}

fn named(hostname: &str) -> Option<pb::gateway_address::Destination> {
    let (namespace, hostname) = ("app".into(), hostname.into());
    Some(pb::gateway_address::Destination::Hostname(
        pb::NamespacedHostname {
            namespace,
            hostname,
        },
    ))
}

fn ports(service_port: u32, target_port: u32) -> pb::PortList {
    pb::PortList {
        ports: vec![pb::Port {
            service_port,
            target_port,
            app_protocol: 0,
        }],
    }
}

#[test]
fn each_bad_workload_is_refused_with_path_and_value() {
    type Change = fn(&mut pb::Workload);
    let cases: [(Change, &str); 16] = [
        (|w| w.uid = String::new(), "workload.uid: is empty"),
        (
            |w| w.uid = "other".into(),
            r#"workload.uid: is "other", but the resource is named "c//Pod/app/x""#,
        ),
        (
            |w| w.addresses = vec![vec![1; 4], vec![1; 5]],
            "workload.addresses[1]: an address has 4 or 16 bytes, not 5",
        ),
        (
            |w| w.tunnel_protocol = 7,
            "workload.tunnel_protocol: 7 is not a known value",
        ),
        (
            |w| w.network_mode = 2,
            "workload.network_mode: 2 is not a known value",
        ),
        (
            |w| w.status = -1,
            "workload.status: -1 is not a known value",
        ),
        (
            |w| w.service_account = "a/b".into(),
            r#"workload.service_account: service account "a/b" is not allowed: only letters, digits, '.', '-' and '_' may stand there"#,
        ),
        (
            |w| (w.service_account, w.trust_domain) = ("a".into(), "TD".into()),
            r#"workload.service_account: trust domain "TD" is not allowed: only a-z, 0-9, '.', '-' and '_' may stand there"#,
        ),
        (
            |w| w.waypoint = gateway(None, 15008),
            "workload.waypoint.destination: is missing",
        ),
        (
            |w| w.waypoint = gateway(named("wp"), 0),
            "workload.waypoint.hbone_mtls_port: 0 is not a port",
        ),
        (
            |w| w.waypoint = gateway(named(""), 15008),
            "workload.waypoint.hostname.hostname: is empty",
        ),
        (
            |w| w.network_gateway = gateway(named("wp"), 65536),
            "workload.network_gateway.hbone_mtls_port: 65536 is not a port",
        ),
        (
            |w| {
                w.services.insert("nohost".into(), ports(80, 80));
            },
            r#"workload.services["nohost"]: the key is not of the form namespace/hostname"#,
        ),
        (
            |w| {
                w.services.insert("app/h".into(), ports(0, 80));
            },
            r#"workload.services["app/h"].ports[0].service_port: 0 is not a port"#,
        ),
        (
            |w| {
                w.services.insert("app/h".into(), ports(80, 70000));
            },
            r#"workload.services["app/h"].ports[0].target_port: 70000 is not a port"#,
        ),
        (
            |w| {
                w.application_tunnel = Some(pb::ApplicationTunnel {
                    protocol: 9,
                    port: 0,
                })
            },
            "workload.application_tunnel.protocol: 9 is not a known value",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(refusal_of_pod(change), expected);
    }
}

#[test]
fn each_bad_service_is_refused_with_path_and_value() {
    let v4 = |length| pb::NetworkAddress {
        network: String::new(),
        address: vec![10, 0, 0, 0],
        length,
    };
    let balancing = |mode, scope, health_policy| {
        Some(pb::LoadBalancing {
            mode,
            routing_preference: vec![scope],
            health_policy,
        })
    };
    assert_eq!(
        refusal_of_service(|s| s.hostname.clear()),
        "service.hostname: is empty"
    );
    assert_eq!(
        refusal_of_service(|s| s.namespace = "b".into()),
        r#"service.hostname: is "b/h", but the resource is named "app/h""#
    );
    assert_eq!(
        refusal_of_service(|s| s.addresses = vec![v4(Some(33))]),
        "service.addresses[0].length: 33 is more than 32, the most for 10.0.0.0"
    );
    assert_eq!(
        refusal_of_service(|s| s.addresses = vec![pb::NetworkAddress::default()]),
        "service.addresses[0].address: an address has 4 or 16 bytes, not 0"
    );
    assert_eq!(
        refusal_of_service(|s| s.ports = ports(99999, 1).ports),
        "service.ports[0].service_port: 99999 is not a port"
    );
    assert_eq!(
        refusal_of_service(|s| s.load_balancing = balancing(9, 1, 0)),
        "service.load_balancing.mode: 9 is not a known value"
    );
    assert_eq!(
        refusal_of_service(|s| s.load_balancing = balancing(1, 0, 0)),
        "service.load_balancing.routing_preference[0]: 0 is not a known value"
    );
    assert_eq!(
        refusal_of_service(|s| s.load_balancing = balancing(1, 1, 2)),
        "service.load_balancing.health_policy: 2 is not a known value"
    );
    assert_eq!(
        refusal_of_service(|s| s.ip_families = 4),
        "service.ip_families: 4 is not a known value"
    );
    assert_eq!(
        refusal_of_service(|s| s.visibility = 2),
        "service.visibility: 2 is not a known value"
    );
    assert_eq!(
        refusal_of_service(|s| s.weighted_waypoints = vec![pb::WeightedWaypoint::default()]),
        "service.weighted_waypoints[0].destination: is missing"
    );
}

/// Name and claims of what is applied instead.
fn claims(name: &str, address: pb::address::Type) -> Option<(String, Vec<String>)> {
    let body = pb::Address {
        r#type: Some(address),
    };
    let refused = Decoder::new().decode(type_url::ADDRESS, name, &body.encode_to_vec());
    match refused.unwrap_err().instead? {
        Update::RefusedAddress(refused) => {
            let vips = refused
                .vips
                .iter()
                .map(|vip| format!("{}/{}", vip.network, vip.range));
            Some((refused.name.to_string(), vips.collect()))
        }
        other => panic!("{other:?}"),
    }
}

/// Else its VIP would be unknown, and traffic there would pass the waypoint by in plain text.
#[test]
fn a_refused_service_leaves_its_addresses() {
    let address = |network: &str, address: &[u8], length| pb::NetworkAddress {
        network: network.into(),
        address: address.into(),
        length,
    };
    let mut message = svc();
    message.waypoint = gateway(named("wp"), 0);
    message.addresses = vec![
        address("", &[10, 1, 0, 1], None),
        address("far", &[10, 2, 0, 0], Some(16)),
        address("", &[1, 2, 3], None),
    ];
    let expected = ["/10.1.0.1/32", "far/10.2.0.0/16"].map(String::from);
    assert_eq!(
        claims("app/h", pb::address::Type::Service(message)),
        Some(("app/h".into(), expected.into()))
    );
}

/// Else its name would be unknown, and whatever another name server says of it would be called.
#[test]
fn a_refused_service_without_addresses_leaves_its_name() {
    let mut message = svc();
    message.waypoint = gateway(named("wp"), 0);
    message.addresses = Vec::new();
    assert_eq!(
        claims("app/h", pb::address::Type::Service(message)),
        Some(("app/h".into(), Vec::new()))
    );
}

#[test]
fn a_refused_workload_leaves_its_addresses_unless_they_are_the_nodes() {
    let mut message = pod();
    message.waypoint = gateway(None, 15008);
    message.network = "net".into();
    message.addresses = vec![vec![10, 0, 0, 1], vec![1; 5]];
    let claimed = |message: &pb::Workload| {
        claims(UID, pb::address::Type::Workload(message.clone())).map(|(_, vips)| vips)
    };
    assert_eq!(claimed(&message), Some(vec!["net/10.0.0.1/32".into()]));
    message.network_mode = pb::NetworkMode::HostNetwork.into();
    assert_eq!(claimed(&message), None);
}

#[test]
fn hints_that_we_do_not_know_are_no_reason_to_refuse() {
    let mut message = pod();
    message.workload_type = 99;
    message.extensions = vec![pb::Extension {
        name: "hint".into(),
        config: None,
    }];
    assert_eq!(
        Decoder::new().workload(&message).unwrap().workload_type,
        mesh::workload::WorkloadType::Pod
    );
    let mut message = svc();
    message.ports = vec![pb::Port {
        service_port: 1,
        target_port: 0,
        app_protocol: 99,
    }];
    assert_eq!(
        Decoder::new().service(&message).unwrap().ports[0].app_protocol,
        AppProtocol::Unknown
    );
}

#[test]
fn neither_workload_nor_service_is_refused() {
    assert_eq!(
        refusal(type_url::ADDRESS, "x", &[]),
        "address: neither workload nor service"
    );
    assert_eq!(
        refusal("type.googleapis.com/x", "x", &[]),
        "type URL type.googleapis.com/x is not one of WDS"
    );
    assert!(
        refusal(type_url::ADDRESS, "x", &[0x0a, 0x05, 0xff])
            .starts_with("is not a message of its type: ")
    );
}

#[test]
fn mapped_ipv4_is_ipv4_everywhere() {
    let mapped = "::ffff:10.1.2.3"
        .parse::<std::net::Ipv6Addr>()
        .unwrap()
        .octets()
        .to_vec();
    assert_eq!(field::ip(&mapped).unwrap().to_string(), "10.1.2.3");
    assert_eq!(
        field::range(&mapped, Some(104)).unwrap().to_string(),
        "10.1.2.3/8"
    );
    assert_eq!(
        field::range(&mapped, None).unwrap().to_string(),
        "10.1.2.3/32"
    );
    assert_eq!(
        field::range(&mapped, Some(90)).unwrap().to_string(),
        "::ffff:10.1.2.3/90"
    );
}

#[test]
fn removals_name_the_resource_by_its_type() {
    let mut decoder = Decoder::new();
    assert_eq!(
        decoder.remove(type_url::ADDRESS, "app/h"),
        Some(Update::RemoveAddress("app/h".into()))
    );
    assert_eq!(
        decoder.remove(type_url::AUTHORIZATION, "app/p"),
        Some(Update::RemovePolicy(PolicyName::new("app", "p")))
    );
    assert_eq!(decoder.remove(type_url::CLUSTER, "x"), None);
}

#[test]
fn long_values_are_cut_in_refusals() {
    let text = refusal_of_pod(|w| w.uid = "x".repeat(5000));
    assert!(text.len() < 300 && text.contains("(5000 bytes)"), "{text}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new();
        for url in [type_url::ADDRESS, type_url::WORKLOAD, type_url::AUTHORIZATION] {
            let _ = decoder.decode(url, "x", &bytes);
        }
    }

    /// Bytes that are nearly right reach far deeper than random ones.
    #[test]
    fn damaged_captures_never_panic_and_refused_policies_always_deny(
        file in 0..2_usize,
        pick in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let file = ["00-Address", "01-Authorization"][file];
        let resources = capture(&format!("istio-master-20260827-rich/ztunnel/{file}.pb"));
        let (url, name, mut body) = resources[pick.index(resources.len())].clone();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(cut.index(body.len() * 4).max(1));
        if let Err(refused) = Decoder::new().decode(&url, &name, &body) {
            prop_assert!(!refused.reason.to_string().is_empty());
            let denies = matches!(&refused.instead, Some(Update::RefusedPolicy(p)) if p.invalid.is_some());
            prop_assert_eq!(denies, url == type_url::AUTHORIZATION);
        }
    }
}
