//! Who we say we are in ADS: node id and metadata as istiod reads them for a waypoint.

use crate::settings::Own;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use proto::discovery::Node;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// The node of a waypoint.
pub fn node(own: &Own) -> Node {
    Node {
        id: id(own),
        cluster: own.service_cluster.clone(),
        metadata: Some(structure(metadata(own))),
        ..Node::default()
    }
}

/// The same for people.
pub fn shown(own: &Own) -> Json {
    serde_json::json!({
        "id": id(own),
        "cluster": own.service_cluster,
        "metadata": metadata(own),
        "user_agent_name": "causeway-waypoint",
        "user_agent_version": env!("CARGO_PKG_VERSION"),
    })
}

fn id(own: &Own) -> String {
    let here = || std::net::IpAddr::from([127, 0, 0, 1]);
    let (ip, namespace) = (
        own.ips.first().copied().unwrap_or_else(here),
        own.identity.namespace(),
    );
    format!("waypoint~{ip}~{}.{namespace}~{}", own.pod, own.domain)
}

fn metadata(own: &Own) -> Map<String, Json> {
    let (namespace, account) = (own.identity.namespace(), own.identity.service_account());
    let mut all = own.metadata.clone();
    let ips: Vec<String> = own.ips.iter().map(ToString::to_string).collect();
    let texts = [
        ("NAME", own.pod.as_str()),
        ("NAMESPACE", namespace),
        ("SERVICE_ACCOUNT", account),
        ("INTERCEPTION_MODE", "REDIRECT"),
        ("INSTANCE_IPS", &ips.join(",")),
    ];
    all.extend(texts.map(|(key, text)| (key.to_owned(), Json::from(text))));
    let maps = [("LABELS", &own.labels), ("ANNOTATIONS", &own.annotations)];
    all.extend(maps.map(|(key, pairs)| (key.to_owned(), object(pairs))));
    all
}

fn object(pairs: &BTreeMap<String, String>) -> Json {
    let pairs = pairs
        .iter()
        .map(|(key, value)| (key.clone(), Json::from(value.as_str())));
    Json::Object(pairs.collect())
}

fn structure(map: Map<String, Json>) -> Struct {
    let fields = map.into_iter().map(|(key, json)| (key, value(json)));
    Struct {
        fields: fields.collect(),
    }
}

fn value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(all) => Kind::ListValue(ListValue {
            values: all.into_iter().map(value).collect(),
        }),
        Json::Object(map) => Kind::StructValue(structure(map)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn own() -> Own {
        let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        let Json::Object(metadata) =
            json!({"CLUSTER_ID": "c1", "PROXY_CONFIG": {"statusPort": 15020}})
        else {
            panic!()
        };
        Own {
            identity: "spiffe://cluster.local/ns/app/sa/wp".parse().unwrap(),
            pod: "wp-1".into(),
            ips: vec![[10, 0, 0, 3].into(), "fd00::3".parse().unwrap()],
            domain: "app.svc.cluster.local".into(),
            service_cluster: "wp.app".into(),
            metadata,
            labels: pair("gateway.networking.k8s.io/gateway-name", "wp"),
            annotations: pair("istio.io/rev", "default"),
        }
    }

    #[test]
    fn the_id_has_four_parts_and_the_labels_are_a_map() {
        let node = node(&own());
        assert_eq!(node.id, "waypoint~10.0.0.3~wp-1.app~app.svc.cluster.local");
        assert_eq!(node.cluster, "wp.app");
        let fields = node.metadata.unwrap().fields;
        let text = |key: &str| match &fields[key].kind {
            Some(Kind::StringValue(text)) => text.clone(),
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(text("SERVICE_ACCOUNT"), "wp");
        assert_eq!(text("CLUSTER_ID"), "c1");
        assert_eq!(text("INSTANCE_IPS"), "10.0.0.3,fd00::3");
        for map in ["LABELS", "ANNOTATIONS", "PROXY_CONFIG"] {
            let Some(Kind::StructValue(inner)) = &fields[map].kind else {
                panic!("{map}");
            };
            assert_eq!(inner.fields.len(), 1, "{map}");
        }
    }

    #[test]
    fn what_the_metadata_says_does_not_change_who_we_are() {
        let mut own = own();
        own.metadata.insert("NAMESPACE".into(), "other".into());
        let fields = node(&own).metadata.unwrap().fields;
        assert_eq!(
            fields["NAMESPACE"].kind,
            Some(Kind::StringValue("app".into()))
        );
    }
}
