//! The `baggage` header: what a proxy tells its peer about a workload, for metrics and logs only.
//! Keys and layout are upstream's (reference: W3C baggage without properties).

use std::fmt::{self, Write};

/// Baggage longer than this is ignored, bytes.
const MAX_BAGGAGE: usize = 8192;

/// A workload's description. Absent fields are left out on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Option<Box<str>>,
    /// `k8s.namespace.name`
    pub namespace: Option<Box<str>>,
    /// Which of `k8s.{deployment,cronjob,job,pod}.name` names the workload.
    pub workload_kind: WorkloadKind,
    /// The name under that key.
    pub workload: Option<Box<str>>,
    /// `service.name`, the canonical service.
    pub service: Option<Box<str>>,
    /// `service.version`, the canonical revision.
    pub version: Option<Box<str>>,
    /// `cloud.region`
    pub region: Option<Box<str>>,
    /// `cloud.availability_zone`
    pub zone: Option<Box<str>>,
}

/// The kind of object that owns the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// `k8s.deployment.name`
    #[default]
    Deployment,
    /// `k8s.cronjob.name`
    CronJob,
    /// `k8s.job.name`
    Job,
    /// `k8s.pod.name`
    Pod,
}

impl WorkloadKind {
    fn wire_key(self) -> &'static str {
        match self {
            Self::Deployment => "k8s.deployment.name",
            Self::CronJob => "k8s.cronjob.name",
            Self::Job => "k8s.job.name",
            Self::Pod => "k8s.pod.name",
        }
    }
}

impl Baggage {
    /// Reads a header value. Never fails: members that are unknown, empty or broken are skipped, the last of
    /// several values for one key wins, and a value is the text between the first and the second `=`.
    pub fn parse(text: &str) -> Self {
        let mut baggage = Self::default();
        if text.len() > MAX_BAGGAGE {
            return baggage;
        }
        for member in text.split(',') {
            let mut parts = member.splitn(3, '=');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
                continue;
            };
            // W3C properties follow a `;`; upstream never writes them and no name can hold one.
            let value = value.split(';').next().unwrap_or_default().trim();
            if value.is_empty() || value.chars().any(char::is_control) {
                continue;
            }
            baggage.put(key.trim(), percent_decoded(value));
        }
        baggage
    }

    fn put(&mut self, key: &str, value: Box<str>) {
        let kind = match key {
            "k8s.cluster.name" => return self.cluster = Some(value),
            "k8s.namespace.name" => return self.namespace = Some(value),
            "service.name" => return self.service = Some(value),
            "service.version" => return self.version = Some(value),
            "cloud.region" => return self.region = Some(value),
            "cloud.availability_zone" => return self.zone = Some(value),
            "k8s.deployment.name" => WorkloadKind::Deployment,
            "k8s.cronjob.name" => WorkloadKind::CronJob,
            "k8s.job.name" => WorkloadKind::Job,
            "k8s.pod.name" => WorkloadKind::Pod,
            _ => return,
        };
        self.workload_kind = kind;
        self.workload = Some(value);
    }

    /// Whether nothing is known, so that no header is sent.
    pub fn is_empty(&self) -> bool {
        self.members().into_iter().all(|(_, value)| value.is_none())
    }

    fn members(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("k8s.cluster.name", self.cluster.as_deref()),
            ("k8s.namespace.name", self.namespace.as_deref()),
            (self.workload_kind.wire_key(), self.workload.as_deref()),
            ("service.name", self.service.as_deref()),
            ("service.version", self.version.as_deref()),
            ("cloud.region", self.region.as_deref()),
            ("cloud.availability_zone", self.zone.as_deref()),
        ]
    }
}

/// The header value; values are percent-encoded where a character could be taken for syntax.
impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (key, value) in self.members() {
            let Some(value) = value.filter(|v| !v.is_empty()) else {
                continue;
            };
            if !first {
                f.write_char(',')?;
            }
            first = false;
            write!(f, "{key}=")?;
            for byte in value.bytes() {
                match byte {
                    b',' | b';' | b'=' | b'%' | b'"' | b'\\' | 0..=b' ' | 0x7f.. => {
                        write!(f, "%{byte:02X}")?
                    }
                    _ => f.write_char(char::from(byte))?,
                }
            }
        }
        Ok(())
    }
}

/// Decodes `%XX`; anything that does not come out as printable UTF-8 is kept as it was written.
fn percent_decoded(text: &str) -> Box<str> {
    if !text.contains('%') {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%');
        let value = escape.and_then(|hex| Some(hex_digit(hex[0])? << 4 | hex_digit(hex[1])?));
        decoded.push(value.unwrap_or(bytes[i]));
        i += if value.is_some() { 3 } else { 1 };
    }
    match String::from_utf8(decoded) {
        Ok(decoded) if !decoded.chars().any(char::is_control) => decoded.into(),
        _ => text.into(),
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
