//! Opens a pod's captured listeners inside its network namespace, one set per worker. Called by `pods` (control).

use std::io;
use std::net::TcpListener;

use sys::netns::Netns;
use sys::socket::{self, Keepalive, ListenOptions};

use super::api::{Listeners, Ports};

/// Connections that the kernel may hold for us: a burst of a few thousand must not be answered by dropped SYNs.
pub(super) const BACKLOG: u32 = 4096;

/// Which sockets to open.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The ports.
    pub ports: Ports,
    /// Bind `::` (both families) or `0.0.0.0` (`IPV6_ENABLED`).
    pub ipv6: bool,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// Keepalive, inherited by what is accepted.
    pub keepalive: Option<Keepalive>,
    /// `SO_REUSEPORT` (`INPOD_PORT_REUSE`); without it only one worker can be served.
    pub reuse_port: bool,
}

/// Opens the sockets of one pod: one [`Listeners`] per worker. With `reuse_port` off the first worker gets all.
///
/// # Errors
/// Entering the namespace or binding failed; the text names the address. Nothing stays open then.
pub fn open(netns: &Netns, wanted: &Wanted, workers: usize) -> io::Result<Vec<Listeners>> {
    netns.enter(|| open_here(wanted, workers))?
}

/// As [`open`], in the caller's own namespace (dedicated mode, tests).
pub fn open_here(wanted: &Wanted, workers: usize) -> io::Result<Vec<Listeners>> {
    let served = if wanted.reuse_port { workers } else { 1 };
    let mut all: Vec<Listeners> = (0..workers).map(|_| Listeners::default()).collect();
    for listeners in all.iter_mut().take(served) {
        listeners.inbound = Some(bind(wanted, wanted.ports.inbound)?);
        listeners.outbound = Some(bind(wanted, wanted.ports.outbound)?);
        listeners.inbound_plain = Some(bind(wanted, wanted.ports.inbound_plain)?);
    }
    Ok(all)
}

fn bind(wanted: &Wanted, port: u16) -> io::Result<TcpListener> {
    let address = socket::any_address(wanted.ipv6, port);
    let options = ListenOptions {
        backlog: BACKLOG,
        reuse_port: wanted.reuse_port,
        mark: wanted.mark,
        keepalive: wanted.keepalive,
        nodelay: true,
        ..ListenOptions::default()
    };
    socket::listen_tcp(address, &options)
        .map_err(|fault| io::Error::new(fault.kind(), format!("listen on {address}: {fault}")))
}
