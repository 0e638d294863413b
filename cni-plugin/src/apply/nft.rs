//! The rules as one atomic nftables batch, and what the kernel holds of them. Attribute numbers are
//! those of linux/netfilter/nf_tables.h; the expression `redir` has no typed form in
//! netlink-bindings and is written attribute by attribute. Called by `apply`, inside the pod's
//! namespace.
use std::io;
use std::net::IpAddr;

use netlink_bindings::nftables::{
    Nfgenmsg, PushChainAttrs, PushRuleAttrs, PushSetAttrs, PushSetelemListAttrs, PushTableAttrs,
    RuleAttrs,
};
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, APPEND, CREATE, DUMP, Messages, Netlink};
use crate::rules::{Chain, Hook, Priority, Rule, Ruleset, Set};

mod expression;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;
const NEW_SET: u16 = (SUBSYSTEM << 8) | 9;
const NEW_ELEMENTS: u16 = (SUBSYSTEM << 8) | 12;
const NFPROTO_INET: u8 = 1;

/// Replaces our table by `rules`, all or nothing.
pub(super) fn replace(rules: &Ruleset) -> io::Result<()> {
    let mut batch = Messages::default();
    begin(&mut batch);
    drop_table(&mut batch, rules.table);
    table(&mut batch, rules.table, NEW_TABLE, CREATE);
    for (at, set) in (1..).zip(&rules.sets) {
        add_set(&mut batch, rules.table, set, at);
        for some in set.addresses.chunks(ELEMENTS) {
            add_elements(&mut batch, rules.table, set, some);
        }
    }
    for chain in &rules.chains {
        add_chain(&mut batch, rules.table, chain);
        for rule in &chain.rules {
            add_rule(&mut batch, rules.table, chain, rule);
        }
    }
    end(&mut batch);
    Netlink::open(SockProtocol::NetlinkNetFilter)?.execute(&batch)
}

/// Removes a table; when it is not there that is no error.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let mut batch = Messages::default();
    begin(&mut batch);
    drop_table(&mut batch, name);
    end(&mut batch);
    Netlink::open(SockProtocol::NetlinkNetFilter)?.execute(&batch)
}

/// A rule as it can be compared: chain, comment, names of its expressions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trace {
    chain: String,
    comment: String,
    expressions: Vec<String>,
}

/// What the kernel holds of a table, in order.
pub(super) fn held(name: &str) -> io::Result<Vec<Trace>> {
    let mut request = Messages::default();
    request.push(GET_RULE, DUMP, family().as_slice(), |out| {
        PushRuleAttrs::new(out)
            .push_table_bytes(name.as_bytes())
            .end_nested();
    });
    let mut traces = Vec::new();
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    netlink.dump(&request, |_, body| {
        if let Some(attributes) = body.get(Nfgenmsg::len()..) {
            traces.extend(trace(attributes));
        }
    })?;
    Ok(traces)
}

/// What the kernel should hold of `rules`.
pub(super) fn expected(rules: &Ruleset) -> Vec<Trace> {
    let mut traces = Vec::new();
    for chain in &rules.chains {
        for rule in &chain.rules {
            let mut bytes = Vec::new();
            rule_attributes(&mut bytes, rules.table, chain, rule);
            traces.extend(trace(&bytes));
        }
    }
    traces
}

fn trace(attributes: &[u8]) -> Option<Trace> {
    let rule = RuleAttrs::new(attributes);
    let elements = rule.get_expressions().ok()?.get_elem();
    let name = |bytes: &std::ffi::CStr| bytes.to_string_lossy().into_owned();
    let expressions = elements
        .map(|one| one.get_name().map(name).unwrap_or_default())
        .collect();
    let comment = rule
        .get_userdata()
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let chain = name(rule.get_chain().ok()?);
    Some(Trace {
        chain,
        comment: comment.unwrap_or_default(),
        expressions,
    })
}

fn family() -> Nfgenmsg {
    Nfgenmsg {
        nfgen_family: NFPROTO_INET,
        ..Nfgenmsg::default()
    }
}

