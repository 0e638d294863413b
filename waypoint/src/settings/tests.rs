//! What istiod's template sets is understood; what is wrong is told together.

use super::*;
use identity::grpc::RootSource;
use serde_json::{Value, json};

fn settings(more: &[(&str, &str)], arguments: &Arguments) -> Result<Waypoint, Faults> {
    let base = [
        ("POD_NAMESPACE", "app"),
        ("SERVICE_ACCOUNT", "wp"),
        ("POD_NAME", "wp-1"),
    ];
    let all = base
        .iter()
        .chain(more)
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    read(Settings::from_pairs(all), arguments).map(|(waypoint, _)| waypoint)
}

fn of(more: &[(&str, &str)]) -> Waypoint {
    settings(more, &Arguments::default()).unwrap()
}

#[test]
fn istiods_template_is_understood() {
    let proxy = r#"{"discoveryAddress":"istiod.x:15012","terminationDrainDuration":"25s","concurrency":3,
                    "proxyMetadata":{"ISTIO_META_ENABLE_HBONE":"true","OTHER":"x"}}
"#;
    let waypoint = of(&[
        ("PROXY_CONFIG", proxy),
        ("CA_ADDR", "ca.x:15012"),
        ("INSTANCE_IP", "10.0.0.3"),
        ("ISTIO_META_CLUSTER_ID", "c1"),
        ("PILOT_CERT_PROVIDER", "istiod"),
        (
            "ISTIO_META_OWNER",
            "kubernetes://apis/apps/v1/namespaces/app/deployments/wp",
        ),
    ]);
    assert_eq!(waypoint.xds.address, "https://istiod.x:15012");
    assert_eq!(waypoint.ca.address, "https://ca.x:15012");
    assert_eq!(waypoint.xds.cluster_id, "c1");
    assert_eq!(
        waypoint.own.identity.uri(),
        "spiffe://cluster.local/ns/app/sa/wp"
    );
    assert_eq!(waypoint.listening.hbone_port, 15008);
    assert_eq!(waypoint.threads, 3);
    let metadata = &waypoint.own.metadata;
    assert_eq!(metadata["ENABLE_HBONE"], "true");
    assert_eq!(metadata.get("OTHER"), None);
    // Over the built-in defaults, or the control plane would read zeroes.
    let told = &metadata["PROXY_CONFIG"];
    assert_eq!(told["discoveryAddress"], "istiod.x:15012");
    assert_eq!(told["statusPort"], 15020);
}

#[test]
fn the_arguments_say_what_the_environment_does_not() {
    let arguments = Arguments {
        domain: Some("app.svc.example".into()),
        service_cluster: Some("wp.app.x".into()),
        threads: Some(2),
        json: true,
        level: Some("debug"),
    };
    let waypoint = settings(&[], &arguments).unwrap();
    assert_eq!(waypoint.own.domain, "app.svc.example");
    assert_eq!(waypoint.own.service_cluster, "wp.app.x");
    assert_eq!(waypoint.threads, 2);
    assert_eq!(waypoint.logs, (Format::Json, "debug".into()));
    let environment = [
        ("CLUSTER_DOMAIN", "other"),
        ("WORKER_THREADS", "4"),
        ("LOG_FORMAT", "plain"),
        ("RUST_LOG", "warn"),
    ];
    let waypoint = settings(&environment, &arguments).unwrap();
    assert_eq!(waypoint.own.domain, "app.svc.other");
    assert_eq!(waypoint.threads, 4);
    assert_eq!(waypoint.logs, (Format::Plain, "warn".into()));
}

#[test]
fn json_metadata_is_spread_and_wins_over_text() {
    let waypoint = of(&[
        ("ISTIO_META_A", "text"),
        ("ISTIO_METAJSON_X", r#"{"A":{"b":1},"C":true}"#),
        (
            "ISTIO_METAJSON_LABELS",
            r#"{"l":"v","pod-template-hash":"1"}"#,
        ),
    ]);
    assert_eq!(waypoint.own.metadata["A"], json!({"b": 1}));
    assert_eq!(waypoint.own.metadata["C"], Value::Bool(true));
    assert_eq!(
        waypoint.own.labels,
        [("l".to_owned(), "v".to_owned())].into()
    );
}

#[test]
fn the_pods_first_address_stays_first_and_none_is_told_twice() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let own = of(&[("INSTANCE_IP", "10.0.0.3")]).own;
    let own = own.at([ip("fd00::3"), ip("10.0.0.3")]);
    assert_eq!(own.ips, [ip("10.0.0.3"), ip("fd00::3")]);
    assert_eq!(of(&[]).own.at([]).ips, [ip("127.0.0.1")]);
}

#[test]
fn the_end_takes_as_long_as_upstreams_names_say() {
    let (five, long) = (Duration::from_secs(5), Duration::from_secs(25));
    let proxy = ("PROXY_CONFIG", r#"{"terminationDrainDuration":"25s"}"#);
    let drain = |more: &[(&str, &str)]| of(more).drain;
    let want = |linger, deadline| Drain { linger, deadline };
    assert_eq!(drain(&[]), want(five, five));
    assert_eq!(drain(&[proxy]), want(five, long));
    let short = ("TERMINATION_GRACE_PERIOD", "1s");
    let second = Duration::from_secs(1);
    assert_eq!(drain(&[proxy, short]), want(second, second));
    let until_none = ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true");
    let minimum = ("MINIMUM_DRAIN_DURATION", "25s");
    assert_eq!(drain(&[until_none, minimum]), want(long, Duration::MAX));
}

#[test]
fn the_root_stands_where_the_provider_says() {
    let root = |more: &[(&str, &str)]| of(more).xds.root;
    assert_eq!(
        root(&[("XDS_ROOT_CA", "")]),
        RootSource::File("./var/run/secrets/istio/root-cert.pem".into())
    );
    assert_eq!(
        root(&[("PILOT_CERT_PROVIDER", "kubernetes")]),
        RootSource::File("./var/run/secrets/kubernetes.io/serviceaccount/ca.crt".into())
    );
    let both = [("PILOT_CERT_PROVIDER", "system"), ("XDS_ROOT_CA", "/r.pem")];
    assert_eq!(root(&both[..1]), RootSource::System);
    assert_eq!(root(&both), RootSource::File("/r.pem".into()));
}

#[test]
fn faults_are_reported_together() {
    let wrong = [
        ("PROXY_CONFIG", "[]"),
        ("XDS_ADDRESS", "ftp://x"),
        ("CA_HEADER_bad name", "x"),
        ("RUST_LOG", "loud"),
        ("CA_PROVIDER", "GoogleCAS"),
        ("ISTIO_METAJSON_X", "[]"),
    ];
    let pairs = wrong.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let faults = read(Settings::from_pairs(pairs), &Arguments::default());
    let faults = faults.unwrap_err().to_string();
    let required = ["POD_NAMESPACE", "SERVICE_ACCOUNT", "POD_NAME"];
    for name in wrong.map(|(name, _)| name).into_iter().chain(required) {
        let lines = faults.lines().filter(|line| {
            let rest = line.trim().strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '=']))
        });
        assert_eq!(lines.count(), 1, "{name} in {faults}");
    }
}

#[test]
fn labels_of_the_downward_api_are_read() {
    assert_eq!(
        own::parse_pairs("a/b=\"c\"\nd=\"e=f\"\nn=\"two\\nlines \\\"q\\\"\"\n"),
        [("a/b", "c"), ("d", "e=f"), ("n", "two\nlines \"q\"")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    );
}
