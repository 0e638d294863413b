//! Heads of CONNECT: what a request asks for and what a response says. `proto` reads and writes them.

use super::{Authority, Baggage, Forwarded, Traceparent};

/// How many unknown headers are kept.
const MAX_OTHERS: usize = 16;
/// How many bytes of unknown headers are kept, names and values together.
const MAX_OTHERS_BYTES: usize = 4096;

/// The head of a CONNECT request. Everything but the authority is only as trustworthy as the peer: believe
/// trust headers only of peers that may set them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where the tunnel shall end.
    pub authority: Authority,
    /// Who calls, for labels.
    pub baggage: Option<Baggage>,
    /// The caller's address and the service it asked for.
    pub forwarded: Option<Forwarded>,
    /// The trace that this tunnel belongs to; a malformed one is dropped.
    pub traceparent: Option<Traceparent>,
    /// `x-forwarded-network`: the caller's network, on the inner tunnel of double HBONE.
    pub forwarded_network: Option<Box<str>>,
    /// `x-istio-source`: which kind of proxy called.
    pub istio_source: Option<IstioSource>,
    /// Other headers, bounded.
    pub others: OtherHeaders,
}

impl ConnectRequest {
    /// A request with no headers beside the authority.
    pub fn new(authority: Authority) -> Self {
        Self {
            authority,
            baggage: None,
            forwarded: None,
            traceparent: None,
            forwarded_network: None,
            istio_source: None,
            others: OtherHeaders::default(),
        }
    }
}

/// The head of a response to CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// HTTP status, 200–599 (1xx never reaches the caller). Anything but 200 means: no tunnel.
    pub status: u16,
    /// The destination workload, for labels.
    pub baggage: Option<Baggage>,
    /// Other headers, bounded.
    pub others: OtherHeaders,
}

impl ConnectResponse {
    /// 200, the tunnel is open.
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// A response with this status and no headers.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            baggage: None,
            others: OtherHeaders::default(),
        }
    }

    /// Whether the tunnel is open.
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }
}

/// The kind of proxy that sent a request (`x-istio-source`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IstioSource {
    /// A waypoint.
    Waypoint,
    /// An ingress or east-west gateway.
    Gateway,
    /// A sidecar.
    Sidecar,
}

impl IstioSource {
    /// The header's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Gateway => "gateway",
            Self::Sidecar => "sidecar",
        }
    }

    /// Reads the header's value; unknown values are none.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Waypoint, Self::Gateway, Self::Sidecar]
            .into_iter()
            .find(|source| source.as_str() == text)
    }
}

/// Headers that we do not know: at most 16 and 4 KiB, further ones are dropped.
/// Names are lower case; values are UTF-8 without control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherHeaders {
    fields: Vec<(Box<str>, Box<str>)>,
}

impl OtherHeaders {
    /// Keeps a header if there is room and if it can be written safely; says whether it was kept.
    pub fn push(&mut self, name: &str, value: &str) -> bool {
        let bytes: usize = self.fields.iter().map(|(n, v)| n.len() + v.len()).sum();
        let fits =
            self.fields.len() < MAX_OTHERS && bytes + name.len() + value.len() <= MAX_OTHERS_BYTES;
        let named = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && b != b':');
        let safe = named && !value.chars().any(char::is_control);
        if fits && safe {
            self.fields.push((name.into(), value.into()));
        }
        fits && safe
    }

    /// The first value of a header.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }
}
