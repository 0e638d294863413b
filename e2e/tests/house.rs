//! The house rules that a compiler does not hold: which crate may depend on which, how long a file may
//! be, and how each file opens (docs/decisions/0001-house.md). Run by `make check` and `make test`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each of our crates may depend on among ours; nothing else is allowed, and every crate is listed.
const DIRECTIONS: [(&str, &[&str]); 19] = [
    ("causeway-sys", &[]),
    ("causeway-mesh", &[]),
    ("causeway-hbone", &[]),
    ("causeway-fuzz", &["causeway-hbone"]),
    ("causeway-proto", &[]),
    ("causeway-objects", &[]),
    ("causeway-kubernetes", &["causeway-objects"]),
    ("causeway-xds", &["causeway-proto", "causeway-mesh"]),
    ("causeway-identity", &["causeway-mesh", "causeway-proto"]),
    ("causeway-zds", &["causeway-sys", "causeway-proto"]),
    ("causeway-runtime", &["causeway-sys"]),
    (
        "ztunnel",
        &[
            "causeway-mesh",
            "causeway-hbone",
            "causeway-xds",
            "causeway-identity",
            "causeway-zds",
            "causeway-runtime",
            "causeway-sys",
            // Type URLs and generated messages, which xds and identity speak already.
            "causeway-proto",
        ],
    ),
    (
        "waypoint",
        &[
            "causeway-mesh",
            "causeway-hbone",
            "causeway-xds",
            "causeway-identity",
            "causeway-runtime",
            "causeway-proto",
        ],
    ),
    (
        "cni-plugin",
        &[
            "causeway-zds",
            "causeway-objects",
            "causeway-kubernetes",
            "causeway-runtime",
            "causeway-sys",
        ],
    ),
    (
        "control-plane",
        &[
            "causeway-mesh",
            "causeway-xds",
            "causeway-objects",
            "causeway-kubernetes",
            "causeway-identity",
            "causeway-runtime",
            "causeway-proto",
        ],
    ),
    (
        "causeway-testkit",
        &[
            "causeway-mesh",
            "causeway-hbone",
            "causeway-xds",
            "causeway-identity",
            "causeway-zds",
            "causeway-runtime",
            "causeway-sys",
            "causeway-proto",
        ],
    ),
    // The command line drives the binaries through their public faces and links only what reads them.
    (
        "causeway-cli",
        &[
            "causeway-sys",
            "causeway-mesh",
            "causeway-objects",
            "causeway-runtime",
            "causeway-hbone",
            "causeway-identity",
        ],
    ),
    // A tool for developers, never shipped: it stands on the same namespaces, rules and children as the tests, and drives
    // the binaries through their public faces.
    ("causeway-bench", &["causeway-sys", "causeway-testkit"]),
    ("e2e", &[]),
];

/// Who may use testkit outside of tests.
const DEVELOPERS_TOOLS: [&str; 1] = ["causeway-bench"];

/// Lines of a source file above which the check fails, and above which its head must say why.
const HARD_LINES: usize = 800;
const REASON_LINES: usize = 500;
/// Lines of an inline `mod tests` above which it belongs into a file of its own.
const INLINE_TEST_LINES: usize = 160;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the workspace")
        .to_path_buf()
}

fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .expect("cargo runs, it runs this test");
    assert!(
        out.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON")
}

/// Every file that git would track and one of the patterns matches; none in an unpacked archive without git.
fn tracked(patterns: &[&str]) -> Vec<PathBuf> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .args(patterns)
        .current_dir(root())
        .output()
        .expect("git lists the sources");
    let list = String::from_utf8(out.stdout).expect("paths are UTF-8");
    list.lines()
        .map(|l| root().join(l))
        .filter(|p| p.exists())
        .collect()
}

