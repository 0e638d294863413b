//! Matching of strings, headers and query parameters. Used by routes and by policies.

use http::header::COOKIE;
use http::{HeaderMap, HeaderName};
use regex::Regex;

/// One way to compare a string. Envoy's `StringMatcher`.
#[derive(Debug, Clone)]
pub enum StringMatch {
    /// Equal; `true` ignores ASCII case.
    Exact(String, bool),
    /// Starts with; `true` ignores ASCII case.
    Prefix(String, bool),
    /// Ends with; `true` ignores ASCII case.
    Suffix(String, bool),
    /// Holds; `true` ignores ASCII case.
    Contains(String, bool),
    /// The whole string matches.
    Regex(Regex),
}

impl StringMatch {
    /// Does `text` match?
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(want, false) => text == want,
            Self::Exact(want, true) => text.eq_ignore_ascii_case(want),
            Self::Prefix(want, false) => text.starts_with(want.as_str()),
            Self::Prefix(want, true) => starts_ignoring_case(text, want),
            Self::Suffix(want, false) => text.ends_with(want.as_str()),
            Self::Suffix(want, true) => ends_ignoring_case(text, want),
            Self::Contains(want, false) => text.contains(want.as_str()),
            Self::Contains(want, true) => text
                .to_ascii_lowercase()
                .contains(&want.to_ascii_lowercase()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn starts_ignoring_case(text: &str, want: &str) -> bool {
    text.len() >= want.len() && text.as_bytes()[..want.len()].eq_ignore_ascii_case(want.as_bytes())
}

fn ends_ignoring_case(text: &str, want: &str) -> bool {
    text.len() >= want.len()
        && text.as_bytes()[text.len() - want.len()..].eq_ignore_ascii_case(want.as_bytes())
}

/// The name of something header-like: a header, or a pseudo header of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`.
    Method,
    /// `:authority` (and `host`).
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:path`, with the query.
    Path,
    /// An ordinary header.
    Name(HeaderName),
}

/// What is asked of a header's value.
#[derive(Debug, Clone)]
pub enum HeaderTest {
    /// Present (`true`) or absent (`false`).
    Present(bool),
    /// The value, all values joined with commas as Envoy does.
    Value(StringMatch),
    /// An integer in `start..end`.
    Range(i64, i64),
}

/// One header condition.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Which header.
    pub key: HeaderKey,
    /// What it must be.
    pub test: HeaderTest,
    /// The result is turned round (an absent header still does not match a value test).
    pub invert: bool,
    /// An absent header is read as an empty one.
    pub missing_is_empty: bool,
}

/// The parts of a request that routes and policies look at.
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a str,
    /// The path with its query, as it is now (after normalisation).
    pub path: &'a str,
    /// `:authority` or `host`.
    pub authority: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
}

impl RequestView<'_> {
    /// The path without query and fragment.
    pub fn path_only(&self) -> &str {
        let end = self.path.find(['?', '#']).unwrap_or(self.path.len());
        &self.path[..end]
    }

    /// The value of a header or pseudo header; several values are joined by commas, but crumbs of a cookie as one.
    pub fn value(&self, key: &HeaderKey) -> Option<std::borrow::Cow<'_, str>> {
        let plain = |text: &'_ str| Some(std::borrow::Cow::Owned(text.to_owned()));
        match key {
            HeaderKey::Method => Some(self.method.into()),
            HeaderKey::Authority => Some(self.authority.into()),
            HeaderKey::Scheme => Some(self.scheme.into()),
            HeaderKey::Path => Some(self.path.into()),
            HeaderKey::Name(name) => {
                let mut values = self.headers.get_all(name).iter();
                let first = String::from_utf8_lossy(values.next()?.as_bytes());
                let Some(second) = values.next() else {
                    return Some(first);
                };
                let between = if name == COOKIE { "; " } else { "," };
                let mut joined = first.into_owned();
                for value in std::iter::once(second).chain(values) {
                    joined.push_str(between);
                    joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
                }
                plain(&joined)
            }
        }
    }

    /// The first value of a query parameter, raw as Envoy compares it.
    pub fn query(&self, name: &str) -> Option<&str> {
        let query = self.path.split_once('?')?.1;
        let query = query.split('#').next().unwrap_or_default();
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

impl HeaderMatch {
    /// Does the request satisfy this condition?
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let value = request.value(&self.key);
        let test = match &self.test {
            HeaderTest::Present(wanted) => {
                return (value.is_some() || self.missing_is_empty) == (*wanted != self.invert);
            }
            HeaderTest::Value(test) => Some(test),
            HeaderTest::Range(..) => None,
        };
        let Some(value) = value.or_else(|| self.missing_is_empty.then(|| "".into())) else {
            return false;
        };
        let matched = match (&self.test, test) {
            (_, Some(test)) => test.matches(&value),
            (HeaderTest::Range(start, end), _) => {
                value.parse::<i64>().is_ok_and(|n| n >= *start && n < *end)
            }
            _ => false,
        };
        matched != self.invert
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn several_values_are_one_text_and_crumbs_one_cookie() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-a", "1"),
            ("x-a", "2"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_static(value));
        }
        let view = RequestView {
            method: "GET",
            path: "/",
            authority: "x",
            scheme: "http",
            headers: &headers,
        };
        for (name, want) in [("x-a", "1,2"), ("cookie", "a=1; b=2")] {
            let key = HeaderKey::Name(name.parse().unwrap());
            assert_eq!(view.value(&key).as_deref(), Some(want));
        }
    }
}
