//! Which service a VIP or a host name means.

use super::*;

fn seen_from(state: &State, namespace: &str, address: &str) -> String {
    let found = state.current().service_at("", ip(address), namespace);
    found.map_or("nobody".into(), |service| service.key.to_string())
}

#[test]
fn a_vip_that_moves_leaves_nothing_behind() {
    let mut state = mesh([
        svc("app/h", &["10.1.0.1", "10.1.0.2"]).into(),
        svc("app/h", &["10.1.0.2", "10.1.0.3"]).into(),
    ]);
    assert_eq!(
        ["10.1.0.1", "10.1.0.2", "10.1.0.3"].map(|vip| behind(&state, vip)),
        ["nobody", "app/h", "app/h"]
    );
    put(
        &mut state,
        [svc("app/i", &["10.1.0.3"]).into(), svc("app/h", &[]).into()],
    );
    assert_eq!(behind(&state, "10.1.0.3"), "app/i");
}

#[test]
fn at_one_vip_the_own_namespace_comes_before_the_canonical_before_the_first_in_any_order() {
    let canonical = || Service {
        canonical: true,
        ..svc("web/h", &["10.1.0.1"])
    };
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let services: [Update; 3] = [
            svc("app/h", &["10.1.0.1"]).into(),
            canonical().into(),
            svc("zoo/h", &["10.1.0.1"]).into(),
        ];
        let mut state = mesh(order.map(|index| services[index].clone()));
        assert_eq!(seen_from(&state, "zoo", "10.1.0.1"), "zoo/h");
        assert_eq!(seen_from(&state, "other", "10.1.0.1"), "web/h");
        put(&mut state, [gone("web/h")]);
        assert_eq!(seen_from(&state, "other", "10.1.0.1"), "app/h");
    }
}

#[test]
fn a_service_visible_to_its_namespace_does_not_exist_for_others() {
    let private = Service {
        visibility: Visibility::Namespace,
        canonical: true,
        ..svc("app/h", &["10.1.0.1", "10.2.0.0/24"])
    };
    let state = mesh([
        private.into(),
        svc("web/h", &["10.1.0.1", "10.2.0.0/16"]).into(),
    ]);
    assert_eq!(seen_from(&state, "app", "10.1.0.1"), "app/h");
    assert_eq!(seen_from(&state, "other", "10.1.0.1"), "web/h");
    assert_eq!(seen_from(&state, "app", "10.2.0.1"), "app/h");
    assert_eq!(seen_from(&state, "other", "10.2.0.1"), "web/h");
    assert_eq!(
        &*state
            .current()
            .service_named("h", "other")
            .unwrap()
            .key
            .namespace,
        "web"
    );
}

#[test]
fn an_invisible_exact_vip_does_not_hide_a_range() {
    let private = Service {
        visibility: Visibility::Namespace,
        ..svc("app/h", &["10.2.0.1"])
    };
    let state = mesh([private.into(), svc("web/h", &["10.2.0.0/16"]).into()]);
    assert_eq!(seen_from(&state, "other", "10.2.0.1"), "web/h");
}

#[test]
fn exact_comes_before_ranges_and_longer_ranges_before_shorter() {
    let state = mesh([
        svc("w/all", &["0.0.0.0/0"]).into(),
        svc("w/wide", &["10.2.0.0/16"]).into(),
        svc("w/narrow", &["10.2.3.0/24"]).into(),
        svc("w/exact", &["10.2.3.4/32"]).into(),
        svc("w/six", &["fd00::/8"]).into(),
    ]);
    let expected = [
        ("10.2.3.4", "w/exact"),
        ("10.2.3.5", "w/narrow"),
        ("10.2.4.1", "w/wide"),
        ("8.8.8.8", "w/all"),
        ("fd00::1", "w/six"),
        ("fe80::1", "nobody"),
    ];
    for (address, service) in expected {
        assert_eq!(behind(&state, address), service, "{address}");
    }
}

