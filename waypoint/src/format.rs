//! Envoy's `%OPERATOR%` strings, parsed once: access log lines and header values. An operator that we
//! cannot fill is refused where the string is compiled; `report` and `route` write them out.

use http::{HeaderMap, HeaderName};
use std::borrow::Cow;
use std::fmt::Write as _;

/// A parsed format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// An operator and the longest value it may write.
    Operator(Operator, Option<usize>),
}

/// One `%…%`. Names are Envoy's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// `REQ(name?other)`.
    Request(Name, Option<Name>),
    /// `RESP(name?other)`.
    Response(Name, Option<Name>),
    /// `START_TIME`.
    StartTime,
    /// `PROTOCOL`.
    Protocol,
    /// `RESPONSE_CODE`.
    ResponseCode,
    /// `RESPONSE_FLAGS`.
    ResponseFlags,
    /// `RESPONSE_CODE_DETAILS`.
    ResponseCodeDetails,
    /// `CONNECTION_TERMINATION_DETAILS`.
    ConnectionTermination,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    UpstreamFailure,
    /// `BYTES_RECEIVED`.
    BytesReceived,
    /// `BYTES_SENT`.
    BytesSent,
    /// `DURATION`, milliseconds.
    Duration,
    /// `UPSTREAM_HOST`.
    UpstreamHost,
    /// `UPSTREAM_CLUSTER` and `UPSTREAM_CLUSTER_RAW`.
    UpstreamCluster,
    /// `UPSTREAM_LOCAL_ADDRESS`.
    UpstreamLocal,
    /// `DOWNSTREAM_LOCAL_ADDRESS`; `true` without the port.
    DownstreamLocal(bool),
    /// `DOWNSTREAM_REMOTE_ADDRESS` (and `_DIRECT_`); `true` without the port.
    DownstreamRemote(bool),
    /// `REQUESTED_SERVER_NAME`.
    ServerName,
    /// `ROUTE_NAME`.
    RouteName,
    /// `VIRTUAL_CLUSTER_NAME` and others that are always empty here.
    Empty,
    /// `DOWNSTREAM_PEER_URI_SAN`.
    PeerUri,
    /// `DOWNSTREAM_LOCAL_URI_SAN`.
    LocalUri,
    /// `FILTER_STATE(io.istio.peer_principal:PLAIN)` and its like.
    State(State),
}

/// Filter state keys that istiod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// `io.istio.peer_principal`.
    PeerPrincipal,
    /// `io.istio.local_principal`.
    LocalPrincipal,
    /// `io.istio.connect_authority`.
    ConnectAuthority,
}

/// A header in a format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:status`.
    Status,
    /// An ordinary header.
    Header(HeaderName),
}

/// What a format string can ask for. Everything absent is written as `-` in logs and as nothing in headers.
pub trait Facts {
    /// The value of an operator other than `REQ` and `RESP` of ordinary headers.
    fn fact(&self, operator: &Operator) -> Option<Cow<'_, str>>;
    /// A pseudo header of the request.
    fn pseudo(&self, name: &Name) -> Option<Cow<'_, str>>;
    /// Request headers.
    fn request(&self) -> Option<&HeaderMap>;
    /// Response headers.
    fn response(&self) -> Option<&HeaderMap>;
}

impl Format {
    /// Parses `text`; the error names the operator that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let end = operator_end(rest).ok_or_else(|| format!("unfinished operator '%{rest}'"))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let (operator, limit) = parse_operator(&rest[..end])?;
            parts.push(Part::Operator(operator, limit));
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The text, if no operator stands in it.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Writes the string out; what is unknown becomes `absent`.
    pub fn write(&self, facts: &dyn Facts, absent: &str) -> String {
        let mut out = String::with_capacity(256);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Operator(operator, limit) => match value(facts, operator) {
                    Some(value) if !value.is_empty() => push_limited(&mut out, &value, *limit),
                    _ => out.push_str(absent),
                },
            }
        }
        out
    }
}

/// `%` inside parentheses does not end an operator.
fn operator_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

