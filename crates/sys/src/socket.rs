//! TCP and UDP sockets for a transparent proxy: listeners that several processes share, dials that keep the
//! original source address, the original destination of a redirected connection. Called by ztunnel
//! (wrapped in `Netns::enter`), by the CNI agent's tests and by the demo.
use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::{Netns, sysctl};

/// TCP keepalive: first probe after `time` of silence, then every `interval`, dead after `retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes until the connection is dead.
    pub retries: u32,
}

impl Keepalive {
    fn as_params(self) -> TcpKeepalive {
        let params = TcpKeepalive::new()
            .with_time(self.time)
            .with_interval(self.interval);
        params.with_retries(self.retries)
    }
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Pending connections that the kernel holds for us.
    pub backlog: u32,
    /// SO_REUSEPORT: several sockets, also of an older process, share the port.
    pub reuse_port: bool,
    /// IP_TRANSPARENT: accept connections to addresses that are not ours.
    pub transparent: bool,
    /// SO_MARK of the listener and of what it accepts.
    pub mark: Option<u32>,
    /// Keepalive of what it accepts (inherited).
    pub keepalive: Option<Keepalive>,
    /// TCP_NODELAY of what it accepts (inherited).
    pub nodelay: bool,
    /// With an IPv6 address: refuse IPv4 (mapped) peers.
    pub only_v6: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 1024,
            reuse_port: false,
            transparent: false,
            mark: None,
            keepalive: None,
            nodelay: true,
            only_v6: false,
        }
    }
}

/// Opens a non-blocking listener (SO_REUSEADDR is always set).
///
/// # Errors
/// What the kernel says: the address is taken or not ours, or an option needs CAP_NET_ADMIN.
pub fn listen_tcp(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = new_tcp(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.transparent {
        set_transparent(&socket, address)?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(keepalive) = options.keepalive {
        socket.set_tcp_keepalive(&keepalive.as_params())?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// How to dial.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Speak from this address, which need not be ours (IP_TRANSPARENT and IP_FREEBIND; port 0 =
    /// any). Needs CAP_NET_ADMIN and rules that bring the replies back.
    pub source: Option<SocketAddr>,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// Keepalive.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: sent data unacknowledged for this long ends the connection.
    pub user_timeout: Option<Duration>,
    /// TCP_NODELAY.
    pub nodelay: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            source: None,
            mark: None,
            keepalive: None,
            user_timeout: None,
            nodelay: true,
        }
    }
}

/// Starts a non-blocking dial. The connection is made, or has failed, when the stream becomes
/// writable: ask its `take_error` then. An IPv4 destination in mapped form (`::ffff:a.b.c.d`) is
/// dialled as IPv4.
///
/// # Errors
/// What the kernel says at once (no route, an option needs CAP_NET_ADMIN, `source` of the other
/// family); a refused connection usually shows later.
pub fn connect_tcp(destination: SocketAddr, options: &ConnectOptions) -> io::Result<TcpStream> {
    let destination = unmapped(destination);
    match options.source.map(unmapped) {
        None => dial(new_tcp(destination)?, destination, options),
        Some(source) if source.port() != 0 => {
            let socket = new_tcp(destination)?;
            set_transparent(&socket, destination)?;
            dial_from(socket, destination, source, options)
        }
        Some(source) => dial_from_any_port(destination, source, options, apart()),
    }
}

/// One of these ports, or any if they are taken.
fn dial_from_any_port(
    destination: SocketAddr,
    source: SocketAddr,
    options: &ConnectOptions,
    ports: impl IntoIterator<Item = u16>,
) -> io::Result<TcpStream> {
    for port in ports {
        let socket = new_tcp(destination)?;
        set_transparent(&socket, destination)?;
        // The same port towards another destination is no obstacle.
        socket.set_reuse_address(true)?;
        let mut source = source;
        source.set_port(port);
        match dial_from(socket, destination, source, options) {
            Err(e) if is_taken(&e) => {}
            done => return done,
        }
    }
    let socket = new_tcp(destination)?;
    set_transparent(&socket, destination)?;
    // The port is chosen with the whole connection in view: ports do not run out at 28,000 connections from one address.
    // Without it, everything works as before.
    let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
    dial_from(socket, destination, source, options)
}

fn is_taken(error: &io::Error) -> bool {
    // By another socket, by another connection, or by `ip_unprivileged_port_start`.
    let code = error.raw_os_error();
    code.is_some_and(|code| [libc::EADDRINUSE, libc::EADDRNOTAVAIL, libc::EACCES].contains(&code))
}

/// Two ports that a client hardly ever has by itself: below those that Linux gives out, and odd where it gives out all,
/// since `connect` prefers even ones. A connection of that very address which reaches the destination without us would
/// else be taken for ours once both have chosen the same port, and hang.
fn apart() -> [u16; 2] {
    const FIRST: u16 = 10_241;
    const LAST: u16 = 32_767;
    thread_local! {
        static NEXT: Cell<u16> = Cell::new(FIRST | (RandomState::new().hash_one(()) % 16_384) as u16);
    }
    [(); 2].map(|()| {
        let port = NEXT.get();
        NEXT.set(if port < LAST { port + 2 } else { FIRST });
        port
    })
}

fn dial_from(
    socket: Socket,
    destination: SocketAddr,
    source: SocketAddr,
    options: &ConnectOptions,
) -> io::Result<TcpStream> {
    socket.bind(&SockAddr::from(source))?;
    dial(socket, destination, options)
}

fn dial(
    socket: Socket,
    destination: SocketAddr,
    options: &ConnectOptions,
) -> io::Result<TcpStream> {
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(keepalive) = options.keepalive {
        socket.set_tcp_keepalive(&keepalive.as_params())?;
    }
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    match socket.connect(&SockAddr::from(destination)) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket.into()),
    }
}

