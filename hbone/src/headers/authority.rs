//! `:authority` of a CONNECT: `ip:port`, `[v6]:port` or `hostname:port`, always with a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// The longest host name accepted, bytes (RFC 1035).
const MAX_NAME: usize = 253;

/// Where a CONNECT wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The address or name.
    pub host: Host,
    /// TCP port, never 0.
    pub port: u16,
}

/// The host half of an [`Authority`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IP address, IPv6 without brackets here.
    Ip(IpAddr),
    /// A host name in lower case: letters, digits, `-`, `_`, `.` and `*`.
    Name(Arc<str>),
}

/// Why a text is not an authority. The answer to the peer is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No `:port` at the end, or port 0 or beyond 65535.
    #[error("authority has no valid port")]
    Port,
    /// Neither an address nor a host name.
    #[error("authority has no valid host")]
    Host,
}

impl Authority {
    /// The socket address, if the host is an IP address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// A host name with a port; the name is put in lower case and checked.
    ///
    /// # Errors
    /// If the name is empty, too long or holds characters that a host name cannot have.
    pub fn name(name: &str, port: u16) -> Result<Self, AuthorityError> {
        if port == 0 {
            return Err(AuthorityError::Port);
        }
        Ok(Self {
            host: Host::Name(host_name(name)?),
            port,
        })
    }
}

fn host_name(name: &str) -> Result<Arc<str>, AuthorityError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        return Err(AuthorityError::Host);
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(name.to_ascii_lowercase().into());
    }
    Ok(name.into())
}

fn port(text: &str) -> Result<u16, AuthorityError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(AuthorityError::Port),
        Ok(port) => Ok(port),
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Host::Ip(address.ip()),
            port: address.port(),
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port_text) = text.rsplit_once(':').ok_or(AuthorityError::Port)?;
        let port = port(port_text)?;
        if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            let ip: Ipv6Addr = v6.parse().map_err(|_| AuthorityError::Host)?;
            return Ok(Self {
                host: Host::Ip(IpAddr::V6(ip)),
                port,
            });
        }
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Ok(Self {
                host: Host::Ip(IpAddr::V4(ip)),
                port,
            });
        }
        Ok(Self {
            host: Host::Name(host_name(host)?),
            port,
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}
