//! Which waypoint is bound to what.

use super::*;

fn gateway(labels: &str, from: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: wp, namespace: app, labels: {{{labels}}}}}, \
         spec: {{gatewayClassName: causeway-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, \
         allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: wp, namespace: app}}, spec: {{clusterIP: 10.1.0.9, ports: [{{port: 15008}}]}}}}\n---\n"
    )
}

const ACCOUNT: &str = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa, namespace: app, labels: {istio.io/use-waypoint: wp}}}\n---\n";
const USES: &str = "istio.io/use-waypoint: wp";

/// Whether the service `s` and the pod `p` (if they are there) are bound to the waypoint `wp`.
fn bound(text: &str) -> (bool, bool) {
    let translation = translated(text);
    let by = |address: Option<GatewayAddress>| match host(address.as_ref()) {
        None => false,
        Some(host) => host == "app/wp.app.svc.cluster.local" || panic!("bound to {host}"),
    };
    assert!(
        !by(service(&translation, "wp").waypoint),
        "a waypoint has none itself"
    );
    let pod = translation.addresses.contains_key("Kubernetes//Pod/app/p");
    (
        by(service(&translation, "s").waypoint),
        pod && by(workload(&translation, "p").waypoint),
    )
}

#[test]
fn the_gateway_says_what_traffic_it_takes() {
    for (traffic, expected) in [
        ("istio.io/waypoint-for: all", (true, true)),
        ("", (true, false)),
        ("istio.io/waypoint-for: service", (true, false)),
        ("istio.io/waypoint-for: workload", (false, true)),
        ("istio.io/waypoint-for: none", (false, false)),
    ] {
        let text = namespace(USES) + &gateway(traffic, "Same") + SERVICE + &pod("app: a", "");
        assert_eq!(bound(&text), expected, "{traffic}");
    }
}

#[test]
fn a_service_that_names_a_waypoint_for_workloads_is_told() {
    let said = |service: &str, traffic: &str| {
        let text = gateway(&format!("istio.io/waypoint-for: {traffic}"), "Same") + service;
        faults(&translated(&text))
    };
    let labelled = SERVICE.replace(
        "namespace: app}",
        "namespace: app, labels: {istio.io/use-waypoint: wp}}",
    );
    for traffic in ["workload", "none"] {
        assert_eq!(
            said(&labelled, traffic),
            [
                "Service app/s: metadata.labels[istio.io/use-waypoint]: waypoint app/wp takes no traffic to services; it is not used"
            ]
        );
    }
    assert_eq!(said(&labelled, "service"), [""; 0]);
    let by_account = format!("{ACCOUNT}{SERVICE}{}", pod("app: a", ""));
    assert_eq!(said(&by_account, "workload"), [""; 0]);
}

#[test]
fn waypoints_are_bound_by_the_nearest_label() {
    let all = gateway("istio.io/waypoint-for: all", "Same");
    let labelled = |value: &str| {
        let labels = format!("namespace: app, labels: {{istio.io/use-waypoint: {value}}}}}");
        SERVICE.replace("namespace: app}", &labels)
    };
    let (plain, own) = (
        pod("app: a", ""),
        pod("app: a, istio.io/use-waypoint: wp", ""),
    );
    let out = pod("app: a, istio.io/use-waypoint: none", "");
    let nobody = namespace("") + &all;
    let everybody = namespace(USES) + &all;
    assert_eq!(
        bound(&(everybody + &labelled("none") + &out)),
        (false, false)
    );
    assert_eq!(
        bound(&(nobody.clone() + &labelled("wp") + &plain)),
        (true, false)
    );
    assert_eq!(bound(&(nobody.clone() + SERVICE + &own)), (false, true));
    assert_eq!(
        bound(&(nobody.clone() + ACCOUNT + SERVICE + &plain)),
        (true, true)
    );
    assert_eq!(
        bound(&(nobody.clone() + ACCOUNT + SERVICE)),
        (false, false),
        "no endpoints"
    );
    assert_eq!(bound(&(nobody + SERVICE + &plain)), (false, false));
}