#[test]
fn a_range_of_the_own_namespace_beats_a_longer_one() {
    let state = mesh([
        svc("app/wide", &["10.0.0.0/8"]).into(),
        svc("web/narrow", &["10.2.3.0/24"]).into(),
    ]);
    assert_eq!(seen_from(&state, "app", "10.2.3.4"), "app/wide");
    assert_eq!(seen_from(&state, "other", "10.2.3.4"), "web/narrow");
}

#[test]
fn ranges_are_known_by_their_network_part() {
    let mut state = mesh([svc("app/h", &["10.2.3.4/16"]).into()]);
    assert_eq!(behind(&state, "10.2.9.9"), "app/h");
    put(&mut state, [gone("app/h")]);
    assert_eq!(behind(&state, "10.2.9.9"), "nobody");
}

#[test]
fn a_service_that_names_one_range_twice_takes_no_other_range_with_it() {
    let mut state = mesh([
        svc("app/h", &["10.2.3.4/16", "10.2.0.0/16"]).into(),
        svc("app/i", &["10.9.0.0/16"]).into(),
    ]);
    put(&mut state, [gone("app/h")]);
    assert_eq!(behind(&state, "10.2.0.1"), "nobody");
    assert_eq!(behind(&state, "10.9.0.1"), "app/i");
}

#[test]
fn ranges_do_not_pile_up_when_endpoints_or_the_service_are_pushed_again() {
    let mut state = mesh([svc("app/h", &["10.2.0.0/16", "10.3.0.0/16"]).into()]);
    for round in 0..10 {
        let port = ServicePort {
            service_port: round + 1,
            target_port: 0,
            app_protocol: Default::default(),
        };
        put(
            &mut state,
            [
                pod(&round.to_string(), &[], &["app/h"]).into(),
                Service {
                    ports: [port].into(),
                    ..svc("app/h", &["10.2.0.0/16", "10.3.0.0/16"])
                }
                .into(),
            ],
        );
    }
    assert_eq!(state.current().ranges.len(), (2, 2));
    assert_eq!(
        state
            .current()
            .service_at("", ip("10.2.0.1"), "app")
            .unwrap()
            .ports[0]
            .service_port,
        10
    );
    put(&mut state, [svc("app/h", &["10.3.0.0/16"]).into()]);
    assert_eq!(
        (behind(&state, "10.2.0.1"), behind(&state, "10.3.0.1")),
        ("nobody".into(), "app/h".into())
    );
    assert_eq!(state.current().ranges.len(), (1, 1));
}

#[test]
fn vips_are_told_apart_by_network() {
    let far = Vip {
        network: "far".into(),
        range: "10.2.0.0/16".parse().unwrap(),
    };
    let service = Service {
        vips: [far, Vip::address("far", ip("10.1.0.1"))].into(),
        ..svc("app/h", &[])
    };
    let state = mesh([service.into()]);
    assert_eq!(
        (behind(&state, "10.1.0.1"), behind(&state, "10.2.0.1")),
        ("nobody".into(), "nobody".into())
    );
    assert!(
        state
            .current()
            .service_at("far", ip("10.1.0.1"), "x")
            .is_some()
    );
    assert!(
        state
            .current()
            .service_at("far", ip("10.2.0.1"), "x")
            .is_some()
    );
}

#[test]
fn a_host_name_means_the_own_namespaces_service_then_the_canonical_one() {
    let canonical = Service {
        canonical: true,
        ..svc("web/h", &[])
    };
    let state = mesh([svc("app/h", &[]).into(), canonical.into()]);
    let named = |namespace| {
        state
            .current()
            .service_named("h", namespace)
            .map(|s| s.key.namespace.to_string())
    };
    assert_eq!(named("app").as_deref(), Some("app"));
    assert_eq!(named("other").as_deref(), Some("web"));
    assert_eq!(state.current().services_named("h").len(), 2);
    assert!(state.current().services_named("i").is_empty());
}
