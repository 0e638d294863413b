//! Puts a text between the markers of a document. Pure.

use anyhow::{Context as _, Result, ensure};

const BEGIN: &str = "<!-- make bench: begin -->";
const END: &str = "<!-- make bench: end -->";

/// `document` with `text` between its markers instead of what stood there.
///
/// # Errors
/// When it does not have both markers, once each, in order.
pub fn between_markers(document: &str, text: &str) -> Result<String> {
    for marker in [BEGIN, END] {
        let count = document.matches(marker).count();
        ensure!(
            count == 1,
            "the marker `{marker}` stands {count} times in it, not once"
        );
    }
    let (before, rest) = document.split_once(BEGIN).context("begin")?;
    let (_, after) = rest
        .split_once(END)
        .context("the end marker comes before the begin marker")?;
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        text.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let document = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        let once = between_markers(&document, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n{BEGIN}\n\nnew\n\n{END}\nrest\n"));
        assert_eq!(between_markers(&once, "new").unwrap(), once);
    }

    #[test]
    fn a_document_without_the_markers_is_left_alone() {
        for wrong in [
            "".to_owned(),
            BEGIN.to_owned(),
            format!("{END}{BEGIN}"),
            format!("{BEGIN}{BEGIN}{END}"),
        ] {
            assert!(between_markers(&wrong, "new").is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_projects_document_has_the_markers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");
        let document = std::fs::read_to_string(path).unwrap();
        assert!(between_markers(&document, "").is_ok());
    }
}
