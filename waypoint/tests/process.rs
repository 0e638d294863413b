//! The real binary against a fake control plane and authority: gets ready, serves, dumps, drains.

// Helpers of tests may unwrap as tests do; clippy knows only the tests themselves.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;
use testkit::ads::Ads;
use testkit::authority::{Authority, tls};
use testkit::ca::TestCa;

const LIMIT: Duration = Duration::from_secs(60);

/// A child that does not outlive its test.
struct Waypoint {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Waypoint {
    fn start(ads: SocketAddr, ca: SocketAddr, roots: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_waypoint"))
            .args([
                "proxy",
                "waypoint",
                "--domain",
                "app.svc.cluster.local",
                "--log_output_level=default:info",
            ])
            .env_clear()
            .envs([
                ("POD_NAME", "wp-1"),
                ("POD_NAMESPACE", "app"),
                ("SERVICE_ACCOUNT", "wp"),
                ("INSTANCE_IP", "127.0.0.1"),
                ("GATEWAY_NAME", "wp"),
                ("XDS_ADDRESS", &ads.to_string()),
                ("CA_ADDRESS", &ca.to_string()),
                ("XDS_ROOT_CA", roots),
                ("CA_ROOT_CA", roots),
                ("AUTH_TOKEN", "spiffe://cluster.local/ns/app/sa/wp"),
                ("WAYPOINT_INBOUND_ADDR", "127.0.0.1:0"),
                ("ADMIN_ADDR", "127.0.0.1:0"),
                ("STATS_ADDR", "127.0.0.1:0"),
                ("ENVOY_PROMETHEUS_PORT", "0"),
                ("MINIMUM_DRAIN_DURATION", "0s"),
                ("READINESS_ADDR", "127.0.0.1:0"),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .all(|line| send.send(line).is_ok())
        });
        Self { child, lines }
    }

    /// The address in the next line that holds `text`.
    fn address(&self, text: &str) -> SocketAddr {
        loop {
            let line = self
                .lines
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("no line with {text}"));
            if line.contains(text) {
                let at = line.find("127.0.0.1:").unwrap_or_else(|| panic!("{line}"));
                let address: String = line[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                    .collect();
                return address.parse().unwrap();
            }
        }
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

fn resources(ads: &Ads) {
    for file in ["00-Cluster", "05-ClusterLoadAssignment", "01-Listener"] {
        let path = format!(
            "{}/testdata/istio-master-20260827/{file}.pb",
            env!("CARGO_MANIFEST_DIR")
        );
        let push = DeltaDiscoveryResponse::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        for resource in push.resources {
            ads.set_bytes(
                &push.type_url,
                &resource.name,
                resource.resource.unwrap().value,
            );
        }
    }
}

#[test]
fn the_binary_gets_ready_serves_and_drains() {
    let ca = TestCa::new("cluster.local");
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = Authority::start(bind(), &ca).unwrap();
    let ads = Ads::start(bind(), tls(&ca, &["127.0.0.1"]).unwrap()).unwrap();
    let mut waypoint = Waypoint::start(ads.address(), authority.address(), ca.roots_pem());
    let readiness = waypoint.address("healthz/ready");
    let stats = waypoint.address("paths=\"/metrics /stats/prometheus\"");
    let admin = waypoint.address("/config_dump");
    assert_eq!(get(readiness, "/healthz/ready").0, 500);
    resources(&ads);
    let _hbone = waypoint.address("listening for HBONE");
    testkit::wait::until_true("ready", LIMIT, || get(readiness, "/healthz/ready").0 == 200)
        .unwrap();
    ads.settled(1, LIMIT).unwrap();
    assert_eq!(ads.nacks(), vec![]);
    let node = ads.requests()[0].node.clone().unwrap();
    assert_eq!(node.id, "waypoint~127.0.0.1~wp-1.app~app.svc.cluster.local");
    compiled_and_sent_are_shown(admin);
    assert_eq!(get(stats, "/stats/prometheus").0, 200);
    let pid = waypoint.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(waypoint.child.wait().unwrap().success());
}

fn compiled_and_sent_are_shown(admin: SocketAddr) {
    let (status, compiled) = get(admin, "/compiled");
    assert_eq!(status, 200);
    for text in [
        "spiffe://cluster.local/ns/app/sa/wp",
        "inbound-vip|80|http|echo",
        "ns[app]-policy[l7]-rule[0]",
    ] {
        assert!(compiled.contains(text), "{compiled}");
    }
    let (_, dump) = get(admin, "/config_dump?include_eds=true");
    assert!(!(compiled + &dump).contains("PRIVATE"));
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    let count = |section: usize, key: &str| {
        let all = dump["configs"][section][key].as_array();
        all.unwrap_or_else(|| panic!("{key}: {dump:#}")).len()
    };
    let counts = [
        (1, "dynamic_active_clusters", 8),
        (1, "dynamic_warming_clusters", 0),
        (2, "dynamic_listeners", 5),
        (3, "static_route_configs", 4),
        (3, "dynamic_route_configs", 0),
        (4, "dynamic_active_secrets", 2),
        (5, "dynamic_endpoint_configs", 3),
    ];
    for (section, key, want) in counts {
        assert_eq!(count(section, key), want, "{key}");
    }
    let (_, masked) = get(
        admin,
        "/config_dump?mask=dynamic_listeners,static_listeners",
    );
    let masked: serde_json::Value = serde_json::from_str(&masked).unwrap();
    assert_eq!(masked["configs"].as_array().unwrap().len(), 1);
    let listener = &masked["configs"][0]["dynamic_listeners"][0];
    assert_eq!(listener["name"], "connect_originate");
    assert_eq!(
        listener["active_state"]["listener"]["name"],
        "connect_originate"
    );
    let (_, clusters) = get(admin, "/clusters?format=json");
    let clusters: serde_json::Value = serde_json::from_str(&clusters).unwrap();
    assert_eq!(clusters["cluster_statuses"].as_array().unwrap().len(), 8);
    assert!(
        get(admin, "/clusters")
            .1
            .contains("::health_flags::healthy")
    );
    assert!(
        get(admin, "/listeners")
            .1
            .contains("connect_terminate::0.0.0.0:15008")
    );
    assert_eq!(get(admin, "/ready"), (200, "LIVE\n".to_owned()));
    assert!(get(admin, "/server_info").1.contains("\"state\": \"LIVE\""));
}

#[test]
fn bad_settings_are_named_together() {
    let out = Command::new(env!("CARGO_BIN_EXE_waypoint"))
        .env_clear()
        .env("READINESS_ADDR", "nowhere")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8(out.stderr).unwrap();
    for name in [
        "POD_NAME",
        "POD_NAMESPACE",
        "SERVICE_ACCOUNT",
        "READINESS_ADDR",
        "nowhere",
    ] {
        assert!(text.contains(name), "{text}");
    }
}
