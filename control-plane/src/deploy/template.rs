//! The one template: a Gateway to the objects of its waypoint, in the shape that istiod gives them. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Part, Settings,
    gateway::{CLASS_NAME, GATEWAY_NAME, Gateway},
    overlay::{self, BadOverlay, Overlay},
};

/// What istioctl, Kiali and istiod know a waypoint by.
const MANAGED: (&str, &str) = ("gateway.istio.io/managed", "istio.io-mesh-controller");
/// Hash of what was applied, so that what an older render put there and this one does not is taken away.
pub(super) const RENDERED: &str = "ambient.causeway.dev/rendered";
const STATUS_PORT: u16 = 15021;
const USER: u32 = 1337;

/// The objects of a waypoint, with overlays in order: the class's, then its own.
///
/// # Errors
/// An overlay that cannot be applied; nothing is made then.
pub(super) fn render(
    gateway: &Gateway,
    overlays: &[Overlay],
    settings: &Settings,
) -> Result<Vec<(Part, Value)>, BadOverlay> {
    overlays.iter().try_for_each(Overlay::check)?;
    let mut parts = Vec::new();
    for part in Part::ALL {
        let asked = overlays.iter().any(|overlay| overlay.has(part));
        if part.is_optional() && !asked {
            continue;
        }
        let bare = match part {
            Part::ServiceAccount => account(gateway),
            Part::Deployment => deployment(gateway, settings),
            Part::Service => service(gateway),
            Part::Autoscaler => autoscaler(gateway),
            Part::Budget => budget(gateway),
        };
        parts.push((part, overlay::apply(part, bare, overlays)?));
    }
    let scaled = parts.iter().any(|(part, _)| *part == Part::Autoscaler);
    for (part, object) in &mut parts {
        // Who scales says how many; a number of ours would be written over it again and again.
        if scaled && *part == Part::Deployment {
            object["spec"]
                .as_object_mut()
                .map(|spec| spec.remove("replicas"));
        }
        mark(object);
    }
    Ok(parts)
}

fn mark(object: &mut Value) {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(object.to_string().as_bytes());
    object["metadata"]["annotations"][RENDERED] = json!(format!("{:016x}", hasher.finish()));
}

fn object(part: Part, gateway: &Gateway, name: &str) -> Value {
    let (group, version, kind, _) = part.resource();
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": gateway.namespace,
            "labels": labels(gateway),
            "annotations": gateway.copied_annotations(),
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": gateway.name,
                "uid": gateway.uid,
            }],
        },
    })
}

