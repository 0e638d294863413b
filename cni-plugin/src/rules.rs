//! What is written into a pod's network namespace, as plain values: pure, with golden files in
//! `testdata/` that read like `nft list`. The same traffic meets the same fate as under the iptables
//! rules of Istio's CNI. Called by the agent before `apply`.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

mod text;

/// Name of our table, family `inet`.
pub const TABLE: &str = "causeway";
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

/// Everything for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains of the table.
    pub chains: Vec<Chain>,
    /// Policy routing for IPv6 too (IPv4's is always there).
    pub ipv6: bool,
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
    /// The packet leaves by the loopback interface, or does not.
    LeavesByLoopback(Is),
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
}

/// The rules for a pod.
#[must_use]
pub fn render(options: Options) -> Ruleset {
    let mut chains = Vec::new();
    if options.dns {
        chains.push(dns_zone_in());
        chains.push(dns_zone_out());
    }
    chains.push(mark_in());
    chains.push(mark_out());
    chains.push(redirect_in(options));
    chains.push(redirect_out(options));
    Ruleset {
        chains,
        ipv6: options.ipv6,
    }
}

fn rule(matches: &[Match], action: Action, comment: &'static str) -> Rule {
    Rule {
        matches: matches.to_vec(),
        action,
        comment,
    }
}

const FROM_PROXY: Match = Match::Mark(Is::Equal, PROXY_MARK);
const NOT_FROM_PROXY: Match = Match::Mark(Is::Not, PROXY_MARK);
const TCP: Match = Match::Protocol(Protocol::Tcp);

fn loopbacks(options: Options) -> Vec<IpAddr> {
    let v6 = options.ipv6.then_some(Ipv6Addr::LOCALHOST.into());
    std::iter::once(Ipv4Addr::LOCALHOST.into())
        .chain(v6)
        .collect()
}

fn probes(options: Options) -> Vec<IpAddr> {
    let v6 = options.ipv6.then_some(PROBE_V6.into());
    std::iter::once(PROBE_V4.into()).chain(v6).collect()
}

fn dns_zone_in() -> Chain {
    let reply = Match::SourcePort(Protocol::Udp, Is::Equal, DNS);
    let rules = vec![rule(
        &[NOT_FROM_PROXY, reply],
        Action::Zone(DNS_ZONE),
        "answers to ztunnel's DNS",
    )];
    Chain {
        name: "raw_in",
        kind: "filter",
        hook: Hook::Prerouting,
        priority: Priority::Raw,
        rules,
    }
}

fn dns_zone_out() -> Chain {
    let query = Match::DestinationPort(Protocol::Udp, Is::Equal, DNS);
    let rules = vec![rule(
        &[FROM_PROXY, query],
        Action::Zone(DNS_ZONE),
        "ztunnel's own DNS",
    )];
    Chain {
        name: "raw_out",
        kind: "filter",
        hook: Hook::Output,
        priority: Priority::Raw,
        rules,
    }
}

fn mark_in() -> Chain {
    let set = Action::SetConnectionMark(RETURN_MARK);
    let rules = vec![rule(
        &[FROM_PROXY],
        set,
        "ztunnel speaks for a client: remember it",
    )];
    let (hook, priority) = (Hook::Prerouting, Priority::Mangle);
    Chain {
        name: "mark_in",
        kind: "filter",
        hook,
        priority,
        rules,
    }
}

fn mark_out() -> Chain {
    let spoofed = Match::ConnectionMark(Is::Equal, RETURN_MARK);
    let rules = vec![rule(
        &[spoofed],
        Action::RestoreMark,
        "the app's reply goes back to ztunnel",
    )];
    let (hook, priority) = (Hook::Output, Priority::Mangle);
    Chain {
        name: "mark_out",
        kind: "route",
        hook,
        priority,
        rules,
    }
}

fn redirect_in(options: Options) -> Chain {
    let mut rules = Vec::new();
    for probe in probes(options) {
        let from = Match::Source(Is::Equal, probe);
        rules.push(rule(
            &[from, TCP],
            Action::Accept,
            "probes of the node are not captured",
        ));
    }
    for loopback in loopbacks(options) {
        let elsewhere = Match::Destination(Is::Not, loopback);
        let not_hbone = Match::DestinationPort(Protocol::Tcp, Is::Not, INBOUND_HBONE);
        let matches = [elsewhere, not_hbone, NOT_FROM_PROXY];
        rules.push(rule(
            &matches,
            Action::Redirect(INBOUND_PLAIN),
            "inbound that is not HBONE",
        ));
    }
    let (hook, priority) = (Hook::Prerouting, Priority::Dstnat);
    Chain {
        name: "redirect_in",
        kind: "nat",
        hook,
        priority,
        rules,
    }
}

fn redirect_out(options: Options) -> Chain {
    let mut rules = Vec::new();
    for probe in probes(options) {
        let to = Match::Destination(Is::Equal, probe);
        rules.push(rule(
            &[to, TCP],
            Action::Accept,
            "answers to probes are not captured",
        ));
    }
    if options.dns {
        rules.extend(redirect_dns(options));
    }
    let returned = Match::Mark(Is::Equal, RETURN_MARK);
    rules.push(rule(&[TCP, returned], Action::Accept, "replies to ztunnel"));
    let loopback_only = Match::LeavesByLoopback(Is::Equal);
    for loopback in loopbacks(options) {
        let elsewhere = Match::Destination(Is::Not, loopback);
        let comment = "the pod talks to itself";
        rules.push(rule(&[elsewhere, loopback_only], Action::Accept, comment));
    }
    for loopback in loopbacks(options) {
        let elsewhere = Match::Destination(Is::Not, loopback);
        let matches = [elsewhere, TCP, NOT_FROM_PROXY];
        rules.push(rule(&matches, Action::Redirect(OUTBOUND), "outbound"));
    }
    let (hook, priority) = (Hook::Output, Priority::Dstnat);
    Chain {
        name: "redirect_out",
        kind: "nat",
        hook,
        priority,
        rules,
    }
}

fn redirect_dns(options: Options) -> Vec<Rule> {
    let to_proxy = Action::Redirect(DNS_PROXY);
    let udp = Match::DestinationPort(Protocol::Udp, Is::Equal, DNS);
    let away = Match::LeavesByLoopback(Is::Not);
    let mut rules = vec![rule(&[away, NOT_FROM_PROXY, udp], to_proxy, "DNS over UDP")];
    for loopback in loopbacks(options) {
        let elsewhere = Match::Destination(Is::Not, loopback);
        let tcp = Match::DestinationPort(Protocol::Tcp, Is::Equal, DNS);
        rules.push(rule(
            &[elsewhere, tcp, NOT_FROM_PROXY],
            to_proxy,
            "DNS over TCP",
        ));
    }
    rules
}

#[cfg(test)]
mod tests;