fn parse_operator(text: &str) -> Result<(Operator, Option<usize>), String> {
    let unknown = || format!("format operator '%{text}%' is not supported");
    let (body, limit) = match text.rsplit_once(':') {
        Some((body, digits))
            if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            (body, Some(digits.parse().map_err(|_| unknown())?))
        }
        _ => (text, None),
    };
    let (name, argument) = match body.split_once('(') {
        Some((name, rest)) => (name, Some(rest.strip_suffix(')').ok_or_else(unknown)?)),
        None => (body, None),
    };
    let operator = match (name, argument) {
        ("REQ", Some(names)) => two_names(names, Operator::Request).ok_or_else(unknown)?,
        ("RESP", Some(names)) => two_names(names, Operator::Response).ok_or_else(unknown)?,
        ("START_TIME", None) => Operator::StartTime,
        ("PROTOCOL", None) => Operator::Protocol,
        ("RESPONSE_CODE", None) => Operator::ResponseCode,
        ("RESPONSE_FLAGS", None) => Operator::ResponseFlags,
        ("RESPONSE_CODE_DETAILS", None) => Operator::ResponseCodeDetails,
        ("CONNECTION_TERMINATION_DETAILS", None) => Operator::ConnectionTermination,
        ("UPSTREAM_TRANSPORT_FAILURE_REASON", None) => Operator::UpstreamFailure,
        ("BYTES_RECEIVED", None) => Operator::BytesReceived,
        ("BYTES_SENT", None) => Operator::BytesSent,
        ("DURATION", None) => Operator::Duration,
        ("UPSTREAM_HOST", None) => Operator::UpstreamHost,
        ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", None) => Operator::UpstreamCluster,
        ("UPSTREAM_LOCAL_ADDRESS", None) => Operator::UpstreamLocal,
        ("DOWNSTREAM_LOCAL_ADDRESS", None) => Operator::DownstreamLocal(false),
        ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => Operator::DownstreamLocal(true),
        ("DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None) => {
            Operator::DownstreamRemote(false)
        }
        (
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
            | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
            None,
        ) => Operator::DownstreamRemote(true),
        ("REQUESTED_SERVER_NAME", None) => Operator::ServerName,
        ("ROUTE_NAME", None) => Operator::RouteName,
        ("VIRTUAL_CLUSTER_NAME", None) => Operator::Empty,
        ("DOWNSTREAM_PEER_URI_SAN", None) => Operator::PeerUri,
        ("DOWNSTREAM_LOCAL_URI_SAN", None) => Operator::LocalUri,
        ("FILTER_STATE", Some("io.istio.peer_principal:PLAIN")) => {
            Operator::State(State::PeerPrincipal)
        }
        ("FILTER_STATE", Some("io.istio.local_principal:PLAIN")) => {
            Operator::State(State::LocalPrincipal)
        }
        ("FILTER_STATE", Some("io.istio.connect_authority:PLAIN")) => {
            Operator::State(State::ConnectAuthority)
        }
        _ => return Err(unknown()),
    };
    Ok((operator, limit))
}

fn two_names(text: &str, make: fn(Name, Option<Name>) -> Operator) -> Option<Operator> {
    match text.split_once('?') {
        Some((first, other)) => Some(make(parse_name(first)?, Some(parse_name(other)?))),
        None => Some(make(parse_name(text)?, None)),
    }
}

fn parse_name(text: &str) -> Option<Name> {
    Some(match text.to_ascii_lowercase().as_str() {
        ":method" => Name::Method,
        ":path" => Name::Path,
        ":authority" | "host" => Name::Authority,
        ":scheme" => Name::Scheme,
        ":status" => Name::Status,
        other => Name::Header(HeaderName::from_bytes(other.as_bytes()).ok()?),
    })
}

fn value<'a>(facts: &'a dyn Facts, operator: &Operator) -> Option<Cow<'a, str>> {
    match operator {
        Operator::Request(first, other) => {
            let one = |name: &Name| header(facts, facts.request(), name);
            one(first).or_else(|| one(other.as_ref()?))
        }
        Operator::Response(first, other) => {
            let one = |name: &Name| header(facts, facts.response(), name);
            one(first).or_else(|| one(other.as_ref()?))
        }
        other => facts.fact(other),
    }
}

fn header<'a>(
    facts: &'a dyn Facts,
    headers: Option<&'a HeaderMap>,
    name: &Name,
) -> Option<Cow<'a, str>> {
    match name {
        Name::Header(name) => Some(String::from_utf8_lossy(headers?.get(name)?.as_bytes())),
        pseudo => facts.pseudo(pseudo),
    }
}

fn push_limited(out: &mut String, value: &str, limit: Option<usize>) {
    match limit {
        Some(limit) if limit < value.len() => {
            let end = (0..=limit)
                .rev()
                .find(|at| value.is_char_boundary(*at))
                .unwrap_or(0);
            out.push_str(&value[..end]);
        }
        _ => out.push_str(value),
    }
}

/// `2026-11-24T01:02:03.456Z` from milliseconds since 1970.
pub fn iso_time(millis: u64) -> String {
    let (days, rest) = (millis / 86_400_000, millis % 86_400_000);
    // Civil date from days (Howard Hinnant's algorithm).
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let mut out = String::with_capacity(24);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1000 % 60, rest % 1000);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_default_line_is_understood() {
        let line = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% 100%%\n";
        let format = Format::parse(line).unwrap();
        assert_eq!(format.parts.len(), 11);
        assert_eq!(format.parts.last(), Some(&Part::Text(" 100%\n".into())));
    }

    #[test]
    fn an_unknown_operator_is_named() {
        let error = Format::parse("a %CEL(request.id)% b").unwrap_err();
        assert_eq!(
            error,
            "format operator '%CEL(request.id)%' is not supported"
        );
        assert_eq!(
            Format::parse("%REQ(").unwrap_err(),
            "unfinished operator '%REQ('"
        );
    }

    #[test]
    fn times_are_civil() {
        assert_eq!(iso_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_time(1_709_164_800_123), "2024-02-29T00:00:00.123Z");
        assert_eq!(iso_time(1_798_675_199_000), "2026-12-30T23:59:59.000Z");
    }
}
