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

fn authorization(change: impl FnOnce(&mut security::Match)) -> security::Authorization {
    let mut one = security::Match::default();
    change(&mut one);
    let clauses = vec![security::Clause { matches: vec![one] }];
    let rules = vec![security::Rule::default(), security::Rule { clauses }];
    let scope = security::Scope::Namespace.into();
    security::Authorization {
        name: "p".into(),
        namespace: "app".into(),
        scope,
        rules,
        ..Default::default()
    }
}

fn refused_policy(message: &security::Authorization) -> Refused {
    *Decoder::new()
        .decode(type_url::AUTHORIZATION, "app/p", &message.encode_to_vec())
        .unwrap_err()
}

#[test]
fn each_bad_policy_is_refused_with_path_and_value() {
    type Change = fn(&mut security::Match);
    let cases: [(Change, &str); 7] = [
        (
            |m| m.principals = vec![security::StringMatch::default()],
            "principals[0]: none of exact, prefix, suffix, presence that we know",
        ),
        (
            |m| {
                m.not_source_ips = vec![security::Address {
                    address: vec![1, 2, 3, 4],
                    length: 40,
                }]
            },
            "not_source_ips[0].length: 40 is more than 32, the most for 1.2.3.4",
        ),
        (
            |m| {
                m.destination_ips = vec![security::Address {
                    address: vec![1],
                    length: 4,
                }]
            },
            "destination_ips[0].address: an address has 4 or 16 bytes, not 1",
        ),
        (
            |m| m.destination_ports = vec![80, 65536],
            "destination_ports[1]: 65536 is not a port",
        ),
        (
            |m| m.not_destination_ports = vec![1 << 20],
            "not_destination_ports[0]: 1048576 is not a port",
        ),
        (
            |m| m.service_accounts = vec![security::ServiceAccountMatch::default()],
            "service_accounts[0].service_account: is empty",
        ),
        (
            |m| {
                m.extensions = vec![security::Extension {
                    name: "geo".into(),
                    config: None,
                }]
            },
            r#"extensions[0]: extension "geo" is a condition that we cannot check"#,
        ),
    ];
    for (change, expected) in cases {
        let refused = refused_policy(&authorization(change));
        assert_eq!(
            refused.reason.to_string(),
            format!("authorization.rules[1].clauses[0].matches[0].{expected}")
        );
    }
    let whole = |change: fn(&mut security::Authorization)| {
        let mut message = authorization(|_| {});
        change(&mut message);
        refused_policy(&message).reason.to_string()
    };
    assert_eq!(
        whole(|p| p.action = 2),
        "authorization.action: 2 is not a known value"
    );
    assert_eq!(
        whole(|p| p.scope = 3),
        "authorization.scope: 3 is not a known value"
    );
    assert_eq!(
        whole(|p| p.name = "q".into()),
        r#"authorization: is "app/q", but the resource is named "app/p""#
    );
    assert_eq!(
        whole(|p| p.extensions = vec![security::Extension::default()]),
        r#"authorization.extensions[0]: extension "" is a condition that we cannot check"#
    );
}

fn instead(refused: Refused) -> Policy {
    match refused.instead {
        Some(Update::RefusedPolicy(policy)) => Arc::unwrap_or_clone(policy),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_policy_leaves_one_that_denies_in_its_scope() {
    let denying = instead(refused_policy(&authorization(|m| {
        m.destination_ports = vec![70000]
    })));
    assert_eq!(
        (denying.scope, denying.action),
        (Scope::Namespace, Action::Deny)
    );
    assert_eq!(denying.name, PolicyName::new("app", "p"));
    let why =
        "authorization.rules[1].clauses[0].matches[0].destination_ports[0]: 70000 is not a port";
    assert_eq!(denying.invalid.as_deref(), Some(why));
}

#[test]
fn a_refused_policy_whose_scope_is_unknown_guards_everybody() {
    let mut message = authorization(|_| {});
    message.scope = 9;
    assert_eq!(instead(refused_policy(&message)).scope, Scope::Global);
    let garbage = Decoder::new()
        .decode(type_url::AUTHORIZATION, "app/p", &[0xff])
        .unwrap_err();
    assert_eq!(instead(*garbage).scope, Scope::Global);
}

#[test]
fn an_invalid_policy_is_said_on_the_wire_as_a_deny_of_everything() {
    let policy = Policy::invalid(PolicyName::new("app", "p"), Scope::Selector, "why");
    let message = policy_message(&policy);
    assert_eq!(message.action(), security::Action::Deny);
    assert_eq!(message.rules, [security::Rule::default()]);
}

#[test]
fn principals_lose_their_scheme() {
    let exact = |text: &str| security::StringMatch {
        match_type: Some(security::string_match::MatchType::Exact(text.into())),
    };
    let message = authorization(|m| {
        m.principals = vec![exact("spiffe://td/ns/a/sa/b"), exact("td/ns/a/sa/b")]
    });
    let policy = Decoder::new().policy(&message).unwrap();
    let bare = StringMatch::Exact("td/ns/a/sa/b".into());
    assert_eq!(
        *policy.rules[1].clauses[0].matches[0].principals,
        [bare.clone(), bare]
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
