//! Who we say we are in ADS: node id and metadata as istiod reads them for a waypoint.

use crate::settings::Own;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::discovery::Node;

/// The node of a waypoint.
pub fn node(own: &Own) -> Node {
    let (namespace, account) = (own.identity.namespace(), own.identity.service_account());
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let labels = own
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect();
    let mut fields: std::collections::BTreeMap<String, Value> = own
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect();
    let fixed = [
        ("NAME", own.pod.as_str()),
        ("NAMESPACE", namespace),
        ("SERVICE_ACCOUNT", account),
        ("INTERCEPTION_MODE", "REDIRECT"),
    ];
    for (key, value) in fixed {
        fields.insert(key.to_owned(), text(value));
    }
    fields.insert("INSTANCE_IPS".into(), text(&own.ip.to_string()));
    fields.insert(
        "LABELS".into(),
        Value {
            kind: Some(Kind::StructValue(Struct { fields: labels })),
        },
    );
    Node {
        id: format!("waypoint~{}~{}.{namespace}~{}", own.ip, own.pod, own.domain),
        cluster: format!("{account}.{namespace}"),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_has_four_parts_and_the_labels_are_a_map() {
        let own = Own {
            identity: "spiffe://cluster.local/ns/app/sa/wp".parse().unwrap(),
            pod: "wp-1".into(),
            ip: [10, 0, 0, 3].into(),
            domain: "app.svc.cluster.local".into(),
            metadata: vec![("CLUSTER_ID".into(), "c1".into())],
            labels: vec![("gateway.networking.k8s.io/gateway-name".into(), "wp".into())],
        };
        let node = node(&own);
        assert_eq!(node.id, "waypoint~10.0.0.3~wp-1.app~app.svc.cluster.local");
        assert_eq!(node.cluster, "wp.app");
        let fields = node.metadata.unwrap().fields;
        assert_eq!(
            fields["SERVICE_ACCOUNT"].kind,
            Some(Kind::StringValue("wp".into()))
        );
        assert_eq!(
            fields["CLUSTER_ID"].kind,
            Some(Kind::StringValue("c1".into()))
        );
        assert!(matches!(fields["LABELS"].kind, Some(Kind::StructValue(_))));
    }
}