fn begin(batch: &mut Messages) {
    let mut header = Nfgenmsg::default();
    header.set_res_id(SUBSYSTEM);
    batch.push(BATCH_BEGIN, 0, header.as_slice(), |_| {});
}

fn end(batch: &mut Messages) {
    let mut header = Nfgenmsg::default();
    header.set_res_id(SUBSYSTEM);
    batch.push(BATCH_END, 0, header.as_slice(), |_| {});
}

/// Made first so that the removal cannot fail.
fn drop_table(batch: &mut Messages, name: &str) {
    table(batch, name, NEW_TABLE, CREATE);
    table(batch, name, DELETE_TABLE, 0);
}

fn table(batch: &mut Messages, name: &str, kind: u16, flags: u16) {
    batch.push(kind, flags | ACK, family().as_slice(), |out| {
        PushTableAttrs::new(out)
            .push_name_bytes(name.as_bytes())
            .end_nested();
    });
}

/// Addresses in one message: its length is a 16-bit number.
const ELEMENTS: usize = 512;

fn add_set(batch: &mut Messages, table: &str, set: &Set, id: u32) {
    /// What `nft` shows as `ipv4_addr` and `ipv6_addr`, with their lengths in bytes.
    const IPV4: (u32, u32) = (7, 4);
    const IPV6: (u32, u32) = (8, 16);
    let (kind, len) = if set.ipv6 { IPV6 } else { IPV4 };
    batch.push(NEW_SET, CREATE | ACK, family().as_slice(), |out| {
        PushSetAttrs::new(out)
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(set.name.as_bytes())
            .push_flags(0)
            .push_key_type(kind)
            .push_key_len(len)
            .push_id(id)
            .end_nested();
    });
}

fn add_elements(batch: &mut Messages, table: &str, set: &Set, addresses: &[IpAddr]) {
    batch.push(NEW_ELEMENTS, CREATE | ACK, family().as_slice(), |out| {
        let head = PushSetelemListAttrs::new(out)
            .push_table_bytes(table.as_bytes())
            .push_set_bytes(set.name.as_bytes());
        let mut list = head.nested_elements();
        for address in addresses {
            let key = list.nested_elem().nested_key();
            let key = match address {
                IpAddr::V4(ip) => key.push_value(&ip.octets()),
                IpAddr::V6(ip) => key.push_value(&ip.octets()),
            };
            list = key.end_nested().end_nested();
        }
        list.end_nested().end_nested();
    });
}

fn add_chain(batch: &mut Messages, table: &str, chain: &Chain) {
    let hook = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    let priority = match chain.priority {
        Priority::Raw => -300,
        Priority::Mangle => -150,
        Priority::Dstnat => -100,
        Priority::BeforeSrcnat => 95,
    };
    batch.push(NEW_CHAIN, CREATE | ACK, family().as_slice(), |out| {
        let attributes = PushChainAttrs::new(out)
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(chain.name.as_bytes());
        let hooked = attributes
            .nested_hook()
            .push_num(hook)
            .push_priority(priority)
            .end_nested();
        hooked
            .push_policy(NF_ACCEPT)
            .push_type_bytes(chain.kind.as_bytes())
            .end_nested();
    });
}

const NF_ACCEPT: u32 = 1;

fn add_rule(batch: &mut Messages, table: &str, chain: &Chain, rule: &Rule) {
    batch.push(
        NEW_RULE,
        CREATE | APPEND | ACK,
        family().as_slice(),
        |out| {
            rule_attributes(out, table, chain, rule);
        },
    );
}

fn rule_attributes(out: &mut Vec<u8>, table: &str, chain: &Chain, rule: &Rule) {
    let head = PushRuleAttrs::new(out)
        .push_table_bytes(table.as_bytes())
        .push_chain_bytes(chain.name.as_bytes());
    let mut list = head.nested_expressions();
    for found in &rule.matches {
        list = expression::matches(list, found);
    }
    list = expression::action(list, &rule.action);
    list.end_nested()
        .push_userdata(&comment(rule.comment))
        .end_nested();
}

/// A rule's comment as nft stores it: type 0, length, text with its zero byte.
fn comment(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len() + 1).expect("comments are short, held by a test");
    let mut bytes = vec![0, len];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}
