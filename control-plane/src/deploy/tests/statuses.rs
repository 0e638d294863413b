//! Status of Gateways and classes: when it is programmed, with which addresses, and what it says while it is not.

use super::*;

const NOW: &str = "2026-11-30T00:00:00Z";
const EARLIER: &str = "2026-11-29T00:00:00Z";

fn standing(ready: u64) -> Standing {
    Standing {
        service: Some(
            json!({"metadata": {"name": "wp"}, "spec": {"clusterIPs": ["10.96.0.7", "fd00::7"]}}),
        ),
        deployment: Some(json!({"status": {"readyReplicas": ready}})),
        ..Standing::default()
    }
}

fn of(gateway: &Gateway, standing: &Standing) -> Value {
    status::of_gateway(gateway, standing, "cluster.local", NOW)
        .unwrap_or_else(|| gateway.status.clone())
}

/// `type=status/reason` of each condition.
fn conditions(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let word = |one: &Value, field: &str| one[field].as_str().unwrap_or("?").to_owned();
    list.iter()
        .map(|one| {
            format!(
                "{}={}/{}",
                word(one, "type"),
                word(one, "status"),
                word(one, "reason")
            )
        })
        .collect()
}

fn message<'a>(status: &'a Value, kind: &str) -> &'a str {
    let list = status["conditions"].as_array().expect("conditions");
    let one = list
        .iter()
        .find(|one| one["type"] == kind)
        .expect("that condition");
    one["message"].as_str().expect("a message")
}

#[test]
fn a_gateway_is_programmed_with_its_first_ready_pod_in_istiods_words() {
    let mut gateway = gateway("{}");
    let before = of(&gateway, &standing(0));
    assert_eq!(
        conditions(&before["conditions"]),
        [
            "Accepted=True/Accepted",
            "Programmed=False/Pending",
            "ResolvedRefs=True/ResolvedRefs"
        ]
    );
    assert_eq!(
        message(&before, "Programmed"),
        "no pod of Deployment app/wp is ready yet"
    );
    assert_eq!(before["addresses"], Value::Null);

    gateway.status = before;
    let after = of(&gateway, &standing(1));
    assert_eq!(
        conditions(&after["conditions"]),
        [
            "Accepted=True/Accepted",
            "Programmed=True/Programmed",
            "ResolvedRefs=True/ResolvedRefs"
        ]
    );
    assert_eq!(
        message(&after, "Programmed"),
        "Resource programmed, assigned to service(s) wp.app.svc.cluster.local:15008"
    );
    assert_eq!(
        after["addresses"],
        json!([
            {"type": "IPAddress", "value": "10.96.0.7"},
            {"type": "IPAddress", "value": "fd00::7"},
            {"type": "Hostname", "value": "wp.app.svc.cluster.local"},
        ])
    );
    assert_eq!(
        conditions(&after["listeners"][0]["conditions"]),
        [
            "Accepted=True/Accepted",
            "Conflicted=False/NoConflicts",
            "Programmed=True/Programmed",
            "ResolvedRefs=True/ResolvedRefs"
        ]
    );
    assert_eq!(after["listeners"][0]["attachedRoutes"], 0);
}

#[test]
fn addresses_are_never_withdrawn_and_what_is_right_is_not_written_again() {
    let mut gateway = gateway("{}");
    gateway.status = of(&gateway, &standing(1));
    for later in [
        standing(0),
        Standing {
            service: None,
            ..standing(0)
        },
    ] {
        let status = status::of_gateway(&gateway, &later, "cluster.local", "2027-01-01T00:00:00Z");
        assert_eq!(status, None);
    }
}

