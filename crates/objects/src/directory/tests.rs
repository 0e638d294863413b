//! The source on a real directory, driven by `look` (no waiting); a change needs two looks to count.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;
use crate::object::{Key, Kind, Object};

fn namespace(name: &str, mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{mode: '{mode}'}}}}\n"
    )
}

fn start(directory: &Path) -> (Directory, Vec<String>) {
    let mut source = Directory::new(directory);
    let Some(Event::Snapshot { objects, .. }) = source.look() else {
        panic!("the first look lists")
    };
    let keys = objects
        .iter()
        .map(|object| object.key().to_string())
        .collect();
    (source, keys)
}

/// Two looks: what they report, as text, and the faults that stand.
fn changes(source: &mut Directory) -> Vec<String> {
    let first = source.look();
    let second = source.look();
    let events = [first, second].into_iter().flatten();
    let list = |event| match event {
        Event::Changes { changes, .. } => changes,
        Event::Snapshot { .. } => panic!("only the first look lists"),
    };
    events
        .flat_map(list)
        .map(|change| match change {
            Change::Upsert(object) => format!(
                "+{} {}",
                object.key(),
                object.meta().label("mode").unwrap_or("-")
            ),
            Change::Remove(key) => format!("-{key}"),
        })
        .collect()
}

fn faults(source: &Directory) -> Vec<String> {
    source.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_first_look_lists_and_later_looks_report_changes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("a.yaml"),
        namespace("a", "1") + "---\n" + &namespace("b", "1"),
    )
    .unwrap();
    fs::write(dir.path().join("ignored.txt"), "x").unwrap();
    let (mut source, keys) = start(dir.path());
    assert_eq!(keys, ["Namespace a", "Namespace b"]);
    assert!(changes(&mut source).is_empty());
    fs::write(dir.path().join("a.yaml"), namespace("a", "22")).unwrap();
    assert_eq!(changes(&mut source), ["-Namespace b", "+Namespace a 22"]);
    fs::write(
        dir.path().join("c.json"),
        r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}"#,
    )
    .unwrap();
    assert_eq!(changes(&mut source), ["+Node n -"]);
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(changes(&mut source), ["-Namespace a"]);
}

#[test]
fn a_change_counts_only_when_two_looks_agree() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, namespace("a", "1")).unwrap();
    let (mut source, _) = start(dir.path());
    fs::write(&file, "").unwrap();
    assert!(
        source.look().is_none(),
        "an emptied file may be a write in progress"
    );
    fs::write(&file, namespace("a", "222")).unwrap();
    assert!(source.look().is_none());
    assert!(source.is_unsettled());
    assert_eq!(changes(&mut source), ["+Namespace a 222"]);
    assert!(!source.is_unsettled());
    fs::remove_file(&file).unwrap();
    assert!(
        source.look().is_none(),
        "an editor may be about to put the file back"
    );
    fs::write(&file, namespace("a", "222")).unwrap();
    assert!(changes(&mut source).is_empty());
}

#[test]
fn a_half_written_file_keeps_what_was_good() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, namespace("a", "1") + "---\n" + &namespace("b", "1")).unwrap();
    let (mut source, _) = start(dir.path());
    fs::write(
        &file,
        namespace("a", "2") + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ",
    )
    .unwrap();
    assert_eq!(changes(&mut source), ["+Namespace a 2"]);
    assert!(
        faults(&source)[0].starts_with("a.yaml: not valid YAML"),
        "{:?}",
        faults(&source)
    );
    fs::write(&file, namespace("a", "2") + "---\n" + &namespace("b", "3")).unwrap();
    assert_eq!(changes(&mut source), ["+Namespace b 3"]);
    assert!(faults(&source).is_empty());
}

#[test]
fn a_refused_object_keeps_its_last_good_version() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.yaml");
    let policy = |action: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, namespace: app}}\nspec: {{action: {action}, rules: [{{}}]}}\n"
        )
    };
    fs::write(&file, policy("DENY")).unwrap();
    let (mut source, _) = start(dir.path());
    fs::write(&file, policy("MAYBE")).unwrap();
    assert!(changes(&mut source).is_empty());
    assert_eq!(
        faults(&source),
        [
            "p.yaml: AuthorizationPolicy app/x: spec.action: unknown variant `MAYBE`, expected one of `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`"
        ]
    );
    fs::remove_file(&file).unwrap();
    assert_eq!(changes(&mut source), ["-AuthorizationPolicy app/x"]);
}

