//! What is written into a pod's network namespace, as plain values: pure, with golden files in
//! `testdata/` that read like `nft list`. The same traffic meets the same fate as under the iptables
//! rules of Istio's CNI. Called by the agent before `apply`.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

mod host;
/// The same rules for nodes without nftables.
pub mod iptables;
mod pod;
mod switches;
mod text;

pub use host::{host, probe_sets};
pub use pod::{render, render_eased, render_switched};
pub use switches::{Interface, Switches};

/// Name of our table in a pod, family `inet`.
pub const TABLE: &str = "causeway";
/// Name of our table in the node's own namespace, family `inet`.
pub const HOST_TABLE: &str = "causeway-node";
/// ztunnel marks its own packets with this (SO_MARK, upstream's PACKET_MARK).
pub const PROXY_MARK: u32 = 0x539;
/// Connections that ztunnel opened with a foreign source address carry this connection mark.
pub const RETURN_MARK: u32 = 0x111;
/// The bits of a mark that are ours.
pub const MARK_MASK: u32 = 0xfff;
/// Replies with [`RETURN_MARK`] are routed by this table, to the loopback interface.
pub const ROUTE_TABLE: u32 = 100;
/// Priority of the policy-routing rule for [`RETURN_MARK`].
pub const ROUTE_RULE_PRIORITY: u32 = 32764;
/// The node's probes (kubelet) come from these addresses and are not captured.
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// See [`PROBE_V4`].
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(
    0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
);

const OUTBOUND: u16 = 15001;
const INBOUND_PLAIN: u16 = 15006;
const INBOUND_HBONE: u16 = 15008;
const DNS: u16 = 53;
const DNS_PROXY: u16 = 15053;
/// Connection-tracking zone of ztunnel's own DNS packets, so that they are not taken for the app's.
const DNS_ZONE: u16 = 1;

/// What may differ between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Send the pod's DNS to ztunnel's proxy on 15053.
    pub dns: bool,
    /// Add the IPv6 rules and routes.
    pub ipv6: bool,
}

/// Everything for one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Name of the table.
    pub table: &'static str,
    /// Sets of addresses.
    pub sets: Vec<Set>,
    /// Chains of the table.
    pub chains: Vec<Chain>,
    /// Policy routing for replies with [`RETURN_MARK`].
    pub returns: Returns,
    /// By what means they get into the kernel.
    pub writer: Writer,
}

/// By what means rules get into the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    /// nftables, without any binary.
    #[default]
    Nftables,
    /// The iptables binaries of this name: `iptables`, `iptables-nft` or `iptables-legacy`.
    Iptables(&'static str),
}

/// For which addresses replies to ztunnel are routed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// Not at all: the node's own namespace.
    None,
    /// IPv4.
    V4,
    /// Both.
    Both,
}

/// A set of addresses of one family, matched by [`Match::DestinationIn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Name.
    pub name: &'static str,
    /// IPv6 addresses, else IPv4.
    pub ipv6: bool,
    /// What it holds, sorted, all of that family.
    pub addresses: Vec<IpAddr>,
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name.
    pub name: &'static str,
    /// `filter`, `route` (re-routes when the mark changes) or `nat`.
    pub kind: &'static str,
    /// Where in the kernel.
    pub hook: Hook,
    /// Order among chains of a hook.
    pub priority: Priority,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// Hook of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that come in.
    Prerouting,
    /// Packets that a process of the pod sends.
    Output,
    /// Packets that leave.
    Postrouting,
}

/// Priority of a base chain, by the kernel's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// -300, before connection tracking.
    Raw,
    /// -150.
    Mangle,
    /// -100.
    Dstnat,
    /// 95: before everybody else's source NAT, since the first one to speak wins.
    BeforeSrcnat,
}

/// One rule: all matches must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions in order.
    pub matches: Vec<Match>,
    /// What then happens.
    pub action: Action,
    /// Why, kept in the kernel beside the rule.
    pub comment: &'static str,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
}

/// `==` or `!=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// Equal.
    Equal,
    /// Not equal.
    Not,
}

/// One condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Packet mark under [`MARK_MASK`].
    Mark(Is, u32),
    /// Connection mark under [`MARK_MASK`].
    ConnectionMark(Is, u32),
    /// Transport protocol.
    Protocol(Protocol),
    /// Source port.
    SourcePort(Protocol, Is, u16),
    /// Destination port.
    DestinationPort(Protocol, Is, u16),
    /// Source address.
    Source(Is, IpAddr),
    /// Destination address.
    Destination(Is, IpAddr),
    /// Destination address is in the set of this name, of IPv6 addresses or not.
    DestinationIn(&'static str, bool),
    /// The packet leaves by the loopback interface, or does not.
    LeavesByLoopback(Is),
    /// The packet comes in by this interface.
    ArrivesBy(Interface),
    /// A process here sent the packet; it was not forwarded.
    HasSocket,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// No further rule of this chain.
    Accept,
    /// To a port of the pod itself.
    Redirect(u16),
    /// Set the bits of [`MARK_MASK`] of the connection mark.
    SetConnectionMark(u32),
    /// Packet mark := connection mark.
    RestoreMark,
    /// Track in another zone.
    Zone(u16),
    /// Source address := this one.
    SourceNat(IpAddr),
}

/// One rule.
fn rule(matches: &[Match], action: Action, comment: &'static str) -> Rule {
    Rule {
        matches: matches.to_vec(),
        action,
        comment,
    }
}

#[cfg(test)]
mod tests;
