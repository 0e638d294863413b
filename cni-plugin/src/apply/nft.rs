//! The rules as one atomic nftables batch, and what the kernel holds of them. Attribute numbers are
//! those of linux/netfilter/nf_tables.h; the expression `redir` has no typed form in
//! netlink-bindings and is written attribute by attribute. Called by `apply`, inside the pod's
//! namespace.
use std::io;

use netlink_bindings::nftables::{
    Nfgenmsg, PushChainAttrs, PushRuleAttrs, PushTableAttrs, RuleAttrs,
};
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, APPEND, CREATE, DUMP, Messages, Netlink};
use crate::rules::{Chain, Hook, Priority, Rule, Ruleset, TABLE};

mod expression;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;
const NFPROTO_INET: u8 = 1;

/// Replaces our table by `rules`, all or nothing.
pub(super) fn replace(rules: &Ruleset) -> io::Result<()> {
    let mut batch = Messages::default();
    begin(&mut batch);
    drop_table(&mut batch);
    table(&mut batch, NEW_TABLE, CREATE);
    for chain in &rules.chains {
        add_chain(&mut batch, chain);
        for rule in &chain.rules {
            add_rule(&mut batch, chain, rule);
        }
    }
    end(&mut batch);
    Netlink::open(SockProtocol::NetlinkNetFilter)?.execute(&batch)
}

/// Removes our table; when it is not there that is no error.
pub(super) fn remove() -> io::Result<()> {
    let mut batch = Messages::default();
    begin(&mut batch);
    drop_table(&mut batch);
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

/// What the kernel holds of our table, in order.
pub(super) fn held() -> io::Result<Vec<Trace>> {
    let mut request = Messages::default();
    request.push(GET_RULE, DUMP, family().as_slice(), |out| {
        PushRuleAttrs::new(out)
            .push_table_bytes(TABLE.as_bytes())
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
            rule_attributes(&mut bytes, chain, rule);
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
fn drop_table(batch: &mut Messages) {
    table(batch, NEW_TABLE, CREATE);
    table(batch, DELETE_TABLE, 0);
}

fn table(batch: &mut Messages, kind: u16, flags: u16) {
    batch.push(kind, flags | ACK, family().as_slice(), |out| {
        PushTableAttrs::new(out)
            .push_name_bytes(TABLE.as_bytes())
            .end_nested();
    });
}

fn add_chain(batch: &mut Messages, chain: &Chain) {
    let hook = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    };
    let priority = match chain.priority {
        Priority::Raw => -300,
        Priority::Mangle => -150,
        Priority::Dstnat => -100,
    };
    batch.push(NEW_CHAIN, CREATE | ACK, family().as_slice(), |out| {
        let attributes = PushChainAttrs::new(out)
            .push_table_bytes(TABLE.as_bytes())
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

fn add_rule(batch: &mut Messages, chain: &Chain, rule: &Rule) {
    batch.push(
        NEW_RULE,
        CREATE | APPEND | ACK,
        family().as_slice(),
        |out| {
            rule_attributes(out, chain, rule);
        },
    );
}

fn rule_attributes(out: &mut Vec<u8>, chain: &Chain, rule: &Rule) {
    let head = PushRuleAttrs::new(out)
        .push_table_bytes(TABLE.as_bytes())
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
