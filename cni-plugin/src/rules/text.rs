//! The rules as text that `nft -f` reads, and a person too. Used by golden files, logs and
//! `causeway-cni`'s CHECK output.
use std::fmt;
use std::net::IpAddr;

use super::{
    Action, Hook, Is, MARK_MASK, Match, Priority, Protocol, RETURN_MARK, ROUTE_RULE_PRIORITY,
    ROUTE_TABLE, Returns, Rule, Ruleset, Set,
};

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for family in self.families() {
            writeln!(
                f,
                "# ip {family} rule add fwmark {RETURN_MARK:#x}/{MARK_MASK:#x} \
                 lookup {ROUTE_TABLE} pref {ROUTE_RULE_PRIORITY}"
            )?;
            writeln!(
                f,
                "# ip {family} route add local default dev lo table {ROUTE_TABLE}"
            )?;
        }
        writeln!(f, "table inet {} {{", self.table)?;
        self.sets.iter().try_for_each(|set| write!(f, "{set}"))?;
        for (at, chain) in self.chains.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            let (name, kind, hook) = (chain.name, chain.kind, chain.hook);
            let priority = Named(chain.priority, hook);
            writeln!(f, "\tchain {name} {{")?;
            writeln!(
                f,
                "\t\ttype {kind} hook {hook} priority {priority}; policy accept;"
            )?;
            chain
                .rules
                .iter()
                .try_for_each(|rule| writeln!(f, "\t\t{rule}"))?;
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl Ruleset {
    fn families(&self) -> &'static [&'static str] {
        match self.returns {
            Returns::None => &[],
            Returns::V4 => &["-4"],
            Returns::Both => &["-4", "-6"],
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.ipv6 { "ipv6_addr" } else { "ipv4_addr" };
        writeln!(f, "\tset {} {{\n\t\ttype {kind}", self.name)?;
        if !self.addresses.is_empty() {
            let all: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
            writeln!(f, "\t\telements = {{ {} }}", all.join(", "))?;
        }
        writeln!(f, "\t}}\n")
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

/// nft has no name for -100 in the output hook.
struct Named(Priority, Hook);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.0, self.1) {
            (Priority::Raw, _) => "raw",
            (Priority::Mangle, _) => "mangle",
            (Priority::Dstnat, Hook::Prerouting) => "dstnat",
            (Priority::Dstnat, _) => "-100",
            (Priority::BeforeSrcnat, _) => "95",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches
            .iter()
            .try_for_each(|found| write!(f, "{found} "))?;
        write!(f, "{} comment \"{}\"", self.action, self.comment)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Mark(is, mark) => write!(f, "meta mark & {MARK_MASK:#010x} {is} {mark:#010x}"),
            Self::ConnectionMark(is, mark) => {
                write!(f, "ct mark & {MARK_MASK:#010x} {is} {mark:#010x}")
            }
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::SourcePort(protocol, is, port) => {
                write!(f, "{protocol} sport {}{port}", Prefix(is))
            }
            Self::DestinationPort(protocol, is, port) => {
                write!(f, "{protocol} dport {}{port}", Prefix(is))
            }
            Self::Source(is, ip) => write!(f, "{} saddr {}{ip}", Family(ip), Prefix(is)),
            Self::Destination(is, ip) => write!(f, "{} daddr {}{ip}", Family(ip), Prefix(is)),
            Self::DestinationIn(set, ipv6) => {
                write!(f, "{} daddr @{set}", if ipv6 { "ip6" } else { "ip" })
            }
            Self::LeavesByLoopback(is) => write!(f, "oifname {}\"lo\"", Prefix(is)),
            Self::ArrivesBy(interface) => write!(f, "iifname \"{}\"", interface.name()),
            // Loading the owner ends the rule when there is no socket; no owner has this number.
            Self::HasSocket => write!(f, "meta skuid != 4294967295"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Accept => f.write_str("accept"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::SetConnectionMark(mark) => {
                write!(
                    f,
                    "ct mark set ct mark & {:#010x} | {mark:#010x}",
                    !MARK_MASK
                )
            }
            Self::RestoreMark => f.write_str("meta mark set ct mark"),
            Self::Zone(zone) => write!(f, "ct zone set {zone}"),
            Self::SourceNat(ip) => write!(f, "snat {} to {ip}", Family(ip)),
        }
    }
}

impl fmt::Display for Is {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Equal { "==" } else { "!=" })
    }
}

/// nft leaves `==` out where a value follows directly.
struct Prefix(Is);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 == Is::Equal { "" } else { "!= " })
    }
}

struct Family(IpAddr);

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_ipv4() { "ip" } else { "ip6" })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
