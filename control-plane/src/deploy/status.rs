//! Status of Gateways and GatewayClasses of our controller. Pure.

use serde_json::{Value, json};

use super::gateway::{Gateway, Listener};
use crate::conditions::{Condition, merge::merge};

/// How the deployment of a Gateway stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Standing {
    /// What keeps it from being deployed; the last good deployment stays.
    pub fault: Option<Fault>,
    /// Its Service, as the API server has it.
    pub service: Option<Value>,
    /// Its Deployment, as the API server has it.
    pub deployment: Option<Value>,
    /// Nothing is deployed here: no image is set.
    pub switched_off: bool,
}

/// Why nothing new is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// An overlay or its reference is wrong.
    Parameters(String),
    /// A name that is needed is taken, or the API server refuses an object.
    Refused(String),
    /// The Gateway itself is refused.
    Invalid(String),
}

impl Fault {
    /// For people.
    pub fn text(&self) -> &str {
        match self {
            Fault::Parameters(why) | Fault::Refused(why) | Fault::Invalid(why) => why,
        }
    }
}

/// What a Gateway's `status` should be, if it differs from what it is.
pub(super) fn of_gateway(
    gateway: &Gateway,
    standing: &Standing,
    domain: &str,
    now: &str,
) -> Option<Value> {
    let listeners = &gateway.spec.listeners;
    let good = listeners
        .iter()
        .filter(|listener| listener.fault().is_none())
        .count();
    let accepted = accepted(gateway, standing, good);
    let host = service_name(gateway, standing, domain);
    let addresses = addresses(gateway, standing, &host);
    let programmed = programmed(gateway, standing, &accepted, &addresses, &host);
    let mut conditions = vec![accepted, programmed];
    let parameters = matches!(standing.fault, Some(Fault::Parameters(_)));
    conditions.push(if parameters {
        Condition::no(
            "ResolvedRefs",
            "InvalidParameters",
            conditions[0].message.clone(),
        )
    } else {
        Condition::yes("ResolvedRefs", "ResolvedRefs", "All references resolved")
    });
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let old = list(&gateway.status["conditions"]);
    let ours = ["Accepted", "Programmed", "ResolvedRefs"];
    let others: Vec<Value> = old
        .iter()
        .filter(|one| !ours.contains(&one["type"].as_str().unwrap_or_default()))
        .cloned()
        .collect();
    // The CRD's defaults, which say that nobody has looked yet, are of these types too.
    let generation = Some(json!(gateway.generation));
    let ready = conditions[1].holds;
    let mut status = gateway.status.clone();
    if !status.is_object() {
        status = json!({});
    }
    status["conditions"] = merge(&old, &others, &conditions, generation.clone(), now).into();
    status["listeners"] = listeners
        .iter()
        .map(|listener| {
            of_listener(
                listener,
                &list(&gateway.status["listeners"]),
                ready,
                generation.clone(),
                now,
            )
        })
        .collect();
    if !addresses.is_empty() {
        status["addresses"] = addresses.into();
    }
    (status != gateway.status).then_some(status)
}

