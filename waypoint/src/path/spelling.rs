//! Escapes of paths when paths are compared. One that is sent is kept as it is, as Envoy does; but in either case of its
//! letters it means the same (RFC 3986, section 6.2.2), so that nobody passes a policy by writing it otherwise. Pure;
//! called by routes and policies, and where these are read.

use std::borrow::Cow;

/// Does a path pass a test in any of its spellings: as it came, in the form of [`canonical`], or with escapes in lower case?
/// Regular expressions are why there are three: how they write escapes cannot be changed.
pub fn any(path: &str, test: impl Fn(&str) -> bool) -> bool {
    test(path) || (path.contains('%') && (test(&canonical(path)) || test(&lower(path))))
}

/// The spelling that passes a test, or the path as it came.
pub fn that(path: &str, test: impl Fn(&str) -> bool) -> Cow<'_, str> {
    if test(path) || !path.contains('%') {
        return path.into();
    }
    let others = [canonical(path), lower(path)];
    let passed = others.into_iter().find(|spelling| test(spelling));
    passed.unwrap_or(path.into())
}

/// Escapes of unreserved characters taken back, all others in upper case.
pub fn canonical(path: &str) -> Cow<'_, str> {
    spelled(path, |byte, _| match byte {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    })
}

/// Escapes in upper case: as long as the path.
pub fn upper(path: &str) -> Cow<'_, str> {
    spelled(path, |_, escape| escape.to_ascii_uppercase())
}

fn lower(path: &str) -> Cow<'_, str> {
    spelled(path, |_, escape| escape.to_ascii_lowercase())
}

/// With each good escape written anew.
fn spelled(path: &str, write: impl Fn(u8, &str) -> String) -> Cow<'_, str> {
    if !path.contains('%') {
        return path.into();
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match byte_of(rest) {
            Some(byte) => {
                out.push_str(&write(byte, &rest[..3]));
                rest = &rest[3..];
            }
            None => {
                out.push('%');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out.into()
}

/// The byte of the escape that a text begins with.
pub fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix('%')?.get(..2)?;
    let digits = hex.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_the_same_in_either_case_and_bad_ones_stay() {
        for (path, wanted) in [
            ("/plain", "/plain"),
            ("/caf%c3%A9", "/caf%C3%A9"),
            ("/%61%2f%7e", "/a%2F~"),
            ("/%zz%2", "/%zz%2"),
            ("/é%c3é", "/é%C3é"),
            ("/%2561", "/%2561"),
        ] {
            assert_eq!(canonical(path), wanted);
            assert_eq!(upper(path).len(), path.len());
        }
        assert!(any("/a%2Fb", |path| path == "/a%2fb"));
        assert!(any("/%c3%A9", |path| path == "/%C3%A9"));
        assert!(!any("/a/b", |path| path == "/a%2fb"));
        assert_eq!(that("/a%2Fb", |path| path.contains("%2f")), "/a%2fb");
        assert_eq!(that("/a%2Fb", |_| false), "/a%2Fb");
    }
}
