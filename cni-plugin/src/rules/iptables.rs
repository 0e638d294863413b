//! The same rules as text for `iptables-restore --noflush`, for nodes that need iptables: equal to those of Istio's CNI,
//! chain by chain, so that either can repair and remove what the other wrote. Pure; `apply::iptables` runs the binaries.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{
    Action, Chain, Hook, Is, MARK_MASK, Match, Priority, Protocol, RETURN_MARK, Rule, Ruleset, Set,
};

/// Tables in the order in which they are written, and what is written into each.
const TABLES: [&str; 3] = ["mangle", "raw", "nat"];

/// The rules of one address family, by table, as `iptables-save` shows them: jumps first, then our chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    tables: BTreeMap<&'static str, Table>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    chains: Vec<&'static str>,
    jumps: Vec<(String, bool)>,
    rules: Vec<String>,
}

/// Renders the rules for IPv4 or IPv6.
#[must_use]
pub fn lines(rules: &Ruleset, ipv6: bool) -> Lines {
    let mut all = Lines::default();
    for chain in &rules.chains {
        let table = all.tables.entry(table_of(chain)).or_default();
        let (parent, own) = names(chain.hook);
        table.chains.push(own);
        let first = chain.priority == Priority::BeforeSrcnat;
        table.jumps.push((format!("{parent} -j {own}"), first));
        for rule in &chain.rules {
            table.rules.extend(line(rule, own, ipv6, &rules.sets));
        }
    }
    all
}

impl Lines {
    /// What brings a namespace with this `iptables-save` output to these rules, at once for each table.
    #[must_use]
    pub fn install(&self, saved: &str) -> String {
        let mut out = String::new();
        let held = Saved::read(saved);
        for table in TABLES {
            let wanted = self.tables.get(table);
            let stale = held.of(table).filter(|_| wanted.is_none());
            if let Some(wanted) = wanted {
                let _ = writeln!(out, "*{table}");
                for chain in &wanted.chains {
                    // With --noflush this empties a chain that is there.
                    let _ = writeln!(out, ":{chain} - [0:0]");
                }
                let there = held
                    .of(table)
                    .map(|held| &held.rules[..])
                    .unwrap_or_default();
                for (jump, first) in &wanted.jumps {
                    if !there.iter().any(|rule| rule == jump) {
                        let verb = if *first { "-I" } else { "-A" };
                        let _ = writeln!(out, "{verb} {jump}");
                    }
                }
                for rule in &wanted.rules {
                    let _ = writeln!(out, "-A {rule}");
                }
                out.push_str("COMMIT\n");
            } else if let Some(stale) = stale {
                out.push_str(&stale.removal(table));
            }
        }
        out
    }

    /// The first difference between these rules and an `iptables-save` output; `None` when there is none.
    #[must_use]
    pub fn difference(&self, saved: &str) -> Option<String> {
        let held = Saved::read(saved);
        for table in TABLES {
            let wanted: Vec<String> = self.tables.get(table).map(Table::all).unwrap_or_default();
            let there = held.of(table).map(Held::ours).unwrap_or_default();
            let missing = wanted.iter().find(|rule| !there.contains(rule));
            if let Some(missing) = missing {
                return Some(format!("{missing:?} is missing in table {table}"));
            }
            if let Some(more) = there.iter().find(|rule| !wanted.contains(rule)) {
                return Some(format!("found {more:?} beyond ours in table {table}"));
            }
            // Jumps stand among other people's rules; within each chain of ours the order matters.
            let in_order = |rules: &[String]| -> Vec<String> {
                let own = rules.iter().filter(|rule| rule.starts_with("ISTIO_"));
                let mut own: Vec<_> = own.cloned().collect();
                own.sort_by_key(|rule| rule.split(' ').next().map(str::to_owned));
                own
            };
            if in_order(&wanted) != in_order(&there) {
                return Some(format!("the order in table {table} is another"));
            }
        }
        None
    }
}

