//! Text to objects: documents are split, decoded and checked one by one, so that one bad object spoils no other.
//! Pure; called by the sources and by tests.

use std::num::NonZeroI64;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    core::{EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount},
    fault::Fault,
    gateway::{Gateway, GatewayClass},
    grant::ReferenceGrant,
    grpc::GrpcRoute,
    meta::Selector,
    object::{Key, Kind, Object},
    policy::{AuthorizationPolicy, Mtls, MtlsMode, PeerAuthentication, TargetRef},
    route::HttpRoute,
    validate::{self, Check},
};

/// Nesting beyond this is refused; no real manifest comes near, and recursion stays bounded.
const MAX_DEPTH: usize = 64;
/// Nodes of one document; bounds the work of hostile anchors and huge lists.
const MAX_NODES: usize = 2_000_000;
/// Groups whose unknown kinds deserve a warning, because their author expects an effect on the mesh.
const MESH_GROUPS: [&str; 5] = [
    "gateway.networking.k8s.io",
    "security.istio.io",
    "networking.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
];

/// Kinds that exist beside ours in the groups that we read. Any other kind there is a slip of its author.
const OTHER_KINDS: [(&str, &[&str]); 4] = [
    (
        "",
        &[
            "Binding",
            "ComponentStatus",
            // What kubectl reads its clusters from.
            "Config",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
        ],
    ),
    ("discovery.k8s.io", &[]),
    (
        "gateway.networking.k8s.io",
        &[
            "BackendLBPolicy",
            "BackendTLSPolicy",
            "BackendTrafficPolicy",
            "ListenerSet",
            "ReferencePolicy",
            "TCPRoute",
            "TLSRoute",
            "UDPRoute",
        ],
    ),
    ("security.istio.io", &["RequestAuthentication"]),
];
/// Kinds of other groups that are called like ours.
const NAMESAKES: [(&str, &str); 13] = [
    ("networking.istio.io", "Gateway"),
    ("serving.knative.dev", "Service"),
    ("config.openshift.io", "Node"),
    ("policy.linkerd.io", "AuthorizationPolicy"),
    ("policy.linkerd.io", "HTTPRoute"),
    ("gateway.solo.io", "Gateway"),
    ("submariner.io", "Gateway"),
    ("networking.x-k8s.io", "Gateway"),
    ("networking.x-k8s.io", "HTTPRoute"),
    ("longhorn.io", "Node"),
    ("management.cattle.io", "Node"),
    ("projectcalico.org", "Node"),
    ("crd.projectcalico.org", "Node"),
];

/// The result of reading one text.
#[derive(Debug, Default)]
pub struct Parsed {
    /// One entry for each object of a kind that we read.
    pub results: Vec<Result<Object, Fault>>,
    /// Remarks on objects that are used, and on kinds that have no effect here.
    pub warnings: Vec<Fault>,
}

/// Reads YAML (several documents, `kind: List` too) or JSON.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    if let Some(values) = json(text) {
        values
            .into_iter()
            .for_each(|value| envelope(value, &mut parsed, 0));
        return parsed;
    }
    for (line, document) in documents(text) {
        match yaml(document, line) {
            Ok(Some(value)) => envelope(value, &mut parsed, 0),
            Ok(None) => {}
            Err(fault) => parsed.results.push(Err(fault)),
        }
    }
    parsed
}

/// Reads one object of a kind that is known without its envelope, as an API server lists it.
#[must_use]
pub fn read(kind: Kind, value: Value) -> Parsed {
    let mut parsed = Parsed::default();
    object(kind, value, &mut parsed);
    parsed
}

/// Splits at lines that begin a document, as kubectl does; yields the number of lines before each.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let body = line.trim_end();
        if body == "---" || line.starts_with("--- ") {
            parts.push((start_line, &text[start..at]));
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

fn yaml(document: &str, lines_before: usize) -> Result<Option<Value>, Fault> {
    let content = |line: &str| {
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
    };
    if !document.lines().any(content) {
        return Ok(None);
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_NODES, max_documents: 2, },
        with_snippet: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
    };
    match serde_saphyr::from_str_with_options::<Value>(document, options) {
        Ok(Value::Null) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let line = error
                .location()
                .map(|at| usize::try_from(at.line()).unwrap_or(0) + lines_before);
            let text = error.without_snippet().to_string();
            let why = text.lines().next().unwrap_or("not valid YAML").to_owned();
            Err(Fault::error(match line {
                Some(line) => format!("not valid YAML near line {line}: {why}"),
                None => format!("not valid YAML: {why}"),
            }))
        }
    }
}

/// The values of a text that is JSON as a whole. (YAML may begin with a brace too.)
fn json(text: &str) -> Option<Vec<Value>> {
    matches!(text.trim_start().bytes().next(), Some(b'{' | b'[')).then_some(())?;
    serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .collect::<Result<_, _>>()
        .ok()
}