fn accepted(gateway: &Gateway, standing: &Standing, good_listeners: usize) -> Condition {
    let asked = gateway
        .spec
        .addresses
        .iter()
        .find(|address| address.r#type.as_deref() != Some("Hostname"));
    match (&standing.fault, asked) {
        (Some(Fault::Parameters(why)), _) => {
            let text = format!("{why}; what was deployed before stays as it is");
            Condition::no("Accepted", "InvalidParameters", text)
        }
        (Some(Fault::Invalid(why)), _) => Condition::no("Accepted", "Invalid", why.clone()),
        (_, Some(address)) => {
            let text = format!(
                "spec.addresses: `{}` cannot be asked for; leave addresses out, or name the host of a waypoint that you placed \
                 yourself with type Hostname",
                address.value
            );
            Condition::no("Accepted", "UnsupportedAddress", text)
        }
        _ if good_listeners == 0 => Condition::no(
            "Accepted",
            "ListenersNotValid",
            "a waypoint needs a listener with protocol HBONE on port 15008; see the status of the listeners",
        ),
        _ if good_listeners < gateway.spec.listeners.len() => Condition::yes(
            "Accepted",
            "ListenersNotValid",
            "some listeners are not served; see their status",
        ),
        _ => Condition::yes("Accepted", "Accepted", "Resource accepted"),
    }
}

fn programmed(
    gateway: &Gateway,
    standing: &Standing,
    accepted: &Condition,
    addresses: &[Value],
    host: &str,
) -> Condition {
    let no = |reason, text: String| Condition::no("Programmed", reason, text);
    if !accepted.holds {
        return no("Invalid", accepted.message.to_string());
    }
    if let Some(Fault::Refused(why)) = &standing.fault {
        return no("Invalid", why.clone());
    }
    if !addresses.is_empty() {
        let text = format!("Resource programmed, assigned to service(s) {host}:15008");
        return Condition::yes("Programmed", "Programmed", text);
    }
    if standing.service.is_none() && standing.switched_off {
        let text = "this control plane deploys no waypoints (WAYPOINT_IMAGE is empty): set it, or place this one with the \
                    waypoint chart";
        return no("NoResources", text.into());
    }
    if gateway.is_placed_by_hand() {
        return no("AddressNotUsable", "spec.addresses names no host".into());
    }
    if cluster_ips(standing).is_empty() {
        return no(
            "AddressNotAssigned",
            format!("Service {host} has no cluster IP yet"),
        );
    }
    no("Pending", waiting(gateway, standing))
}

/// Why no pod is ready, as far as its Deployment knows.
fn waiting(gateway: &Gateway, standing: &Standing) -> String {
    let deployment = standing.deployment.as_ref();
    let conditions = deployment.and_then(|found| found["status"]["conditions"].as_array());
    let told = conditions.and_then(|list| {
        let bad = |kind: &str| {
            list.iter()
                .find(|one| one["type"] == kind && one["status"] != "True")
        };
        let failing = list
            .iter()
            .find(|one| one["type"] == "ReplicaFailure" && one["status"] == "True");
        failing
            .or_else(|| bad("Progressing"))
            .and_then(|one| one["message"].as_str())
    });
    let told = told.map(|text| format!(": {text}")).unwrap_or_default();
    format!(
        "no pod of Deployment {}/{} is ready yet{told}",
        gateway.namespace,
        gateway.deployment()
    )
}

fn service_name(gateway: &Gateway, standing: &Standing, domain: &str) -> String {
    if let Some(address) = gateway
        .spec
        .addresses
        .iter()
        .find(|address| address.r#type.as_deref() == Some("Hostname"))
    {
        return address.value.clone();
    }
    let name = standing
        .service
        .as_ref()
        .and_then(|service| service["metadata"]["name"].as_str());
    format!(
        "{}.{}.svc.{domain}",
        name.unwrap_or_else(|| gateway.deployment()),
        gateway.namespace
    )
}

fn cluster_ips(standing: &Standing) -> Vec<&str> {
    let spec = standing.service.as_ref().map(|service| &service["spec"]);
    let list = spec.and_then(|spec| spec["clusterIPs"].as_array());
    let all = list.into_iter().flatten().filter_map(Value::as_str);
    all.filter(|address| *address != "None" && !address.is_empty())
        .collect()
}

/// Set when the first pod is ready, and never withdrawn: whoever is bound to this waypoint stays bound.
fn addresses(gateway: &Gateway, standing: &Standing, host: &str) -> Vec<Value> {
    let old = gateway.status["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if gateway.is_placed_by_hand() {
        let named = gateway
            .spec
            .addresses
            .iter()
            .filter(|address| address.r#type.as_deref() == Some("Hostname"));
        return named
            .map(|address| json!({ "type": "Hostname", "value": address.value }))
            .collect();
    }
    let ready = standing
        .deployment
        .as_ref()
        .and_then(|deployment| deployment["status"]["readyReplicas"].as_u64());
    let addresses = cluster_ips(standing);
    if addresses.is_empty() || old.is_empty() && ready.unwrap_or_default() == 0 {
        return old;
    }
    let ips = addresses
        .into_iter()
        .map(|ip| json!({ "type": "IPAddress", "value": ip }));
    ips.chain([json!({ "type": "Hostname", "value": host })])
        .collect()
}

fn of_listener(
    listener: &Listener,
    old: &[Value],
    programmed: bool,
    generation: Option<Value>,
    now: &str,
) -> Value {
    let before = old.iter().find(|old| old["name"] == listener.name.as_str());
    let before = before
        .and_then(|old| old["conditions"].as_array())
        .cloned()
        .unwrap_or_default();
    let fine = "No errors found";
    let kinds = listener
        .allowed_routes
        .as_ref()
        .is_some_and(|allowed| !allowed.kinds.is_empty());
    let fault = listener.fault();
    let conditions = [
        match &fault {
            Some((reason, why)) => Condition::no("Accepted", reason, why.clone()),
            None => Condition::yes("Accepted", "Accepted", fine),
        },
        Condition::no("Conflicted", "NoConflicts", fine),
        match (&fault, programmed) {
            (Some((_, why)), _) => Condition::no("Programmed", "Invalid", why.clone()),
            (None, false) => {
                Condition::no("Programmed", "Pending", "the Gateway is not programmed yet")
            }
            (None, true) => Condition::yes("Programmed", "Programmed", fine),
        },
        if kinds {
            let why = "allowedRoutes.kinds: a waypoint's listener takes no routes; they name the Service as parent";
            Condition::no("ResolvedRefs", "InvalidRouteKinds", why)
        } else {
            Condition::yes("ResolvedRefs", "ResolvedRefs", fine)
        },
    ];
    json!({
        "name": listener.name,
        "attachedRoutes": 0,
        "supportedKinds": [],
        "conditions": merge(&before, &[], &conditions, generation, now),
    })
}

/// What the status of a GatewayClass of ours should be, if it differs.
pub(super) fn of_class(object: &Value, generation: i64, now: &str) -> Option<Value> {
    let old = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let others: Vec<Value> = old
        .iter()
        .filter(|one| one["type"] != "Accepted")
        .cloned()
        .collect();
    let condition = if object["spec"]["parametersRef"].is_null() {
        Condition::yes(
            "Accepted",
            "Accepted",
            "Handled by Causeway's control plane",
        )
    } else {
        let why = "spec.parametersRef is not read: label a ConfigMap gateway.istio.io/defaults-for-class in the root namespace";
        Condition::no("Accepted", "InvalidParameters", why)
    };
    let mut status = object["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    status["conditions"] = merge(&old, &others, &[condition], Some(json!(generation)), now).into();
    (status != object["status"]).then_some(status)
}
