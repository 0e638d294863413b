//! What is written into a status that others write too: conditions as JSON.

use serde_json::{Value, json};

use super::{
    merge::{Current, status},
    *,
};

const NOW: &str = "2026-11-30T00:00:00Z";
const EARLIER: &str = "2026-11-29T00:00:00Z";

#[test]
fn a_guard_that_cannot_be_read_denies_and_says_so() {
    let text = policy(
        "app",
        "rules: [{to: [{operation: {ports: ['80'], prots: ['80']}}]}]",
    );
    let verdict = verdicts(&text)
        .by_object
        .into_values()
        .find(|verdict| matches!(verdict.wanted, Wanted::Refused(_)));
    let current = |targeted| Current {
        generation: 2,
        targeted,
        ..Current::default()
    };
    for (targeted, kind) in [(false, "ZtunnelAccepted"), (true, "WaypointAccepted")] {
        let status = status(
            Kind::AuthorizationPolicy,
            &current(targeted),
            verdict.as_ref(),
            NOW,
        )
        .expect("new");
        let one = &status["conditions"][0];
        assert_eq!(
            (&one["type"], &one["status"], &one["reason"]),
            (&json!(kind), &json!("False"), &json!("Invalid"))
        );
        // Istio's API writes its generations as text.
        assert_eq!(one["observedGeneration"], "2");
        let message = one["message"].as_str().expect("a message");
        assert!(
            message.contains("prots: unknown field")
                && message.ends_with("a policy denies everything in its scope"),
            "{message}"
        );
    }
}

fn verdict(wanted: Wanted, generation: Option<i64>) -> Verdict {
    Verdict { generation, wanted }
}

fn parent(holds: bool) -> Wanted {
    let condition = if holds {
        Condition::yes("Accepted", "Accepted", "fine")
    } else {
        Condition::no("Accepted", "NoMatchingParent", "no")
    };
    Wanted::Parents(vec![Parent {
        reference: json!({"name": "web", "kind": "Service", "group": ""}),
        conditions: vec![condition],
    }])
}

#[test]
fn parents_of_other_controllers_stay_and_ours_come_and_go() {
    let theirs = json!({"controllerName": "istio.io/gateway-controller", "parentRef": {"name": "front"}, "conditions": []});
    let mut current = Current {
        generation: 1,
        status: json!({"parents": [theirs]}),
        ..Current::default()
    };
    let route = Kind::HttpRoute;
    current.status = status(
        route,
        &current,
        Some(&verdict(parent(true), Some(1))),
        EARLIER,
    )
    .expect("ours is new");
    assert_eq!(current.status["parents"][0], theirs);
    assert_eq!(current.status["parents"][1]["controllerName"], CONTROLLER);
    // The same again is no write.
    assert_eq!(
        status(route, &current, Some(&verdict(parent(true), Some(1))), NOW),
        None
    );
    // A newer generation is judged the same: the time stays.
    current.generation = 2;
    let again = status(route, &current, Some(&verdict(parent(true), Some(2))), NOW)
        .expect("the generation differs");
    let one = again["parents"][1]["conditions"][0].clone();
    assert_eq!(
        (&one["lastTransitionTime"], &one["observedGeneration"]),
        (&json!(EARLIER), &json!(2))
    );
    // Judged otherwise: the time moves.
    let worse =
        status(route, &current, Some(&verdict(parent(false), Some(2))), NOW).expect("differs");
    assert_eq!(
        worse["parents"][1]["conditions"][0]["lastTransitionTime"],
        NOW
    );
    // Nothing is ours any more.
    let gone = status(route, &current, None, NOW).expect("ours goes");
    assert_eq!(gone, json!({"parents": [theirs]}));
}

#[test]
fn a_verdict_on_another_version_waits() {
    let current = Current {
        generation: 2,
        ..Current::default()
    };
    assert_eq!(
        status(
            Kind::HttpRoute,
            &current,
            Some(&verdict(parent(true), Some(1))),
            NOW
        ),
        None
    );
    assert!(
        status(
            Kind::HttpRoute,
            &current,
            Some(&verdict(parent(true), Some(2))),
            NOW
        )
        .is_some()
    );
}

#[test]
fn conditions_of_others_in_a_service_stay() {
    let theirs = json!({"type": "LoadBalancerReady", "status": "True"});
    let balancer = json!({"ingress": []});
    let current = Current {
        status: json!({"loadBalancer": balancer, "conditions": [theirs]}),
        ..Current::default()
    };
    let bound = Wanted::Conditions(vec![Condition::yes(
        binding::BOUND,
        "WaypointAccepted",
        "x",
    )]);
    let written = status(Kind::Service, &current, Some(&verdict(bound, None)), NOW).expect("new");
    assert_eq!(
        (&written["conditions"][0], &written["loadBalancer"]),
        (&theirs, &balancer)
    );
    assert_eq!(
        written["conditions"][1].get("observedGeneration"),
        None,
        "a Service has none"
    );
    let pruned = status(
        Kind::Service,
        &Current {
            status: written,
            ..Current::default()
        },
        None,
        NOW,
    );
    assert_eq!(
        pruned.map(|status| status["conditions"].clone()),
        Some(json!([theirs]))
    );
}

#[test]
fn an_object_that_nobody_speaks_of_is_left_alone() {
    for kind in [Kind::Service, Kind::HttpRoute, Kind::AuthorizationPolicy] {
        for old in [Value::Null, json!({}), json!({"loadBalancer": {}})] {
            let current = Current {
                status: old.clone(),
                ..Current::default()
            };
            assert_eq!(status(kind, &current, None, NOW), None, "{kind} {old}");
        }
    }
}

#[test]
fn a_refused_route_tells_each_service_that_it_names() {
    let current = Current {
        generation: 4,
        parents: vec![
            json!({"kind": "Service", "group": "", "name": "a"}),
            json!({"kind": "Gateway", "name": "front"}),
        ],
        ..Current::default()
    };
    let refused = verdict(Wanted::Refused("spec.rules: too odd".into()), None);
    let status = status(Kind::HttpRoute, &current, Some(&refused), NOW).expect("new");
    let parents = status["parents"].as_array().expect("parents");
    assert_eq!(parents.len(), 1);
    assert_eq!(parents[0]["parentRef"]["name"], "a");
    let one = &parents[0]["conditions"][0];
    assert_eq!(
        (&one["reason"], &one["observedGeneration"]),
        (&json!("UnsupportedValue"), &json!(4))
    );
}
