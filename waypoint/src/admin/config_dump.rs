//! `/config_dump`: `envoy.admin.v3.ConfigDump` with everything as it was sent, with what was refused since, and with the
//! certificates in use. `?include_eds=true` adds the endpoints, `?mask=a,b` leaves out what it does not name, as Envoy does.

use super::Pages;
use super::message::Messages;
use crate::config::held::{Accepted, Held, Resource};
use crate::format::iso_time;
use crate::state::types;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::Certificate;
use runtime::admin::{Request, query};
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The dump that was asked for.
pub fn write(pages: &Pages, request: &Request) -> Value {
    let mask = query(request, "mask").map(|mask| mask.replace("%2C", ","));
    let wanted: Option<Vec<&str>> = mask.as_deref().map(|mask| mask.split(',').collect());
    let all = Dump {
        messages: Messages::new(),
        held: pages.config.held(),
    };
    let mut sections = vec![
        section("Bootstrap", all.bootstrap(pages)),
        section("Clusters", all.clusters()),
        section("Listeners", all.listeners()),
        section("Routes", all.routes()),
        section("Secrets", secrets((pages.certificates)().as_deref())),
    ];
    if query(request, "include_eds").is_some() {
        sections.push(section("Endpoints", all.endpoints()));
    }
    if let Some(wanted) = wanted {
        sections
            .iter_mut()
            .for_each(|section| masked(section, &wanted));
        sections.retain(|section| section.len() > 1);
    }
    json!({ "configs": sections })
}

type Section = Map<String, Value>;

