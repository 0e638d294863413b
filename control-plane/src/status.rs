//! What is wrong right now, for `/status` and the metrics: faults of objects, pushes that subscribers refused.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use objects::{Fault, Severity};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use runtime::metrics::Registry;
use serde::Serialize;

/// Bytes of a refusal that are kept; the log has all of it.
const MAX_MESSAGE: usize = 16 << 10;

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
    /// Node ids by stream.
    subscribers: BTreeMap<u64, String>,
    /// What stands refused, by stream and type URL.
    nacks: BTreeMap<(u64, String), String>,
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

impl Inner {
    fn forget(&mut self, stream: u64) {
        self.subscribers.remove(&stream);
        self.nacks.retain(|(other, _), _| *other != stream);
    }
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
        // Nearly always nothing is new, and then nothing is compared one by one.
        if inner.faults != faults {
            let known: HashSet<String> = inner.faults.iter().map(ToString::to_string).collect();
            for fault in &faults {
                let text = fault.to_string();
                match fault.severity {
                    _ if known.contains(&text) => {}
                    Severity::Error => tracing::error!("refused: {text}"),
                    Severity::Warning => tracing::warn!("{text}"),
                }
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

    /// A subscriber came.
    pub fn subscribed(&self, stream: u64, node: &str) {
        let mut inner = self.lock();
        // It starts anew, though its old stream may not have ended yet; what it refused before it may take now, or it
        // will say so again.
        let old = inner.subscribers.iter().filter(|(_, other)| *other == node);
        let old: Vec<u64> = old.map(|(stream, _)| *stream).collect();
        old.into_iter().for_each(|stream| inner.forget(stream));
        inner.subscribers.insert(stream, node.into());
    }

    /// A subscriber refused a push.
    pub fn refused(&self, stream: u64, type_url: &str, message: &str) {
        self.refusals.inc();
        let mut inner = self.lock();
        // A stream that another of the same node has replaced counts no more.
        if inner.subscribers.contains_key(&stream) {
            let end = message.floor_char_boundary(MAX_MESSAGE);
            let message = message[..end].to_owned();
            inner.nacks.insert((stream, type_url.into()), message);
        }
    }

    /// Nothing of a type that a subscriber refused stands any more.
    pub fn mended(&self, stream: u64, type_url: &str) {
        self.lock().nacks.remove(&(stream, type_url.to_owned()));
    }

    /// A subscriber left.
    pub fn left(&self, stream: u64) {
        self.lock().forget(stream);
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
        let nacks = inner.nacks.iter().map(|((stream, type_url), message)| {
            let node = inner.subscribers.get(stream);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes that subscribe, and nodes with refusals.
    fn shown(status: &Status) -> (Vec<String>, Vec<String>) {
        let json: serde_json::Value = serde_json::from_str(&status.to_json()).expect("JSON");
        let texts = |value: &serde_json::Value, pointer: &str| {
            let list = value.as_array().expect("a list");
            list.iter()
                .map(|one| {
                    let text = one.pointer(pointer).and_then(serde_json::Value::as_str);
                    text.expect("a text").to_owned()
                })
                .collect()
        };
        (
            texts(&json["subscribers"], ""),
            texts(&json["nacks"], "/node"),
        )
    }

    fn lists(subscribers: &[&str], nacks: &[&str]) -> (Vec<String>, Vec<String>) {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        (owned(subscribers), owned(nacks))
    }

    #[test]
    fn only_what_stands_now_is_shown() {
        let status = Status::new(&Registry::new());
        status.subscribed(1, "a");
        status.subscribed(2, "b");
        status.refused(1, "t", "no");
        status.refused(1, "u", "no");
        status.refused(2, "t", "no");
        assert_eq!(shown(&status), lists(&["a", "b"], &["a", "a", "b"]));
        status.mended(1, "t");
        assert_eq!(shown(&status), lists(&["a", "b"], &["a", "b"]));
        status.left(2);
        assert_eq!(shown(&status), lists(&["a"], &["a"]));
        status.subscribed(3, "a");
        assert_eq!(shown(&status), lists(&["a"], &[]));
        // The end of the old stream, and a word that it still had, are nothing to the new one.
        status.refused(1, "t", "no");
        status.left(1);
        assert_eq!(shown(&status), lists(&["a"], &[]));
    }

    #[test]
    fn a_long_refusal_is_cut() {
        let status = Status::new(&Registry::new());
        status.subscribed(1, "a");
        status.refused(1, "t", &"é".repeat(100_000));
        assert!(status.to_json().len() < 20_000);
    }
}
