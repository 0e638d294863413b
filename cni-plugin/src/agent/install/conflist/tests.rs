use super::*;

const PTP: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "kindnet",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#;

fn entry() -> Value {
    json!({"type": PLUGIN, "agentSocket": "/run/causeway/cni-agent.sock", "excludeNamespaces": ["kube-system"]})
}

fn chained() -> Shape {
    Shape {
        chained: true,
        ..Shape::default()
    }
}

fn files(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = all
        .iter()
        .map(|(name, text)| ((*name).into(), (*text).into()));
    pairs.collect()
}

/// The file and the text that a plan writes.
#[track_caller]
fn written(plan: Plan) -> (String, String) {
    match plan {
        Plan::Write { file, text, .. } => (file, text),
        other => panic!("nothing is written: {other:?}"),
    }
}

/// The types in the list of a text.
fn types(text: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(text).unwrap();
    lists(&value)
        .map(|p| p["type"].as_str().unwrap().to_owned())
        .collect()
}

fn golden(name: &str, text: &str) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/conflist");
    let path = format!("{directory}/{name}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap_or_default(),
        "{name} differs"
    );
}

#[test]
fn the_plugin_goes_to_the_end_of_the_first_valid_list() {
    let all = files(&[("10-ptp.conflist", PTP), ("99-other.conflist", PTP)]);
    let (file, text) = written(plan(&all, &chained(), &entry()));
    assert_eq!(file, "10-ptp.conflist");
    golden("chained.conflist", &text);
    let again = files(&[("10-ptp.conflist", &text)]);
    let plan = plan(&again, &chained(), &entry());
    assert!(
        matches!(plan, Plan::InPlace { ref file, .. } if file == "10-ptp.conflist"),
        "{plan:?}"
    );
}

#[test]
fn a_single_plugin_becomes_a_list_that_keeps_its_name() {
    let single = r#"{"cniVersion":"0.4.0","name":"net","type":"bridge","bridge":"cni0"}"#;
    let all = files(&[("10-net.conf", single)]);
    let Plan::Write {
        file,
        text,
        replaces,
        ..
    } = plan(&all, &chained(), &entry())
    else {
        panic!("nothing is written");
    };
    assert_eq!(
        (file.as_str(), replaces.as_deref()),
        ("10-net.conflist", Some("10-net.conf"))
    );
    golden("from-single.conflist", &text);
}

#[test]
fn what_another_agent_rewrites_gets_the_plugin_again_and_an_old_entry_is_replaced_where_it_stood() {
    let (_, text) = written(plan(&files(&[("a.conflist", PTP)]), &chained(), &entry()));
    // Somebody appends behind us: no reason to write.
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["plugins"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "tuning"}));
    let behind = value.to_string();
    let held = plan(&files(&[("a.conflist", &behind)]), &chained(), &entry());
    assert!(matches!(held, Plan::InPlace { .. }), "{held:?}");
    // An entry of an older agent, and a second one that should not be.
    let old = behind.replace("kube-system", "other");
    let mut value: Value = serde_json::from_str(&old).unwrap();
    value["plugins"].as_array_mut().unwrap().push(entry());
    let (_, text) = written(plan(
        &files(&[("a.conflist", &value.to_string())]),
        &chained(),
        &entry(),
    ));
    assert_eq!(types(&text), ["ptp", "portmap", PLUGIN, "tuning"]);
    // The main CNI writes its file anew, with another subnet: that stays.
    let anew = PTP.replace("10.244.1.0", "10.9.0.0");
    let (_, text) = written(plan(&files(&[("a.conflist", &anew)]), &chained(), &entry()));
    assert!(text.contains("10.9.0.0"), "{text}");
}