/// Finds the kind of a value and decodes it; lists are taken apart.
fn envelope(mut value: Value, parsed: &mut Parsed, depth: usize) {
    if let Value::Array(items) = value {
        if depth < 2 {
            items
                .into_iter()
                .for_each(|item| envelope(item, parsed, depth + 1));
        }
        return;
    }
    let Some(kind) = value.get("kind").and_then(Value::as_str).map(str::to_owned) else {
        parsed
            .results
            .push(Err(Fault::error("an object without `kind`")));
        return;
    };
    let Some(version) = value
        .get("apiVersion")
        .and_then(Value::as_str)
        .map(str::to_owned)
    else {
        parsed
            .results
            .push(Err(Fault::error(format!("a {kind} without `apiVersion`"))));
        return;
    };
    if version == "v1" && kind == "List"
        || kind.ends_with("List") && value.get("items").is_some_and(Value::is_array)
    {
        if let (true, Some(Value::Array(items))) =
            (depth < 2, value.get_mut("items").map(Value::take))
        {
            items
                .into_iter()
                .for_each(|item| envelope(item, parsed, depth + 1));
        }
        return;
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match Kind::find(group, &kind) {
        Some(kind) => object(kind, value, parsed),
        None => foreign(group, &kind, value, parsed),
    }
}

/// An object of a kind that we do not read. A slip in its kind or group counts as an object that cannot be read:
/// passed over, it would take away what its author still wants, a DENY perhaps.
fn foreign(group: &str, kind: &str, mut value: Value, parsed: &mut Parsed) {
    let text = |path| value.pointer(path).and_then(Value::as_str);
    let name = text("/metadata/name").unwrap_or("?");
    let namespace = text("/metadata/namespace").map_or_else(String::new, |n| format!("{n}/"));
    let subject = format!("{kind} {namespace}{name}");
    if is_slip(group, kind) {
        let group = match group {
            "" => "the core API group".into(),
            group => format!("API group `{group}`"),
        };
        let why = format!("there is no such kind in {group}");
        // Where only the group is another one, the object that it may have been is known, and no other is in doubt.
        let meant = Kind::called(kind).and_then(|kind| key_of(kind, &mut value).ok());
        parsed.results.push(Err(match meant {
            Some(key) => Fault::refused(key, "", why),
            None => Fault::error(format!("{subject}: {why}")),
        }));
    } else if MESH_GROUPS.contains(&group) {
        let why = format!("{subject}: this kind is not supported and has no effect");
        parsed.warnings.push(Fault::warning(None, "", why));
    }
}

fn is_slip(group: &str, kind: &str) -> bool {
    match OTHER_KINDS.iter().find(|(ours, _)| *ours == group) {
        Some((_, others)) => !others.contains(&kind),
        None => Kind::called(kind).is_some() && !NAMESAKES.contains(&(group, kind)),
    }
}

fn object(kind: Kind, mut value: Value, parsed: &mut Parsed) {
    strip_nulls(&mut value);
    let key = match key_of(kind, &mut value) {
        Ok(key) => key,
        Err(fault) => return parsed.results.push(Err(fault)),
    };
    let mut unknown = Vec::new();
    let decoded = match kind {
        Kind::Namespace => decode::<Namespace>(&value, &mut unknown),
        Kind::Node => decode::<Node>(&value, &mut unknown),
        Kind::Pod => decode::<Pod>(&value, &mut unknown),
        Kind::Service => decode::<Service>(&value, &mut unknown),
        Kind::ServiceAccount => decode::<ServiceAccount>(&value, &mut unknown),
        Kind::EndpointSlice => decode::<EndpointSlice>(&value, &mut unknown),
        Kind::Gateway => decode::<Gateway>(&value, &mut unknown),
        Kind::GatewayClass => decode::<GatewayClass>(&value, &mut unknown),
        Kind::HttpRoute => decode::<HttpRoute>(&value, &mut unknown),
        Kind::GrpcRoute => decode::<GrpcRoute>(&value, &mut unknown),
        Kind::ReferenceGrant => decode::<ReferenceGrant>(&value, &mut unknown),
        Kind::AuthorizationPolicy => decode::<AuthorizationPolicy>(&value, &mut unknown),
        Kind::PeerAuthentication => decode::<PeerAuthentication>(&value, &mut unknown),
    };
    let guards = matches!(
        kind,
        Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::ReferenceGrant
    );
    let result = decoded.and_then(|object| match unknown.first() {
        // A guard with a part that we do not understand would guard less than its author wrote.
        Some(field) if guards => {
            let what = if kind == Kind::ReferenceGrant {
                "grant"
            } else {
                "policy"
            };
            let why = format!("unknown field; a {what} is taken whole or not at all");
            Err((field.clone(), why))
        }
        _ => Ok(object),
    });
    match result {
        Ok(object) => {
            if matches!(kind, Kind::Gateway | Kind::HttpRoute | Kind::GrpcRoute) {
                parsed.warnings.extend(unknown.into_iter().map(|field| {
                    Fault::warning(
                        Some(key.clone()),
                        field,
                        "this field is not supported and has no effect",
                    )
                }));
            }
            parsed.results.push(Ok(object));
        }
        Err((field, why)) => {
            let stand_in = stand_in(kind, &value, &why);
            let generation = value.pointer("/metadata/generation");
            parsed.results.push(Err(Fault {
                generation: generation.and_then(Value::as_i64).and_then(NonZeroI64::new),
                stand_in,
                ..Fault::refused(key, field, why)
            }));
        }
    }
}

/// Reads the key, and writes the default namespace into the value.
fn key_of(kind: Kind, value: &mut Value) -> Result<Key, Fault> {
    let fault = |name: &str, field: &str, why: &str| {
        let subject = if name.is_empty() {
            format!("a {kind}")
        } else {
            format!("{kind} {name}")
        };
        Fault {
            field: Some(field.into()),
            ..Fault::error(format!("{subject}: {why}"))
        }
    };
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(fault("", "metadata", "is missing"));
    };
    let name = meta
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if !validate::is_subdomain(&name) {
        return Err(fault(
            &name,
            "metadata.name",
            "must be lower case letters, digits, `-` and `.`",
        ));
    }
    if !kind.is_namespaced() {
        meta.remove("namespace");
        return Ok(Key::new(kind, "", &name));
    }
    let namespace = meta.entry("namespace").or_insert_with(|| "default".into());
    match namespace.as_str() {
        Some(namespace) if validate::is_label(namespace) => Ok(Key::new(kind, namespace, &name)),
        _ => Err(fault(
            &name,
            "metadata.namespace",
            "must be lower case letters, digits and `-`",
        )),
    }
}

