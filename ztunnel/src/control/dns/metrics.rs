//! Counts of the DNS proxy, with upstream's names and labels, and two of ours. Used by `serve` and `names`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use mesh::workload::Workload;
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use runtime::metrics::Registry;

use super::forward::Transport;

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    forwarded: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    duration: Family<Labels, Histogram, fn() -> Histogram>,
    refused: Family<Cause, Counter>,
}

/// One question as it is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    kind: &'static str,
    transport: Transport,
    service: Arc<str>,
    revision: Arc<str>,
}

/// Why a question was answered with a fault without being looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The pod has as many questions on their way as it may.
    PodLimit,
    /// All pods together have.
    Limit,
    /// The service of that name was refused.
    Resource,
    /// It was no question.
    Malformed,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| {
            registry.register(name, help, Family::<Labels, Counter>::default())
        };
        Self {
            requests: counter(
                "istio_dns_requests",
                "Total number of DNS requests (unstable)",
            ),
            forwarded: counter(
                "istio_dns_upstream_requests",
                "Total number of DNS requests forwarded to upstream (unstable)",
            ),
            failed: counter(
                "istio_dns_upstream_failures",
                "Total number of DNS requests that failed to forward upstream (unstable)",
            ),
            duration: registry.register(
                "istio_dns_upstream_request_duration_seconds",
                "Total time in seconds Istio takes to get DNS response from upstream (unstable)",
                Family::new_with_constructor(buckets as fn() -> Histogram),
            ),
            refused: registry.register(
                "causeway_dns_refused",
                "DNS requests that were answered with a fault without being looked up",
                Family::default(),
            ),
        }
    }

    /// A question came.
    pub fn asked(&self, labels: &Labels) {
        self.requests.get_or_create(labels).inc();
    }

    /// It goes to another server.
    pub fn forwarded(&self, labels: &Labels) {
        self.forwarded.get_or_create(labels).inc();
    }

    /// The other server answered, or did not.
    pub fn answered(&self, labels: &Labels, after: Duration, failed: bool) {
        self.duration
            .get_or_create(labels)
            .observe(after.as_secs_f64());
        if failed {
            self.failed.get_or_create(labels).inc();
        }
    }

    /// It was answered with a fault at once.
    pub fn refused(&self, cause: Cause) {
        self.refused.get_or_create(&cause).inc();
    }
}

/// Upstream's.
fn buckets() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.01, 0.1, 1.0, 5.0])
}

impl Labels {
    /// The labels of a question that a pod asked; its workload may not be known yet.
    pub fn new(kind: RecordType, transport: Transport, source: Option<&Arc<Workload>>) -> Self {
        let text = |text: fn(&Workload) -> &Arc<str>| source.map(|one| text(one).clone());
        Self {
            kind: word(kind),
            transport,
            service: text(|one| &one.canonical_name).unwrap_or_default(),
            revision: text(|one| &one.canonical_revision).unwrap_or_default(),
        }
    }
}

/// The type in lower case. A client may write any number there; those are one.
fn word(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "a",
        RecordType::AAAA => "aaaa",
        RecordType::ANY => "any",
        RecordType::CAA => "caa",
        RecordType::CNAME => "cname",
        RecordType::HTTPS => "https",
        RecordType::MX => "mx",
        RecordType::NAPTR => "naptr",
        RecordType::NS => "ns",
        RecordType::PTR => "ptr",
        RecordType::SOA => "soa",
        RecordType::SRV => "srv",
        RecordType::SVCB => "svcb",
        RecordType::TXT => "txt",
        _ => "other",
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let transport = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let known = |text: &Arc<str>| match text.is_empty() {
            true => Arc::from("unknown"),
            false => text.clone(),
        };
        ("request_query_type", self.kind).encode(encoder.encode_label())?;
        ("request_protocol", transport).encode(encoder.encode_label())?;
        let (service, revision) = (known(&self.service), known(&self.revision));
        ("source_canonical_service", &*service).encode(encoder.encode_label())?;
        ("source_canonical_revision", &*revision).encode(encoder.encode_label())
    }
}

impl EncodeLabelSet for Cause {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let word = match self {
            Self::PodLimit => "pod_limit",
            Self::Limit => "limit",
            Self::Resource => "refused_resource",
            Self::Malformed => "malformed",
        };
        ("cause", word).encode(encoder.encode_label())
    }
}
