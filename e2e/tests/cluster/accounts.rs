//! Row 7: a waypoint for a service account: what goes to that account's workloads passes it, what goes to others does not; and
//! another account's waypoint cannot be used for them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed, stdout, until},
    echo,
};

const NAMESPACE: &str = "accounts";
const LIMIT: Duration = Duration::from_secs(60);
/// Answers that came through a waypoint have it.
const MARK: &str = "x-passed";

/// The case.
pub fn waypoints() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    bed.meshed()?;
    echo::start(bed, NAMESPACE)?;
    echo::join(bed, NAMESPACE)?;
    for account in ["one", "two"] {
        bed.apply(&application(account))?;
    }
    bed.apply(MIXED)?;
    for account in ["one", "two"] {
        bed.programmed(NAMESPACE, &format!("{account}-waypoint"))?;
    }
    bed.ready(NAMESPACE)?;
    let bind = |account: &str| -> Result<()> {
        let waypoint = format!("istio.io/use-waypoint={account}-waypoint");
        bed.kubectl(&["label", "-n", NAMESPACE, "sa", account, &waypoint])?;
        Ok(())
    };

    // The account of the first is bound, the other is not.
    bind("one")?;
    until(LIMIT, "service one passes its waypoint", || {
        marked(bed, "one", Some("one"))
    })?;
    marked(bed, "two", None)?;
    marked(bed, "mixed", None)?;
    let condition = until(LIMIT, "the mixed Service says so", || {
        let path = "jsonpath={.status.conditions[?(@.type==\"istio.io/WaypointBound\")].message}";
        let text = bed.kubectl(&["get", "svc", "-n", NAMESPACE, "mixed", "-o", path])?;
        ensure!(!text.is_empty(), "no condition");
        Ok(text)
    })?;

    // Both are bound, each to its own.
    bind("two")?;
    until(LIMIT, "service two passes its own waypoint", || {
        marked(bed, "two", Some("two"))
    })?;
    marked(bed, "one", Some("one"))?;

    // What the other waypoint sends to them passes theirs as well.
    bed.apply(&route("two", "one"))?;
    until(
        LIMIT,
        "the other waypoint reaches them through theirs",
        || {
            let head = head(bed, "two")?;
            ensure!(marks(&head) == ["one", "two via one"], "{head}");
            Ok(())
        },
    )?;
    only_by_its_key(bed)?;
    Ok(Outcome::Passed(format!(
        "bound accounts pass their own waypoint, an unbound one none; what the other waypoint sends passes theirs as well; \
         their pods refuse a client and the other waypoint's key, and let their waypoint's in; the mixed Service says \
         \"{condition}\""
    )))
}

/// The pods of `one` admit their own waypoint alone. Unbound, so that nothing else is in between: its key opens, others do not.
fn only_by_its_key(bed: &Bed) -> Result<()> {
    bed.apply(ONLY_ITS_WAYPOINT)?;
    bed.kubectl(&[
        "label",
        "-n",
        NAMESPACE,
        "sa",
        "one",
        "istio.io/use-waypoint-",
    ])?;
    for account in ["one", "two"] {
        bed.apply(&key(account))?;
    }
    bed.ready(NAMESPACE)?;
    let call = |who: &str| -> Result<String> {
        let url = format!("http://{}/", bed.service_address(NAMESPACE, "one")?);
        let pod = format!("{NAMESPACE}/{who}");
        stdout(bed.exec(&pod, &["curl", "-sf", "-m", "3", &url])?)
    };
    for who in ["client1", "key-of-two"] {
        until(LIMIT, "past the waypoint they refuse", || {
            ensure!(call(who).is_err(), "{who} is let in");
            Ok(())
        })?;
    }
    until(LIMIT, "the key of their waypoint", || call("key-of-one")).map(drop)
}

/// Does the answer of a service carry the mark of that waypoint alone, or none?
fn marked(bed: &Bed, service: &str, expected: Option<&str>) -> Result<()> {
    let head = head(bed, service)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let marks = marks(&head);
    ensure!(
        marks.iter().copied().eq(expected),
        "{service}: {MARK} is {marks:?} and not {expected:?}"
    );
    Ok(())
}

/// The head of a service's answer to the client.
fn head(bed: &Bed, service: &str) -> Result<String> {
    let url = format!("http://{}/", bed.service_address(NAMESPACE, service)?);
    let command = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-D", "-", &url];
    stdout(bed.exec(&format!("{NAMESPACE}/client1"), &command)?)
}

fn marks(head: &str) -> Vec<&str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case(MARK))
        .map(|(_, value)| value.trim())
        .collect()
}

/// A server of that account, its service, a waypoint named after it, and a route that marks answers.
fn application(name: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {NAMESPACE}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app: {name}, part: mixed}}}}
spec:
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: "e2e.local/tools:1", imagePullPolicy: IfNotPresent, command: [/bin/pod, serve, "8080"]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}-waypoint, namespace: {NAMESPACE}, labels: {{istio.io/waypoint-for: all}}}}
spec:
  gatewayClassName: causeway-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
{route}"#,
        route = route(name, name)
    )
}

/// Answers of a service come from that backend, and say so.
fn route(service: &str, backend: &str) -> String {
    let mark = if service == backend {
        service.to_owned()
    } else {
        format!("{service} via {backend}")
    };
    format!(
        r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {service}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {service}}}]
  rules:
  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: {MARK}, value: {mark}}}]}}}}]
    backendRefs: [{{name: {backend}, port: 80}}]
"#
    )
}

/// A pod that holds the key of a waypoint, since it runs as its account; the account comes with the waypoint.
fn key(name: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: key-of-{name}, namespace: {NAMESPACE}}}
spec:
  serviceAccountName: {name}-waypoint
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: "e2e.local/tools:1", imagePullPolicy: IfNotPresent}}]
"#
    )
}

const MIXED: &str = r#"apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: accounts}
spec:
  selector: {part: mixed}
  ports: [{name: http, port: 80, targetPort: 8080}]
"#;

const ONLY_ITS_WAYPOINT: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-its-waypoint, namespace: accounts}
spec:
  selector: {matchLabels: {app: one}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/accounts/sa/one-waypoint"]}}]
"#;