#[test]
fn a_slip_in_the_kind_or_group_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.yaml");
    let policy = |group: &str, kind: &str| {
        format!(
            "apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: x, namespace: app}}\nspec: {{action: DENY, rules: [{{}}]}}\n"
        )
    };
    fs::write(&file, policy("security.istio.io", "AuthorizationPolicy")).unwrap();
    let (mut source, _) = start(dir.path());
    for (group, kind) in [
        ("security.istio.io", "AuthorizationPolcy"),
        ("security.istio.i", "AuthorizationPolicy"),
    ] {
        fs::write(&file, policy(group, kind)).unwrap();
        assert_eq!(changes(&mut source), [""; 0], "{group} {kind}");
        let expected =
            format!("p.yaml: {kind} app/x: there is no such kind in API group `{group}`");
        assert_eq!(faults(&source), [expected]);
    }
    fs::write(&file, "").unwrap();
    assert_eq!(changes(&mut source), ["-AuthorizationPolicy app/x"]);
}

#[test]
fn an_unknown_group_with_a_kind_called_like_ours_keeps_no_other_object() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.yaml");
    let object = |group: &str, kind: &str, name: &str| {
        format!(
            "apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: app}}\n---\n"
        )
    };
    let ours = object("v1", "ServiceAccount", "a");
    fs::write(&file, ours.clone() + &object("v1", "ServiceAccount", "b")).unwrap();
    let (mut source, _) = start(dir.path());
    fs::write(&file, ours + &object("example.org/v1", "Node", "c")).unwrap();
    assert_eq!(changes(&mut source), ["-ServiceAccount app/b"]);
    assert_eq!(
        faults(&source),
        ["p.yaml: Node c: there is no such kind in API group `example.org`"]
    );
}

#[test]
fn a_new_policy_that_is_refused_is_represented_by_one_that_denies() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.yaml"), "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: app}\nspec: {action: MAYBE}\n").unwrap();
    let mut source = Directory::new(dir.path());
    let Some(Event::Snapshot { objects, faults }) = source.look() else {
        panic!("a list")
    };
    assert!(
        matches!(&objects[..], [Object::AuthorizationPolicy(policy)] if policy.invalid.is_some())
    );
    assert_eq!(faults.len(), 1);
}

#[test]
fn duplicates_are_reported_and_the_first_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), namespace("x", "1")).unwrap();
    fs::write(dir.path().join("b.yaml"), namespace("x", "2")).unwrap();
    let (mut source, keys) = start(dir.path());
    assert_eq!(keys, ["Namespace x"]);
    assert_eq!(
        faults(&source),
        ["b.yaml: Namespace x: is there twice; the one in a.yaml counts"]
    );
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(changes(&mut source), ["+Namespace x 2"]);
}

#[test]
fn a_config_map_volume_is_followed_through_its_symlink_swap() {
    let dir = tempfile::tempdir().unwrap();
    for (data, mode) in [("..1", "1"), ("..2", "2")] {
        fs::create_dir(dir.path().join(data)).unwrap();
        fs::write(dir.path().join(data).join("a.yaml"), namespace("a", mode)).unwrap();
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let (mut source, _) = start(dir.path());
    symlink("..2", dir.path().join("..new")).unwrap();
    fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    assert_eq!(changes(&mut source), ["+Namespace a 2"]);
}

#[test]
fn a_directory_that_goes_away_keeps_everything_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("manifests");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), namespace("a", "1")).unwrap();
    let (mut source, _) = start(&inner);
    fs::rename(&inner, dir.path().join("other")).unwrap();
    assert!(changes(&mut source).is_empty());
    assert!(
        faults(&source)[0].contains("No such file"),
        "{:?}",
        faults(&source)
    );
    fs::rename(dir.path().join("other"), &inner).unwrap();
    assert!(changes(&mut source).is_empty());
    assert!(faults(&source).is_empty());
}

#[test]
fn binary_files_are_one_fault() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let (source, keys) = start(dir.path());
    assert!(keys.is_empty());
    assert_eq!(faults(&source), ["a.yaml: is not UTF-8 text"]);
}

#[tokio::test(start_paused = true)]
async fn the_stream_lists_and_then_reports_an_edit() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), namespace("a", "1")).unwrap();
    let mut source = Directory::new(dir.path());
    assert!(matches!(source.next().await, Event::Snapshot { .. }));
    fs::write(dir.path().join("a.yaml"), namespace("a", "2222")).unwrap();
    let Event::Changes { changes, .. } = source.next().await else {
        panic!("changes")
    };
    let [Change::Upsert(object)] = &changes[..] else {
        panic!("one change: {changes:?}")
    };
    assert_eq!(object.key(), Key::new(Kind::Namespace, "", "a"));
}