impl Table {
    fn all(&self) -> Vec<String> {
        let jumps = self.jumps.iter().map(|(jump, _)| jump.clone());
        jumps.chain(self.rules.iter().cloned()).collect()
    }
}

/// What takes our chains out of a namespace with this `iptables-save` output; empty when there are none. The chains of
/// a sidecar, which share a name with one of ours, are left alone.
#[must_use]
pub fn removal(saved: &str) -> String {
    let held = Saved::read(saved);
    let ours = |held: &Held| {
        let own = |chain: &String| chain == "ISTIO_PRERT" || chain == "ISTIO_POSTRT";
        held.chains.iter().any(own)
    };
    if !held.tables.values().any(ours) {
        return String::new();
    }
    let each = held.tables.iter();
    each.map(|(table, held)| held.removal(table)).collect()
}

/// An `iptables-save` output.
struct Saved {
    tables: BTreeMap<String, Held>,
}

#[derive(Default)]
struct Held {
    chains: Vec<String>,
    /// Without their `-A `.
    rules: Vec<String>,
}

impl Saved {
    fn read(text: &str) -> Self {
        let mut tables: BTreeMap<String, Held> = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.trim().to_owned();
                continue;
            }
            let held = tables.entry(table.clone()).or_default();
            if let Some(chain) = line.strip_prefix(':') {
                held.chains
                    .extend(chain.split(' ').next().map(str::to_owned));
            } else if let Some(rule) = line.strip_prefix("-A ") {
                held.rules.push(rule.trim().to_owned());
            }
        }
        Self { tables }
    }

    fn of(&self, table: &str) -> Option<&Held> {
        self.tables.get(table)
    }
}

const OURS: [&str; 3] = ["ISTIO_PRERT", "ISTIO_OUTPUT", "ISTIO_POSTRT"];

impl Held {
    fn ours(&self) -> Vec<String> {
        let of_us = |rule: &&String| {
            let chain = rule.split(' ').next().unwrap_or_default();
            OURS.contains(&chain) || OURS.iter().any(|own| rule.ends_with(&format!("-j {own}")))
        };
        self.rules.iter().filter(of_us).cloned().collect()
    }

    fn removal(&self, table: &str) -> String {
        let chains: Vec<_> = self
            .chains
            .iter()
            .filter(|c| OURS.contains(&&***c))
            .collect();
        if chains.is_empty() {
            return String::new();
        }
        let mut out = format!("*{table}\n");
        for rule in self
            .ours()
            .iter()
            .filter(|rule| !rule.starts_with("ISTIO_"))
        {
            let _ = writeln!(out, "-D {rule}");
        }
        for verb in ["-F", "-X"] {
            for chain in &chains {
                let _ = writeln!(out, "{verb} {chain}");
            }
        }
        out.push_str("COMMIT\n");
        out
    }
}

fn table_of(chain: &Chain) -> &'static str {
    match chain.priority {
        Priority::Raw => "raw",
        Priority::Mangle => "mangle",
        Priority::Dstnat | Priority::BeforeSrcnat => "nat",
    }
}

/// The kernel's chain and ours.
fn names(hook: Hook) -> (&'static str, &'static str) {
    match hook {
        Hook::Prerouting => ("PREROUTING", "ISTIO_PRERT"),
        Hook::Output => ("OUTPUT", "ISTIO_OUTPUT"),
        Hook::Postrouting => ("POSTROUTING", "ISTIO_POSTRT"),
    }
}

/// One rule for one family: none when it is about the other one, several for a set.
fn line(rule: &Rule, chain: &str, ipv6: bool, sets: &[Set]) -> Vec<String> {
    let other = |found: &Match| match found {
        Match::Source(_, ip) | Match::Destination(_, ip) => ip.is_ipv6() != ipv6,
        Match::DestinationIn(_, of_ipv6) => *of_ipv6 != ipv6,
        _ => false,
    };
    if rule.matches.iter().any(other) {
        return Vec::new();
    }
    let set = rule.matches.iter().find_map(|found| match found {
        Match::DestinationIn(name, _) => sets.iter().find(|set| set.name == *name),
        _ => None,
    });
    let Some(set) = set else {
        return vec![text(rule, chain, None)];
    };
    let each = set.addresses.iter();
    each.map(|ip| text(rule, chain, Some(*ip))).collect()
}

