//! What a pod's annotations change of its capture. Pure; read by the agent's `watch`, kept with the pod so that a change
//! is noticed. Names and meaning are upstream's.
use objects::Meta;
use serde::{Deserialize, Serialize};

/// `true`: what comes in is not captured (for ingress gateways, which serve clients outside the mesh).
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
/// `true` or `false`: DNS goes to ztunnel's proxy, or does not, whatever the node's setting says.
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
/// Comma-separated interfaces of guests (virtual machines, containers in the pod) whose TCP is outbound traffic.
const REROUTE: &str = "istio.io/reroute-virtual-interfaces";

/// Longest name of an interface in bytes; the kernel's 16 count a zero at the end.
const LONGEST: usize = 15;

/// The switches of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switches {
    /// Capture DNS; `None`: as the node's setting says.
    pub dns: Option<bool>,
    /// Leave inbound traffic alone.
    pub bypass_inbound: bool,
    /// Interfaces whose traffic is outbound.
    pub reroute: Vec<Interface>,
}

impl Switches {
    /// Reads the annotations; a value that makes no sense counts as missing, as upstream reads it.
    #[must_use]
    pub fn read(metadata: &Meta) -> Self {
        let boolean = |name| metadata.annotation(name).and_then(parse_bool);
        let reroute = metadata.annotation(REROUTE).unwrap_or_default();
        Self {
            dns: boolean(DNS_CAPTURE),
            bypass_inbound: boolean(BYPASS_INBOUND).unwrap_or(false),
            reroute: reroute
                .split(',')
                .filter_map(|name| Interface::new(name.trim()))
                .collect(),
        }
    }
}

/// What Go's `strconv.ParseBool` takes: upstream's annotations are written for it.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// The name of a network interface, checked so that it means nothing else in any rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interface([u8; LONGEST + 1]);

impl Interface {
    /// `None` for what is no plain interface name.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-@".contains(&b);
        if name.is_empty() || name.len() > LONGEST || !name.bytes().all(plain) {
            return None;
        }
        let mut bytes = [0; LONGEST + 1];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// As the kernel compares it: filled up with zeros.
    #[must_use]
    pub fn padded(&self) -> &[u8; LONGEST + 1] {
        &self.0
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(LONGEST);
        std::str::from_utf8(&self.0[..end]).expect("plain ASCII, checked by new()")
    }
}

impl TryFrom<String> for Interface {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::new(&name).ok_or_else(|| format!("{name:?} is no interface name"))
    }
}

impl From<Interface> for String {
    fn from(interface: Interface) -> String {
        interface.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_as_upstream_reads_them() {
        let read = |pairs: &[(&str, &str)]| {
            let annotations = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            Switches::read(&Meta {
                annotations: annotations.collect(),
                ..Meta::default()
            })
        };
        assert_eq!(read(&[]), Switches::default());
        let all = read(&[
            (DNS_CAPTURE, "False"),
            (BYPASS_INBOUND, "1"),
            (REROUTE, " en0ps1,, en1ps1 "),
        ]);
        assert_eq!((all.dns, all.bypass_inbound), (Some(false), true));
        let names: Vec<_> = all.reroute.iter().map(Interface::name).collect();
        assert_eq!(names, ["en0ps1", "en1ps1"]);
        let nonsense = read(&[
            (DNS_CAPTURE, "tweedledum"),
            (BYPASS_INBOUND, "yes"),
            (REROUTE, "a b, x\" accept, eth+, sixteen-letters-"),
        ]);
        assert_eq!(nonsense, Switches::default());
    }

    #[test]
    fn kept_switches_read_back_as_written() {
        let switches = Switches {
            dns: Some(true),
            bypass_inbound: true,
            reroute: vec![Interface::new("tap0").unwrap()],
        };
        let text = serde_json::to_string(&switches).unwrap();
        assert_eq!(serde_json::from_str::<Switches>(&text).unwrap(), switches);
        assert!(serde_json::from_str::<Switches>(r#"{"reroute":["a/b"]}"#).is_err());
    }
}
