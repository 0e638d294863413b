//! A Gateway as far as its waypoint is made from it: names, marks, listeners, what is wrong with it. Pure.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

/// Label that ties generated objects to their Gateway.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label of the Gateway's class on generated objects; what we watch is selected by it.
pub(super) const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
const ACCOUNT_OVERRIDE: &str = "gateway.istio.io/service-account";
/// Marks of the Gateway itself, which mean nothing (or something wrong) on what is generated.
const NOT_COPIED: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    NAME_OVERRIDE,
    ACCOUNT_OVERRIDE,
    "gateway.istio.io/controller-version",
];
/// Reserved for controllers.
const RESERVED: &str = "gateway.networking.k8s.io/";
/// Where our waypoint listens.
pub(super) const HBONE_PORT: u16 = 15008;

type Marks = BTreeMap<String, String>;

/// What we read of a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gateway {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub version: String,
    pub deleting: bool,
    pub labels: Marks,
    pub annotations: Marks,
    pub spec: Spec,
    pub status: Value,
}

/// Its `spec`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub gateway_class_name: String,
    pub listeners: Vec<Listener>,
    pub addresses: Vec<Address>,
    pub infrastructure: Option<Infrastructure>,
}

/// One listener.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Listener {
    pub name: String,
    pub port: u16,
    pub protocol: String,
    pub allowed_routes: Option<AllowedRoutes>,
}

/// Its `allowedRoutes`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct AllowedRoutes {
    pub kinds: Vec<Value>,
}

/// An address that is asked for, or where it is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Address {
    pub r#type: Option<String>,
    pub value: String,
}

/// `spec.infrastructure`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Infrastructure {
    pub labels: Option<Marks>,
    pub annotations: Option<Marks>,
    pub parameters_ref: Option<Parameters>,
}

/// `spec.infrastructure.parametersRef`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Parameters {
    pub group: String,
    pub kind: String,
    pub name: String,
}

impl Gateway {
    /// Reads an object of the API server, whose schema has been checked there. What cannot be read counts as absent.
    pub fn read(object: DynamicObject) -> Gateway {
        let meta = object.metadata;
        let spec = object.data.get("spec").map(Spec::deserialize);
        Gateway {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            version: meta.resource_version.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
            spec: spec.and_then(Result::ok).unwrap_or_default(),
            status: object.data.get("status").cloned().unwrap_or_default(),
        }
    }

    /// Name of its Deployment and Service.
    pub fn deployment(&self) -> &str {
        self.annotations
            .get(NAME_OVERRIDE)
            .map_or(&self.name, String::as_str)
    }

    /// Name of its service account.
    pub fn account(&self) -> &str {
        self.annotations
            .get(ACCOUNT_OVERRIDE)
            .map_or(&self.name, String::as_str)
    }

    /// Labels for what is generated: those of `infrastructure` if it has any, else the Gateway's own.
    pub fn copied_labels(&self) -> Marks {
        let given = self
            .spec
            .infrastructure
            .as_ref()
            .and_then(|given| given.labels.as_ref());
        copied(given.unwrap_or(&self.labels))
    }

    /// The same for annotations.
    pub fn copied_annotations(&self) -> Marks {
        let given = self
            .spec
            .infrastructure
            .as_ref()
            .and_then(|given| given.annotations.as_ref());
        copied(given.unwrap_or(&self.annotations))
    }

    /// The ConfigMap of its own overlay.
    ///
    /// # Errors
    /// What is wrong with the reference.
    pub fn parameters(&self) -> Result<Option<&str>, String> {
        let Some(given) = self
            .spec
            .infrastructure
            .as_ref()
            .and_then(|given| given.parameters_ref.as_ref())
        else {
            return Ok(None);
        };
        if matches!(given.group.as_str(), "" | "core") && given.kind == "ConfigMap" {
            return Ok(Some(&given.name));
        }
        Err(format!(
            "spec.infrastructure.parametersRef: `{}` of group `{}` must be a ConfigMap of the core group",
            given.kind, given.group
        ))
    }

    /// Whether somebody else provides the pods: whoever names an address says where they are.
    pub fn is_placed_by_hand(&self) -> bool {
        !self.spec.addresses.is_empty()
    }
}

impl Listener {
    /// Why a waypoint cannot serve it: reason and message.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if self.protocol != "HBONE" {
            return Some((
                "UnsupportedProtocol",
                format!("a waypoint serves HBONE only, not {}", self.protocol),
            ));
        }
        (self.port != HBONE_PORT).then(|| {
            (
                "PortUnavailable",
                format!("HBONE is served on port {HBONE_PORT}, not {}", self.port),
            )
        })
    }
}

fn copied(marks: &Marks) -> Marks {
    let copied = marks
        .iter()
        .filter(|(key, _)| !key.starts_with(RESERVED) && !NOT_COPIED.contains(&key.as_str()));
    copied
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