fn section(kind: &str, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Section {
    let kind = (
        "@type".to_owned(),
        format!("{ADMIN}.{kind}ConfigDump").into(),
    );
    let fields = fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    std::iter::once(kind).chain(fields).collect()
}

fn masked(section: &mut Section, wanted: &[&str]) {
    section.retain(|key, _| key == "@type" || wanted.contains(&key.as_str()));
}

/// What the sections are written from.
struct Dump {
    messages: Messages,
    held: Held,
}

impl Dump {
    fn bootstrap(&self, pages: &Pages) -> [(&'static str, Value); 2] {
        [
            ("bootstrap", json!({ "node": &*pages.node })),
            ("last_updated", time(pages.started).into()),
        ]
    }

    fn clusters(&self) -> [(&'static str, Value); 2] {
        let (mut active, mut refused) = (Vec::new(), Vec::new());
        for (name, resource) in self.held.of(types::CLUSTER) {
            if let Some(accepted) = &resource.accepted {
                active.push(self.state(types::CLUSTER, "cluster", accepted));
            }
            refused.extend(error(types::CLUSTER, name, resource));
        }
        let refused = refused
            .into_iter()
            .map(|error| json!({ "version_info": error["version_info"], "error_state": error }));
        [
            ("dynamic_active_clusters", active.into()),
            ("dynamic_warming_clusters", refused.collect()),
        ]
    }

    fn listeners(&self) -> [(&'static str, Value); 1] {
        let listeners = self.held.of(types::LISTENER).map(|(name, resource)| {
            let mut one = Map::from_iter([("name".to_owned(), name.into())]);
            if let Some(accepted) = &resource.accepted {
                let state = self.state(types::LISTENER, "listener", accepted);
                one.insert("active_state".to_owned(), state);
            }
            if let Some(error) = error(types::LISTENER, name, resource) {
                one.insert("error_state".to_owned(), error);
            }
            Value::Object(one)
        });
        [("dynamic_listeners", listeners.collect())]
    }

    /// Routes that came alone, and those that stand in a listener.
    fn routes(&self) -> [(&'static str, Value); 2] {
        let accepted = |(_, resource): (_, &Resource)| resource.accepted.clone();
        let alone = self.held.of(types::ROUTE).filter_map(accepted);
        let alone = alone.map(|one| self.state(types::ROUTE, "route_config", &one));
        let mut inline = Vec::new();
        for accepted in self.held.of(types::LISTENER).filter_map(accepted) {
            let listener = self.messages.any(types::LISTENER, &accepted.body);
            let chains = listener["filter_chains"].as_array().into_iter().flatten();
            let filters =
                chains.flat_map(|chain| chain["filters"].as_array().into_iter().flatten());
            for filter in filters {
                let Value::Object(mut routes) = filter["typed_config"]["route_config"].clone()
                else {
                    continue;
                };
                routes.insert("@type".to_owned(), types::ROUTE.into());
                let at = time(accepted.at);
                inline.push(json!({ "route_config": routes, "last_updated": at }));
            }
        }
        [
            ("static_route_configs", inline.into()),
            ("dynamic_route_configs", alone.collect()),
        ]
    }

    fn endpoints(&self) -> [(&'static str, Value); 1] {
        let all = self.held.of(types::ENDPOINT);
        let accepted = all.filter_map(|(_, resource)| resource.accepted.as_ref());
        let all = accepted.map(|one| self.state(types::ENDPOINT, "endpoint_config", one));
        [("dynamic_endpoint_configs", all.collect())]
    }

    /// What is in force of a resource.
    fn state(&self, type_url: &str, key: &str, accepted: &Accepted) -> Value {
        json!({
            "version_info": accepted.version,
            key: self.messages.any(type_url, &accepted.body),
            "last_updated": time(accepted.at),
        })
    }
}

/// What was refused of a resource. The name is told by a configuration that has nothing else.
fn error(type_url: &str, name: &str, resource: &Resource) -> Option<Value> {
    let refused = resource.refused.as_ref()?;
    Some(json!({
        "failed_configuration": { "@type": type_url, "name": name },
        "last_update_attempt": time(refused.at),
        "details": refused.reason,
        "version_info": refused.version,
    }))
}

/// Our chain and the roots by which we judge peers; the key is not for anybody.
fn secrets(certificate: Option<&Certificate>) -> [(&'static str, Value); 1] {
    let secrets = certificate.map(|certificate| {
        let own = json!({ "tls_certificate": { "certificate_chain": bytes(certificate.chain()) } });
        let roots = json!({ "validation_context": { "trusted_ca": bytes(certificate.roots()) } });
        [("default", own), ("ROOTCA", roots)].map(|(name, mut secret)| {
            secret["@type"] = SECRET.into();
            secret["name"] = name.into();
            json!({
                "name": name,
                "version_info": certificate.generation().to_string(),
                "last_updated": time(certificate.not_before()),
                "secret": secret,
            })
        })
    });
    let secrets = secrets.into_iter().flatten();
    [("dynamic_active_secrets", secrets.collect())]
}

/// Certificates in PEM, as `DataSource.inline_bytes`.
fn bytes(certificates: &[impl AsRef<[u8]>]) -> Value {
    let mut pem = String::new();
    for one in certificates {
        let text = STANDARD.encode(one);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    json!({ "inline_bytes": STANDARD.encode(pem) })
}

fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    iso_time(u64::try_from(since.as_millis()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_leaves_what_it_names() {
        let mut one = section(
            "Clusters",
            [("dynamic_active_clusters", json!([])), ("x", json!(1))],
        );
        masked(&mut one, &["dynamic_active_clusters"]);
        let keys: Vec<_> = one.keys().collect();
        assert_eq!(keys, ["@type", "dynamic_active_clusters"]);
    }

    #[test]
    fn certificates_are_pem_that_others_can_read() {
        let ca = testkit::ca::TestCa::new("cluster.local");
        let own = ca.issue(
            &ca.identity("app", "wp"),
            std::time::Duration::from_secs(60),
        );
        let [(_, secrets)] = secrets(Some(&own));
        let text = |at: usize, path: &str| {
            let field = secrets[at]["secret"].pointer(path).unwrap();
            let bytes = STANDARD
                .decode(field["inline_bytes"].as_str().unwrap())
                .unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let chain = text(0, "/tls_certificate/certificate_chain");
        let read = identity::certificate::parse_pem(&chain).unwrap();
        assert_eq!(read, own.chain());
        let roots = text(1, "/validation_context/trusted_ca");
        assert_eq!(
            identity::certificate::parse_pem(&roots).unwrap(),
            own.roots()
        );
        assert!(!secrets.to_string().contains("private_key"));
    }
}