#[test]
fn a_file_that_is_not_understood_is_not_touched_and_said() {
    for (name, text, says) in [
        (
            "05-bad.conflist",
            "{\"name\": \"x\", \"plugins\": [",
            "is not JSON",
        ),
        ("05-bad.conflist", "[]", "not an object"),
        (
            "05-bad.conflist",
            r#"{"name": "x", "plugins": []}"#,
            "no plugins",
        ),
        (
            "05-bad.conflist",
            r#"{"plugins": [{"type": "ptp"}]}"#,
            "no name",
        ),
        (
            "05-bad.conflist",
            r#"{"name": "x", "plugins": [{"typ": "ptp"}]}"#,
            "has no type",
        ),
        ("05-bad.conf", PTP, "perhaps it is a list"),
        ("05-bad.conf", "", "is not JSON"),
    ] {
        let alone = plan(&files(&[(name, text)]), &chained(), &entry());
        let Plan::Wait(why) = &alone else {
            panic!("{text}: {alone:?}");
        };
        assert!(why.contains(says) && why.contains(name), "{why}");
        let all = files(&[(name, text), ("10-ptp.conflist", PTP)]);
        let Plan::Write { file, odd, .. } = plan(&all, &chained(), &entry()) else {
            panic!("nothing is written");
        };
        assert_eq!(file, "10-ptp.conflist");
        assert!(odd[0].contains(says), "{odd:?}");
        let named = Shape {
            named: Some(name.into()),
            ..chained()
        };
        assert!(
            matches!(plan(&all, &named, &entry()), Plan::Wait(why) if why.contains("not touched"))
        );
    }
    assert_eq!(
        plan(&files(&[]), &chained(), &entry()),
        Plan::Wait("there is no valid file yet".into())
    );
}

#[test]
fn a_named_file_is_waited_for_and_may_have_the_other_ending() {
    let named = |name: &str| Shape {
        named: Some(name.into()),
        ..chained()
    };
    let all = files(&[("10-a.conflist", PTP), ("20-b.conflist", PTP)]);
    assert_eq!(
        written(plan(&all, &named("20-b.conflist"), &entry())).0,
        "20-b.conflist"
    );
    assert_eq!(
        written(plan(&all, &named("20-b.conf"), &entry())).0,
        "20-b.conflist"
    );
    let missing = plan(&all, &named("30-c.conflist"), &entry());
    assert_eq!(missing, Plan::Wait("there is no file 30-c.conflist".into()));
}

#[test]
fn a_copy_of_our_own_follows_the_main_file_and_leaves_it_alone() {
    let shape = Shape {
        owned: Some("02-causeway-cni.conflist".into()),
        ..chained()
    };
    let mut all = files(&[("10-ptp.conflist", PTP)]);
    let (file, text) = written(plan(&all, &shape, &entry()));
    assert_eq!(file, "02-causeway-cni.conflist");
    all.insert(file, text);
    assert!(matches!(plan(&all, &shape, &entry()), Plan::InPlace { .. }));
    all.insert("10-ptp.conflist".into(), PTP.replace("ptp", "bridge"));
    assert!(written(plan(&all, &shape, &entry())).1.contains("bridge"));
    let late = Shape {
        owned: Some("50-late.conflist".into()),
        ..chained()
    };
    let Plan::Write { odd, .. } = plan(&files(&[("10-ptp.conflist", PTP)]), &late, &entry()) else {
        panic!("nothing is written");
    };
    assert!(odd[0].contains("comes after"), "{odd:?}");
    let changes = removal(&all, &shape);
    assert_eq!(changes, [("02-causeway-cni.conflist".to_owned(), None)]);
}

#[test]
fn a_single_plugin_may_be_called_json_which_runtimes_read_too() {
    let single = r#"{"cniVersion":"0.4.0","name":"net","type":"bridge"}"#;
    let all = files(&[("05-net.json", single), ("10-ptp.conflist", PTP)]);
    assert!(is_configuration("05-net.json") && !is_configuration("05-net.yaml"));
    let Plan::Write {
        file,
        text,
        replaces,
        ..
    } = plan(&all, &chained(), &entry())
    else {
        panic!("nothing is written");
    };
    let names = (file.as_str(), replaces.as_deref());
    assert_eq!(names, ("05-net.conflist", Some("05-net.json")));
    assert_eq!(types(&text), ["bridge", PLUGIN]);
    // By its name, whatever the ending.
    let named = Shape {
        named: Some("05-net.conf".into()),
        ..chained()
    };
    let (file, _) = written(plan(&all, &named, &entry()));
    assert_eq!(file, "05-net.conflist");
    // A half-finished change goes on; what somebody else has there is not overwritten.
    let ours = files(&[("05-net.conf", single), ("05-net.conflist", &text)]);
    assert_eq!(
        written(plan(&ours, &chained(), &entry())).0,
        "05-net.conflist"
    );
    let foreign = files(&[("05-net.conf", single), ("05-net.conflist", "{")]);
    let Plan::Wait(why) = plan(&foreign, &chained(), &entry()) else {
        panic!("something is done");
    };
    assert!(why.contains("05-net.conflist, which is there"), "{why}");
}

