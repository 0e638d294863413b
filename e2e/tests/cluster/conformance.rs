//! Row 2: the official Gateway API suite for meshes, both profiles and the features beyond them, with a waypoint of ours for its
//! namespace.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::bed;

const NAMESPACE: &str = "gateway-conformance-mesh";
const LABELS: &str = "istio.io/dataplane-mode=ambient,istio.io/use-waypoint=waypoint";
/// What we say that we support; docs/conformance.md has what each test needs.
const FEATURES: [&str; 17] = [
    "Mesh",
    "HTTPRoute",
    "GRPCRoute",
    "ReferenceGrant",
    "MeshClusterIPMatching",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
];
/// The only mesh test that may be skipped: consumer routes are not supported.
const LEFT_OUT: &str = "MeshConsumerRoute";
/// Its mesh tests but that one.
const TESTS: usize = 21;

/// The case.
pub fn suite() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    let suite = bed.program("gwapi-conformance.test");
    if !suite.exists() {
        return Ok(Outcome::NotRun(
            "gwapi-conformance.test is not built (e2e/kube/build makes it)".into(),
        ));
    }
    bed.meshed()?;
    // Before the suite's own: its namespace names a waypoint from the start.
    bed.apply(&waypoint())?;
    bed.programmed(NAMESPACE, "waypoint")?;
    let report = reports()?.join("gateway-api-mesh.yaml");
    let output = bed
        .command("gwapi-conformance.test")
        .args(["-test.run", "^TestConformance$", "-test.v"])
        .args(["-test.timeout", "9m", "-gateway-class", "causeway-waypoint"])
        .args(["-conformance-profiles", "MESH-HTTP,MESH-GRPC"])
        .args(["-supported-features", &FEATURES.join(",")])
        .args(["-namespace-labels", LABELS])
        .args(["-organization", "causeway", "-project", "causeway"])
        .args([
            "-url",
            "https://causeway.invalid",
            "-contact",
            "maintainers",
        ])
        .args(["-version", env!("CARGO_PKG_VERSION")])
        .arg("-report-output")
        .arg(&report)
        .output()?;
    let log = String::from_utf8_lossy(&output.stdout);
    fs::write(report.with_extension("log"), &*log)?;
    let of = |verdict: &str| tests(&log, verdict);
    let failed = of("FAIL");
    ensure!(
        output.status.success() && failed.is_empty(),
        "{failed:?} failed; log beside {}",
        report.display()
    );
    let (passed, skipped) = (of("PASS"), of("SKIP"));
    ensure!(
        passed.len() == TESTS && skipped == [LEFT_OUT],
        "passed {passed:?}, skipped {skipped:?}"
    );
    ensure!(report.exists(), "no report");
    Ok(Outcome::Passed(format!(
        "{} tests of meshes passed, 0 failed, skipped: {LEFT_OUT} (a route for the clients of one namespace: all share a waypoint); report {}",
        passed.len(),
        report.display()
    )))
}

/// The mesh tests that the log gives a verdict of. (The others of the suite are for gateways; they are skipped.)
fn tests<'a>(log: &'a str, verdict: &str) -> Vec<&'a str> {
    let head = format!("    --- {verdict}: TestConformance/");
    log.lines()
        .filter_map(|line| line.strip_prefix(&head)?.split_whitespace().next())
        .filter(|name| name.starts_with("Mesh"))
        .collect()
}

fn waypoint() -> String {
    let labels = LABELS.replace('=', ": ").replace(',', ", ");
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{{labels}}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: causeway-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
"#
    )
}

/// Where reports are kept: beside the images.
fn reports() -> Result<PathBuf> {
    let images = env::var_os("IMAGES").context("IMAGES")?;
    let directory = PathBuf::from(images).with_file_name("reports");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}
