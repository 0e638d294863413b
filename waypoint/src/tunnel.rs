//! Facts of one CONNECT that came in: who sent it and where it wants to go. Made by `listener`, read by all.

use crate::report::metrics::{Cache, Labels};
use crate::report::told::Use;
use hbone::headers::{Authority, Baggage, ConnectRequest};
use identity::Identity;
use std::net::{IpAddr, SocketAddr};

/// One tunnel from a client.
#[derive(Debug)]
pub struct Tunnel {
    /// Who sent it, by certificate.
    pub peer: Identity,
    /// The socket of the HBONE connection's other end.
    pub remote: SocketAddr,
    /// Who we are.
    pub local: Identity,
    /// Where it wants to go.
    pub authority: Authority,
    /// `:authority` as text.
    pub authority_text: String,
    /// What the client's proxy tells about the client; labels only.
    pub baggage: Option<Baggage>,
    /// The client's address as its proxy tells it, if it does.
    pub forwarded_for: Option<SocketAddr>,
    /// Metrics of its requests.
    pub series: Cache,
    /// Keeps the series that have the baggage in their labels.
    told: Option<Use>,
}

impl Tunnel {
    /// The facts of a CONNECT.
    pub fn new(
        request: ConnectRequest,
        peer: Identity,
        local: Identity,
        remote: SocketAddr,
    ) -> Self {
        let ConnectRequest {
            authority,
            baggage,
            forwarded,
            ..
        } = request;
        let authority_text = authority.to_string();
        let forwarded_for = forwarded.and_then(|forwarded| forwarded.source);
        Self {
            peer,
            remote,
            local,
            authority,
            authority_text,
            baggage,
            forwarded_for,
            series: Default::default(),
            told: None,
        }
    }

    /// Its baggage is what counts of what the client's proxy told, for which this stands.
    #[must_use]
    pub fn with_baggage(mut self, told: Option<(Baggage, Use)>) -> Self {
        (self.baggage, self.told) = told.unzip();
        self
    }

    /// A series with these labels is about to be made.
    pub fn note(&self, labels: &Labels) {
        if let Some(told) = &self.told {
            told.note(labels);
        }
    }

    /// The destination address, unless a host name was asked for.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.authority.socket_addr()
    }

    /// The destination IP.
    pub fn ip(&self) -> Option<IpAddr> {
        self.destination().map(|address| address.ip())
    }

    /// The address that policies mean by the source: the HBONE connection's other end, as with Envoy.
    pub fn source(&self) -> SocketAddr {
        self.remote
    }

    /// The destination as logs show it.
    pub fn destination_text(&self) -> &str {
        &self.authority_text
    }
}
