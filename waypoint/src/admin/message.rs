//! Envoy's messages as JSON, by descriptors: what was sent is shown as it was sent, also where the compiled form keeps
//! less. The descriptors are loaded for one dump and dropped with it: they weigh more than most configurations.

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};

/// All messages of `envoy-types`, and those that istiod sends beside them, without comments and options.
/// `waypoint/tests/descriptors.rs` makes this file and compares it.
const DESCRIPTORS: &[u8] = include_bytes!("../../descriptors/envoy.bin");

/// What a dump writes messages with.
pub struct Messages {
    pool: Option<DescriptorPool>,
    options: SerializeOptions,
}

impl Messages {
    /// With the field names of the .proto files, as Envoy's own dumps have them.
    pub fn new() -> Self {
        Self::with(SerializeOptions::new().use_proto_field_name(true))
    }

    fn with(options: SerializeOptions) -> Self {
        let pool = DescriptorPool::decode(DESCRIPTORS);
        if let Err(error) = &pool {
            tracing::error!(%error, "the descriptors of this build cannot be read");
        }
        Self {
            pool: pool.ok(),
            options,
        }
    }

    /// An `Any` of this type. What cannot be written out stands there as bytes.
    pub fn any(&self, type_url: &str, body: &[u8]) -> Value {
        let mut written = self.written(type_url, body).unwrap_or_else(|| {
            use base64::Engine as _;
            json!({ "value": base64::engine::general_purpose::STANDARD.encode(body) })
        });
        if let Value::Object(fields) = &mut written {
            fields.insert("@type".to_owned(), type_url.into());
        }
        written
    }

    fn written(&self, type_url: &str, body: &[u8]) -> Option<Value> {
        let name = type_url.rsplit('/').next()?;
        let message = self.pool.as_ref()?.get_message_by_name(name)?;
        let message = DynamicMessage::decode(message, body).ok()?;
        let written = message.serialize_with_options(serde_json::value::Serializer, &self.options);
        written.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    use prost::Message;

    /// Numbers as one kind: some writers say 5 where others say 5.0.
    fn even(value: &mut Value) {
        match value {
            Value::Number(number) => *value = json!(number.as_f64()),
            Value::Array(all) => all.iter_mut().for_each(even),
            Value::Object(fields) => fields.values_mut().for_each(even),
            _ => {}
        }
    }

    #[test]
    fn what_istiod_sends_is_written_as_gos_protobuf_writes_it() {
        let messages = Messages::with(SerializeOptions::new());
        let mut seen = 0;
        for set in ["istio-master-20260827", "istio-master-20260827-rich"] {
            for file in ["00-Cluster", "01-Listener", "05-ClusterLoadAssignment"] {
                let path = format!("{}/testdata/{set}/{file}", env!("CARGO_MANIFEST_DIR"));
                let bytes = std::fs::read(format!("{path}.pb")).unwrap();
                let push = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
                let text = std::fs::read_to_string(format!("{path}.json")).unwrap();
                let mut want: Value = serde_json::from_str(&text).unwrap();
                even(&mut want);
                for (at, one) in push.resources.iter().enumerate() {
                    let any = one.resource.as_ref().unwrap();
                    let mut got = messages.any(&any.type_url, &any.value);
                    even(&mut got);
                    assert_eq!(got, want["resources"][at]["resource"], "{}", one.name);
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 42);
    }

    #[test]
    fn what_is_not_known_is_shown_as_bytes() {
        let got = Messages::new().any("type.googleapis.com/no.such.Message", &[1, 2]);
        let want = json!({ "@type": "type.googleapis.com/no.such.Message", "value": "AQI=" });
        assert_eq!(got, want);
    }
}
