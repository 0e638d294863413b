//! docs/paths.md cannot point at what is not there: every file that it names exists, and every name that follows a file's
//! is defined in that file.

use std::fs;
use std::path::{Path, PathBuf};

/// One word in code quotes, and whether only separators stand between it and the one before.
#[derive(Debug, PartialEq, Eq)]
struct Quoted<'a> {
    text: &'a str,
    follows: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The quoted words of a page, without its pictures. A list's number and a new paragraph separate.
fn quoted(page: &str) -> Vec<Quoted<'_>> {
    let mut found = Vec::new();
    for (at, prose) in page.split("```").enumerate() {
        if at % 2 == 1 {
            continue;
        }
        let mut parts = prose.split('`');
        let mut between = parts.next().unwrap_or_default();
        while let (Some(text), Some(after)) = (parts.next(), parts.next()) {
            let separator = |c: char| c.is_whitespace() || ",:;(".contains(c);
            let follows = !between.contains("\n\n") && between.chars().all(separator);
            found.push(Quoted { text, follows });
            between = after;
        }
    }
    found
}

/// Every source file below the root, as a path from there.
fn sources(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let path = path.strip_prefix(root()).expect("below the root");
            found.push(path.display().to_string());
        }
    }
}

/// Whether `text` defines a function, type or macro of this name (`Type::name` and `name!` too).
fn defines(text: &str, name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or(name);
    let last = last.trim_end_matches('!');
    let ends = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    ["fn ", "struct ", "enum ", "trait ", "mod ", "macro_rules! "]
        .iter()
        .map(|kind| format!("{kind}{last}"))
        .any(|head| {
            text.match_indices(&head)
                .any(|(at, _)| ends(text[at + head.len()..].chars().next()))
        })
}

/// What is wrong with a page.
fn faults(page: &str, files: &[(String, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    // The files that the last file name may mean, while names follow it.
    let mut here: Vec<&str> = Vec::new();
    for Quoted { text, follows } in quoted(page) {
        if text.ends_with(".rs") {
            let end = format!("/{text}");
            let named = files
                .iter()
                .filter(|(path, _)| path == text || path.ends_with(&end));
            here = named.map(|(_, source)| source.as_str()).collect();
            if here.is_empty() {
                faults.push(format!("no file {text}"));
            }
        } else if text.contains('/') {
            here.clear();
            let inside = files
                .iter()
                .any(|(path, _)| format!("/{path}").contains(&format!("/{text}")));
            if !inside && !root().join(text).exists() {
                faults.push(format!("no directory {text}"));
            }
        } else if !text.contains(|c: char| !(c.is_alphanumeric() || "_:!".contains(c))) {
            if !follows {
                here.clear();
            }
            let known = if here.is_empty() {
                // A setting is no definition: it stands somewhere as a text.
                let setting = format!("\"{text}\"");
                files
                    .iter()
                    .any(|(_, source)| defines(source, text) || source.contains(&setting))
            } else {
                here.iter().any(|source| defines(source, text))
            };
            if !known {
                faults.push(format!("{text} is not defined where it is looked for"));
            }
        }
    }
    faults
}

#[test]
fn every_file_and_name_in_paths_md_is_there() {
    let mut paths = Vec::new();
    sources(&root(), &mut paths);
    let files: Vec<(String, String)> = paths
        .into_iter()
        .map(|path| {
            let source = fs::read_to_string(root().join(&path)).expect("a source is readable");
            (path, source)
        })
        .collect();
    let page = fs::read_to_string(root().join("docs/paths.md")).expect("docs/paths.md");
    let count = quoted(&page).len();
    assert!(count > 150, "only {count} names were found");
    let faults = faults(&page, &files);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_wrong_name_is_found() {
    let files = [
        ("a/src/x.rs".to_owned(), "pub fn one() {}".to_owned()),
        (
            "b/src/y.rs".to_owned(),
            "struct Two; fn two_more() {}".to_owned(),
        ),
    ];
    let good = "1. `a/src/x.rs`: `one`: text `Two::two_more`\n2. `src/y.rs` (`Two`,\n   `two_more`) in `b/`";
    assert_eq!(faults(good, &files), Vec::<String>::new());
    for (bad, fault) in [
        ("`a/src/z.rs`", "no file a/src/z.rs"),
        ("`c/`", "no directory c/"),
        ("`x.rs`: `Two`", "Two is not defined where it is looked for"),
        ("`y.rs`: `two`", "two is not defined where it is looked for"),
        (
            "text `three`",
            "three is not defined where it is looked for",
        ),
    ] {
        assert_eq!(faults(bad, &files), [fault]);
    }
}
