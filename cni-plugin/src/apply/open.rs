//! Connections that are older than a pod's rules. The kernel tracks connections in a namespace only while a rule needs it, so
//! these are unknown to it; their next packet would count as the first of a new one, be redirected to a socket that knows
//! nothing of it, and the connection would be reset. They are made known as what they are: open, and not translated. Called
//! by `apply`, inside the pod's namespace, while packets are tracked and none is redirected yet.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_bindings::conntrack::{NfCtTcpFlagsMask, Nfgenmsg, PushConntrackAttrs, PushTupleAttrs};
use netlink_bindings::traits::Pusher;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, CREATE, EXCLUSIVE, Messages, Netlink};

/// NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW (linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h).
const NEW_CONNECTION: u16 = 1 << 8;
const TCP: u8 = 6;
/// TCP_CONNTRACK_ESTABLISHED (linux/netfilter/nf_conntrack_tcp.h).
const ESTABLISHED: u8 = 3;
/// IP_CT_TCP_FLAG_BE_LIBERAL: nobody knows the windows of a connection that is met half-way.
const LIBERAL: u8 = 0x08;
/// IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED: packets went both ways.
const OPEN: u32 = 0x0e;
/// Seconds without a packet after which the kernel forgets it, its own default; from then on the connection counts as new.
const TIMEOUT: u32 = 432_000;

/// Makes the open TCP connections of the namespace known, whatever their number; those that are known stay as they are. Says
/// how many there were.
pub(super) fn acquaint() -> io::Result<usize> {
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    let mut known = 0;
    for name in ["tcp", "tcp6"] {
        let path = format!("/proc/thread-self/net/{name}");
        // No IPv6 here, then.
        let table = std::fs::read_to_string(path).unwrap_or_default();
        for (local, remote) in open(&table) {
            match netlink.execute(&entry(local, remote)) {
                Err(e) if e.raw_os_error() == Some(nix::libc::EEXIST) => {}
                done => {
                    done?;
                    known += 1;
                }
            }
        }
    }
    Ok(known)
}

/// Local and remote address of each connection of a table as /proc/net/tcp shows it that is open or on its way to it.
fn open(table: &str) -> Vec<(SocketAddr, SocketAddr)> {
    const TIME_WAIT: &str = "06";
    const CLOSED: &str = "07";
    const LISTEN: &str = "0A";
    let line = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
        let over = [TIME_WAIT, CLOSED, LISTEN].contains(&fields.next()?);
        // Both of one family: the addresses of a mapped one are IPv4.
        (!over && local.is_ipv4() == remote.is_ipv4()).then_some((local, remote))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// `0100007F:1F90`: the words of the address as this machine holds them, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn entry(local: SocketAddr, remote: SocketAddr) -> Messages {
    let mut messages = Messages::default();
    let header = Nfgenmsg {
        nfgen_family: if local.is_ipv4() { 2 } else { 10 },
        ..Nfgenmsg::default()
    };
    let liberal = || NfCtTcpFlagsMask {
        flags: LIBERAL,
        mask: LIBERAL,
    };
    let flags = ACK | CREATE | EXCLUSIVE;
    messages.push(NEW_CONNECTION, flags, header.as_slice(), |out| {
        let list = PushConntrackAttrs::new(out);
        let list = tuple(list.nested_tuple_orig(), local, remote).end_nested();
        let list = tuple(list.nested_tuple_reply(), remote, local).end_nested();
        let tcp = list.nested_protoinfo().nested_protoinfo_tcp();
        let tcp = tcp.push_tcp_state(ESTABLISHED);
        let tcp = tcp.push_tcp_flags_original(liberal());
        let tcp = tcp.push_tcp_flags_reply(liberal());
        let list = tcp.end_nested().end_nested();
        list.push_status(OPEN).push_timeout(TIMEOUT).end_nested();
    });
    messages
}

fn tuple<P: Pusher>(
    list: PushTupleAttrs<P>,
    from: SocketAddr,
    to: SocketAddr,
) -> PushTupleAttrs<P> {
    let ip = list.nested_tuple_ip();
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ip.push_ip_v4_src(from).push_ip_v4_dst(to),
        (IpAddr::V6(from), IpAddr::V6(to)) => ip.push_ip_v6_src(from).push_ip_v6_dst(to),
        _ => ip,
    };
    let protocol = ip.end_nested().nested_tuple_proto().push_proto_num(TCP);
    let protocol = protocol.push_proto_src_port(from.port());
    protocol.push_proto_dst_port(to.port()).end_nested()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read_from_the_tables_of_the_kernel() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            \x20  0: 00000000:1F90 00000000:0000 0A 0:0\n\
            \x20  1: 0200000A:1F90 0100000A:D431 01 0:0\n\
            \x20  2: 0200000A:1F90 0100000A:D432 06 0:0\n\
            \x20  3: 0200000A:D433 0100000A:0050 02 0:0\n\
            nonsense\n\
            \x20  4: 0000000000000000FFFF00000200000A:1F90 0000000000000000FFFF00000100000A:D434 08 0:0\n\
            \x20  5: 000001FD000000000000000002000000:1F90 000001FD000000000000000001000000:D435 03 0:0\n";
        // As a little-endian machine shows them.
        if cfg!(target_endian = "big") {
            return;
        }
        let expected = [
            ("10.0.0.2:8080", "10.0.0.1:54321"),
            ("10.0.0.2:54323", "10.0.0.1:80"),
            ("10.0.0.2:8080", "10.0.0.1:54324"),
            ("[fd01::2]:8080", "[fd01::1]:54325"),
        ]
        .map(|(local, remote)| (local.parse().unwrap(), remote.parse().unwrap()));
        assert_eq!(open(table), expected);
        assert!(open("").is_empty());
    }
}