#[test]
fn the_time_of_a_condition_moves_with_its_status_only_and_the_generation_with_each_look() {
    let mut gateway = gateway("{}");
    gateway.status =
        status::of_gateway(&gateway, &standing(0), "cluster.local", EARLIER).expect("new");
    gateway.generation = 2;
    let status = of(&gateway, &standing(1));
    let times: Vec<&str> = status["conditions"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|one| one["lastTransitionTime"].as_str())
        .collect();
    assert_eq!(times, [EARLIER, NOW, EARLIER]);
    assert!(
        status["conditions"]
            .as_array()
            .expect("list")
            .iter()
            .all(|one| one["observedGeneration"] == 2)
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn what_keeps_a_gateway_from_working_is_said_with_the_way_out() {
    let parameters = Standing {
        fault: Some(Fault::Parameters("ConfigMap app/x is not there".into())),
        ..standing(1)
    };
    let refused = Standing {
        fault: Some(Fault::Refused("Service app/wp is taken".into())),
        ..standing(1)
    };
    let invalid = Standing {
        fault: Some(Fault::Invalid(
            "metadata.labels[istio.io/waypoint-for]: `x` must be service".into(),
        )),
        ..standing(1)
    };
    let off = Standing {
        switched_off: true,
        ..Standing::default()
    };
    let no_address = Standing {
        service: None,
        ..standing(1)
    };
    let plain = || gateway("{}");
    let with = gateway;
    let failing = Standing {
        deployment: Some(
            json!({"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota is used up"}]}}),
        ),
        ..standing(0)
    };
    let table = [
        (
            plain(),
            parameters,
            "Accepted=False/InvalidParameters",
            "Programmed=False/Invalid",
            "ConfigMap app/x is not there; what was",
        ),
        (
            plain(),
            refused,
            "Accepted=True/Accepted",
            "Programmed=False/Invalid",
            "Service app/wp is taken",
        ),
        (
            plain(),
            invalid,
            "Accepted=False/Invalid",
            "Programmed=False/Invalid",
            "metadata.labels[istio.io/waypoint-for]: `x` must be",
        ),
        (
            plain(),
            off,
            "Accepted=True/Accepted",
            "Programmed=False/NoResources",
            "this control plane deploys no waypoints",
        ),
        (
            plain(),
            no_address,
            "Accepted=True/Accepted",
            "Programmed=False/AddressNotAssigned",
            "Service wp.app.svc.cluster.local has no",
        ),
        (
            plain(),
            failing,
            "Accepted=True/Accepted",
            "Programmed=False/Pending",
            "no pod of Deployment app/wp is ready yet: quota is used up",
        ),
        (
            with("{/spec/addresses: [{type: IPAddress, value: 10.0.0.1}]}"),
            standing(1),
            "Accepted=False/UnsupportedAddress",
            "Programmed=False/Invalid",
            "spec.addresses: `10.0.0.1` cannot be asked for",
        ),
        (
            with("{/spec/listeners: [{name: web, port: 80, protocol: HTTP}]}"),
            standing(1),
            "Accepted=False/ListenersNotValid",
            "Programmed=False/Invalid",
            "a waypoint needs a listener with protocol HBONE on port 15008",
        ),
        (
            with(
                "{/spec/listeners: [{name: web, port: 80, protocol: HTTP}, {name: mesh, port: 15008, protocol: HBONE}]}",
            ),
            standing(1),
            "Accepted=True/ListenersNotValid",
            "Programmed=True/Programmed",
            "Resource programmed",
        ),
    ];
    for (gateway, standing, accepted, programmed, text) in table {
        let status = of(&gateway, &standing);
        assert_eq!(
            conditions(&status["conditions"])[..2],
            [accepted, programmed]
        );
        let message = message(&status, "Programmed");
        assert!(message.starts_with(text), "{message}");
    }
}

#[test]
fn listeners_that_are_not_served_say_why() {
    let gateway = gateway(
        "{/spec/listeners: [{name: web, port: 80, protocol: HTTP}, {name: odd, port: 15009, protocol: HBONE},
           {name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}]}",
    );
    let status = of(&gateway, &standing(1));
    let of = |i: usize| conditions(&status["listeners"][i]["conditions"]);
    assert_eq!(of(0)[0], "Accepted=False/UnsupportedProtocol");
    assert_eq!(of(1)[0], "Accepted=False/PortUnavailable");
    assert_eq!(of(2)[3], "ResolvedRefs=False/InvalidRouteKinds");
}

#[test]
fn a_waypoint_placed_by_hand_is_programmed_at_the_host_that_it_names() {
    let gateway =
        gateway("{/spec/addresses: [{type: Hostname, value: wp.other.svc.cluster.local}]}");
    let status = of(&gateway, &Standing::default());
    assert_eq!(
        status["addresses"],
        json!([{"type": "Hostname", "value": "wp.other.svc.cluster.local"}])
    );
    assert_eq!(
        conditions(&status["conditions"])[1],
        "Programmed=True/Programmed"
    );
}

#[test]
fn a_class_of_ours_is_accepted_once() {
    let class = |more: Value| {
        json!({"spec": {"controllerName": "x", "parametersRef": more}, "status": {"conditions": [
        {"type": "Accepted", "status": "Unknown", "reason": "Waiting", "message": "Waiting for controller", "lastTransitionTime": EARLIER}]}})
    };
    let status = status::of_class(&class(Value::Null), 1, NOW).expect("new");
    assert_eq!(
        conditions(&status["conditions"]),
        ["Accepted=True/Accepted"]
    );
    let mut again = class(Value::Null);
    again["status"] = status;
    assert_eq!(status::of_class(&again, 1, "2027-01-01T00:00:00Z"), None);
    let status = status::of_class(&class(json!({"name": "x"})), 1, NOW).expect("new");
    assert_eq!(
        conditions(&status["conditions"]),
        ["Accepted=False/InvalidParameters"]
    );
}
