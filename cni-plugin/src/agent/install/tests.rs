//! A node's two directories, and somebody who changes them.
use super::*;

struct Node {
    dir: tempfile::TempDir,
    options: Options,
}

const MAIN: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]}"#;

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["net.d", "bin"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("plugin"), b"the plugin").unwrap();
        let options = Options {
            conf_directory: at("net.d"),
            bin_directory: at("bin"),
            binary: Some(at("plugin")),
            shape: Shape {
                chained: true,
                ..Shape::default()
            },
            entry: entry(Path::new("/run/a.sock"), &["kube-system".into()], None),
            group_read: false,
        };
        Self { dir, options }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("net.d")).unwrap();
        let mut all: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }
}

#[test]
fn the_plugin_waits_for_a_configuration_joins_it_and_comes_back_when_taken_out() {
    let node = Node::new();
    let (outcome, stamp) = step(&node.options, None);
    assert_eq!(
        outcome,
        Outcome::Waiting("there is no valid file yet".into())
    );
    assert_eq!(node.read("bin/causeway-cni"), "the plugin");
    let mode = |name: &str| {
        std::fs::metadata(node.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode("bin/causeway-cni"), 0o755);
    node.write("net.d/10-net.conflist", MAIN);
    std::fs::set_permissions(
        node.path("net.d/10-net.conflist"),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let installed = Outcome::Installed("10-net.conflist".into(), Vec::new());
    let (outcome, stamp) = step(&node.options, stamp);
    assert_eq!(outcome, installed);
    let text = node.read("net.d/10-net.conflist");
    assert!(conflist::has_ours(&text), "{text}");
    assert_eq!(mode("net.d/10-net.conflist"), 0o644, "as its owner made it");
    let before = stamp_of(&node.path("net.d/10-net.conflist")).unwrap();
    let (_, stamp) = step(&node.options, stamp);
    assert_eq!(
        stamp_of(&node.path("net.d/10-net.conflist")).unwrap(),
        before,
        "nothing to write"
    );
    // The main CNI's agent restarts and writes what it knows; somebody cleans up the binaries.
    node.write("net.d/10-net.conflist", MAIN);
    std::fs::remove_file(node.path("bin/causeway-cni")).unwrap();
    let (outcome, stamp) = step(&node.options, stamp);
    assert_eq!(outcome, installed);
    assert!(conflist::has_ours(&node.read("net.d/10-net.conflist")));
    node.write("bin/causeway-cni", "an older plugin");
    step(&node.options, stamp);
    assert_eq!(node.read("bin/causeway-cni"), "the plugin");
    assert_eq!(node.names(), ["10-net.conflist"], "nothing lies about");
}

#[test]
fn a_copy_of_earlier_settings_is_removed_after_the_plugin_stands_in_the_main_file() {
    let node = Node::new();
    node.write("net.d/10-net.conflist", MAIN);
    let mut options = node.options.clone();
    options.shape.owned = Some("02-copy.conflist".into());
    step(&options, None);
    assert_eq!(node.names(), ["02-copy.conflist", "10-net.conflist"]);
    options.shape.owned = None;
    options.shape.former = vec!["02-copy.conflist".into()];
    let installed = Outcome::Installed("10-net.conflist".into(), Vec::new());
    assert_eq!(step(&options, None).0, installed);
    assert_eq!(node.names(), ["02-copy.conflist", "10-net.conflist"]);
    assert_eq!(step(&options, None).0, installed);
    assert_eq!(node.names(), ["10-net.conflist"]);
    assert!(conflist::has_ours(&node.read("net.d/10-net.conflist")));
}

#[test]
fn what_cannot_be_written_is_said_with_its_path() {
    let node = Node::new();
    let missing = Options {
        binary: Some(node.path("nothing")),
        ..node.options.clone()
    };
    let (outcome, stamp) = step(&missing, None);
    let Outcome::Failed(why) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        why.contains("bin/causeway-cni: cannot read ") && stamp.is_none(),
        "{why}"
    );
    std::fs::remove_dir(node.path("net.d")).unwrap();
    let (outcome, _) = step(&node.options, None);
    assert!(
        matches!(outcome, Outcome::Failed(ref why) if why.contains("net.d: ")),
        "{outcome:?}"
    );
}

#[test]
fn uninstalled_the_node_is_as_it_was() {
    let node = Node::new();
    node.write("net.d/10-net.conflist", MAIN);
    node.write("net.d/20-bad.conflist", "{");
    step(&node.options, None);
    remove(&node.options).unwrap();
    let value: Value = serde_json::from_str(&node.read("net.d/10-net.conflist")).unwrap();
    assert_eq!(value, serde_json::from_str::<Value>(MAIN).unwrap());
    assert_eq!(node.read("net.d/20-bad.conflist"), "{");
    assert!(!node.path("bin/causeway-cni").exists());
    remove(&node.options).expect("twice is fine");
}

#[test]
fn the_entry_exempts_the_agents_own_pods() {
    let own = OwnPod {
        namespace: "mesh".into(),
        name: "causeway-cni-node-x7k2p".into(),
    };
    let text = entry(
        Path::new("/run/a.sock"),
        &["kube-system".into()],
        Some(&own),
    )
    .to_string();
    let conf: crate::spec::Conf = serde_json::from_str(&text).unwrap();
    let exempt = |namespace: &str, name: &str| {
        conf.is_exempt(&crate::spec::PodRef {
            namespace: namespace.into(),
            name: name.into(),
            uid: String::new(),
        })
    };
    assert!(exempt("kube-system", "anything"));
    assert!(exempt("mesh", "causeway-cni-node-x7k2p") && exempt("mesh", "causeway-cni-node-99999"));
    for name in [
        "causeway-cni-node",
        "causeway-cni-node-",
        "causeway-cni-node-a-b2c",
        "causeway-cni-node-x7k2p9",
        "ztunnel-abcde",
    ] {
        assert!(!exempt("mesh", name), "{name}");
    }
    assert!(!exempt("shop", "causeway-cni-node-x7k2p"));
}
