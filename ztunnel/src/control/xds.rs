//! Takes what the control plane pushes: bytes are decoded and converted here, one resource at a time and outside any
//! lock, applied to the state that only this task holds, and published. A refused resource is named in the NACK; the
//! last good one stays. Called by `app`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ::xds::client::{Client, ClientConfig, Handle, Observer, Termination};
use ::xds::machine::Subscription;
use ::xds::wds::Decoder;
use ::xds::{Handler, Rejected, ResourceUpdate};
use anyhow::Context as _;
use mesh::state::State;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use proto::discovery::Node;
use proto::type_url::{ADDRESS, AUTHORIZATION};
use runtime::metrics::Registry;

use super::publish::Published;
use crate::config::Own;

/// The types that make a ztunnel ready.
pub const TYPES: [&str; 2] = [ADDRESS, AUTHORIZATION];

/// Applies pushes and publishes the result.
struct Applier {
    decoder: Decoder,
    state: State,
    published: Published,
}

/// A client that is to be run, and the handle on it.
pub fn client(
    own: &Own,
    registry: &Registry,
    state: State,
    published: Published,
) -> (Client, Handle) {
    let config = ClientConfig {
        node: node(own),
        subscriptions: TYPES
            .iter()
            .map(|type_url| Subscription::all(type_url))
            .collect(),
        observer: Arc::new(Counts::new(registry)),
    };
    Client::new(
        config,
        Box::new(Applier {
            decoder: Decoder::new(),
            state,
            published,
        }),
    )
}

/// A state from `LOCAL_XDS_PATH`.
///
/// # Errors
/// When the file cannot be read, or one of its entries cannot be used.
pub fn local(path: &Path) -> anyhow::Result<State> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("LOCAL_XDS_PATH {}", path.display()))?;
    let updates =
        super::local::read(&text).with_context(|| format!("LOCAL_XDS_PATH {}", path.display()))?;
    let mut state = State::new();
    state.apply(updates);
    Ok(state)
}

impl Handler for Applier {
    fn apply(&mut self, type_url: &str, updates: Vec<ResourceUpdate>) -> Vec<Rejected> {
        let begin = Instant::now();
        let (mut changes, mut rejected) = (Vec::with_capacity(updates.len()), Vec::new());
        for update in updates {
            match update {
                ResourceUpdate::Upsert { name, body, .. } => {
                    match self.decoder.decode(type_url, &name, &body) {
                        Ok(update) => changes.push(update),
                        Err(refused) => {
                            changes.extend(refused.instead);
                            rejected.push(Rejected {
                                name,
                                reason: refused.reason.to_string(),
                            });
                        }
                    }
                }
                ResourceUpdate::Remove { name } => {
                    changes.extend(self.decoder.remove(type_url, &name))
                }
            }
        }
        let (count, refused) = (changes.len(), rejected.len());
        if !self.state.apply(changes).is_empty() {
            self.published.publish(self.state.snapshot());
        }
        let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(type_url, count, refused, millis, "applied a push");
        rejected
    }
}

/// Upstream's node: istiod reads the name, the namespace and the node from it.
fn node(own: &Own) -> Node {
    let id = format!(
        "ztunnel~{}~{}~{}.svc.cluster.local",
        own.instance_ip,
        own.pod(),
        own.pod_namespace
    );
    let fixed = [
        ("NAME", &own.pod_name),
        ("NAMESPACE", &own.pod_namespace),
        ("INSTANCE_IPS", &own.instance_ip),
        ("NODE_NAME", &own.node),
    ];
    let fixed = fixed
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_string().into()));
    let metadata = fixed.chain(own.metadata.iter().cloned());
    let fields = metadata.map(|(key, value): (String, serde_json::Value)| (key, to_proto(value)));
    Node {
        id,
        metadata: Some(prost_types::Struct {
            fields: fields.collect(),
        }),
        ..Node::default()
    }
}

fn to_proto(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(to_proto).collect(),
        }),
        Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(key, value)| (key, to_proto(value)))
                .collect();
            Kind::StructValue(prost_types::Struct { fields })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

/// Upstream's metrics of the stream.
struct Counts {
    terminations: Family<Reason, Counter>,
    messages: Family<Url, Counter>,
    bytes: Family<Url, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Url {
    url: String,
}

impl Counts {
    fn new(registry: &Registry) -> Self {
        Self {
            terminations: registry.register(
                "istio_xds_connection_terminations",
                "The total number of completed connections to xds server (unstable)",
                Family::default(),
            ),
            messages: registry.register(
                "istio_xds_message",
                "Total number of messages received (unstable)",
                Family::default(),
            ),
            bytes: registry.register(
                "istio_xds_message_bytes",
                "Total number of bytes received (unstable)",
                Family::default(),
            ),
        }
    }
}

impl Observer for Counts {
    fn terminated(&self, reason: Termination) {
        self.terminations
            .get_or_create(&Reason {
                reason: reason.as_str(),
            })
            .inc();
    }

    fn received(&self, type_url: &str, bytes: usize) {
        let url = Url {
            url: type_url.to_owned(),
        };
        self.messages.get_or_create(&url).inc();
        self.bytes.get_or_create(&url).inc_by(bytes as u64);
    }
}

#[cfg(test)]
mod tests;
