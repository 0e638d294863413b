//! The label set of one connection, derived once from the workloads that its worker found. Upstream's names and
//! order (reference: Istio standard metrics). Called by `metrics` and, for the names in it, by `line`.

use std::fmt;
use std::sync::Arc;

use hbone::headers::Baggage;
use mesh::identity::Identity;
use mesh::workload::Workload;
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};

use super::reason::Flag;
use crate::worker::api::{Connection, Direction, Security};

/// What the metrics say where nothing is known.
const UNKNOWN: &str = "unknown";
/// What guards bytes that never left the node's memory: no upstream label says it.
pub(super) const SAME_NODE: &str = "same_node";

/// Longest value taken from a peer's baggage: Kubernetes names end there, and a peer may write anything.
const MAX_BAGGAGE_VALUE: usize = 253;

/// Who talks to whom, as metrics tell it. Empty strings are written as `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    direction: Direction,
    security: Security,
    source: Side,
    destination: Side,
    service: ServiceNames,
}

/// One end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Side {
    /// Owner of the pod, e.g. the Deployment.
    pub workload: Arc<str>,
    /// Canonical service; also the app.
    pub canonical: Arc<str>,
    /// Canonical revision; also the version.
    pub revision: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Cluster id.
    pub cluster: Arc<str>,
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Identity, proven by mTLS.
    pub principal: Option<Identity>,
}

/// The service that was called, if any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ServiceNames {
    /// Full host name.
    pub host: Arc<str>,
    /// Kubernetes name.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
}

/// One line of a metric: labels and flag. Cheap to clone and kept by each metric family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Series {
    /// Who talks to whom.
    pub labels: Arc<Labels>,
    /// How it ended.
    pub flag: Flag,
}

impl Labels {
    /// The labels of `connection`.
    pub fn of(connection: &Connection) -> Self {
        let source = connection.source_workload.as_deref();
        let destination = connection.destination_workload.as_deref();
        let source = match (source, connection.source_baggage.as_deref()) {
            (Some(workload), _) => Side::of_workload(workload),
            (None, Some(baggage)) => Side::of_baggage(baggage),
            (None, None) => Side::default(),
        };
        let destination = destination.map(Side::of_workload).unwrap_or_default();
        Self {
            direction: connection.direction,
            security: connection.security,
            source: Side {
                principal: connection.source_identity.clone(),
                ..source
            },
            destination: Side {
                principal: connection.destination_identity.clone(),
                ..destination
            },
            service: ServiceNames::of(connection),
        }
    }

    /// What is left of `self` when there are too many label sets already: which way, and how it was guarded.
    pub fn coarse(&self) -> Self {
        let (source, destination, service) = Default::default();
        Self {
            direction: self.direction,
            security: self.security,
            source,
            destination,
            service,
        }
    }

    /// The side that called.
    pub fn source(&self) -> &Side {
        &self.source
    }

    /// The side that was called.
    pub fn destination(&self) -> &Side {
        &self.destination
    }

    /// The service that was called.
    pub fn service(&self) -> &ServiceNames {
        &self.service
    }
}

impl Side {
    fn of_workload(workload: &Workload) -> Self {
        let locality = workload.locality.as_deref().cloned().unwrap_or_default();
        Self {
            workload: workload.workload_name.clone(),
            canonical: workload.canonical_name.clone(),
            revision: workload.canonical_revision.clone(),
            namespace: workload.namespace.clone(),
            cluster: workload.cluster_id.clone(),
            region: locality.region,
            zone: locality.zone,
            principal: None,
        }
    }

    fn of_baggage(baggage: &Baggage) -> Self {
        let short = |text: &str| {
            text.chars()
                .take(MAX_BAGGAGE_VALUE)
                .collect::<String>()
                .into()
        };
        let text = |field: &Option<Box<str>>| field.as_deref().map(short).unwrap_or_default();
        Self {
            workload: text(&baggage.workload),
            canonical: text(&baggage.service),
            revision: text(&baggage.version),
            namespace: text(&baggage.namespace),
            cluster: text(&baggage.cluster),
            region: text(&baggage.region),
            zone: text(&baggage.zone),
            principal: None,
        }
    }
}

impl ServiceNames {
    fn of(connection: &Connection) -> Self {
        let Some(service) = &connection.service else {
            return Self::default();
        };
        Self {
            host: service.key.hostname.clone(),
            name: service.name.clone(),
            namespace: service.key.namespace.clone(),
        }
    }
}

/// Labels of a connection that goes to an address which a host name was resolved to for it (on-demand DNS).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OnDemand {
    source: Side,
    host: Arc<str>,
}

impl OnDemand {
    /// `None` for all other connections.
    pub fn of(connection: &Connection) -> Option<Self> {
        let destination = connection.destination_workload.as_deref()?;
        let by_name = destination.addresses.is_empty() && !destination.hostname.is_empty();
        if connection.direction != Direction::Outbound || !by_name {
            return None;
        }
        let source = connection.source_workload.as_deref();
        Some(Self {
            source: Side {
                principal: source.and_then(|source| source.identity.clone()),
                ..source.map(Side::of_workload).unwrap_or_default()
            },
            host: destination.hostname.clone(),
        })
    }
}

impl EncodeLabelSet for OnDemand {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let principal = self.source.principal.as_ref().map(ToString::to_string);
        let values = self.source.values(principal.as_deref().unwrap_or_default());
        let pairs = SOURCE
            .iter()
            .zip(values)
            .chain([(&"hostname", &*self.host)]);
        for (key, value) in pairs {
            let value = if value.is_empty() { UNKNOWN } else { value };
            (*key, value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// `reporter` of a captured direction.
pub fn reporter(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "destination",
        Direction::Outbound => "source",
    }
}

impl EncodeLabelSet for Series {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let Labels {
            direction,
            security,
            source,
            destination,
            service,
        } = &*self.labels;
        let mut put = |key: &str, value: &str| {
            let value = if value.is_empty() { UNKNOWN } else { value };
            (key, value).encode(encoder.encode_label())
        };
        put("reporter", reporter(*direction))?;
        let principal = |side: &Side| {
            side.principal
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        for (key, value) in SOURCE.iter().zip(source.values(&principal(source))) {
            put(key, value)?;
        }
        put("destination_service", &service.host)?;
        put("destination_service_namespace", &service.namespace)?;
        put("destination_service_name", &service.name)?;
        for (key, value) in DESTINATION
            .iter()
            .zip(destination.values(&principal(destination)))
        {
            put(key, value)?;
        }
        put("request_protocol", "tcp")?;
        put("response_flags", self.flag.as_str())?;
        put(
            "connection_security_policy",
            match security {
                Security::MutualTls => "mutual_tls",
                Security::SameNode => SAME_NODE,
                Security::Plain => UNKNOWN,
            },
        )?;
        put("source_region", &source.region)?;
        put("source_zone", &source.zone)?;
        put("destination_region", &destination.region)?;
        put("destination_zone", &destination.zone)
    }
}

const SOURCE: [&str; 8] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
];

const DESTINATION: [&str; 8] = [
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
];

impl Side {
    /// In the order of [`SOURCE`] and [`DESTINATION`].
    fn values<'a>(&'a self, principal: &'a str) -> [&'a str; 8] {
        let Self {
            workload,
            canonical,
            revision,
            namespace,
            cluster,
            ..
        } = self;
        [
            workload, canonical, revision, namespace, principal, canonical, revision, cluster,
        ]
    }
}