#[test]
fn a_service_account_binds_a_service_only_if_those_of_all_endpoints_say_so() {
    let other = pod("app: a", "")
        .replace("name: p", "name: q")
        .replace("serviceAccountName: sa", "serviceAccountName: x");
    let text = gateway("", "Same") + ACCOUNT + SERVICE + &pod("app: a", "") + &other;
    let translation = translated(&text);
    assert_eq!(host(service(&translation, "s").waypoint.as_ref()), None);
    assert_eq!(
        faults(&translation),
        [
            "Service app/s: metadata.labels[istio.io/use-waypoint]: the service accounts of its endpoints do not all name the same waypoint: none of theirs is used for the service; label the Service itself"
        ]
    );
    let none = "namespace: app, labels: {istio.io/use-waypoint: none}}";
    let labelled = text.replace(SERVICE, &SERVICE.replace("namespace: app}", none));
    assert_eq!(faults(&translated(&labelled)), [""; 0]);
}

#[test]
fn a_service_that_a_policy_guards_is_closed_while_its_endpoints_accounts_differ() {
    let other = pod("app: a", "")
        .replace("name: p", "name: q")
        .replace("serviceAccountName: sa", "serviceAccountName: x");
    let policy = |rest: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: guard, namespace: app}}, \
             spec: {{{rest}}}}}\n---\n"
        )
    };
    let text = gateway("", "Same") + ACCOUNT + SERVICE + &pod("app: a", "");
    let of = |more: &str| {
        let translation = translated(&format!("{text}{more}"));
        host(service(&translation, "s").waypoint.as_ref())
    };
    let on_s = policy("targetRefs: [{kind: Service, name: s}], rules: [{}]");
    assert_eq!(of(&on_s).as_deref(), Some("app/wp.app.svc.cluster.local"));
    let mixed = format!("{on_s}{other}");
    assert_eq!(
        of(&mixed).as_deref(),
        Some("app/service-accounts-differ.invalid")
    );
    assert_eq!(
        faults(&translated(&format!("{text}{mixed}"))),
        [
            "Service app/s: metadata.labels[istio.io/use-waypoint]: the service accounts of its endpoints do not all name the same waypoint: none of theirs is used for the service, and traffic to it is refused, because AuthorizationPolicy guard would not be asked; label the Service itself"
        ]
    );
    // A policy for something else guards nothing here, nor one that decides nothing; another waypoint asks it too.
    for more in [
        policy("targetRefs: [{kind: Service, name: t}], rules: [{}]"),
        policy("targetRefs: [{kind: Service, name: s}], action: AUDIT, rules: [{}]"),
    ] {
        assert_eq!(of(&format!("{more}{other}")), None);
    }
    let everybody = namespace(USES);
    assert_eq!(
        of(&format!("{mixed}{everybody}")).as_deref(),
        Some("app/wp.app.svc.cluster.local")
    );
}

#[test]
fn a_service_whose_endpoints_change_their_account_stays_bound_if_both_accounts_say_so() {
    let other = pod("app: a", "")
        .replace("name: p", "name: q")
        .replace("serviceAccountName: sa", "serviceAccountName: x");
    let text = gateway("", "Same") + ACCOUNT + SERVICE + &pod("app: a", "") + &other;
    let second = ACCOUNT.replace("name: sa", "name: x");
    assert!(bound(&(text.clone() + &second)).0);
    let elsewhere = second.replace("use-waypoint: wp", "use-waypoint: other");
    assert!(!bound(&(text + &elsewhere)).0);
}

#[test]
fn a_waypoint_that_is_named_but_absent_stays_named() {
    let uses = "istio.io/use-waypoint: gone";
    let translation = translated(&(namespace(uses) + SERVICE + &pod("app: a", "")));
    assert_eq!(
        host(service(&translation, "s").waypoint.as_ref()).as_deref(),
        Some("app/gone.app.svc.cluster.local")
    );
    assert_eq!(
        faults(&translation),
        [
            "Service app/s: metadata.labels[istio.io/use-waypoint]: waypoint app/gone is not there; traffic through it is refused until it is"
        ]
    );
    let elsewhere = "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra";
    let translation = translated(&(namespace(elsewhere) + SERVICE));
    assert_eq!(
        host(service(&translation, "s").waypoint.as_ref()).as_deref(),
        Some("infra/wp.infra.svc.cluster.local")
    );
}

