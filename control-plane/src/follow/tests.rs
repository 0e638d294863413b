//! Views: who sees what, and that nothing is published for nothing.

use std::sync::Arc;

use identity::Identity;
use objects::Change;
use prost_types::{Struct, Value, value::Kind};
use runtime::metrics::Registry;

use proto::discovery::Node;
use xds::server::{Client, Resources, Source as _};

use super::*;

const WAYPOINT: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app}, spec: {gatewayClassName: causeway-waypoint}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app}, spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}}
";
const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: app}, spec: {nodeName: n, serviceAccountName: sa}, status: {podIP: 10.0.0.1}}";

fn follower() -> Follower {
    let mut follower = Follower::new(Mesh::default(), Arc::new(Status::new(&Registry::new())));
    follower.take(Event::Snapshot {
        objects: Vec::new(),
        faults: Arc::new([]),
    });
    follower
}

fn edit(follower: &mut Follower, text: &str) {
    let objects = objects::parse(text)
        .results
        .into_iter()
        .map(|result| result.expect("good objects"));
    follower.take(Event::Changes {
        changes: objects.map(Change::Upsert).collect(),
        faults: Arc::new([]),
    });
}

fn client(id: &str, labels: Option<&str>) -> Client {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    let labels = labels.map(|name| {
        let labels = Struct {
            fields: [(GATEWAY_NAME.to_owned(), text(name))].into(),
        };
        (
            "LABELS".to_owned(),
            Value {
                kind: Some(Kind::StructValue(labels)),
            },
        )
    });
    let mut fields: std::collections::BTreeMap<_, _> =
        [("NAMESPACE".to_owned(), text("app"))].into();
    fields.extend(labels);
    let node = Node {
        id: id.into(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    };
    let identity: Identity = "spiffe://cluster.local/ns/app/sa/wp"
        .parse()
        .expect("an identity");
    Client {
        node,
        identity: Some(identity),
        stream: 1,
    }
}

#[test]
fn a_waypoint_that_waits_for_its_gateway_gets_its_view_when_it_appears() {
    let mut follower = follower();
    let view = follower
        .views()
        .subscribe(&client("waypoint~1~wp~app", Some("wp")))
        .expect("a view");
    assert!(view.borrow().of(type_url::LISTENER).is_none());
    edit(&mut follower, WAYPOINT);
    assert_eq!(
        view.borrow()
            .of(type_url::LISTENER)
            .map(|listeners| listeners.len()),
        Some(5)
    );
}

#[test]
fn only_some_gateways_that_are_not_there_may_be_waited_for() {
    let mut follower = follower();
    let views = follower.views();
    let ask = |name: &str| views.subscribe(&client("waypoint~1~wp~app", Some(name)));
    let mut waiting: Vec<_> = (0..64)
        .map(|n| ask(&format!("g{n}")).expect("room"))
        .collect();
    assert_eq!(
        ask("more").expect_err("full").code(),
        tonic::Code::ResourceExhausted
    );
    assert!(ask("g0").is_ok(), "one more of the same");
    edit(&mut follower, WAYPOINT);
    assert!(ask("wp").is_ok(), "one that is there");
    waiting.pop();
    assert!(ask("more").is_ok(), "who leaves makes room");
}

#[test]
fn an_event_that_changes_nothing_publishes_nothing() {
    let mut follower = follower();
    edit(&mut follower, &format!("{WAYPOINT}\n---\n{POD}"));
    let mut view = follower
        .views()
        .subscribe(&client("waypoint~1~wp~app", Some("wp")))
        .expect("a view");
    let mut all = follower
        .views()
        .subscribe(&client("ztunnel~1~z~app", None))
        .expect("a view");
    view.mark_unchanged();
    all.mark_unchanged();
    edit(&mut follower, POD);
    assert!(!view.has_changed().expect("open") && !all.has_changed().expect("open"));
    edit(&mut follower, &POD.replace("10.0.0.1", "10.0.0.2"));
    assert!(view.has_changed().expect("open") && all.has_changed().expect("open"));
}

#[test]
fn clients_that_do_not_say_who_they_are_are_told_what_is_missing() {
    let views = follower().views();
    let refusal = |client: Client| {
        views
            .subscribe(&client)
            .expect_err("refused")
            .message()
            .to_owned()
    };
    assert_eq!(
        refusal(client("waypoint~1~wp~app", None)),
        "node metadata LABELS has no gateway.networking.k8s.io/gateway-name"
    );
    assert_eq!(
        refusal(client("sidecar~1~x~app", None)),
        "node id \"sidecar~1~x~app\" must begin with `ztunnel~` or `waypoint~`"
    );
    let nobody = Client {
        identity: None,
        ..client("ztunnel~1~z~app", None)
    };
    assert_eq!(
        refusal(nobody),
        "neither a token nor a client certificate was shown"
    );
}

#[test]
fn identities_are_where_their_pods_are() {
    let mut follower = follower();
    edit(&mut follower, POD);
    let views = follower.views();
    assert!(views.runs_on("n", "app", "sa"));
    assert!(!views.runs_on("m", "app", "sa") && !views.runs_on("n", "app", "default"));
    edit(
        &mut follower,
        &POD.replace("podIP", "phase: Succeeded, podIP"),
    );
    assert!(!views.runs_on("n", "app", "sa"));
}

#[test]
fn a_pod_that_a_kubelet_made_is_nobody_on_an_api_server() {
    let nameless = POD.replace(", serviceAccountName: sa", "");
    let mirror = POD.replace(
        "namespace: app}",
        "namespace: app, annotations: {kubernetes.io/config.mirror: x}}",
    );
    for pod in [&nameless, &mirror] {
        let mut follower = follower().of_cluster();
        // Both ways in: as a change, and with everything.
        for everything in [false, true] {
            edit(&mut follower, pod);
            if everything {
                edit(&mut follower, WAYPOINT);
            }
            let views = follower.views();
            assert!(!views.runs_on("n", "app", "default") && !views.runs_on("n", "app", "sa"));
        }
        edit(&mut follower, POD);
        assert!(follower.views().runs_on("n", "app", "sa"));
        edit(&mut follower, pod);
        assert!(!follower.views().runs_on("n", "app", "sa"));
    }
    // A manifest may leave it out, and means `default`.
    let mut follower = follower();
    edit(&mut follower, &nameless);
    assert!(follower.views().runs_on("n", "app", "default"));
}

/// As a source tells it: a good version as a change, a bad one as a fault alone.
fn tell(follower: &mut Follower, text: &str) {
    let mut parsed = objects::parse(text);
    let (good, bad): (Vec<_>, Vec<_>) = parsed.results.drain(..).partition(Result::is_ok);
    follower.take(Event::Changes {
        changes: good.into_iter().flatten().map(Change::Upsert).collect(),
        faults: bad.into_iter().filter_map(Result::err).collect(),
    });
}

fn verdict(follower: &Follower, key: &str) -> Option<String> {
    let verdicts = follower.verdicts.borrow().clone().expect("verdicts");
    let found = verdicts.by_object.iter();
    let mut found = found.filter(|(other, _)| other.to_string() == key);
    found.next().map(|(_, verdict)| format!("{verdict:?}"))
}

#[test]
fn a_version_that_is_refused_is_told_and_so_is_the_next_good_one() {
    let policy = |rest: &str, generation: u8| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: app, \
             generation: {generation}}}, spec: {{rules: [{{}}]{rest}}}}}"
        )
    };
    let mut follower = follower();
    let _asked = follower.verdicts();
    let said = |follower: &Follower| verdict(follower, "AuthorizationPolicy app/p").expect("one");
    for generation in [1, 3] {
        tell(&mut follower, &policy("", generation));
        assert!(said(&follower).contains("Accepted"), "{}", said(&follower));
        tell(&mut follower, &policy(", odd: 1", generation + 1));
        let text = said(&follower);
        assert!(text.contains("Refused(\"spec.odd"), "{text}");
        // A verdict on this version, not on one that comes after it.
        assert!(
            text.contains(&format!("generation: Some({})", generation + 1)),
            "{text}"
        );
    }
}

