//! A CONNECT that got no tunnel, as `connect_terminate`'s access log tells it.

use super::Reporter;
use super::record::{Went, place, wall_millis};
use crate::format::{Facts, Name, Operator, iso_time};
use crate::model::listener::Terminate;
use crate::tunnel::Tunnel;
use http::HeaderMap;
use std::borrow::Cow;

/// A refused CONNECT.
pub struct Refused<'a> {
    /// What was asked for, by whom.
    pub tunnel: &'a Tunnel,
    /// Status of the answer.
    pub status: u16,
    /// Envoy's flags.
    pub flags: &'static str,
    /// Envoy's details.
    pub details: &'a str,
}

impl Reporter {
    /// Writes the lines of a refused CONNECT.
    pub fn refused(&self, terminate: &Terminate, refused: &Refused<'_>) {
        self.log(&terminate.access, refused.status, refused.flags, refused);
    }
}

impl Facts for Refused<'_> {
    fn fact(&self, operator: &Operator) -> Option<Cow<'_, str>> {
        match operator {
            Operator::StartTime => Some(iso_time(wall_millis()).into()),
            Operator::Protocol => Some("HTTP/2".into()),
            Operator::ResponseCode => Some(self.status.to_string().into()),
            Operator::ResponseFlags => Some(self.flags.into()),
            Operator::ResponseCodeDetails => Some(self.details.into()),
            Operator::BytesReceived | Operator::BytesSent | Operator::Duration => Some("0".into()),
            // Nothing was reached.
            Operator::UpstreamHost | Operator::UpstreamCluster => None,
            other => place(self.tunnel, NOWHERE, other),
        }
    }

    fn pseudo(&self, name: &Name) -> Option<Cow<'_, str>> {
        match name {
            Name::Method => Some("CONNECT".into()),
            Name::Authority => Some(self.tunnel.authority_text.as_str().into()),
            Name::Status => Some(self.status.to_string().into()),
            Name::Path | Name::Scheme | Name::Header(_) => None,
        }
    }

    fn request(&self) -> Option<&HeaderMap> {
        None
    }

    fn response(&self) -> Option<&HeaderMap> {
        None
    }
}

const NOWHERE: &Went = &Went {
    live: None,
    host: None,
    address: None,
};