#[test]
fn a_waypoint_that_does_not_admit_the_namespace_stays_named_and_is_reported() {
    let other = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: other, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: app}}, spec: {clusterIP: 10.1.0.3, ports: [{port: 80}]}}\n---\n";
    let count = |from: &str, labels: &str| {
        let namespace = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: other, labels: {{{labels}}}}}}}\n---\n"
        );
        let translation = translated(&(gateway("", from) + &namespace + other));
        let service = &translation.addresses["other/s.other.svc.cluster.local"];
        let Some(address::Type::Service(service)) = &service.r#type else {
            panic!("a service")
        };
        assert_eq!(
            host(service.waypoint.as_ref()).as_deref(),
            Some("app/wp.app.svc.cluster.local")
        );
        faults(&translation).len()
    };
    assert_eq!(count("Same", ""), 1);
    assert_eq!(count("All", ""), 0);
    assert_eq!(count("Selector, selector: {matchLabels: {a: b}}", ""), 1);
    assert_eq!(
        count("Selector, selector: {matchLabels: {a: b}}", "a: b"),
        0
    );
    assert_eq!(count("None", ""), 1);
}

#[test]
fn a_label_takes_no_waypoints_place() {
    let service = |name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: app, labels: \
             {{gateway.networking.k8s.io/gateway-name: wp}}{more}}}, spec: {{clusterIP: 10.1.0.7, ports: [{{port: 15008}}]}}}}\n---\n"
        )
    };
    let alone = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app}, spec: {gatewayClassName: istio-waypoint}}\n---\n";
    let at = |more: &str| {
        let translation = translated(&(namespace(USES) + SERVICE + more));
        host(super::service(&translation, "s").waypoint.as_ref()).expect("bound")
    };
    let taker = service("a", "");
    assert_eq!(
        at(&format!("{alone}{taker}")),
        "app/a.app.svc.cluster.local"
    );
    let named = gateway("", "Same");
    assert_eq!(
        at(&format!("{named}{taker}")),
        "app/wp.app.svc.cluster.local"
    );
    let owned = service("z", ", ownerReferences: [{kind: Gateway, name: wp}]");
    assert_eq!(
        at(&format!("{named}{taker}{owned}")),
        "app/z.app.svc.cluster.local"
    );
}

#[test]
fn a_gateway_without_service_is_reported() {
    let text = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app}, spec: {gatewayClassName: istio-waypoint}}";
    assert_eq!(
        faults(&translated(text)),
        [
            "Gateway app/wp: no Service `wp.app.svc.cluster.local` stands for this waypoint; what is bound to it is refused"
        ]
    );
}

/// A waypoint for the pods of one account only, as that account's label says it.
#[test]
fn a_waypoint_of_an_account_is_bound_to_nothing_of_another_account() {
    let all = gateway("istio.io/waypoint-for: all", "Same");
    let other = pod("app: b", "")
        .replace("name: p", "name: q")
        .replace("serviceAccountName: sa", "serviceAccountName: x")
        .replace("10.0.0.1", "10.0.0.2");
    let theirs = SERVICE
        .replace("name: s", "name: t")
        .replace("10.1.0.1", "10.1.0.2")
        .replace("app: a", "app: b");
    let text = namespace("") + &all + ACCOUNT + SERVICE + &theirs + &pod("app: a", "") + &other;
    let translation = translated(&text);
    let bound = |address: Option<GatewayAddress>| host(address.as_ref()).is_some();
    let of = |name: &str| bound(workload(&translation, name).waypoint);
    assert_eq!((of("p"), of("q")), (true, false));
    let of = |name: &str| bound(service(&translation, name).waypoint);
    assert_eq!((of("s"), of("t")), (true, false));
}

