//! The `forwarded` header: the caller's own address and the service host it asked for; labels only, never trusted.

use std::fmt;
use std::net::SocketAddr;

/// A host longer than this is ignored, bytes.
const MAX_HOST: usize = 253;

/// One element of a `forwarded` header (RFC 7239).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// `for=`, the address of whoever opened the connection.
    pub source: Option<SocketAddr>,
    /// `host=`, the service host name that the caller asked for, ASCII.
    pub host: Option<Box<str>>,
}

impl Forwarded {
    /// Reads the first element of a header value. Never fails: parameters that are unknown or broken are skipped.
    pub fn parse(text: &str) -> Self {
        let mut forwarded = Self::default();
        let element = text.split(',').next().unwrap_or_default();
        for parameter in element.split(';') {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            let value = unquoted(value.trim());
            if name.trim().eq_ignore_ascii_case("host") {
                forwarded.host = Some(value).filter(|host| is_host(host)).map(Into::into);
            } else if name.trim().eq_ignore_ascii_case("for") {
                forwarded.source = value.parse().ok();
            }
        }
        forwarded
    }
}

fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value)
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= MAX_HOST
        && host
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b';' | b','))
}

/// The header value in upstream's form: `for="ip:port";host=name`. A host that cannot be written safely is left out.
impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().filter(|host| is_host(host));
        match (self.source, host) {
            (Some(source), Some(host)) => write!(f, "for=\"{source}\";host={host}"),
            (Some(source), None) => write!(f, "for=\"{source}\""),
            (None, Some(host)) => write!(f, "host={host}"),
            (None, None) => Ok(()),
        }
    }
}
