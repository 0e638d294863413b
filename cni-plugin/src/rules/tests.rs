use super::*;
use std::path::Path;

/// Compares with a golden file; `UPDATE_GOLDEN=1` writes it (then read the difference).
fn golden(name: &str, options: Options) {
    golden_of(name, &render(options));
}

fn golden_of(name: &str, rules: &Ruleset) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name);
    let text = rules.to_string();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name} differs");
}

#[test]
fn the_rules_are_those_of_the_golden_files() {
    golden(
        "dual-stack.nft",
        Options {
            dns: false,
            ipv6: true,
        },
    );
    golden(
        "ipv4-only.nft",
        Options {
            dns: false,
            ipv6: false,
        },
    );
    golden(
        "dual-stack-dns.nft",
        Options {
            dns: true,
            ipv6: true,
        },
    );
}

#[test]
fn a_pod_that_leaves_keeps_what_open_connections_need() {
    golden_of(
        "eased.nft",
        &render_eased(Options {
            dns: true,
            ipv6: true,
        }),
    );
}

#[test]
fn comments_fit_into_the_kernel() {
    for chain in render(Options {
        dns: true,
        ipv6: true,
    })
    .chains
    {
        for rule in chain.rules {
            assert!(rule.comment.len() < 127, "{}", rule.comment);
        }
    }
}
