//! The state after any sequence of pushes equals a naive fold of the accepted resources: 500 rounds of random
//! updates, removals, refused resources and reconnects go through `wds` and `mesh::state` on one side and
//! into plain maps on the other; then every lookup is asked of both.

mod naive;
mod pushes;

use std::{collections::BTreeSet, sync::Arc};

use causeway_xds::wds::{
    Decoder, policy_message, policy_resource_name, service_message, workload_message,
};
use mesh::{
    state::{Bound, Changes, Snapshot, State, Update},
    workload::NamespacedHostname,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    naive::Fold,
    pushes::{Change, Push, Resource},
};

const ROUNDS: usize = 500;

#[test]
fn the_state_equals_a_naive_fold_of_the_accepted_resources() {
    for seed in 0..4 {
        run(seed, ROUNDS / 4);
    }
}

fn run(seed: u64, rounds: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut state, mut decoder, mut fold) = (State::new(), Decoder::new(), Fold::default());
    let mut kept: Vec<(Arc<Snapshot>, Fold)> = Vec::new();
    for round in 0..rounds {
        let reconnect = rng.random_bool(0.05);
        let push = if reconnect {
            Push::everything(&fold, &mut rng)
        } else {
            Push::random(&mut rng)
        };
        let before = fold.clone();
        let changes = apply(&mut state, &mut decoder, &push);
        fold.apply(&push);
        let context = format!("seed {seed} round {round}");
        // But that what was refused since is good again.
        let besides = Changes {
            refusals: Vec::new(),
            ..changes.clone()
        };
        assert!(
            !reconnect || besides.is_empty(),
            "{context}: what is known already is no change: {changes:?}"
        );
        changes_are_right(&changes, &push, &before, &fold, &context);
        equal(state.current(), &fold, &context);
        if rng.random_bool(0.1) {
            kept.push((state.snapshot(), fold.clone()));
        }
    }
    for (snapshot, fold) in kept {
        equal(
            &snapshot,
            &fold,
            &format!(
                "seed {seed}, a snapshot of generation {}",
                snapshot.generation()
            ),
        );
    }
}

/// As a client's handler does it; checks that exactly the bad resources are refused.
fn apply(state: &mut State, decoder: &mut Decoder, push: &Push) -> Changes {
    let mut updates = Vec::new();
    for change in &push.changes {
        match change {
            Change::Put(Resource {
                name, body, bad, ..
            }) => match decoder.decode(push.type_url, name, body) {
                Ok(update) => {
                    assert!(!bad, "{name} should have been refused: {update:?}");
                    updates.push(update);
                }
                Err(refused) => {
                    assert!(*bad && refused.name == *name, "{refused}");
                    updates.extend(refused.instead);
                }
            },
            Change::Remove(name) => updates.extend(decoder.remove(push.type_url, name)),
        }
    }
    assert!(
        updates
            .iter()
            .all(|update| !matches!(update, Update::Policy(policy) if policy.invalid.is_some()))
    );
    state.apply(updates)
}

/// All that differs is named, and nothing is named that the push does not speak of.
fn changes_are_right(changes: &Changes, push: &Push, before: &Fold, after: &Fold, context: &str) {
    let workloads = changes.workloads.iter().map(ToString::to_string);
    let services = changes.services.iter().map(ToString::to_string);
    let policies = changes
        .policies
        .iter()
        .map(|(name, _)| policy_resource_name(name));
    let named: BTreeSet<String> = workloads.chain(services).chain(policies).collect();
    let told: BTreeSet<&str> = { push.changes.iter() }
        .map(|change| match change {
            Change::Put(Resource { name, .. }) | Change::Remove(name) => name.as_str(),
        })
        .collect();
    assert!(
        changes.refusals.iter().all(|name| told.contains(&**name)),
        "{context}: {:?} refused or good again, {told:?} told",
        changes.refusals
    );
    let differing = before.differing(after);
    assert!(
        differing.is_subset(&named),
        "{context}: {differing:?} changed, {named:?} named"
    );
    let spoken: BTreeSet<String> = push
        .changes
        .iter()
        .map(|change| change.name().to_owned())
        .collect();
    let refusals = changes.refusals.iter().map(ToString::to_string);
    let named: BTreeSet<String> = named.into_iter().chain(refusals).collect();
    assert!(
        named.is_subset(&spoken),
        "{context}: {named:?} named, {spoken:?} pushed"
    );
}

fn equal(snapshot: &Snapshot, fold: &Fold, context: &str) {
    let ours: Vec<_> = sorted(
        snapshot
            .workloads()
            .map(|workload| workload_message(workload)),
        |w| w.uid.clone(),
    );
    assert_eq!(
        ours,
        fold.workloads().cloned().collect::<Vec<_>>(),
        "{context}"
    );
    let ours = sorted(
        snapshot.services().map(|service| service_message(service)),
        naive::service_key,
    );
    assert_eq!(
        ours,
        fold.services().cloned().collect::<Vec<_>>(),
        "{context}"
    );
    let (good, denying): (Vec<_>, Vec<_>) = snapshot
        .policies()
        .partition(|policy| policy.invalid.is_none());
    let good = sorted(
        good.into_iter().map(|policy| policy_message(policy)),
        naive::policy_name,
    );
    assert_eq!(
        good,
        fold.policies.values().cloned().collect::<Vec<_>>(),
        "{context}"
    );
    let denying: BTreeSet<_> = denying
        .into_iter()
        .map(|policy| policy_resource_name(&policy.name))
        .collect();
    assert_eq!(denying, fold.denying.keys().cloned().collect(), "{context}");
    lookups_are_equal(snapshot, fold, context);
}

fn lookups_are_equal(snapshot: &Snapshot, fold: &Fold, context: &str) {
    for network in pushes::NETWORKS {
        for text in pushes::ADDRESSES {
            let address = text
                .parse()
                .unwrap_or_else(|_| panic!("{text} is an address"));
            let ours = snapshot
                .workload_at(network, address)
                .map(|workload| workload.uid.to_string());
            assert_eq!(
                ours,
                fold.workload_at(network, address),
                "{context}: {network}/{text}"
            );
            for namespace in pushes::NAMESPACES {
                let ours = snapshot
                    .service_at(network, address, namespace)
                    .map(|service| service.key.to_string());
                let theirs = fold.service_at(network, address, namespace);
                assert_eq!(ours, theirs, "{context}: {network}/{text} from {namespace}");
            }
        }
    }
    for namespace in pushes::NAMESPACES {
        for hostname in pushes::HOSTS {
            let key = NamespacedHostname::new(namespace, hostname);
            let ours: BTreeSet<_> = snapshot
                .endpoints(&key)
                .map(|workload| workload.uid.to_string())
                .collect();
            assert_eq!(ours, fold.endpoints(&key.to_string()), "{context}: {key}");
            assert_eq!(snapshot.endpoints(&key).len(), ours.len());
        }
    }
    for workload in snapshot.workloads() {
        let mut ours = BTreeSet::new();
        for bound in snapshot.policies_of(workload) {
            let text = match bound {
                Bound::Known(policy) => policy_resource_name(&policy.name),
                Bound::Missing(name) => format!("missing {}", policy_resource_name(name)),
            };
            assert!(ours.insert(text), "{context}: {} twice", workload.uid);
        }
        assert_eq!(
            ours,
            fold.policies_of(&workload.uid),
            "{context}: {}",
            workload.uid
        );
    }
}

fn sorted<T, K: Ord>(values: impl Iterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut values: Vec<_> = values.collect();
    values.sort_by_key(key);
    values
}
