//! What is wrong right now, for `/status` and the metrics: faults of objects, pushes that subscribers refused.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use objects::{Fault, Severity};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use runtime::metrics::Registry;
use serde::Serialize;

/// Shared by the parts that notice and the admin server that shows.
#[derive(Debug)]
pub struct Status {
    inner: Mutex<Inner>,
    errors: Gauge,
    warnings: Gauge,
    refusals: Counter,
    translations: Counter,
}

#[derive(Debug, Default)]
struct Inner {
    faults: Vec<Fault>,
    /// By node id and type URL.
    nacks: BTreeMap<(String, String), String>,
    subscribers: BTreeMap<u64, String>,
    translation: TranslationStatus,
}

/// Size of the last translation.
#[derive(Debug, Default, Clone, Serialize)]
pub struct TranslationStatus {
    /// Number of translations since the start.
    pub generation: u64,
    /// Workloads and services.
    pub addresses: usize,
    /// L4 policies.
    pub authorizations: usize,
    /// Waypoints.
    pub waypoints: usize,
    /// How long it took, microseconds.
    pub micros: u64,
}

impl Status {
    /// With its metrics.
    #[must_use]
    pub fn new(registry: &Registry) -> Status {
        Status {
            inner: Mutex::default(),
            errors: registry.register(
                "causeway_object_errors",
                "Objects or files that are refused now",
                Gauge::default(),
            ),
            warnings: registry.register(
                "causeway_object_warnings",
                "Remarks on objects that are used now",
                Gauge::default(),
            ),
            refusals: registry.register(
                "causeway_xds_refusals",
                "Pushes that subscribers refused",
                Counter::default(),
            ),
            translations: registry.register(
                "causeway_translations",
                "Translations of all objects",
                Counter::default(),
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single assignment, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a finished translation and every fault that stands now; new ones are logged.
    pub fn translated(&self, mut translation: TranslationStatus, faults: Vec<Fault>) {
        let mut inner = self.lock();
        for fault in faults.iter().filter(|fault| !inner.faults.contains(fault)) {
            match fault.severity {
                Severity::Error => tracing::error!("refused: {fault}"),
                Severity::Warning => tracing::warn!("{fault}"),
            }
        }
        let errors = faults
            .iter()
            .filter(|fault| fault.severity == Severity::Error)
            .count();
        self.errors.set(i64::try_from(errors).unwrap_or(i64::MAX));
        self.warnings
            .set(i64::try_from(faults.len() - errors).unwrap_or(i64::MAX));
        self.translations.inc();
        translation.generation = inner.translation.generation + 1;
        inner.translation = translation;
        inner.faults = faults;
    }

    /// A subscriber refused a push.
    pub fn refused(&self, node: &str, type_url: &str, message: &str) {
        self.refusals.inc();
        self.lock()
            .nacks
            .insert((node.into(), type_url.into()), message.into());
    }

    /// A subscriber came.
    pub fn subscribed(&self, stream: u64, node: &str) {
        let mut inner = self.lock();
        inner.subscribers.retain(|_, other| other != node);
        inner.subscribers.insert(stream, node.into());
        // It starts anew; what it refused before it may take now, or it will say so again.
        inner.nacks.retain(|(other, _), _| other != node);
    }

    /// The JSON of `/status`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let inner = self.lock();
        let faults = inner.faults.iter().map(|fault| {
            serde_json::json!({
                "severity": match fault.severity { Severity::Error => "error", Severity::Warning => "warning" },
                "file": fault.file, "object": fault.key.as_ref().map(ToString::to_string), "field": fault.field,
                "why": fault.why, "text": fault.to_string(),
            })
        });
        let nacks = inner.nacks.iter().map(|((node, type_url), message)| {
            serde_json::json!({ "node": node, "type": type_url, "message": message })
        });
        let subscribers: Vec<&String> = inner.subscribers.values().collect();
        let status = serde_json::json!({
            "translation": inner.translation,
            "faults": faults.collect::<Vec<_>>(),
            "nacks": nacks.collect::<Vec<_>>(),
            "subscribers": subscribers,
        });
        format!("{status:#}\n")
    }
}
