use std::collections::BTreeSet;

use mesh::identity::Identity;
use mesh::policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, StringMatch};
use mesh::service::{IpFamilies, LoadBalancing, Mode, Scope as Near, Service, ServicePort, Vip};
use mesh::state::{State, Update};
use mesh::workload::{
    GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress, PortPair, ServicePorts,
    TunnelProtocol, Workload,
};
use testkit::ca::TestCa;

use super::*;

/// What a ztunnel of a real istio dumped.
fn captured() -> Value {
    serde_json::from_str(include_str!("../../../testdata/config_dump.json")).unwrap()
}

fn dump(updates: Vec<Update>) -> Value {
    let mut state = State::new();
    state.apply(updates);
    let sources = Sources {
        snapshot: &state.snapshot(),
        certificates: Vec::new(),
        pods: BTreeMap::new(),
        connections: Vec::new(),
        config: json!({}),
        now: SystemTime::now(),
    };
    config_dump(&sources)
}

fn echo() -> Workload {
    let service = NamespacedHostname::new("app", "echo.app.svc.cluster.local");
    let ports = [PortPair::new(80, 8080), PortPair::new(90, 8080)].into();
    Workload {
        uid: "Kubernetes//Pod/app/echo-6456f99f9b-g8mj5".into(),
        name: "echo-6456f99f9b-g8mj5".into(),
        namespace: "app".into(),
        addresses: ["10.244.2.8".parse().unwrap()].into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        identity: Some(Identity::new("cluster.local", "app", "echo").unwrap()),
        node: "node2".into(),
        canonical_name: "echo".into(),
        canonical_revision: "v1".into(),
        workload_name: "echo".into(),
        cluster_id: "Kubernetes".into(),
        authorization_policies: [
            PolicyName::new("app", "l4"),
            PolicyName::new("istio-system", "istio_converted_static_strict"),
        ]
        .into(),
        services: [ServicePorts { service, ports }].into(),
        ..Workload::default()
    }
}

fn by<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    list.as_array()
        .unwrap()
        .iter()
        .find(|entry| entry[key] == value)
        .unwrap()
}

#[test]
fn the_top_level_has_upstreams_keys() {
    let (ours, theirs) = (dump(Vec::new()), captured());
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(keys(&ours), keys(&theirs));
    assert_eq!(keys(&ours["version"]), keys(&theirs["version"]));
}

#[test]
fn a_workload_is_dumped_as_upstream_does() {
    let ours = dump(vec![Update::Workload(Arc::new(echo()))]);
    let theirs = captured();
    assert_eq!(
        ours["workloads"][0],
        *by(&theirs["workloads"], "name", "echo-6456f99f9b-g8mj5")
    );
}

#[test]
fn a_service_is_dumped_with_its_endpoints_as_upstream_does() {
    let port = |service_port, target_port| ServicePort {
        service_port,
        target_port,
        app_protocol: Default::default(),
    };
    let service = Service {
        key: NamespacedHostname::new("app", "echo.app.svc.cluster.local"),
        name: "echo".into(),
        vips: [Vip::address("", "10.96.105.179".parse().unwrap())].into(),
        ports: [port(80, 8080), port(90, 8080)].into(),
        canonical: true,
        ip_families: IpFamilies::V4Only,
        ..Service::default()
    };
    let uid = "Kubernetes//Pod/app/echo-6456f99f9b-rz2lv";
    let other = Workload {
        uid: uid.into(),
        addresses: Box::default(),
        ..echo()
    };
    let updates = [
        Update::Workload(Arc::new(echo())),
        Update::Workload(Arc::new(other)),
    ];
    let ours = dump(
        updates
            .into_iter()
            .chain([Update::Service(Arc::new(service))])
            .collect(),
    );
    assert_eq!(
        ours["services"][0],
        *by(&captured()["services"], "name", "echo")
    );
}

#[test]
fn a_waypoints_service_shows_how_it_is_balanced() {
    let port = |port| ServicePort {
        service_port: port,
        target_port: port,
        app_protocol: Default::default(),
    };
    let load_balancing = LoadBalancing {
        scopes: [Near::Network, Near::Region, Near::Zone].into(),
        mode: Mode::Failover,
        allow_unhealthy: false,
    };
    let service = Service {
        key: NamespacedHostname::new("app", "wp.app.svc.cluster.local"),
        name: "wp".into(),
        vips: [Vip::address("", "10.96.144.183".parse().unwrap())].into(),
        ports: [port(15021), port(15008)].into(),
        canonical: true,
        ip_families: IpFamilies::V4Only,
        load_balancing,
        ..Service::default()
    };
    let ours = dump(vec![Update::Service(Arc::new(service))]);
    assert_eq!(
        ours["services"][0],
        *by(&captured()["services"], "name", "wp")
    );
}