#[test]
fn a_copy_that_is_not_wanted_any_more_goes_when_the_plugin_is_in_the_main_file() {
    let copy = "02-causeway-cni.conflist";
    let owned = Shape {
        owned: Some(copy.into()),
        ..chained()
    };
    let mut all = files(&[("10-ptp.conflist", PTP)]);
    let (file, text) = written(plan(&all, &owned, &entry()));
    all.insert(file, text);
    let shape = Shape {
        former: vec![copy.into()],
        ..chained()
    };
    let (file, text) = written(plan(&all, &shape, &entry()));
    assert_eq!(file, "10-ptp.conflist", "the copy is not the main CNI's");
    all.insert(file, text);
    let dropped = Plan::Drop {
        copy: copy.into(),
        file: "10-ptp.conflist".into(),
        odd: Vec::new(),
    };
    assert_eq!(plan(&all, &shape, &entry()), dropped);
    let changes = removal(&all, &shape);
    assert_eq!(changes[0], (copy.to_owned(), None));
    all.remove(copy);
    assert!(matches!(plan(&all, &shape, &entry()), Plan::InPlace { .. }));
    // Somebody's file of that name, without us, is like any other.
    let foreign = files(&[(copy, PTP)]);
    assert_eq!(written(plan(&foreign, &shape, &entry())).0, copy);
}

#[test]
fn without_a_chain_the_plugin_has_a_file_of_its_own() {
    let shape = Shape::default();
    let (file, text) = written(plan(
        &files(&[("00-multus.conf", "{\"type\":\"multus\"}")]),
        &shape,
        &entry(),
    ));
    assert_eq!(file, OWN_FILE);
    golden("alone.conf", &text);
    let all = files(&[(OWN_FILE, &text)]);
    assert!(matches!(plan(&all, &shape, &entry()), Plan::InPlace { .. }));
    assert_eq!(removal(&all, &shape), [(OWN_FILE.to_owned(), None)]);
    let foreign = files(&[(OWN_FILE, "{\"type\":\"bridge\"}")]);
    assert!(matches!(plan(&foreign, &shape, &entry()), Plan::Wait(_)));
}

#[test]
fn removal_takes_the_plugin_out_of_every_file_and_leaves_the_rest_as_it_was() {
    let (_, text) = written(plan(&files(&[("a.conflist", PTP)]), &chained(), &entry()));
    let all = files(&[
        ("a.conflist", &text),
        ("b.conflist", PTP),
        ("c.conflist", &text),
        ("d.conf", "{"),
    ]);
    let changes = removal(&all, &chained());
    assert_eq!(changes.len(), 2);
    let before: Value = serde_json::from_str(PTP).unwrap();
    for (name, text) in changes {
        let after: Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(after, before, "{name}");
    }
}

#[test]
fn another_mesh_in_the_same_list_is_said() {
    let two = PTP.replace("portmap", "istio-cni");
    let Plan::Write { odd, .. } = plan(&files(&[("a.conflist", &two)]), &chained(), &entry())
    else {
        panic!("nothing is written");
    };
    assert!(odd[0].contains("two meshes"), "{odd:?}");
}

proptest::proptest! {
    #[test]
    fn any_text_is_joined_or_left_alone(text in ".{0,200}", list: bool) {
        let name = if list { "a.conflist" } else { "a.conf" };
        let _ = plan(&files(&[(name, &text)]), &chained(), &entry());
        let _ = removal(&files(&[(name, &text)]), &chained());
    }
}
