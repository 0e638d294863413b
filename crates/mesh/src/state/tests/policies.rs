//! Policies: which ones guard a workload, and what an apply says about them.

use super::*;

fn guards(state: &State, workload: &Workload) -> Vec<String> {
    let text = |bound: Bound<'_>| match bound {
        Bound::Known(policy) => policy.name.to_string(),
        Bound::Missing(name) => format!("missing {name}"),
    };
    state.current().policies_of(workload).map(text).collect()
}

fn scoped(name: &str, scope: Scope) -> Update {
    Policy {
        scope,
        ..selector(name)
    }
    .into()
}

fn bound(names: &[&str]) -> Workload {
    let authorization_policies = names.iter().map(|name| name.parse().unwrap()).collect();
    Workload {
        authorization_policies,
        ..pod("a", &[], &[])
    }
}

#[test]
fn mesh_wide_then_namespace_then_named_each_once() {
    let state = mesh([
        scoped("app/s", Scope::Selector),
        scoped("app/n", Scope::Namespace),
        scoped("web/n", Scope::Namespace),
        scoped("root/b", Scope::Global),
        scoped("root/a", Scope::Global),
    ]);
    let workload = bound(&["app/s", "app/n", "root/a", "web/n", "app/gone"]);
    assert_eq!(
        guards(&state, &workload),
        [
            "root/a",
            "root/b",
            "app/n",
            "app/s",
            "web/n",
            "missing app/gone"
        ]
    );
}

#[test]
fn a_policy_that_changes_its_scope_leaves_the_old_one() {
    let mut state = mesh([scoped("app/p", Scope::Global)]);
    for (scope, named, unnamed) in [
        (Scope::Namespace, vec!["app/p"], vec!["app/p"]),
        (Scope::Selector, vec!["app/p"], vec![]),
        (Scope::Global, vec!["app/p"], vec!["app/p"]),
    ] {
        let changes = put(&mut state, [scoped("app/p", scope)]);
        assert_eq!(
            (
                guards(&state, &bound(&["app/p"])),
                guards(&state, &bound(&[]))
            ),
            (
                named.iter().map(ToString::to_string).collect(),
                unnamed.iter().map(ToString::to_string).collect::<Vec<_>>()
            )
        );
        assert_eq!(changes.policies.len(), 2, "old and new scope");
    }
    put(&mut state, [Update::RemovePolicy("app/p".parse().unwrap())]);
    assert_eq!(guards(&state, &bound(&["app/p"])), ["missing app/p"]);
    assert!(guards(&state, &bound(&[])).is_empty());
}

#[test]
fn changes_touch_the_workloads_that_the_old_or_the_new_scope_holds() {
    let mut state = mesh([scoped("app/p", Scope::Global)]);
    let foreign = Workload {
        namespace: "web".into(),
        ..bound(&[])
    };
    let mut touched = |update| {
        let changes = put(&mut state, [update]);
        [bound(&[]), bound(&["app/p"]), foreign.clone()]
            .map(|workload| changes.touches_authorization_of(&workload))
    };
    assert_eq!(
        touched(scoped("app/p", Scope::Namespace)),
        [true, true, true]
    );
    assert_eq!(
        touched(scoped("app/p", Scope::Selector)),
        [true, true, false]
    );
    assert_eq!(
        touched(
            Policy {
                dry_run: true,
                ..selector("app/p")
            }
            .into()
        ),
        [false, true, false]
    );
    assert_eq!(
        touched(scoped("x/y", Scope::Selector)),
        [false, false, false]
    );
    assert_eq!(
        touched(Update::RemovePolicy("app/p".parse().unwrap())),
        [false, true, false]
    );
    assert_eq!(
        touched(bound(&["other/p"]).into()),
        [true, true, true],
        "all of these have that uid"
    );
}

#[test]
fn a_refused_policy_denies_only_where_there_is_no_last_good_one() {
    let refused = |why: &str| {
        Update::RefusedPolicy(Arc::new(Policy::invalid(
            "app/p".parse().unwrap(),
            Scope::Namespace,
            why,
        )))
    };
    let invalid = |state: &State| {
        state
            .current()
            .policy(&"app/p".parse().unwrap())
            .unwrap()
            .invalid
            .clone()
            .unwrap_or_else(|| "good".into())
    };
    let mut state = mesh([refused("one")]);
    assert_eq!(&*invalid(&state), "one");
    put(&mut state, [refused("two")]);
    assert_eq!(&*invalid(&state), "two");
    put(&mut state, [scoped("app/p", Scope::Selector)]);
    assert_eq!(&*invalid(&state), "good");
    assert!(put(&mut state, [refused("three")]).is_empty());
    assert_eq!(&*invalid(&state), "good");
    put(
        &mut state,
        [
            Update::RemovePolicy("app/p".parse().unwrap()),
            refused("four"),
        ],
    );
    assert_eq!(&*invalid(&state), "four");
}