#[test]
fn policies_are_dumped_as_upstream_does() {
    let clause = |one: Match| Clause {
        matches: [one].into(),
    };
    let exact = |text: &str| [StringMatch::Exact(text.into())].into();
    let not = Match {
        not_namespaces: exact("app"),
        not_principals: exact("cluster.local/ns/smoke/sa/default"),
        ..Match::default()
    };
    let ports = Match {
        destination_ports: [9999].into(),
        ..Match::default()
    };
    let policy = |namespace: &str, name: &str, clauses: Vec<Clause>| Policy {
        name: PolicyName::new(namespace, name),
        scope: Scope::Selector,
        action: Action::Deny,
        rules: [Rule {
            clauses: clauses.into(),
        }]
        .into(),
        dry_run: false,
        invalid: None,
    };
    let anybody = Match {
        not_principals: [StringMatch::Presence].into(),
        ..Match::default()
    };
    let l4 = policy("app", "l4", vec![clause(ports), clause(not)]);
    let strict = policy(
        "istio-system",
        "istio_converted_static_strict",
        vec![clause(anybody)],
    );
    let ours = dump(vec![
        Update::Policy(Arc::new(strict)),
        Update::Policy(Arc::new(l4)),
    ]);
    assert_eq!(ours["policies"], captured()["policies"]);
}

#[test]
fn a_policy_that_was_not_understood_says_so() {
    let bad = Policy::invalid(
        PolicyName::new("app", "bad"),
        Scope::Namespace,
        "rules[0]: too odd",
    );
    let ours = dump(vec![Update::Policy(Arc::new(bad))]);
    assert_eq!(ours["policies"][0]["invalid"], "rules[0]: too odd");
    assert_eq!(ours["policies"][0]["action"], "Deny");
}

#[test]
fn a_waypoint_is_one_string_with_its_port() {
    let at = NetworkAddress {
        network: "n1".into(),
        address: "10.0.0.9".parse().unwrap(),
    };
    let waypoint = GatewayAddress {
        destination: GatewayDestination::Address(at),
        hbone_mtls_port: 15008,
    };
    let workload = Workload {
        waypoint: Some(Arc::new(waypoint)),
        ..echo()
    };
    let ours = dump(vec![Update::Workload(Arc::new(workload))]);
    assert_eq!(
        ours["workloads"][0]["waypoint"],
        json!({ "destination": "n1/10.0.0.9", "hboneMtlsPort": 15008 })
    );
}

#[test]
fn a_certificate_shows_its_chain_and_never_a_key() {
    let ca = TestCa::new("cluster.local");
    let identity = ca.identity("app", "client");
    let certificate = ca.issue(&identity, std::time::Duration::from_secs(3600));
    let status = Status {
        certificate: Some(certificate.clone()),
        ..Status::default()
    };
    let entry = &certificates::all(&[(identity, status)], SystemTime::now())[0];
    let theirs = &captured()["certificates"][0];
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(entry), keys(theirs));
    assert_eq!(keys(&entry["certChain"][0]), keys(&theirs["certChain"][0]));
    assert_eq!(entry["identity"], "spiffe://cluster.local/ns/app/sa/client");
    assert_eq!(entry["certChain"][0]["serialNumber"], certificate.serial());
    assert!(!entry.to_string().contains("PRIVATE"));
}

#[test]
fn the_pem_of_a_captured_certificate_is_written_back_as_it_was() {
    use base64::Engine as _;
    let captured = &captured()["certificates"][0]["certChain"][0];
    let text = base64::engine::general_purpose::STANDARD
        .decode(captured["pem"].as_str().unwrap())
        .unwrap();
    let der = identity::certificate::parse_pem(std::str::from_utf8(&text).unwrap())
        .unwrap()
        .remove(0);
    let ours = certificates::certificate(&der).unwrap();
    assert_eq!(ours, *captured);
}

#[test]
fn pods_show_whether_they_are_served() {
    let pod = |up| PodState {
        name: "echo".into(),
        namespace: "app".into(),
        service_account: "echo".into(),
        up,
    };
    let pods = BTreeMap::from([("u1".into(), pod(true)), ("u2".into(), pod(false))]);
    let state = workload_state(&pods, &[]);
    assert_eq!(state["u1"]["state"], "Up");
    assert_eq!(state["u2"]["state"], "Pending");
    assert_eq!(
        state["u1"]["info"],
        json!({ "name": "echo", "namespace": "app", "serviceAccount": "echo" })
    );
    assert_eq!(
        state["u1"]["connections"],
        json!({ "inbound": [], "outbound": [] })
    );
}
