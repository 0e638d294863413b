//! docs/configuration.md cannot lie: it is made from the settings that the binaries read. `make docs`
//! writes it (`CAUSEWAY_WRITE_DOCS=1`), this test compares.

use std::fs;
use std::path::Path;

use cni_plugin::spec::Conf;
use runtime::settings::{Setting, Settings, table};
use serde_json::{Value, json};

const HEAD: &str = "\
# Configuration

All binaries read their settings from the environment, once, at start. Every fault is reported at once, with
the name, the bad value and what is allowed, and the binary does not start. Times are written like `30s`, `5m`
or `1h30m`; switches are `true` or `false`. Names are upstream's where they mean the same.

This page is made from the code by `make docs`; a test holds it to it.
";

fn rows_of(read: impl Fn(&mut Settings<'_>)) -> Vec<Setting> {
    let mut settings = Settings::from_pairs([]);
    read(&mut settings);
    settings.rows().to_vec()
}

fn page() -> String {
    let parts = [
        ("ztunnel", ztunnel::config::Config::documentation()),
        ("waypoint", waypoint::settings::documentation()),
        (
            "control-plane",
            rows_of(|s| {
                let _ = control_plane::config::Config::read(s);
            }),
        ),
        (
            "cni-agent",
            rows_of(|s| {
                let _ = cni_plugin::agent::Config::read(s);
            }),
        ),
    ];
    let mut page = HEAD.to_owned();
    for (name, rows) in parts {
        assert!(rows.len() > 5, "{name} has only {} settings", rows.len());
        page.push_str(&format!("\n## {name}\n\n{}", table(&rows)));
    }
    page.push_str(
        "\n## causeway-cni\n\nThe CNI binary is configured by its entry in the network configuration:\n\n\
         | key | default | meaning |\n|---|---|---|\n",
    );
    for (key, default, meaning) in cni_plugin::spec::keys() {
        let default = if default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{default}`")
        };
        page.push_str(&format!("| `{key}` | {default} | {meaning} |\n"));
    }
    page
}

#[test]
fn the_keys_of_the_cni_binary_are_those_that_it_reads() {
    // A new field has to be decided on here: the specification's, or ours and then a key.
    let Conf {
        cni_version: _,
        name: _,
        prev_result: _,
        agent_socket: None,
        exclude_namespaces,
        exempt_pods,
        timeout_seconds: None,
    } = Conf::default()
    else {
        panic!("a default in the struct itself");
    };
    assert!(exclude_namespaces.is_empty() && exempt_pods.is_empty());
    let pods = json!([{"namespace": "a", "daemonSet": "b"}]);
    let values = [json!("/x.sock"), json!(["a"]), pods, json!(7)];
    for ((key, default, _), value) in cni_plugin::spec::keys().into_iter().zip(values) {
        let read = |text: Value| -> Conf { serde_json::from_value(text).expect("a configuration") };
        assert_ne!(
            read(json!({ key: value })),
            Conf::default(),
            "{key} is not read"
        );
        match key {
            "agentSocket" => assert_eq!(Conf::default().socket().display().to_string(), default),
            "timeoutSeconds" => {
                assert_eq!(Conf::default().timeout().as_secs().to_string(), default);
            }
            _ => assert_eq!(default, ""),
        }
    }
}

#[test]
fn the_configuration_page_says_what_the_binaries_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = page();
    if std::env::var_os("CAUSEWAY_WRITE_DOCS").is_some() {
        fs::write(&path, &page).expect("docs/ is writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is not what the code says: run `make docs`"
    );
}
