//! Path normalisation as Envoy's connection manager does it before routes and policies look at a path.
//! Pure; called by `request`. What it yields is also what is sent upstream.

pub mod spelling;

use crate::model::listener::EscapedSlashes;

/// What to do with a request after its path was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normalized {
    /// Nothing changes.
    Same,
    /// Go on with this path (and query).
    Changed(String),
    /// Answer 307 to this path.
    Redirect(String),
    /// Answer 400.
    Rejected,
}

/// What a connection manager asks for.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// RFC 3986 section 6: escapes of unreserved characters, dot segments, `\` as `/`.
    pub normalize: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// `%2F` and `%5C`.
    pub escaped: EscapedSlashes,
}

/// Normalises `target`, the path with its query.
pub fn normalize(target: &str, options: Options) -> Normalized {
    if !target.starts_with('/') {
        // `*` of OPTIONS, or nothing at all.
        return if target == "*" {
            Normalized::Same
        } else {
            Normalized::Rejected
        };
    }
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let (path, rest) = target.split_at(end);
    let mut path = path.to_owned();
    let mut redirect = false;
    if options.escaped != EscapedSlashes::Keep && has_escaped_slash(&path) {
        match options.escaped {
            EscapedSlashes::Reject => return Normalized::Rejected,
            other => {
                redirect = other == EscapedSlashes::Redirect;
                path = unescape_slashes(&path);
            }
        }
    }
    if options.normalize {
        match canonical(&path) {
            Some(canonical) => path = canonical,
            None => return Normalized::Rejected,
        }
    }
    if options.merge_slashes {
        path = merge(&path);
    }
    if path == target[..end] {
        return Normalized::Same;
    }
    path.push_str(rest);
    if redirect {
        Normalized::Redirect(path)
    } else {
        Normalized::Changed(path)
    }
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(|w| {
        w[0] == b'%'
            && matches!(
                (w[1], w[2].to_ascii_lowercase()),
                (b'2', b'f') | (b'5', b'c')
            )
    })
}

fn unescape_slashes(path: &str) -> String {
    path.replace("%2F", "/")
        .replace("%2f", "/")
        .replace("%5C", "/")
        .replace("%5c", "/")
}

fn merge(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

/// Dot segments and escapes; `None` for a path that cannot be canonical (a bad escape, NUL).
fn canonical(path: &str) -> Option<String> {
    let decoded = unreserved(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut trailing = false;
    let flipped = decoded.replace('\\', "/");
    let mut parts = flipped[1..].split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." => trailing = last,
            ".." => {
                segments.pop();
                trailing = last;
            }
            other => {
                segments.push(other);
                trailing = false;
            }
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if trailing || out.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// Escapes of unreserved characters are taken back; other escapes stay as they came.
fn unreserved(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            // Bytes of a multi-byte character never equal '%', so slices stay on borders.
            let end = bytes[at..]
                .iter()
                .position(|b| *b == b'%')
                .map_or(bytes.len(), |n| at + n);
            out.push_str(&path[at..end]);
            at = end;
            continue;
        }
        match spelling::byte_of(&path[at..])? {
            0 => return None,
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => out.push(char::from(b)),
            _ => out.push_str(&path[at..at + 3]),
        }
        at += 3;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(path: &str) -> Normalized {
        normalize(
            path,
            Options {
                normalize: true,
                merge_slashes: false,
                escaped: EscapedSlashes::Keep,
            },
        )
    }

    #[test]
    fn paths_are_normalised_as_envoy_does() {
        let changed = |path: &str| Normalized::Changed(path.to_owned());
        let cases = [
            ("/a/../b//c", changed("/b//c")),
            ("/a/./b?x=/../y", changed("/a/b?x=/../y")),
            ("/a/..", changed("/")),
            ("/../../etc", changed("/etc")),
            ("/%61dmin", changed("/admin")),
            ("/%2e%2E/x", changed("/x")),
            ("/a\\..\\b", changed("/b")),
            ("/a%2fb%2Fc", Normalized::Same),
            ("/plain/path?q#f", Normalized::Same),
            ("/a/", Normalized::Same),
            ("*", Normalized::Same),
            ("/%00", Normalized::Rejected),
            ("/%zz", Normalized::Rejected),
            ("/%", Normalized::Rejected),
            ("/%+1", Normalized::Rejected),
            ("nothing", Normalized::Rejected),
        ];
        for (path, want) in cases {
            assert_eq!(base(path), want, "{path}");
        }
    }

    #[test]
    fn escaped_slashes_do_as_told() {
        let with = |escaped| {
            normalize(
                "/a%2Fb",
                Options {
                    normalize: true,
                    merge_slashes: true,
                    escaped,
                },
            )
        };
        assert_eq!(with(EscapedSlashes::Keep), Normalized::Same);
        assert_eq!(with(EscapedSlashes::Reject), Normalized::Rejected);
        assert_eq!(
            with(EscapedSlashes::Redirect),
            Normalized::Redirect("/a/b".into())
        );
        assert_eq!(
            with(EscapedSlashes::Forward),
            Normalized::Changed("/a/b".into())
        );
    }

    proptest::proptest! {
        #[test]
        fn no_dot_segment_survives_and_nothing_panics(path in "/([a./\\\\é]|%2e|%2E|%2f|%61|%25|%){0,16}") {
            let out = match base(&path) {
                Normalized::Changed(out) => out,
                Normalized::Same => path,
                _ => return Ok(()),
            };
            proptest::prop_assert!(!out.split('/').any(|part| matches!(part, "." | "..")), "{out}");
            proptest::prop_assert!(!out.contains('\\'), "{out}");
            proptest::prop_assert!(matches!(base(&out), Normalized::Same), "not stable: {out}");
        }
    }
}
