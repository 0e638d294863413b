//! The DNS proxy of each captured pod (15053): names that the mesh knows are answered from the snapshot, all others are
//! asked for elsewhere. Its parts: `wire` (bytes), `name` and `answer` (the decision), all pure; `forward` and `serve`
//! (sockets). `names` resolves for the workers. Opened by `pods`, put together by `app`.

pub mod answer;
pub mod forward;
pub mod metrics;
pub mod name;
pub mod names;
pub mod resolv;
pub mod serve;
pub mod wire;

use std::net::SocketAddr;

pub use self::serve::{Dns, Served};

/// Where a pod's DNS is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// On both loopback addresses.
    Localhost(u16),
    /// On this one.
    At(SocketAddr),
}

/// Which sockets to open.
#[derive(Debug, Clone, Copy)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// On `::1` too, if the pod has it.
    pub ipv6: bool,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// `SO_REUSEPORT`, for the overlap during an upgrade.
    pub reuse_port: bool,
}