/// As `iptables-save` writes it: addresses, interfaces, protocol, then the modules in their order.
fn text(rule: &Rule, chain: &str, destination: Option<IpAddr>) -> String {
    let mut out = chain.to_owned();
    let matches = &rule.matches;
    let not = |is: Is| if is == Is::Not { " !" } else { "" };
    for found in matches {
        let _ = match *found {
            Match::Source(is, ip) => write!(out, "{} -s {}", not(is), Host(ip)),
            Match::Destination(is, ip) => write!(out, "{} -d {}", not(is), Host(ip)),
            Match::DestinationIn(..) => match destination {
                Some(ip) => write!(out, " -d {}", Host(ip)),
                None => Ok(()),
            },
            _ => Ok(()),
        };
    }
    for found in matches {
        let _ = match *found {
            Match::ArrivesBy(interface) => write!(out, " -i {}", interface.name()),
            Match::LeavesByLoopback(is) => write!(out, "{} -o lo", not(is)),
            _ => Ok(()),
        };
    }
    if let Some(protocol) = matches.iter().find_map(protocol) {
        let _ = write!(out, " -p {protocol}");
    }
    for (at, found) in matches.iter().enumerate() {
        let is_last = at + 1 == matches.len() && accepts(rule);
        out.push_str(&module(found, is_last));
    }
    out.push_str(&target(&rule.action));
    out
}

fn accepts(rule: &Rule) -> bool {
    rule.action == Action::Accept
}

fn protocol(found: &Match) -> Option<Protocol> {
    match *found {
        Match::Protocol(protocol)
        | Match::SourcePort(protocol, ..)
        | Match::DestinationPort(protocol, ..) => Some(protocol),
        _ => None,
    }
}

/// `is_last`: upstream's rules for probes name the module `tcp` without a match of it.
fn module(found: &Match, is_last: bool) -> String {
    let not = |is: Is| if is == Is::Not { " !" } else { "" };
    let marked = |is: Is, mark: u32| format!("{} --mark {mark:#x}/{MARK_MASK:#x}", not(is));
    match *found {
        Match::Mark(is, mark) => format!(" -m mark{}", marked(is, mark)),
        Match::ConnectionMark(is, mark) => format!(" -m connmark{}", marked(is, mark)),
        Match::SourcePort(protocol, is, port) => {
            format!(" -m {protocol}{} --sport {port}", not(is))
        }
        Match::DestinationPort(protocol, is, port) => {
            format!(" -m {protocol}{} --dport {port}", not(is))
        }
        Match::Protocol(protocol) if is_last => format!(" -m {protocol}"),
        Match::HasSocket => " -m owner --socket-exists".into(),
        Match::Protocol(_)
        | Match::Source(..)
        | Match::Destination(..)
        | Match::DestinationIn(..)
        | Match::LeavesByLoopback(_)
        | Match::ArrivesBy(_) => String::new(),
    }
}

fn target(action: &Action) -> String {
    match *action {
        Action::Accept => " -j ACCEPT".into(),
        Action::Redirect(port) => format!(" -j REDIRECT --to-ports {port}"),
        Action::SetConnectionMark(mark) => {
            format!(" -j CONNMARK --set-xmark {mark:#x}/{MARK_MASK:#x}")
        }
        Action::RestoreMark => {
            " -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff".into()
        }
        Action::Zone(zone) => format!(" -j CT --zone {zone}"),
        Action::SourceNat(ip) => format!(" -j SNAT --to-source {ip}"),
    }
}

/// An address as iptables shows a single one.
struct Host(IpAddr);

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.0.is_ipv4() { 32 } else { 128 };
        write!(f, "{}/{bits}", self.0)
    }
}

const _: () = assert!(RETURN_MARK == 0x111, "as the rules of Istio's CNI have it");

#[cfg(test)]
mod tests;
