//! What a real istiod sent: all of it decodes, means what its JSON says, and goes back to the same message.

use super::*;

const PLAIN: &str = "istio-master-20260827";
const RICH: &str = "istio-master-20260827-rich";
const ALL: [&str; 8] = [
    "istio-master-20260827/ztunnel/00-Address.pb",
    "istio-master-20260827/ztunnel/01-Authorization.pb",
    "istio-master-20260827/ztunnel-ondemand/00-Address.pb",
    "istio-master-20260827/waypoint/02-Workload.pb",
    "istio-master-20260827-rich/ztunnel/00-Address.pb",
    "istio-master-20260827-rich/ztunnel/01-Authorization.pb",
    "istio-master-20260827-rich/ztunnel-ondemand/00-Address.pb",
    "istio-master-20260827-rich/waypoint/02-Workload.pb",
];

/// The mesh of a capture: all that ztunnel got.
fn mesh_of(set: &str) -> State {
    let (mut state, mut decoder) = (State::new(), Decoder::new());
    for file in ["00-Address", "01-Authorization"] {
        let updates = capture(&format!("{set}/ztunnel/{file}.pb"))
            .into_iter()
            .map(|(url, name, body)| decoder.decode(&url, &name, &body).unwrap())
            .collect();
        state.apply(updates);
    }
    state
}

fn service<'a>(state: &'a State, namespace: &str, hostname: &str) -> &'a Service {
    state.current().service(namespace, hostname).unwrap()
}

#[test]
fn every_captured_resource_decodes() {
    let mut counts = Vec::new();
    for file in ALL {
        let mut decoder = Decoder::new();
        let resources = capture(file);
        for (url, name, body) in &resources {
            decoder
                .decode(url, name, body)
                .unwrap_or_else(|refused| panic!("{file}: {refused}"));
        }
        counts.push(resources.len());
    }
    assert_eq!(counts, [17, 1, 6, 10, 24, 4, 8, 14]);
}