#[test]
fn pods_that_change_what_a_service_is_bound_to_change_its_status() {
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: app, labels: {istio.io/use-waypoint: wp}}}";
    let world = BEHIND.replace(", istio.io/use-waypoint: wp}", "}");
    let mut follower = follower();
    let _asked = follower.verdicts();
    edit(&mut follower, &format!("{world}\n---\n{account}"));
    let said = |follower: &Follower| verdict(follower, "Service app/web").unwrap_or_default();
    let other = pod_of(2, "web", true).replace("serviceAccountName: web", "serviceAccountName: x");
    edit(&mut follower, &pod_of(1, "web", true));
    assert!(
        said(&follower).contains("WaypointIsNotReady"),
        "{}",
        said(&follower)
    );
    edit(&mut follower, &other);
    assert!(
        said(&follower).contains("ServiceAccountsDiffer"),
        "{}",
        said(&follower)
    );
    edit(&mut follower, &pod_of(2, "web", true));
    assert!(
        !said(&follower).contains("ServiceAccountsDiffer"),
        "{}",
        said(&follower)
    );
}

/// A world with a waypoint for services and for workloads, in front of pods that come and go.
const BEHIND: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app, labels: {istio.io/waypoint-for: all}},
 spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app}, spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: app}, spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80, name: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: app, labels: {istio.io/use-waypoint: none}},
 spec: {clusterIP: 10.1.0.2, selector: {app: other}, ports: [{port: 81, name: http}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: app}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: other, port: 81}]}]
