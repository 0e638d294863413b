//! The rules of one pod. Called by the agent through `render_switched`; golden files in `testdata/`.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Action, Chain, DNS, DNS_PROXY, DNS_ZONE, Hook, INBOUND_HBONE, INBOUND_PLAIN, Is, Match,
    OUTBOUND, Options, PROBE_V4, PROBE_V6, PROXY_MARK, Priority, Protocol, RETURN_MARK, Returns,
    Rule, Ruleset, Switches, TABLE, Writer, rule,
};

/// The rules for a pod without switches of its own.
#[must_use]
pub fn render(options: Options) -> Ruleset {
    render_switched(options, &Switches::default())
}

/// The rules for a pod: what its annotations say goes before what the node's settings say.
#[must_use]
pub fn render_switched(options: Options, switches: &Switches) -> Ruleset {
    let options = Options {
        dns: switches.dns.unwrap_or(options.dns),
        ..options
    };
    let mut chains = Vec::new();
    if options.dns {
        chains.push(dns_zone_in());
        chains.push(dns_zone_out());
    }
    chains.push(mark_in());
    chains.push(mark_out());
    chains.push(redirect_in(options, switches));
    chains.push(redirect_out(options));
    Ruleset {
        table: TABLE,
        sets: Vec::new(),
        chains,
        returns: if options.ipv6 {
            Returns::Both
        } else {
            Returns::V4
        },
        writer: Writer::default(),
    }
}

/// The rules between in and out. For a pod that leaves the mesh while ztunnel still serves what is open: nothing new is
/// captured, and the replies of the pod still find ztunnel. For one that comes in while it runs: the kernel begins to track
/// its connections. The chains of NAT stay without a rule, since the kernel would forget the
/// translation of open connections together with the last of them.
#[must_use]
pub fn render_eased(options: Options) -> Ruleset {
    let mut rules = render_switched(
        Options {
            dns: false,
            ..options
        },
        &Switches::default(),
    );
    for chain in rules.chains.iter_mut().filter(|chain| chain.kind == "nat") {
        chain.rules.clear();
    }
    rules
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

fn redirect_in(options: Options, switches: &Switches) -> Chain {
    let mut rules = Vec::new();
    for &interface in &switches.reroute {
        let guest = [Match::ArrivesBy(interface), TCP];
        rules.push(rule(
            &guest,
            Action::Redirect(OUTBOUND),
            "what a guest of the pod sends",
        ));
    }
    if !switches.bypass_inbound {
        rules.extend(redirect_inbound(options));
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

fn redirect_inbound(options: Options) -> Vec<Rule> {
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
    rules
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
