//! Policy routing in the pod: packets with the return mark go to the loopback interface, where
//! ztunnel's socket with the foreign address waits. Called by `apply`, inside the pod's namespace.
use std::io;

use netlink_bindings::rt_route::{PushRouteAttrs, Rtmsg};
use netlink_bindings::rt_rule::{FibRuleHdr, PushFibRuleAttrs};
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, CREATE, EXCLUSIVE, Messages, Netlink};
use crate::rules::{MARK_MASK, RETURN_MARK, ROUTE_RULE_PRIORITY, ROUTE_TABLE};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
/// `lo` has index 1 in every network namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;

/// Address family of a rule or route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// Adds rule and route; what is there already stays.
pub(super) fn add(family: Family) -> io::Result<()> {
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    for messages in [route(family, RTM_NEWROUTE), rule(family, RTM_NEWRULE)] {
        match netlink.execute(&messages) {
            Err(e) if e.raw_os_error() == Some(nix::libc::EEXIST) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Removes rule and route; what is not there is no error.
pub(super) fn remove(family: Family) -> io::Result<()> {
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    for messages in [rule(family, RTM_DELRULE), route(family, RTM_DELROUTE)] {
        match netlink.execute(&messages) {
            Err(e) if is_absent(&e) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Are both there? Adding them again tells.
pub(super) fn present(family: Family) -> io::Result<bool> {
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    for messages in [route(family, RTM_NEWROUTE), rule(family, RTM_NEWRULE)] {
        match netlink.execute(&messages) {
            Err(e) if e.raw_os_error() == Some(nix::libc::EEXIST) => {}
            Err(e) => return Err(e),
            Ok(()) => {
                // It was not there, and now it is: take it away again, a check changes nothing.
                remove(family)?;
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn is_absent(error: &io::Error) -> bool {
    use nix::libc::{EAFNOSUPPORT, ENOENT, EOPNOTSUPP, ESRCH};
    let code = error.raw_os_error();
    code.is_some_and(|code| [ENOENT, ESRCH, EAFNOSUPPORT, EOPNOTSUPP].contains(&code))
}

fn flags(kind: u16) -> u16 {
    if matches!(kind, RTM_NEWROUTE | RTM_NEWRULE) {
        ACK | CREATE | EXCLUSIVE
    } else {
        ACK
    }
}

fn rule(family: Family, kind: u16) -> Messages {
    const FR_ACT_TO_TBL: u8 = 1;
    let header = FibRuleHdr {
        family: family.number(),
        table: u8::try_from(ROUTE_TABLE).expect("table 100"),
        action: FR_ACT_TO_TBL,
        ..FibRuleHdr::default()
    };
    let mut messages = Messages::default();
    messages.push(kind, flags(kind), header.as_slice(), |out| {
        PushFibRuleAttrs::new(out)
            .push_priority(ROUTE_RULE_PRIORITY)
            .push_fwmark(RETURN_MARK)
            .push_fwmask(MARK_MASK)
            .push_table(ROUTE_TABLE)
            .end_nested();
    });
    messages
}

fn route(family: Family, kind: u16) -> Messages {
    const RTPROT_BOOT: u8 = 3;
    const RT_SCOPE_HOST: u8 = 254;
    const RTN_LOCAL: u8 = 2;
    let header = Rtmsg {
        rtm_family: family.number(),
        rtm_table: u8::try_from(ROUTE_TABLE).expect("table 100"),
        rtm_protocol: RTPROT_BOOT,
        rtm_scope: RT_SCOPE_HOST,
        rtm_type: RTN_LOCAL,
        ..Rtmsg::default()
    };
    let mut messages = Messages::default();
    messages.push(kind, flags(kind), header.as_slice(), |out| {
        PushRouteAttrs::new(out).push_oif(LOOPBACK).end_nested();
    });
    messages
}