#[test]
fn a_pod_that_requires_its_waypoints_lets_nobody_else_in() {
    let requires = "ambient.causeway.dev/require-waypoint: 'true'";
    let gateway = gateway("istio.io/waypoint-for: all", "Same");
    let server = "{apiVersion: v1, kind: Pod, metadata: {name: wp-1, namespace: app, labels: {gateway.networking.k8s.io/gateway-name: wp}}, spec: {nodeName: n, serviceAccountName: runs-wp}, status: {podIPs: [{ip: 10.0.0.9}]}}\n---\n";
    let policies = |text: String| {
        let translation = translated(&text);
        (
            workload(&translation, "p").authorization_policies,
            translation,
        )
    };
    let text = format!("{gateway}{ACCOUNT}{SERVICE}{}", pod("app: a", ""));
    assert_eq!(policies(namespace("") + &text).0, [""; 0]);
    let (names, translation) = policies(namespace(requires) + &text);
    assert_eq!(names, ["app/istio_allow_waypoint_app_wp"]);
    let principals = |translation: &Translation| {
        let policy = &translation.authorizations["app/istio_allow_waypoint_app_wp"];
        assert_eq!(policy.action, i32::from(proto::security::Action::Allow));
        format!("{:?}", policy.rules[0].clauses[0].matches[0].principals)
    };
    let runs_as = |account: &str| format!("Exact(\"cluster.local/ns/app/sa/{account}\")");
    assert!(
        principals(&translation).contains(&runs_as("wp")),
        "its name, while no pod is there"
    );
    let (_, translation) = policies(namespace(requires) + &text + server);
    assert!(principals(&translation).contains(&runs_as("runs-wp")));
    // Only the service is bound: its waypoint is let in all the same.
    let by_service = format!(
        "{}{gateway}{}{}",
        namespace(requires),
        SERVICE.replace(
            "namespace: app}",
            "namespace: app, labels: {istio.io/use-waypoint: wp}}"
        ),
        pod("app: a", "")
    );
    assert_eq!(
        policies(by_service.clone()).0,
        ["app/istio_allow_waypoint_app_wp"]
    );
    let not_me = by_service.replace(
        "labels: {app: a}",
        "labels: {app: a, ambient.causeway.dev/require-waypoint: 'false'}",
    );
    assert_eq!(policies(not_me).0, [""; 0]);
    let unbound = format!(
        "{}{gateway}{SERVICE}{}",
        namespace(requires),
        pod("app: a", "")
    );
    // Without a waypoint there is nobody to be let in.
    let (names, translation) = policies(unbound);
    assert_eq!(names, ["app/istio_allow_no_waypoint"]);
    let policy = &translation.authorizations["app/istio_allow_no_waypoint"];
    assert_eq!(policy.action, i32::from(proto::security::Action::Allow));
    assert!(policy.rules.is_empty());
}

#[test]
fn a_canary_takes_its_share_of_a_service() {
    let second = gateway("", "Same")
        .replace("name: wp", "name: next")
        .replace("10.1.0.9", "10.1.0.8");
    let both = gateway("", "Same") + &second;
    let shares = |labels: &str, weight: &str, more: &str| {
        let meta =
            format!("namespace: app, labels: {{{USES}, {labels}}}, annotations: {{{weight}}}}}");
        let text = both.clone() + more + &SERVICE.replace("namespace: app}", &meta);
        let translation = translated(&text);
        let weighted = service(&translation, "s").weighted_waypoints.into_iter();
        let shares: Vec<(String, u32)> = weighted
            .map(|one| {
                (
                    host(one.destination.as_ref()).unwrap_or_default(),
                    one.weight,
                )
            })
            .collect();
        (shares, faults(&translation))
    };
    let canary = "istio.io/use-waypoint-canary: next";
    let weight = |weight: &str| format!("istio.io/use-waypoint-canary-weight: '{weight}'");
    let of = |first: u32, second: u32| {
        let name = |name: &str| format!("app/{name}.app.svc.cluster.local");
        vec![(name("wp"), first), (name("next"), second)]
    };
    assert_eq!(shares(canary, &weight("30"), ""), (of(70, 30), vec![]));
    assert_eq!(
        shares(canary, "", ""),
        (of(100, 0), vec![]),
        "no weight is none"
    );
    assert_eq!(shares("a: b", &weight("30"), ""), (vec![], vec![]));
    for (labels, weight, why) in [
        (
            canary,
            weight("101"),
            "canary waypoint app/next needs a weight from 0 to 100",
        ),
        (
            "istio.io/use-waypoint-canary: wp",
            weight("1"),
            "canary waypoint app/wp is the waypoint itself",
        ),
        (
            "istio.io/use-waypoint-canary: gone",
            weight("1"),
            "canary waypoint app/gone is not there",
        ),
    ] {
        let told = format!(
            "Service app/s: metadata.labels[istio.io/use-waypoint]: {why}; all traffic goes through the first waypoint"
        );
        assert_eq!(shares(labels, &weight, ""), (vec![], vec![told]));
    }
}
