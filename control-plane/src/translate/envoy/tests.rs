//! Tables: manifests in, a waypoint's resources out.

use envoy_types::pb::{
    envoy::{
        config::{
            endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier},
            listener::v3::{FilterChain, Listener, filter},
            rbac::v3::Rbac,
            route::v3::Route,
        },
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter,
        },
    },
    google::protobuf::Any,
};
use prost::Message;

use super::*;
use crate::{
    store::Store,
    translate::{Mesh, translate as translate_wds},
};

mod endpoints;
mod grpc;
mod policies;
mod routes;

/// A namespace with waypoint `wp`, service `s` (port 80 HTTP, 90 TCP, 70 unknown) and its pod.
const BASE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app},
 spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app}, spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: app},
 spec: {clusterIP: 10.1.0.1, selector: {app: a}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90}, {port: 70}, {name: dns, port: 53, protocol: UDP}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: app, labels: {app: a}}, spec: {nodeName: n, serviceAccountName: sa}, status: {podIPs: [{ip: 10.0.0.1}]}}
---
";
const S80: &str = "inbound-vip|80|http|s.app.svc.cluster.local";
const S90: &str = "inbound-vip|90|tcp|s.app.svc.cluster.local";

struct Result {
    resources: Resources,
    faults: Vec<String>,
}

fn store(text: &str) -> Store {
    let mut store = Store::default();
    for result in objects::parse(text).results {
        let object =
            result.unwrap_or_else(|fault| fault.stand_in.expect("good objects, or guards"));
        store.apply(objects::Change::Upsert(object));
    }
    store
}

/// What the waypoint `app/wp` gets for the base and `more`.
fn waypoint(more: &str) -> Result {
    let (store, mesh) = (store(&format!("{BASE}{more}")), Mesh::default());
    let index = mesh.index(&store);
    let translation = translate_wds(&index);
    let waypoint = index
        .waypoints()
        .find(|waypoint| waypoint.name == "wp")
        .expect("the waypoint");
    let mut faults = Vec::new();
    let resources = translate(&index, &translation, waypoint, &mut faults);
    Result {
        resources,
        faults: faults.iter().map(ToString::to_string).collect(),
    }
}

fn unpack<M: Message + Default>(any: &Any) -> M {
    M::decode(&any.value[..]).expect("what we encoded")
}

impl Result {
    fn listener(&self, name: &str) -> Listener {
        Listener::decode(&self.resources.listeners[name][..]).expect("what we encoded")
    }

    fn chain(&self, name: &str) -> FilterChain {
        let chains = self.listener("main_internal").filter_chains;
        chains
            .into_iter()
            .find(|chain| chain.name == name)
            .unwrap_or_else(|| panic!("chain {name}"))
    }

    fn manager(&self, chain: &str) -> HttpConnectionManager {
        let filters = self.chain(chain).filters;
        let Some(filter::ConfigType::TypedConfig(any)) =
            &filters.last().expect("filters").config_type
        else {
            panic!("a typed filter")
        };
        unpack(any)
    }

    fn routes(&self, chain: &str) -> Vec<Route> {
        match self.manager(chain).route_specifier {
            Some(RouteSpecifier::RouteConfig(mut table)) => table.virtual_hosts.remove(0).routes,
            other => panic!("inline routes: {other:?}"),
        }
    }

    /// The rules of a chain's RBAC filters, in order.
    fn rbac(&self, chain: &str) -> Vec<Rbac> {
        use envoy_types::pb::envoy::extensions::filters::{http, network};
        let chain_filters = self.chain(chain).filters;
        let network = chain_filters
            .iter()
            .filter_map(|filter| match &filter.config_type {
                Some(filter::ConfigType::TypedConfig(any))
                    if filter.name == "envoy.filters.network.rbac" =>
                {
                    unpack::<network::rbac::v3::Rbac>(any).rules
                }
                _ => None,
            });
        let mut all: Vec<Rbac> = network.collect();
        if chain.contains("http") {
            let http =
                self.manager(chain)
                    .http_filters
                    .into_iter()
                    .filter_map(|filter| match filter.config_type {
                        Some(http_filter::ConfigType::TypedConfig(any))
                            if filter.name == "envoy.filters.http.rbac" =>
                        {
                            unpack::<http::rbac::v3::Rbac>(&any).rules
                        }
                        _ => None,
                    });
            all.extend(http);
        }
        all
    }

    fn endpoints(&self, cluster: &str) -> Vec<LbEndpoint> {
        let bytes = &self.resources.endpoints[cluster];
        let assignment = ClusterLoadAssignment::decode(&bytes[..]).expect("what we encoded");
        assignment
            .endpoints
            .into_iter()
            .flat_map(|locality| locality.lb_endpoints)
            .collect()
    }
}

#[test]
fn each_tcp_port_has_chains_clusters_and_a_place_in_the_tree() {
    let result = waypoint("");
    let chains: Vec<String> = result
        .listener("main_internal")
        .filter_chains
        .into_iter()
        .map(|c| c.name)
        .collect();
    let unknown = [
        "inbound-vip|70|http|s.app.svc.cluster.local",
        "inbound-vip|70|tcp|s.app.svc.cluster.local",
    ];
    assert_eq!(
        chains,
        [
            S80,
            S90,
            unknown[0],
            unknown[1],
            "direct-tcp",
            "direct-http"
        ]
    );
    for name in [S80, S90, unknown[0], unknown[1]] {
        assert!(
            result.resources.clusters.contains_key(name)
                && result.resources.endpoints.contains_key(name),
            "{name}"
        );
    }
    let tree = format!(
        "{:?}",
        result.listener("main_internal").filter_chain_matcher
    );
    for name in chains.iter().take(4) {
        let name: Vec<String> = name.bytes().map(|byte| byte.to_string()).collect();
        assert!(
            tree.contains(&name.join(", ")),
            "a chain that nothing leads to"
        );
    }
    assert!(result.faults.is_empty(), "{:?}", result.faults);
}