";

fn pod_of(number: u8, app: &str, ready: bool) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p{number}, namespace: app, labels: {{app: {app}}}}}, \
         spec: {{nodeName: n{number}, serviceAccountName: {app}}}, \
         status: {{podIP: 10.0.0.{number}, phase: Running, conditions: [{{type: Ready, status: '{}'}}]}}}}",
        if ready { "True" } else { "False" }
    )
}

/// Everything that subscribers see.
fn seen(
    follower: &Follower,
) -> std::collections::BTreeMap<String, std::collections::BTreeMap<String, Vec<u8>>> {
    let waypoint = follower
        .views()
        .subscribe(&client("waypoint~1~wp~app", Some("wp")));
    let view = waypoint.expect("a view").borrow().clone();
    let bodies = |resources: &Arc<Resources>| {
        let pairs = resources
            .iter()
            .map(|(name, resource)| (name.to_string(), resource.body.to_vec()));
        pairs.collect()
    };
    view.types
        .iter()
        .map(|(url, resources)| (url.to_string(), bodies(resources)))
        .collect()
}

#[test]
fn after_changes_of_pods_alone_subscribers_see_what_they_would_see_of_everything_anew() {
    let mut follower = follower();
    edit(&mut follower, BEHIND);
    let remove = |number: u8| {
        Change::Remove(objects::Key::new(
            objects::Kind::Pod,
            "app",
            &format!("p{number}"),
        ))
    };
    let upsert = |text: String| {
        let result = objects::parse(&text).results.pop().expect("one");
        Change::Upsert(result.expect("good"))
    };
    let steps = [
        vec![
            upsert(pod_of(1, "web", true)),
            upsert(pod_of(2, "other", true)),
        ],
        vec![upsert(pod_of(3, "none", true))],
        vec![upsert(pod_of(1, "web", false))],
        vec![
            upsert(pod_of(2, "web", true)),
            upsert(pod_of(1, "other", true)),
        ],
        vec![remove(2)],
        vec![
            upsert(pod_of(2, "other", true)),
            remove(2),
            remove(3),
            remove(9),
        ],
        vec![remove(1)],
    ];
    for (number, changes) in steps.into_iter().enumerate() {
        follower.take(Event::Changes {
            changes,
            faults: Arc::new([]),
        });
        let mut anew = Follower::new(Mesh::default(), Arc::new(Status::new(&Registry::new())));
        anew.store = follower.store.clone();
        anew.pending.everything = true;
        anew.publish();
        assert_eq!(seen(&follower), seen(&anew), "step {number}");
        for account in ["web", "other", "none"] {
            for node in ["n1", "n2", "n3"] {
                let runs = |follower: &Follower| follower.views().runs_on(node, "app", account);
                assert_eq!(
                    runs(&follower),
                    runs(&anew),
                    "{account} on {node} at step {number}"
                );
            }
        }
    }
}

#[test]
fn a_slice_that_repeats_pods_costs_nothing_and_one_that_does_not_counts() {
    let mut follower = follower();
    edit(
        &mut follower,
        &format!("{BEHIND}\n---\n{}", pod_of(1, "web", true)),
    );
    let mut all = follower
        .views()
        .subscribe(&client("ztunnel~1~z~app", None))
        .expect("a view");
    all.mark_unchanged();
    let slice = |target: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web-1, namespace: app, labels: \
             {{kubernetes.io/service-name: web}}}}, addressType: IPv4, endpoints: [{{addresses: [10.0.0.1]{target}}}], \
             ports: [{{name: http, port: 80}}]}}"
        )
    };
    follower.store(Event::Changes {
        changes: objects::parse(&slice(", targetRef: {kind: Pod, name: p1}"))
            .results
            .into_iter()
            .map(|result| Change::Upsert(result.expect("good")))
            .collect(),
        faults: Arc::new([]),
    });
    assert!(!follower.pending.everything);
    follower.publish();
    assert!(!all.has_changed().expect("open"));
    edit(&mut follower, &slice(""));
    assert!(all.has_changed().expect("open"));
}