#[test]
fn every_captured_resource_encodes_to_the_same_message() {
    for file in ALL {
        let mut decoder = Decoder::new();
        for (url, name, body) in capture(file) {
            match decoder.decode(&url, &name, &body).unwrap() {
                Update::Workload(workload) if url == type_url::WORKLOAD => {
                    assert_eq!(
                        workload_message(&workload),
                        pb::Workload::decode(&*body).unwrap(),
                        "{name}"
                    );
                }
                Update::Workload(workload) => {
                    same::<pb::Address>(&encode_workload(&workload), &body, &name)
                }
                Update::Service(service) => {
                    same::<pb::Address>(&encode_service(&service), &body, &name)
                }
                Update::Policy(policy) => {
                    same::<security::Authorization>(&encode_policy(&policy), &body, &name);
                    assert_eq!(policy_resource_name(&policy.name), name);
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

fn same<M: prost::Message + Default + PartialEq + std::fmt::Debug>(
    ours: &[u8],
    theirs: &[u8],
    name: &str,
) {
    assert_eq!(
        M::decode(ours).unwrap(),
        M::decode(theirs).unwrap(),
        "{name}"
    );
}

#[test]
fn a_captured_hbone_pod_means_what_its_json_says() {
    let state = mesh_of(RICH);
    let echo = state
        .current()
        .workload_at("", "10.244.1.5".parse().unwrap())
        .unwrap();
    assert_eq!(&*echo.uid, "Kubernetes//Pod/app/echo-6d5c9cbd6-nl994");
    assert_eq!(echo.tunnel_protocol, TunnelProtocol::Hbone);
    assert_eq!(
        echo.identity.as_ref().unwrap().uri(),
        "spiffe://cluster.local/ns/app/sa/echo"
    );
    assert_eq!(
        (&*echo.node, &*echo.canonical_revision, &*echo.cluster_id),
        ("node1", "v1", "Kubernetes")
    );
    let waypoint = echo.waypoint.as_ref().unwrap();
    assert_eq!(waypoint.to_string(), "app/wp.app.svc.cluster.local:15008");
    assert!(matches!(
        waypoint.destination,
        GatewayDestination::Hostname(_)
    ));
    let names: Vec<_> = echo
        .authorization_policies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["app/l4", "app/converted_peer_authentication_pa"]);
    let services: Vec<_> = echo
        .services
        .iter()
        .map(|one| (one.service.to_string(), one.ports.len()))
        .collect();
    let expected = [
        ("app/echo.app", 2),
        ("app/grpc.app", 1),
        ("app/httpbin.app", 1),
    ];
    assert_eq!(
        services,
        expected.map(|(name, ports)| (format!("{name}.svc.cluster.local"), ports))
    );
    assert!(echo.healthy && echo.is_pod() && echo.capacity == 1 && echo.locality.is_none());
}

#[test]
fn a_captured_endpoint_without_account_has_no_identity_and_owns_no_address() {
    let state = mesh_of(RICH);
    let uid = "Kubernetes/discovery.k8s.io/EndpointSlice/default/kubernetes/172.30.0.1";
    let api = state.current().workload(uid).unwrap();
    assert_eq!(api.identity, None);
    assert_eq!(api.node.len(), 0);
    assert!(!api.owns_its_addresses());
    assert!(
        state
            .current()
            .workload_at("", "172.30.0.1".parse().unwrap())
            .is_none()
    );
    assert_eq!(
        state
            .current()
            .endpoints(&service(&state, "default", "kubernetes.default.svc.cluster.local").key)
            .len(),
        1
    );
}

#[test]
fn a_captured_service_means_what_its_json_says() {
    let state = mesh_of(RICH);
    let echo = state
        .current()
        .service_at("", "10.96.187.17".parse().unwrap(), "other")
        .unwrap();
    assert_eq!(echo.key.to_string(), "app/echo.app.svc.cluster.local");
    assert_eq!(echo.port(80).unwrap().target_port, 8080);
    assert_eq!(echo.port(80).unwrap().app_protocol, AppProtocol::Http11);
    assert_eq!(echo.ip_families, IpFamilies::V4Only);
    assert!(echo.canonical && echo.waypoint.is_some() && echo.weighted_waypoints.is_empty());
    assert_eq!(state.current().endpoints(&echo.key).len(), 2);
    let waypoint = service(&state, "app", "wp.app.svc.cluster.local");
    assert_eq!(waypoint.load_balancing.mode, Mode::Failover);
    assert_eq!(
        *waypoint.load_balancing.scopes,
        [Near::Network, Near::Region, Near::Zone]
    );
}

#[test]
fn a_pod_wins_its_address_over_a_captured_service_entry_that_claims_it() {
    let state = mesh_of(RICH);
    let at = state
        .current()
        .workload_at("", "10.244.1.2".parse().unwrap())
        .unwrap();
    assert_eq!(
        &*at.uid,
        "Kubernetes//Pod/istio-system/istiod-5c74c55cc-2mxv4"
    );
}

#[test]
fn a_port_that_stands_twice_is_kept_twice() {
    let state = mesh_of(RICH);
    let dns = service(
        &state,
        "kube-system",
        "kube-dns.kube-system.svc.cluster.local",
    );
    assert_eq!(dns.ports.len(), 2);
    assert_eq!(dns.port(53).unwrap().app_protocol, AppProtocol::Tcp);
}

#[test]
fn captured_policies_mean_what_their_json_says() {
    let state = mesh_of(RICH);
    let policy = |name: &str| state.current().policy(&policy::name(name)).unwrap().clone();
    let root = policy("istio-system/root");
    assert_eq!(
        (root.scope, root.action, root.rules.len()),
        (Scope::Global, Action::Allow, 2)
    );
    let ips = &root.rules[0].clauses[1].matches[0];
    assert_eq!(ips.source_ips[0].to_string(), "10.244.0.0/16");
    assert_eq!(ips.not_source_ips[0].to_string(), "10.244.3.0/24");
    let strict = policy("istio-system/istio_converted_static_strict");
    assert_eq!(
        (strict.scope, strict.action),
        (Scope::Selector, Action::Deny)
    );
    assert_eq!(
        *strict.rules[0].clauses[0].matches[0].not_principals,
        [StringMatch::Presence]
    );
}

#[test]
fn captured_policies_decide_as_their_authors_meant() {
    use mesh::authz::{Facts, authorize};
    let state = mesh_of(PLAIN);
    let echo = state
        .current()
        .workloads()
        .find(|workload| &*workload.workload_name == "echo")
        .unwrap();
    let facts = |source: Option<&str>, port| Facts {
        source: source.map(|uri| uri.parse().unwrap()),
        source_ip: "10.244.1.9".parse().unwrap(),
        destination: (echo.addresses[0], port).into(),
    };
    let decide = |facts: &Facts| authorize(state.current(), echo, facts);
    let foreign = facts(Some("spiffe://cluster.local/ns/other/sa/x"), 9999);
    assert_eq!(
        decide(&foreign).to_string(),
        "denied by policy app/l4, rule 1"
    );
    assert!(
        decide(&facts(
            Some("spiffe://cluster.local/ns/app/sa/client"),
            9999
        ))
        .is_allowed()
    );
    assert!(
        decide(&facts(
            Some("spiffe://cluster.local/ns/smoke/sa/default"),
            9999
        ))
        .is_allowed()
    );
    assert!(decide(&facts(None, 8080)).is_allowed());
    assert!(!decide(&facts(None, 9999)).is_allowed());
}
