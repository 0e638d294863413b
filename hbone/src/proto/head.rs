//! Heads: decoded fields to requests and responses by the rules of RFC 9113 §8, and back into header blocks.
//! `receive` feeds fields as HPACK yields them; nothing beyond the caps is kept.

use super::event::HeadFault;
use super::hpack::Encoder;
use crate::headers::{
    Authority, Baggage, ConnectRequest, ConnectResponse, Forwarded, IstioSource, OtherHeaders,
};

/// The longest network name kept, bytes.
const MAX_NETWORK: usize = 253;
/// How many times our limit a header list must have to end the connection instead of its stream.
const BOMB: usize = 2;

/// Collects the fields of one header block.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Size by RFC 9113 §6.5.2, and what we announced.
    size: usize,
    limit: usize,
    fault: Option<HeadFault>,
    regular_seen: bool,
    connect: Option<bool>,
    scheme: bool,
    path: bool,
    authority: Option<Result<Authority, HeadFault>>,
    status: Option<u16>,
    baggage: Option<Baggage>,
    forwarded: Option<Forwarded>,
    traceparent: Option<crate::headers::Traceparent>,
    network: Option<Box<str>>,
    source: Option<IstioSource>,
    others: OtherHeaders,
}

impl Fields {
    pub(super) fn new(max_header_list: u32) -> Self {
        Self {
            limit: max_header_list as usize,
            ..Self::default()
        }
    }

    /// Takes one field.
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.size = self.size.saturating_add(name.len() + value.len() + 32);
        if self.size > self.limit {
            self.fault = Some(HeadFault::TooLarge);
        }
        if self.fault.is_some() {
            return;
        }
        self.fault = match name.first() {
            Some(b':') => self.pseudo(&name[1..], value),
            _ => self.regular(name, value),
        }
        .err()
        .map(HeadFault::Malformed);
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if self.regular_seen {
            return Err("pseudo-header behind a header");
        }
        let first = match name {
            b"method" => self.connect.replace(value == b"CONNECT").is_none(),
            b"authority" => self.authority.replace(authority(value)).is_none(),
            b"status" => self.status.replace(status(value)?).is_none(),
            b"scheme" => !std::mem::replace(&mut self.scheme, true),
            b"path" if value.is_empty() => return Err("empty path"),
            b"path" => !std::mem::replace(&mut self.path, true),
            b"protocol" => return Err("extended CONNECT was not announced"),
            _ => return Err("unknown pseudo-header"),
        };
        if first {
            Ok(())
        } else {
            Err("pseudo-header twice")
        }
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        self.regular_seen = true;
        if name.is_empty() || !name.iter().all(|b| is_name_byte(*b)) {
            return Err("header name");
        }
        if value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
            return Err("header value");
        }
        match name {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => {
                return Err("connection header");
            }
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => return Err("te header"),
            _ => {}
        }
        // Not UTF-8: of no use to us, and legal.
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return Ok(());
        };
        self.keep(name, value.trim_matches([' ', '\t']));
        Ok(())
    }

    fn keep(&mut self, name: &str, value: &str) {
        match name {
            "baggage" => _ = self.baggage.get_or_insert_with(|| Baggage::parse(value)),
            "forwarded" => {
                _ = self
                    .forwarded
                    .get_or_insert_with(|| Forwarded::parse(value))
            }
            "traceparent" => self.traceparent = self.traceparent.or(value.parse().ok()),
            "x-forwarded-network" if is_network(value) => {
                _ = self.network.get_or_insert_with(|| value.into())
            }
            "x-forwarded-network" => {}
            "x-istio-source" => self.source = self.source.or(IstioSource::parse(value)),
            _ => _ = self.others.push(name, value),
        }
    }

    /// No honest peer sends a list so far beyond what we announced: it is a bomb, and the next one would cost as much.
    pub(super) fn are_a_bomb(&self) -> bool {
        self.size > BOMB * self.limit
    }

    /// The request, if these fields are one. None: a whole request that is no CONNECT (RFC 9113 §8.3.1).
    pub(super) fn request(self) -> Result<Option<Box<ConnectRequest>>, HeadFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.status.is_some() {
            return Err(HeadFault::Malformed("pseudo-header of a response"));
        }
        match self.connect {
            None => return Err(HeadFault::Malformed("no method")),
            Some(false) if self.scheme && self.path => return Ok(None),
            Some(false) => return Err(HeadFault::Malformed("no scheme or no path")),
            Some(true) if self.scheme || self.path => {
                return Err(HeadFault::Malformed(
                    "pseudo-header not allowed for CONNECT",
                ));
            }
            Some(true) => {}
        }
        Ok(Some(Box::new(ConnectRequest {
            authority: self.authority.unwrap_or(Err(HeadFault::Authority(
                crate::headers::AuthorityError::Host,
            )))?,
            baggage: self.baggage,
            forwarded: self.forwarded,
            traceparent: self.traceparent,
            forwarded_network: self.network,
            istio_source: self.source,
            others: self.others,
        })))
    }

    /// The response, if these fields are one. Its status may be 1xx.
    pub(super) fn response(self) -> Result<Box<ConnectResponse>, HeadFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.connect.is_some() || self.authority.is_some() || self.scheme || self.path {
            return Err(HeadFault::Malformed("pseudo-header of a request"));
        }
        let status = self.status.ok_or(HeadFault::Malformed("no status"))?;
        Ok(Box::new(ConnectResponse {
            status,
            baggage: self.baggage,
            others: self.others,
        }))
    }

    /// Whether these fields may be trailers.
    pub(super) fn are_trailers(&self) -> bool {
        let pseudo = self.connect.is_some() || self.authority.is_some() || self.status.is_some();
        self.fault.is_none() && !pseudo && !self.scheme && !self.path
    }
}