/// What is reported as refused must not be served.
#[test]
fn what_the_listener_does_not_admit_has_no_chain_and_no_place_in_the_tree() {
    let other = |name: &str, kind: &str, rest: &str| {
        format!(
            "{{apiVersion: v1, kind: {kind}, metadata: {{name: {name}, namespace: other, labels: {{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: app}}}}, {rest}}}\n---\n"
        )
    };
    let bound = other(
        "o",
        "Service",
        "spec: {clusterIP: 10.1.0.5, ports: [{name: http, port: 80}]}",
    ) + &other(
        "q",
        "Pod",
        "spec: {nodeName: n}, status: {podIPs: [{ip: 10.0.0.5}]}",
    );
    let o80 = "inbound-vip|80|http|o.other.svc.cluster.local";
    for (from, admitted) in [("Same", false), ("None", false), ("All", true)] {
        let gateway = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: wp, namespace: app, labels: {{istio.io/waypoint-for: all}}}}, spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}}}\n---\n"
        );
        let result = waypoint(&(gateway + &bound));
        let listener = result.listener("main_internal");
        let chains = listener.filter_chains.iter().map(|chain| &chain.name);
        assert_eq!(
            chains.filter(|name| *name == o80).count(),
            usize::from(admitted),
            "{from}"
        );
        assert_eq!(
            result.resources.clusters.contains_key(o80),
            admitted,
            "{from}"
        );
        let tree = listener.encode_to_vec();
        for address in ["10.1.0.5", "10.0.0.5"] {
            let found = tree.windows(8).any(|bytes| bytes == address.as_bytes());
            assert_eq!(found, admitted, "{from} {address}");
        }
    }
}

#[test]
fn a_canary_serves_what_it_has_a_share_of() {
    let store = store(&format!(
        "{}{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: next, namespace: app}}, spec: {{gatewayClassName: istio-waypoint}}}}",
        BASE.replace(
            "name: s, namespace: app}",
            "name: s, namespace: app, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: next}}"
        )
    ));
    let mesh = Mesh::default();
    let index = mesh.index(&store);
    let translation = translate_wds(&index);
    for waypoint in index.waypoints() {
        let resources = translate(&index, &translation, waypoint, &mut Vec::new());
        assert!(resources.clusters.contains_key(S80), "{}", waypoint.name);
    }
}

#[test]
fn sniffing_is_off_where_protocols_are_known_unless_workloads_are_bound() {
    let inspector = |more: &str| {
        let filters = waypoint(more).listener("main_internal").listener_filters;
        let found = filters
            .into_iter()
            .find(|filter| filter.name.ends_with("http_inspector"))
            .expect("it is always there");
        found
            .filter_disabled
            .map(|predicate| format!("{predicate:?}").matches("Int32Range").count())
    };
    assert_eq!(inspector(""), Some(2), "ports 80 and 90");
    let bound = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app, labels: {istio.io/waypoint-for: all}}, spec: {gatewayClassName: istio-waypoint}}\n---\n";
    assert_eq!(inspector(bound), None);
}

#[test]
fn tls_is_looked_into_only_for_a_policy_that_asks_for_the_server_name() {
    let tls = "{apiVersion: v1, kind: Service, metadata: {name: tls, namespace: app}, spec: {clusterIP: 10.1.0.7, ports: [{name: https, port: 443}]}}\n---\n";
    let sni = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: app}, spec: {targetRefs: [{kind: Service, name: tls}], rules: [{when: [{key: connection.sni, values: [a]}]}]}}\n---\n";
    let looks = |more: &str| {
        let filters = waypoint(more).listener("main_internal").listener_filters;
        filters
            .into_iter()
            .any(|filter| filter.name.ends_with("tls_inspector"))
    };
    assert!(!looks(tls));
    assert!(looks(&format!("{tls}{sni}")));
}

#[test]
fn resources_have_the_same_bytes_every_time() {
    let policies = (0..5).map(|i| format!("{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{i}, namespace: app}}, spec: {{targetRefs: [{{kind: Service, name: s}}], rules: [{{}}, {{to: [{{operation: {{methods: [GET]}}}}]}}]}}}}\n---\n"));
    let more: String = policies.collect();
    let first = waypoint(&more).resources;
    for _ in 0..20 {
        let again = waypoint(&more).resources;
        assert!(first.clusters == again.clusters && first.endpoints == again.endpoints);
        assert!(first.listeners == again.listeners);
    }
}

#[test]
fn sorting_changes_nothing_but_order() {
    let result = waypoint("");
    for body in result.resources.listeners.values() {
        let listener = Listener::decode(&body[..]).expect("what we encoded");
        assert_eq!(canonical::listener(&listener), *body, "already sorted");
        assert_eq!(listener.encoded_len(), body.len());
    }
}

#[test]
fn host_identifiers_are_endpoints() {
    for endpoint in waypoint("").endpoints(S80) {
        assert!(matches!(
            endpoint.host_identifier,
            Some(HostIdentifier::Endpoint(_))
        ));
    }
}