/// Decodes and checks; the error is (field path, why). Paths of fields that nobody read go to `unknown`, but for those
/// under `metadata` and `status`.
fn decode<T>(value: &Value, unknown: &mut Vec<String>) -> Result<Object, (String, String)>
where
    T: DeserializeOwned + Check + Into<Object>,
{
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let decoded: Result<T, _> = serde_ignored::deserialize(tracked, |path| {
        let path = field_path(&path.to_string());
        let beside = !path.contains('.') && !matches!(&*path, "apiVersion" | "kind" | "status");
        if beside || path.starts_with("spec.") {
            unknown.push(path);
        }
    });
    let object = decoded.map_err(|error| {
        let path = track.path().to_string();
        (
            if path == "." { String::new() } else { path },
            error.to_string(),
        )
    })?;
    object
        .check()
        .map_err(|invalid| (invalid.field, invalid.why))?;
    Ok(object.into())
}

/// `spec.rules.0.from.?.x` as `spec.rules[0].from.x`.
fn field_path(raw: &str) -> String {
    let mut path = String::new();
    for part in raw.split('.') {
        if part == "?" || part.is_empty() {
            continue;
        }
        if part.bytes().all(|b| b.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(part);
        }
    }
    path
}

/// For an object that guards access: a version that denies, on as narrow a scope as can be read, else on all of its
/// namespace.
fn stand_in(kind: Kind, value: &Value, why: &str) -> Option<Object> {
    let metadata = crate::Meta {
        name: value.pointer("/metadata/name")?.as_str()?.to_owned(),
        namespace: value.pointer("/metadata/namespace")?.as_str()?.to_owned(),
        ..crate::Meta::default()
    };
    let selector = value
        .pointer("/spec/selector")
        .and_then(|selector| Selector::deserialize(selector).ok());
    match kind {
        Kind::AuthorizationPolicy => {
            let mut policy = AuthorizationPolicy {
                metadata,
                invalid: Some(why.into()),
                ..Default::default()
            };
            let list = value
                .pointer("/spec/targetRefs")
                .and_then(|refs| Vec::<TargetRef>::deserialize(refs).ok());
            let single = value
                .pointer("/spec/targetRef")
                .and_then(|target| TargetRef::deserialize(target).ok());
            let targets: Vec<_> = list.unwrap_or_default().into_iter().chain(single).collect();
            // One that leads to nothing that we know may have been meant for anything in the namespace.
            let readable = |target: &TargetRef| {
                let kinds = ["Gateway", "GatewayClass", "Service", "ServiceEntry"];
                kinds.contains(&target.kind.as_str()) && !target.name.is_empty()
            };
            if targets.iter().all(readable) {
                policy.spec.target_refs = targets;
            }
            policy.spec.selector = selector.filter(|_| policy.spec.target_refs.is_empty());
            Some(policy.into())
        }
        Kind::PeerAuthentication => {
            let mut policy = PeerAuthentication {
                metadata,
                ..Default::default()
            };
            policy.spec.selector = selector;
            policy.spec.mtls = Some(Mtls {
                mode: MtlsMode::Strict,
            });
            Some(policy.into())
        }
        _ => None,
    }
}

/// Kubernetes reads `key: null` as absent.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
