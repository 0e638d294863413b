//! Matches and actions as the kernel's expressions: load something into register 1, compare it, or
//! act on it. Called by `nft` for each rule.
use std::net::IpAddr;

use netlink_bindings::nftables::{
    CmpOps, CtKeys, MetaKeys, PayloadBase, PushExprAttrs, PushExprListAttrs, Registers,
};
use netlink_bindings::utils::{Pusher, finalize_nested_header, push_header, push_nested_header};

use crate::rules::{Action, Is, MARK_MASK, Match, Protocol};

const REGISTER: u32 = Registers::Reg1 as u32;
const VERDICT_REGISTER: u32 = Registers::RegVerdict as u32;
const NF_ACCEPT: u32 = 1;
const IFNAMSIZ: usize = 16;

type List<P> = PushExprListAttrs<P>;

/// The expressions of one match, at the end of the list.
pub(super) fn matches<P: Pusher>(list: List<P>, found: &Match) -> List<P> {
    match *found {
        Match::Mark(is, mark) => masked(load_meta(list, MetaKeys::Mark), is, mark),
        Match::ConnectionMark(is, mark) => masked(load_ct_mark(list), is, mark),
        Match::Protocol(protocol) => transport(list, protocol),
        Match::SourcePort(protocol, is, port) => {
            let list = load_payload(
                transport(list, protocol),
                PayloadBase::TransportHeader,
                0,
                2,
            );
            compare(list, is, &port.to_be_bytes())
        }
        Match::DestinationPort(protocol, is, port) => {
            let list = load_payload(
                transport(list, protocol),
                PayloadBase::TransportHeader,
                2,
                2,
            );
            compare(list, is, &port.to_be_bytes())
        }
        Match::Source(is, ip) => address(list, is, ip, (12, 8)),
        Match::Destination(is, ip) => address(list, is, ip, (16, 24)),
        Match::DestinationIn(set, ipv6) => {
            let (family, at, len) = if ipv6 { (10, 24, 16) } else { (2, 16, 4) };
            let list = compare(load_meta(list, MetaKeys::Nfproto), Is::Equal, &[family]);
            let list = load_payload(list, PayloadBase::NetworkHeader, at, len);
            lookup(list, set)
        }
        Match::ArrivesBy(interface) => compare(
            load_meta(list, MetaKeys::Iifname),
            Is::Equal,
            interface.padded(),
        ),
        Match::HasSocket => compare(
            load_meta(list, MetaKeys::Skuid),
            Is::Not,
            &u32::MAX.to_ne_bytes(),
        ),
        Match::LeavesByLoopback(is) => {
            let mut name = [0; IFNAMSIZ];
            name[..2].copy_from_slice(b"lo");
            compare(load_meta(list, MetaKeys::Oifname), is, &name)
        }
    }
}

/// The expressions of the action, at the end of the list.
pub(super) fn action<P: Pusher>(list: List<P>, action: &Action) -> List<P> {
    match *action {
        Action::Accept => {
            let data = list
                .nested_elem()
                .nested_data_immediate()
                .push_dreg(VERDICT_REGISTER);
            let verdict = data.nested_data().nested_verdict().push_code(NF_ACCEPT);
            verdict.end_nested().end_nested().end_nested().end_nested()
        }
        Action::Redirect(port) => redirect(list, port),
        Action::SetConnectionMark(mark) => {
            let list = bitwise(load_ct_mark(list), !MARK_MASK, mark);
            store_ct(list, CtKeys::Mark)
        }
        Action::RestoreMark => {
            let data = load_ct_mark(list).nested_elem().nested_data_meta();
            data.push_key(MetaKeys::Mark as u32)
                .push_sreg(REGISTER)
                .end_nested()
                .end_nested()
        }
        Action::SourceNat(ip) => source_nat(list, ip),
        Action::Zone(zone) => store_ct(immediate(list, &zone.to_ne_bytes()), CtKeys::Zone),
    }
}

fn load_meta<P: Pusher>(list: List<P>, key: MetaKeys) -> List<P> {
    let data = list.nested_elem().nested_data_meta();
    data.push_key(key as u32)
        .push_dreg(REGISTER)
        .end_nested()
        .end_nested()
}

fn load_ct_mark<P: Pusher>(list: List<P>) -> List<P> {
    let data = list.nested_elem().nested_data_ct();
    data.push_dreg(REGISTER)
        .push_key(CtKeys::Mark as u32)
        .end_nested()
        .end_nested()
}

fn store_ct<P: Pusher>(list: List<P>, key: CtKeys) -> List<P> {
    let data = list.nested_elem().nested_data_ct();
    data.push_key(key as u32)
        .push_sreg(REGISTER)
        .end_nested()
        .end_nested()
}

fn load_payload<P: Pusher>(list: List<P>, base: PayloadBase, offset: u32, len: u32) -> List<P> {
    let data = list.nested_elem().nested_data_payload().push_dreg(REGISTER);
    let data = data
        .push_base(base as u32)
        .push_offset(offset)
        .push_len(len);
    data.end_nested().end_nested()
}

