use std::net::IpAddr;

use super::*;
use crate::{
    policy::{Action, Scope},
    service::{ServicePort, Vip, Visibility},
    workload::{NamespacedHostname, NetworkMode, PortPair, ServicePorts},
};

mod endpoints;
mod lookups;
mod policies;
mod refusals;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(text: &str) -> NamespacedHostname {
    let (namespace, hostname) = text.split_once('/').unwrap();
    NamespacedHostname::new(namespace, hostname)
}

/// A healthy pod of that name at these addresses, which backs these services.
fn pod(name: &str, addresses: &[&str], services: &[&str]) -> Workload {
    let ports = |service: &&str| ServicePorts {
        service: key(service),
        ports: [PortPair::new(80, 8080)].into(),
    };
    Workload {
        uid: format!("c//Pod/app/{name}").into(),
        namespace: "app".into(),
        addresses: addresses.iter().copied().map(ip).collect(),
        services: services.iter().map(ports).collect(),
        ..Default::default()
    }
}

fn svc(name: &str, vips: &[&str]) -> Service {
    let vip = |text: &&str| match text.parse() {
        Ok(range) => Vip {
            network: "".into(),
            range,
        },
        Err(_) => Vip::address("", ip(text)),
    };
    Service {
        key: key(name),
        vips: vips.iter().map(vip).collect(),
        ..Default::default()
    }
}

fn selector(name: &str) -> Policy {
    Policy {
        name: name.parse().unwrap(),
        scope: Scope::Selector,
        action: Action::Allow,
        rules: Box::default(),
        dry_run: false,
        invalid: None,
    }
}

impl From<Workload> for Update {
    fn from(workload: Workload) -> Self {
        Self::Workload(Arc::new(workload))
    }
}

impl From<Service> for Update {
    fn from(service: Service) -> Self {
        Self::Service(Arc::new(service))
    }
}

impl From<Policy> for Update {
    fn from(policy: Policy) -> Self {
        Self::Policy(Arc::new(policy))
    }
}

fn gone(name: &str) -> Update {
    Update::RemoveAddress(name.into())
}

/// Applies each update by itself; changes of the last one.
fn put(state: &mut State, updates: impl IntoIterator<Item = Update>) -> Changes {
    updates
        .into_iter()
        .map(|update| state.apply(vec![update]))
        .last()
        .unwrap_or_default()
}

fn mesh(updates: impl IntoIterator<Item = Update>) -> State {
    let mut state = State::new();
    put(&mut state, updates);
    state
}

/// Name of the pod at that address.
fn at(state: &State, address: &str) -> String {
    let found = state.current().workload_at("", ip(address));
    found.map_or("nobody".into(), |workload| {
        workload.uid.rsplit('/').next().unwrap().to_owned()
    })
}

/// Key of the service behind that VIP for callers of namespace app.
fn behind(state: &State, address: &str) -> String {
    let found = state.current().service_at("", ip(address), "app");
    found.map_or("nobody".into(), |service| service.key.to_string())
}

/// Names of the pods behind a service.
fn backends(state: &State, service: &str) -> String {
    let endpoints = state.current().endpoints(&key(service));
    let mut names: Vec<_> = endpoints
        .map(|workload| workload.uid.rsplit('/').next().unwrap().to_owned())
        .collect();
    names.sort();
    names.join(" ")
}

#[test]
fn the_generation_grows_only_with_changes_and_changes_name_what_changed() {
    let mut state = State::new();
    let changes = state.apply(vec![
        pod("a", &["10.0.0.1"], &[]).into(),
        svc("app/h", &[]).into(),
        selector("app/p").into(),
    ]);
    assert_eq!((changes.generation, state.current().generation()), (1, 1));
    assert!(changes.touches_workload("c//Pod/app/a") && !changes.touches_workload("c//Pod/app/b"));
    assert!(changes.touches_service(&key("app/h")) && !changes.touches_service(&key("app/i")));
    assert!(
        changes.touches_policy(&"app/p".parse().unwrap())
            && !changes.touches_policy(&"app/q".parse().unwrap())
    );
    let same = state.apply(vec![
        pod("a", &["10.0.0.1"], &[]).into(),
        svc("app/h", &[]).into(),
        gone("unknown"),
        gone("x/y"),
    ]);
    assert!(same.is_empty());
    assert_eq!((same.generation, state.current().generation()), (1, 1));
}

#[test]
fn a_snapshot_stays_what_it_was() {
    let mut state = mesh([
        pod("a", &["10.0.0.1"], &["app/h"]).into(),
        svc("app/h", &["10.1.0.0/16"]).into(),
    ]);
    let before = state.snapshot();
    put(&mut state, [gone("c//Pod/app/a"), gone("app/h")]);
    assert!(before.workload("c//Pod/app/a").is_some());
    assert!(before.service_at("", ip("10.1.2.3"), "app").is_some());
    assert_eq!(before.endpoints(&key("app/h")).len(), 1);
    assert_eq!(
        (at(&state, "10.0.0.1"), behind(&state, "10.1.2.3")),
        ("nobody".into(), "nobody".into())
    );
}

#[test]
fn merged_changes_name_each_thing_once_in_order() {
    let mut state = State::new();
    let mut all = state.apply(vec![pod("b", &[], &[]).into(), pod("a", &[], &[]).into()]);
    all.merge(state.apply(vec![pod("b", &["10.0.0.1"], &[]).into()]));
    all.merge(Changes::default());
    assert_eq!(
        all.workloads,
        ["c//Pod/app/a", "c//Pod/app/b"].map(Arc::from)
    );
    assert_eq!(all.generation, 2);
}

#[test]
fn a_name_that_was_a_service_may_become_a_workload_and_back() {
    let named = || Workload {
        uid: "app/h".into(),
        addresses: [ip("10.0.0.1")].into(),
        ..Default::default()
    };
    let mut state = mesh([svc("app/h", &["10.1.0.1"]).into(), named().into()]);
    assert_eq!(
        (at(&state, "10.0.0.1"), behind(&state, "10.1.0.1")),
        ("h".into(), "nobody".into())
    );
    let changes = put(&mut state, [svc("app/h", &["10.1.0.1"]).into()]);
    assert_eq!(
        (at(&state, "10.0.0.1"), behind(&state, "10.1.0.1")),
        ("nobody".into(), "app/h".into())
    );
    assert!(changes.touches_workload("app/h") && changes.touches_service(&key("app/h")));
}

#[test]
fn nothing_is_left_of_a_mesh_whose_parts_are_all_removed() {
    let mut state = mesh([
        pod("a", &["10.0.0.1", "fd00::1"], &["app/h", "app/i"]).into(),
        pod("b", &["10.0.0.1"], &["app/h"]).into(),
        svc("app/h", &["10.1.0.1", "10.2.0.0/16", "10.2.0.0/24"]).into(),
        svc("web/h", &["10.1.0.1", "10.2.0.0/16"]).into(),
        Policy {
            scope: Scope::Namespace,
            ..selector("app/p")
        }
        .into(),
    ]);
    let removals = ["c//Pod/app/a", "app/h", "c//Pod/app/b", "web/h"].map(gone);
    put(
        &mut state,
        removals
            .into_iter()
            .chain([Update::RemovePolicy("app/p".parse().unwrap())]),
    );
    // The counts of changes stay.
    let mut empty = Snapshot {
        generation: state.current().generation,
        ..Snapshot::default()
    };
    empty.policies.version = state.current().policies.version;
    assert_eq!(format!("{:?}", state.current()), format!("{empty:?}"));
}