fn authority(value: &[u8]) -> Result<Authority, HeadFault> {
    let text = std::str::from_utf8(value).map_err(|_| crate::headers::AuthorityError::Host)?;
    Ok(text.parse()?)
}

fn status(value: &[u8]) -> Result<u16, &'static str> {
    match value {
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => Ok(value
            .iter()
            .fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))),
        _ => Err("status"),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_network(text: &str) -> bool {
    text.len() <= MAX_NETWORK && !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Appends the header block of a request.
pub(super) fn write_request(out: &mut Vec<u8>, encoder: &mut Encoder, request: &ConnectRequest) {
    encoder.begin(out);
    encoder.connect(out);
    let mut text = Text(String::new());
    encoder.field(out, ":authority", text.of(&request.authority));
    if let Some(baggage) = request
        .baggage
        .as_ref()
        .filter(|baggage| !baggage.is_empty())
    {
        encoder.field(out, "baggage", text.of(baggage));
    }
    if let Some(forwarded) = &request.forwarded {
        let value = text.of(forwarded);
        if !value.is_empty() {
            encoder.field(out, "forwarded", value);
        }
    }
    if let Some(traceparent) = &request.traceparent {
        encoder.field(out, "traceparent", text.of(traceparent));
    }
    if let Some(network) = request
        .forwarded_network
        .as_deref()
        .filter(|network| is_network(network))
    {
        encoder.field(out, "x-forwarded-network", network.as_bytes());
    }
    if let Some(source) = request.istio_source {
        encoder.field(out, "x-istio-source", source.as_str().as_bytes());
    }
    for (name, value) in request.others.iter() {
        encoder.field(out, name, value.as_bytes());
    }
}

/// Appends the header block of a response.
pub(super) fn write_response(out: &mut Vec<u8>, encoder: &mut Encoder, response: &ConnectResponse) {
    encoder.begin(out);
    encoder.status(out, response.status);
    if let Some(baggage) = response
        .baggage
        .as_ref()
        .filter(|baggage| !baggage.is_empty())
    {
        encoder.field(out, "baggage", Text(String::new()).of(baggage));
    }
    for (name, value) in response.others.iter() {
        encoder.field(out, name, value.as_bytes());
    }
}

/// One buffer for all values of a head.
struct Text(String);

impl Text {
    fn of(&mut self, value: &dyn std::fmt::Display) -> &[u8] {
        use std::fmt::Write;
        self.0.clear();
        write!(self.0, "{value}").expect("writing to a String cannot fail");
        self.0.as_bytes()
    }
}
