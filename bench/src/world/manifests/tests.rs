//! Tests of the objects of a world.
use super::*;

fn pods() -> Vec<Entry> {
    let entry = |name: &str, account: &str, node: &str, last: u8| Entry {
        name: name.to_owned(),
        account: account.to_owned(),
        node: node.to_owned(),
        address: [10, 244, 1, last].into(),
    };
    vec![
        entry("ours-client", "client", "ours-a", 2),
        entry("ours-far", "server", "ours-b", 3),
        entry("peer-client", "client", "peer-a", 4),
    ]
}

/// Number of objects, none of which may be faulty.
fn read(text: &str) -> usize {
    let parsed = objects::parse(text);
    assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
    let faulty = parsed.results.iter().find(|result| result.is_err());
    assert!(faulty.is_none(), "{faulty:?}");
    parsed.results.len()
}

#[test]
fn the_control_plane_reads_every_object_without_a_fault() {
    // A namespace, three nodes, two accounts, three pods.
    assert_eq!(read(&mesh(&pods())), 1 + 3 + 2 + 3);
}

#[test]
fn policies_are_as_many_as_asked_for_with_ten_rules_each() {
    for wanted in [Policies::Elsewhere(40), Policies::Here(40)] {
        let text = policies(wanted, "client");
        assert_eq!(read(&text), 40);
        assert_eq!(text.matches("  - from:").count(), 400);
        let matching = text.matches("sa/client]").count();
        assert_eq!(matching, usize::from(wanted == Policies::Here(40)));
    }
    assert_eq!(policies(Policies::None, "client"), "");
}

#[test]
fn the_policy_that_matches_allows() {
    let text = policies(Policies::Here(40), "client");
    let matching = text.split("---").find(|text| text.contains("sa/client]"));
    assert!(matching.is_some_and(|text| text.contains("action: ALLOW")));
}