fn labels(gateway: &Gateway) -> BTreeMap<String, String> {
    let mut labels = gateway.copied_labels();
    let ours = [
        (GATEWAY_NAME, gateway.name.as_str()),
        (CLASS_NAME, gateway.spec.gateway_class_name.as_str()),
        MANAGED,
    ];
    labels.extend(ours.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

fn account(gateway: &Gateway) -> Value {
    object(Part::ServiceAccount, gateway, gateway.account())
}

fn service(gateway: &Gateway) -> Value {
    let mut service = object(Part::Service, gateway, gateway.deployment());
    let close = &mut service["metadata"]["annotations"]["networking.istio.io/traffic-distribution"];
    if close.is_null() {
        *close = json!("PreferClose");
    }
    let mut ports = vec![
        json!({ "name": "status-port", "port": STATUS_PORT, "protocol": "TCP", "appProtocol": "tcp" }),
    ];
    for listener in gateway
        .spec
        .listeners
        .iter()
        .filter(|listener| listener.fault().is_none())
    {
        if ports.iter().all(|port| port["port"] != listener.port) {
            ports.push(json!({
                "name": port_name(&listener.name),
                "port": listener.port,
                "protocol": "TCP",
                "appProtocol": "hbone",
            }));
        }
    }
    service["spec"] = json!({
        "type": "ClusterIP",
        "ipFamilyPolicy": "PreferDualStack",
        "selector": { GATEWAY_NAME: gateway.name },
        "ports": ports,
    });
    service
}

/// A listener's name may hold dots and be long; a port's may not.
fn port_name(listener: &str) -> String {
    let name: String = listener.replace('.', "-").chars().take(63).collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "hbone".to_owned()
    } else {
        name.to_owned()
    }
}

fn autoscaler(gateway: &Gateway) -> Value {
    let mut autoscaler = object(Part::Autoscaler, gateway, gateway.deployment());
    autoscaler["spec"] = json!({
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": gateway.deployment() },
        "maxReplicas": 1,
    });
    autoscaler
}

fn budget(gateway: &Gateway) -> Value {
    let mut budget = object(Part::Budget, gateway, gateway.deployment());
    budget["spec"] = json!({ "selector": { "matchLabels": { GATEWAY_NAME: gateway.name } } });
    budget
}

fn deployment(gateway: &Gateway, settings: &Settings) -> Value {
    let mut deployment = object(Part::Deployment, gateway, gateway.deployment());
    let mut pod_labels = BTreeMap::from(
        [
            ("sidecar.istio.io/inject", "false"),
            ("istio.io/dataplane-mode", "none"),
            ("service.istio.io/canonical-name", gateway.deployment()),
            ("service.istio.io/canonical-revision", "latest"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    pod_labels.extend(labels(gateway));
    let mut annotations = gateway.copied_annotations();
    let scraped = [
        ("istio.io/rev", "default"),
        ("prometheus.io/path", "/stats/prometheus"),
        ("prometheus.io/port", "15020"),
        ("prometheus.io/scrape", "true"),
    ];
    annotations.extend(scraped.map(|(key, value)| (key.to_owned(), value.to_owned())));
    deployment["spec"] = json!({
        "selector": { "matchLabels": { GATEWAY_NAME: gateway.name } },
        "template": {
            "metadata": { "labels": pod_labels, "annotations": annotations },
            "spec": pod(gateway, settings),
        },
    });
    deployment
}

fn pod(gateway: &Gateway, settings: &Settings) -> Value {
    let mut pod = json!({
        "serviceAccountName": gateway.account(),
        "containers": [container(gateway, settings)],
        "volumes": [
            { "name": "workload-socket", "emptyDir": {} },
            { "name": "istio-data", "emptyDir": {} },
            { "name": "istio-podinfo", "downwardAPI": { "items": [
                { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                { "path": "annotations", "fieldRef": { "fieldPath": "metadata.annotations" } },
            ] } },
            { "name": "istio-token", "projected": { "sources": [
                { "serviceAccountToken": { "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token" } },
            ] } },
            { "name": "istiod-ca-cert", "configMap": { "name": "istio-ca-root-cert" } },
        ],
    });
    let values = &settings.values;
    let placed = [
        ("affinity", &values.affinity),
        (
            "topologySpreadConstraints",
            &values.topology_spread_constraints,
        ),
        ("nodeSelector", &values.node_selector),
        ("tolerations", &values.tolerations),
    ];
    for (field, value) in placed {
        if let Some(value) = value.as_ref().filter(|value| !is_empty(value)) {
            pod[field] = value.clone();
        }
    }
    if !settings.pull_secrets.is_empty() {
        let secrets = settings
            .pull_secrets
            .iter()
            .map(|name| json!({ "name": name }));
        pod["imagePullSecrets"] = secrets.collect();
    }
    pod
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn container(gateway: &Gateway, settings: &Settings) -> Value {
    let port =
        |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
    });
    if settings.fixed_user {
        security["runAsUser"] = json!(USER);
        security["runAsGroup"] = json!(USER);
    }
    let given = settings
        .values
        .resources
        .clone()
        .filter(|value| !is_empty(value));
    let mut container = json!({
        "name": "istio-proxy",
        "image": image(gateway, settings),
        "args": [
            "proxy", "waypoint",
            "--domain", format!("$(POD_NAMESPACE).svc.{}", settings.domain),
            "--serviceCluster", format!("{}.$(POD_NAMESPACE)", gateway.account()),
            "--proxyLogLevel", "warning",
            "--proxyComponentLogLevel", "misc:error",
            "--log_output_level", "default:info",
        ],
        "env": env(gateway, settings),
        "ports": [port("metrics", 15020), port("status-port", STATUS_PORT), port("http-envoy-prom", 15090)],
        "resources": given.unwrap_or_else(|| json!({
            "requests": { "cpu": "100m", "memory": "128Mi" },
            "limits": { "cpu": "2", "memory": "1Gi" },
        })),
        "startupProbe": probe(30, Some(1), 1),
        "readinessProbe": probe(4, None, 15),
        "securityContext": security,
        "volumeMounts": [
            { "name": "workload-socket", "mountPath": "/var/run/secrets/workload-spiffe-uds" },
            { "name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio" },
            { "name": "istio-data", "mountPath": "/var/lib/istio/data" },
            { "name": "istio-token", "mountPath": "/var/run/secrets/tokens" },
            { "name": "istio-podinfo", "mountPath": "/etc/istio/pod" },
        ],
    });
    if !settings.pull_policy.is_empty() {
        container["imagePullPolicy"] = json!(settings.pull_policy);
    }
    container
}

/// The Gateway may name a whole image.
fn image<'a>(gateway: &'a Gateway, settings: &'a Settings) -> &'a str {
    let own = gateway.annotations.get("sidecar.istio.io/proxyImage");
    let given = gateway
        .spec
        .infrastructure
        .as_ref()
        .and_then(|given| given.annotations.as_ref());
    let given = given.and_then(|annotations| annotations.get("sidecar.istio.io/proxyImage"));
    own.or(given)
        .filter(|image| image.contains('/'))
        .unwrap_or(&settings.image)
}

/// `delay` is left out where it is 0, as the API server does.
fn probe(failures: u32, delay: Option<u32>, period: u32) -> Value {
    let mut probe = json!({
        "httpGet": { "path": "/healthz/ready", "port": STATUS_PORT, "scheme": "HTTP" },
        "failureThreshold": failures,
        "periodSeconds": period,
        "successThreshold": 1,
        "timeoutSeconds": 1,
    });
    if let Some(delay) = delay {
        probe["initialDelaySeconds"] = json!(delay);
    }
    probe
}

fn env(gateway: &Gateway, settings: &Settings) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let (namespace, deployment) = (&gateway.namespace, gateway.deployment());
    let owner =
        format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{deployment}");
    let proxy = json!({ "discoveryAddress": settings.discovery_address }).to_string();
    let mut env = vec![
        field("ISTIO_META_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        value("PILOT_CERT_PROVIDER", "istiod"),
        value("CA_ADDR", &settings.ca_address),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        json!({ "name": "ISTIO_CPU_LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu", "divisor": "1" } } }),
        value("PROXY_CONFIG", &proxy),
        value("ISTIO_META_CLUSTER_ID", &settings.cluster_id),
        value("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        value("ISTIO_META_WORKLOAD_NAME", deployment),
        value("ISTIO_META_OWNER", &owner),
        value("ISTIO_META_MESH_ID", &settings.trust_domain),
        value("TRUST_DOMAIN", &settings.trust_domain),
    ];
    let labels = gateway.copied_labels();
    let network = labels
        .get("topology.istio.io/network")
        .unwrap_or(&settings.network);
    if !network.is_empty() {
        env.push(value("ISTIO_META_NETWORK", network));
    }
    Value::Array(env)
}