/// Opens a non-blocking UDP socket at `address`; an IPv6 one takes no IPv4. With `reuse_port` several sockets, also of an
/// older process, share the port.
///
/// # Errors
/// What the kernel says: the address is taken or not ours, or the mark needs CAP_NET_ADMIN.
pub fn bind_udp(address: SocketAddr, reuse_port: bool, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = new_udp(address, mark)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// A non-blocking UDP socket that speaks with `destination` alone, from an address and a port that the kernel picks.
///
/// # Errors
/// What the kernel says: no route, or the mark needs CAP_NET_ADMIN.
pub fn connect_udp(destination: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = new_udp(destination, mark)?;
    socket.connect(&SockAddr::from(destination))?;
    Ok(socket.into())
}

/// Where a redirected connection was going before the rules turned it to us, IPv4 first, then
/// IPv6, never in mapped form.
///
/// # Errors
/// When connection tracking knows no redirect of this connection (`NotFound` and its kin).
pub fn original_dst(socket: impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(&socket);
    let address = socket
        .original_dst_v4()
        .or_else(|_| socket.original_dst_v6())?;
    let address = address.as_socket();
    address
        .map(unmapped)
        .ok_or_else(|| io::Error::other("original destination is not IP"))
}

/// After this, closing the socket resets the connection (RST) instead of ending it (FIN).
///
/// # Errors
/// When the descriptor is not a socket.
pub fn set_linger_reset(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// Bytes that were written and that the peer's kernel has not acknowledged (SIOCOUTQ); our FIN counts as one. While there
/// are any, closing the socket can lose them: whatever the peer sends then makes the kernel drop its queue.
///
/// # Errors
/// When the descriptor is not a TCP socket, or a listening one.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: SIOCOUTQ (the number of TIOCOUTQ) writes one int to `bytes`, which lives for the call.
    match unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) } {
        0 => usize::try_from(bytes).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets connections that wait in the backlog of a closing SO_REUSEPORT listener move to another
/// listener of the group (`net.ipv4.tcp_migrate_req`, per namespace), so that a hand-over between
/// two processes resets nothing.
///
/// # Errors
/// When the namespace cannot be entered or the kernel lacks the setting (before 5.14).
pub fn set_tcp_migrate_req(netns: &Netns) -> io::Result<()> {
    netns.enter(|| sysctl::write("net/ipv4/tcp_migrate_req", "1"))?
}

/// `0.0.0.0` or `[::]` with the port.
#[must_use]
pub fn any_address(ipv6: bool, port: u16) -> SocketAddr {
    let ip: IpAddr = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, port)
}

/// The address with an IPv4-mapped IPv6 address turned to plain IPv4.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn new_tcp(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )
}

fn new_udp(address: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

fn set_transparent(socket: &Socket, family_of: SocketAddr) -> io::Result<()> {
    if family_of.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
        return socket.set_freebind_v4(true);
    }
    socket.set_ip_transparent_v6(true)?;
    socket.set_freebind_v6(true)
}

#[cfg(test)]
mod tests;
