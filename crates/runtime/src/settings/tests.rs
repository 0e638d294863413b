use super::*;

fn pairs(list: &[(&str, &str)]) -> Settings<'static> {
    Settings::from_pairs(list.iter().map(|(k, v)| (k.to_string(), v.to_string())))
}

#[test]
fn every_fault_is_reported_together_with_name_value_and_what_is_allowed() {
    let mut s = pairs(&[
        ("FLAG", "yes"),
        ("TIME", "5 minutes"),
        ("PORT", "70000"),
        ("MODE", "x"),
    ]);
    s.boolean("FLAG", true, "");
    s.duration("TIME", Duration::from_secs(300), "");
    s.number::<u16>("PORT", 1, "");
    s.choice("MODE", "shared", &[("shared", 1), ("dedicated", 2)], "");
    s.required("NODE", "");
    let text = s.finish().unwrap_err().to_string();
    let expected = "5 settings are wrong:\n  \
        FLAG=\"yes\": allowed is `true` or `false`\n  \
        TIME=\"5 minutes\": allowed is a time such as `30s`, `5m`, `1h30m` or `100ms`\n  \
        PORT=\"70000\": allowed is a whole number from 0 to 65535\n  \
        MODE=\"x\": allowed is `shared`, `dedicated`\n  \
        NODE is not set: allowed is any text, not empty";
    assert_eq!(text, expected);
}

#[test]
fn booleans_are_only_true_and_false() {
    for (text, expected) in [("true", Some(true)), ("false", Some(false))] {
        let mut s = pairs(&[("B", text)]);
        assert_eq!(s.optional_boolean("B", ""), expected);
        assert!(s.finish().is_ok());
    }
    for text in ["True", "1", "yes", "", " true"] {
        let mut s = pairs(&[("B", text)]);
        assert_eq!(s.optional_boolean("B", ""), None);
        assert!(s.finish().is_err(), "{text:?}");
    }
}

#[test]
fn values_and_defaults_are_read_through_a_function_too() {
    let lookup = |name: &str| (name == "A").then(|| "7".to_owned());
    let mut s = Settings::from_env(&lookup);
    assert_eq!(s.number("A", 1u32, "first"), 7);
    assert_eq!(s.number("B", 2u32, "second"), 2);
    assert_eq!(s.path("P", "/run/x", "third"), PathBuf::from("/run/x"));
    let rows = s.finish().unwrap();
    assert_eq!(rows.len(), 3);
    let (name, default) = (rows[1].name.as_str(), rows[1].default.as_str());
    assert_eq!((name, default), ("B", "2"));
}

#[test]
fn a_prefix_collects_the_rest_of_the_names() {
    let mut s = pairs(&[("XDS_HEADER_A", "1"), ("XDS_HEADER_", "no"), ("XDS", "no")]);
    assert_eq!(
        s.prefixed("XDS_HEADER_", "headers"),
        [("A".to_owned(), "1".to_owned())]
    );
}

#[test]
fn rows_become_a_table() {
    let mut s = pairs(&[]);
    s.duration("TTL", Duration::from_secs(86_400), "life | time");
    s.optional("X", "any");
    let text = table(s.rows());
    assert!(text.contains("| `TTL` | `24h` | a time such as"), "{text}");
    assert!(text.contains("| life \\| time |"), "{text}");
    assert!(text.contains("| `X` | – | any text | any |"), "{text}");
}