fn compare<P: Pusher>(list: List<P>, is: Is, value: &[u8]) -> List<P> {
    let op = match is {
        Is::Equal => CmpOps::Eq,
        Is::Not => CmpOps::Neq,
    };
    let data = list
        .nested_elem()
        .nested_data_cmp()
        .push_sreg(REGISTER)
        .push_op(op as u32);
    data.nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

/// register := (register & mask) ^ xor, in host order like marks.
fn bitwise<P: Pusher>(list: List<P>, mask: u32, xor: u32) -> List<P> {
    let data = list.nested_elem().nested_data_bitwise();
    let data = data.push_sreg(REGISTER).push_dreg(REGISTER).push_len(4);
    let data = data
        .nested_mask()
        .push_value(&mask.to_ne_bytes())
        .end_nested();
    let data = data
        .nested_xor()
        .push_value(&xor.to_ne_bytes())
        .end_nested();
    data.end_nested().end_nested()
}

fn masked<P: Pusher>(list: List<P>, is: Is, mark: u32) -> List<P> {
    compare(bitwise(list, MARK_MASK, 0), is, &mark.to_ne_bytes())
}

fn transport<P: Pusher>(list: List<P>, protocol: Protocol) -> List<P> {
    let number = match protocol {
        Protocol::Tcp => 6u8,
        Protocol::Udp => 17,
    };
    compare(load_meta(list, MetaKeys::L4Proto), Is::Equal, &[number])
}

/// `offsets`: where the address stands in an IPv4 and in an IPv6 header.
fn address<P: Pusher>(list: List<P>, is: Is, ip: IpAddr, offsets: (u32, u32)) -> List<P> {
    let network = PayloadBase::NetworkHeader;
    let family = load_meta(list, MetaKeys::Nfproto);
    match ip {
        IpAddr::V4(ip) => {
            let list = compare(family, Is::Equal, &[2]);
            compare(load_payload(list, network, offsets.0, 4), is, &ip.octets())
        }
        IpAddr::V6(ip) => {
            let list = compare(family, Is::Equal, &[10]);
            compare(load_payload(list, network, offsets.1, 16), is, &ip.octets())
        }
    }
}

fn immediate<P: Pusher>(list: List<P>, value: &[u8]) -> List<P> {
    let data = list
        .nested_elem()
        .nested_data_immediate()
        .push_dreg(REGISTER);
    data.nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn source_nat<P: Pusher>(list: List<P>, ip: IpAddr) -> List<P> {
    const NFT_NAT_SNAT: u32 = 0;
    let (list, family) = match ip {
        IpAddr::V4(ip) => (immediate(list, &ip.octets()), 2),
        IpAddr::V6(ip) => (immediate(list, &ip.octets()), 10),
    };
    let data = list.nested_elem().nested_data_nat();
    data.push_type(NFT_NAT_SNAT)
        .push_family(family)
        .push_reg_addr_min(REGISTER)
        .end_nested()
        .end_nested()
}

/// netlink-bindings numbers NFTA_LOOKUP_SREG as 3; the kernel says 2.
fn lookup<P: Pusher>(list: List<P>, set: &str) -> List<P> {
    const DATA: u16 = 2;
    const SET: u16 = 1;
    const SREG: u16 = 2;
    let mut element: PushExprAttrs<_> = list.nested_elem().push_name(c"lookup");
    let out = element.as_vec_mut();
    let data = push_nested_header(out, DATA);
    // With its zero byte, and filled up to four.
    let len = set.len() + 1;
    push_header(
        out,
        SET,
        u16::try_from(len).expect("the name of a set is short"),
    );
    out.extend(set.as_bytes());
    out.resize(out.len() + len.next_multiple_of(4) - set.len(), 0);
    push_header(out, SREG, 4);
    out.extend(REGISTER.to_be_bytes());
    finalize_nested_header(out, data);
    element.end_nested()
}

/// `redir` has no typed form in netlink-bindings: NFTA_REDIR_REG_PROTO_MIN, _MAX and _FLAGS.
fn redirect<P: Pusher>(list: List<P>, port: u16) -> List<P> {
    const DATA: u16 = 2;
    const PROTO_MIN: u16 = 1;
    const PROTO_MAX: u16 = 2;
    const FLAGS: u16 = 3;
    const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
    let list = immediate(list, &port.to_be_bytes());
    let mut element: PushExprAttrs<_> = list.nested_elem().push_name(c"redir");
    let out = element.as_vec_mut();
    let data = push_nested_header(out, DATA);
    let attributes = [
        (PROTO_MIN, REGISTER),
        (PROTO_MAX, REGISTER),
        (FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED),
    ];
    for (kind, value) in attributes {
        push_header(out, kind, 4);
        out.extend(value.to_be_bytes());
    }
    finalize_nested_header(out, data);
    element.end_nested()
}