/// Every `.rs` file that git would track.
fn sources() -> Vec<PathBuf> {
    let mut files = tracked(&["*.rs"]);
    if files.is_empty() {
        // An unpacked archive without git.
        walk(&root(), &mut files);
    }
    assert!(files.len() > 20, "only {} sources found", files.len());
    files
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir)
        .expect("source directories are readable")
        .flatten()
    {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && entry.file_name() != "target" {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn crates_depend_only_in_the_written_direction() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = DIRECTIONS
        .iter()
        .map(|(name, deps)| (*name, deps.iter().copied().collect()))
        .collect();
    let meta = metadata();
    let packages = meta["packages"].as_array().expect("packages");
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let Some(may) = allowed.get(name) else {
            faults.push(format!("{name}: not listed in DIRECTIONS"));
            continue;
        };
        for dep in package["dependencies"].as_array().expect("dependencies") {
            let on = dep["name"].as_str().expect("a dependency has a name");
            let test_only = dep["kind"] == "dev";
            if on == "causeway-testkit" && !test_only && !DEVELOPERS_TOOLS.contains(&name) {
                faults.push(format!("{name} -> {on}: testkit is for tests only"));
            } else if allowed.contains_key(on) && !may.contains(on) && !test_only {
                faults.push(format!("{name} -> {on}: against the direction"));
            } else if test_only
                && ["ztunnel", "waypoint", "control-plane", "cni-plugin"].contains(&on)
                && name != "e2e"
            {
                faults.push(format!(
                    "{name} -> {on}: binaries never depend on each other, not even in tests"
                ));
            }
        }
    }
    assert_eq!(
        packages.len(),
        DIRECTIONS.len(),
        "a crate of DIRECTIONS is gone"
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_sys_may_hold_unsafe() {
    let faults: Vec<String> = metadata()["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| PathBuf::from(p["manifest_path"].as_str().expect("a manifest path")))
        .filter(|path| {
            let text = std::fs::read_to_string(path).expect("a manifest is readable");
            !path.ends_with("crates/sys/Cargo.toml") && !text.contains("[lints]\nworkspace = true")
        })
        .map(|path| format!("{}: does not take the workspace lints", path.display()))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut faults = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("a source is readable");
        let lines: Vec<&str> = text.lines().collect();
        let name = path
            .strip_prefix(root())
            .unwrap_or(&path)
            .display()
            .to_string();
        if lines.len() > HARD_LINES {
            faults.push(format!(
                "{name}: {} lines, more than {HARD_LINES}",
                lines.len()
            ));
        }
        let head = lines
            .iter()
            .take_while(|l| l.starts_with("//!") || l.trim().is_empty())
            .count();
        let reason = lines[..head].iter().any(|l| l.contains("Long because"));
        if lines.len() > REASON_LINES && !reason {
            faults.push(format!(
                "{name}: {} lines and its head does not say \"Long because …\"",
                lines.len()
            ));
        }
        // `foo/tests.rs` is said by its place: the tests of `foo`.
        if !text.starts_with("//!") && !name.ends_with("/tests.rs") {
            faults.push(format!(
                "{name}: does not open by saying what it is and who calls it"
            ));
        }
        if let Some(start) = lines.iter().position(|l| *l == "mod tests {")
            && lines.len() - start > INLINE_TEST_LINES
        {
            faults.push(format!(
                "{name}: {} lines of inline tests belong into their own file",
                lines.len() - start
            ));
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// Words of the place where this was planned: a reader of the repository has no such document.
const NOT_HERE: [&str; 4] = ["design.md", "design rule", "submission", "shared/reference"];

#[test]
fn nothing_points_out_of_the_repository() {
    let pages = tracked(&[
        "*.md",
        "*.sh",
        "*.toml",
        "Makefile",
        ".ci/*",
        "scripts/*",
        "e2e/*",
    ]);
    let mut faults = Vec::new();
    for path in sources().into_iter().chain(pages) {
        let name = path
            .strip_prefix(root())
            .unwrap_or(&path)
            .display()
            .to_string();
        // This file holds the list; what is no text holds no words.
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let found = NOT_HERE.iter().filter(|word| text.contains(**word));
        if name != "e2e/tests/house.rs" {
            faults.extend(found.map(|word| format!("{name}: {word:?}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_readme_shows_the_two_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    for command in ["make demo", "make test"] {
        assert!(
            readme.contains(command),
            "README.md does not show `{command}`"
        );
    }
    let ci = std::fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    assert!(
        ci.contains("make test"),
        ".ci/run does not call the README's test command"
    );
}
