use super::*;
use crate::control::dns::Address;

fn read(pairs: &[(&str, &str)]) -> Result<Config, Faults> {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(Settings::from_pairs(pairs))
}

#[test]
fn defaults_are_upstreams() {
    let config = read(&[]).unwrap();
    assert_eq!(config.worker.stream_window, 4 << 20);
    assert_eq!(config.worker.connection_window, 16 << 20);
    assert_eq!(config.worker.mark, Some(1337));
    assert_eq!(config.zds.to_str(), Some("/var/run/ztunnel/ztunnel.sock"));
    assert_eq!(config.termination, Duration::from_secs(5));
    assert_eq!(config.ca.grpc.address, "https://localhost:15012");
    assert_eq!(config.admin.admin.to_string(), "127.0.0.1:15000");
    assert_eq!(config.admin.readiness.to_string(), "[::]:15021");
    assert!(config.workers >= 2);
    assert_eq!(&*config.own.cluster, "Kubernetes");
}

#[test]
fn the_grace_period_leaves_time_for_the_end() {
    for (grace, seconds) in [("30", 25), ("11", 6), ("10", 9), ("1", 1), ("0", 1)] {
        let config = read(&[("TERMINATION_GRACE_PERIOD_SECONDS", grace)]).unwrap();
        assert_eq!(config.termination, Duration::from_secs(seconds), "{grace}");
    }
    let pairs = [
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
        ("CONNECTION_TERMINATION_DEADLINE", "2s"),
    ];
    assert_eq!(read(&pairs).unwrap().termination, Duration::from_secs(2));
}

#[test]
fn an_address_without_a_scheme_is_https_and_an_empty_one_is_none() {
    let config = read(&[
        ("XDS_ADDRESS", "istiod:15012"),
        ("CA_ADDRESS", "http://127.0.0.1:1"),
    ])
    .unwrap();
    assert_eq!(config.xds.grpc.unwrap().address, "https://istiod:15012");
    assert_eq!(config.ca.grpc.address, "http://127.0.0.1:1");
    assert!(read(&[("XDS_ADDRESS", "")]).unwrap().xds.grpc.is_none());
}

#[test]
fn all_faults_are_reported_together() {
    let pairs = [
        ("KEEPALIVE_ENABLED", "yes"),
        ("SECRET_TTL", "never"),
        ("HTTP2_FRAME_SIZE", "5"),
        ("PROXY_MODE", "dedicated"),
        ("CRL_PATH", "/crl.pem"),
        ("LOCAL_XDS", "workloads: []"),
        ("PROXY_WORKLOAD_INFO", "app/client/client"),
        ("PROXY_CONFIG", "concurrency: 2"),
        ("DNS_PROXY_ADDR", "15053"),
        ("ISTIO_META_DNS_CAPTURE", "yes"),
        ("ISTIO_METAJSON_LABELS", "{"),
    ];
    let faults = read(&pairs).unwrap_err();
    let mut names: Vec<&str> = faults.0.iter().map(|fault| fault.name.as_str()).collect();
    let mut expected: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn the_dns_proxy_is_on_unless_the_mesh_says_no() {
    let listen = |pairs: &[(&str, &str)]| read(pairs).unwrap().dns.listen;
    assert_eq!(listen(&[]).unwrap().address, Address::Localhost(15053));
    assert!(listen(&[("ISTIO_META_DNS_CAPTURE", "True")]).is_some());
    assert!(listen(&[("ISTIO_META_DNS_CAPTURE", "false")]).is_none());
    let both = [
        ("DNS_PROXY_ADDR", "localhost:53"),
        ("ISTIO_META_DNS_PROXY_ADDR", "127.0.0.2:5353"),
    ];
    assert_eq!(listen(&both[..1]).unwrap().address, Address::Localhost(53));
    let at = Address::At("127.0.0.2:5353".parse().unwrap());
    assert_eq!(listen(&both).unwrap().address, at);
    let zone = read(&[("CLUSTER_DOMAIN", "Example.Org.")])
        .unwrap()
        .dns
        .zone;
    assert_eq!(&*zone.domain, "example.org");
}

#[test]
fn the_dump_has_upstreams_keys() {
    let captured = include_str!("../../testdata/config_dump.json");
    let captured: Value = serde_json::from_str(captured).unwrap();
    let ours = read(&[]).unwrap().dump;
    let missing: Vec<&String> = captured["config"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|key| ours.get(key.as_str()).is_none())
        .collect();
    // SOCKS5 and test modes are not in this version; the name servers are not hickory's settings.
    let absent = [
        "caHeaders",
        "dnsResolverCfg",
        "dnsResolverOpts",
        "fakeSelfInbound",
        "localhostAppTunnel",
        "proxyArgs",
        "proxyMetadata",
        "proxyWorkloadInformation",
        "socks5Addr",
        "xdsHeaders",
        "ztunnelIdentity",
        "ztunnelWorkload",
    ];
    assert_eq!(
        missing
            .iter()
            .filter(|key| !absent.contains(&key.as_str()))
            .count(),
        0,
        "{missing:?}"
    );
}

#[test]
fn each_setting_is_documented_once_with_a_meaning() {
    let rows = Config::documentation();
    assert!(rows.iter().all(|row| !row.meaning.is_empty()));
    assert!(rows.iter().any(|row| row.name == "ZTUNNEL_WORKER_THREADS"));
    let names: std::collections::BTreeSet<&str> =
        rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names.len(), rows.len());
}

#[test]
fn an_address_or_header_that_cannot_be_used_is_told_with_all_other_faults() {
    let wrong = [
        ("XDS_ADDRESS", "ftp://istiod"),
        ("CA_ADDRESS", ""),
        ("CA_HEADER_bad name", "x"),
        ("RUST_LOG", "loud"),
        ("STATS_PORT", "many"),
    ];
    let faults = read(&wrong).unwrap_err().to_string();
    assert!(faults.starts_with("5 settings are wrong:"), "{faults}");
    for (name, _) in wrong {
        assert!(
            faults.contains(&format!("\n  {name}=")),
            "{name} in {faults}"
        );
    }
    assert!(read(&[("XDS_ADDRESS", "")]).unwrap().xds.grpc.is_none());
}
