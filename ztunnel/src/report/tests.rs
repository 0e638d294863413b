use std::sync::mpsc;
use std::time::{Duration, Instant};

use mesh::identity::Identity;
use mesh::service::Service;
use mesh::workload::{NamespacedHostname, Workload};

use super::*;
use crate::worker::api::{Bytes, Direction, Reason, Security};

fn workload(name: &str, owner: &str, revision: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: name.into(),
        namespace: "app".into(),
        canonical_name: owner.into(),
        canonical_revision: revision.into(),
        workload_name: owner.into(),
        cluster_id: "Kubernetes".into(),
        ..Workload::default()
    })
}

/// The connection whose line stands in the captured log of a real istio.
fn captured() -> Connection {
    let identity = |account| Some(Identity::new("cluster.local", "app", account).unwrap());
    let service = Service {
        key: NamespacedHostname::new("app", "echo.app.svc.cluster.local"),
        name: "echo".into(),
        ..Service::default()
    };
    Connection {
        direction: Direction::Outbound,
        security: Security::MutualTls,
        source: "[::ffff:10.244.1.6]:42616".parse().unwrap(),
        source_identity: identity("client"),
        source_workload: Some(workload("client", "client", "latest")),
        source_baggage: None,
        destination: "10.244.1.5:15008".parse().unwrap(),
        hbone: Some("10.244.1.5:8080".parse().unwrap()),
        destination_identity: identity("echo"),
        destination_workload: Some(workload("echo-6d5c9cbd6-wsmfc", "echo", "v1")),
        service: Some(Arc::new(service)),
        trace: None,
        opened: Instant::now(),
        bytes: Bytes::default(),
    }
}

fn carried(sent: usize, received: usize) -> Arc<Connection> {
    let connection = captured();
    connection.bytes.add_sent(sent);
    connection.bytes.add_received(received);
    Arc::new(connection)
}

fn closed(connection: Arc<Connection>, reason: Reason, detail: Option<&str>) -> Closed {
    Closed {
        connection,
        duration: Duration::from_micros(3_900),
        reason,
        detail: detail.map(Into::into),
    }
}

/// 2026-11-23T19:55:28.229742Z
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_463_728_229_742)
}

const CAPTURED: &str = "2026-11-23T19:55:28.229742Z\tinfo\taccess\tconnection complete\t\
    src.addr=10.244.1.6:42616 src.workload=\"client\" src.namespace=\"app\" \
    src.identity=\"spiffe://cluster.local/ns/app/sa/client\" src.cluster=\"Kubernetes\" dst.addr=10.244.1.5:15008 \
    dst.hbone_addr=10.244.1.5:8080 dst.service=\"echo.app.svc.cluster.local\" dst.workload=\"echo-6d5c9cbd6-wsmfc\" \
    dst.namespace=\"app\" dst.identity=\"spiffe://cluster.local/ns/app/sa/echo\" dst.cluster=\"Kubernetes\" \
    direction=\"outbound\" bytes_sent=68 bytes_recv=249 duration=\"3ms\"\n";

#[test]
fn a_line_is_byte_for_byte_upstreams() {
    let closed = closed(carried(249, 68), Reason::Complete, None);
    let labels = labels::Labels::of(&closed.connection);
    assert_eq!(
        line::closed(Format::Plain, then(), &closed, &labels),
        CAPTURED
    );
}

/// The same as JSON, of a refused connection.
const CAPTURED_JSON: &str = "{\"level\":\"error\",\"time\":\"2026-11-23T19:55:28.229742Z\",\"scope\":\"access\",\
    \"message\":\"connection complete\",\"src.addr\":\"10.244.1.6:42616\",\"src.workload\":\"client\",\
    \"src.namespace\":\"app\",\"src.identity\":\"spiffe://cluster.local/ns/app/sa/client\",\
    \"src.cluster\":\"Kubernetes\",\"dst.addr\":\"10.244.1.5:15008\",\"dst.hbone_addr\":\"10.244.1.5:8080\",\
    \"dst.service\":\"echo.app.svc.cluster.local\",\"dst.workload\":\"echo-6d5c9cbd6-wsmfc\",\"dst.namespace\":\"app\",\
    \"dst.identity\":\"spiffe://cluster.local/ns/app/sa/echo\",\"dst.cluster\":\"Kubernetes\",\
    \"direction\":\"outbound\",\"bytes_sent\":68,\"bytes_recv\":249,\"duration\":\"3ms\",\
    \"error\":\"connection closed due to policy rejection: denied by app/l4 \\\"x\\\"\"}\n";

#[test]
fn a_json_line_has_the_head_first_and_the_same_fields() {
    let closed = closed(
        carried(249, 68),
        Reason::PolicyDenied,
        Some("denied by app/l4 \"x\""),
    );
    let labels = labels::Labels::of(&closed.connection);
    let line = line::closed(Format::Json, then(), &closed, &labels);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["dst.workload"], "echo-6d5c9cbd6-wsmfc");
    assert_eq!(line, CAPTURED_JSON);
}

#[test]
fn a_refusal_names_both_ends_and_the_fault() {
    let refused = Refused {
        direction: Direction::Inbound,
        source: "10.0.0.1:5".parse().unwrap(),
        destination: "10.0.0.2:15008".parse().unwrap(),
        reason: Reason::Tls,
        detail: Some("no certificate\nfrom \"peer\"".into()),
    };
    let line = line::refused(Format::Plain, then(), &refused);
    let expected = "2026-11-23T19:55:28.229742Z\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:5 \
        dst.addr=10.0.0.2:15008 direction=\"inbound\" error=\"tls error: no certificate\\nfrom \\\"peer\\\"\"\n";
    assert_eq!(line, expected);
}

#[test]
fn the_inbound_side_counts_from_its_own_pods_view() {
    let connection = Connection {
        direction: Direction::Inbound,
        ..captured()
    };
    connection.bytes.add_sent(249);
    connection.bytes.add_received(68);
    let closed = closed(Arc::new(connection), Reason::Complete, None);
    let labels = labels::Labels::of(&closed.connection);
    let line = line::closed(Format::Plain, then(), &closed, &labels);
    assert!(
        line.contains("direction=\"inbound\" bytes_sent=249 bytes_recv=68"),
        "{line}"
    );
}

/// Collects what the log writes.
fn report() -> (Report, Registry, mpsc::Receiver<Vec<u8>>) {
    struct Sink(mpsc::Sender<Vec<u8>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (send, receive) = mpsc::channel();
    let registry = Registry::default();
    let log = Writer::start(Sink(send)).unwrap();
    (
        Report::new(&registry, log, Format::Plain),
        registry,
        receive,
    )
}

fn opened(report: &Report, connection: &Arc<Connection>) {
    let mut lines = Lines::default();
    report.opened(connection, &mut lines);
    report.write(lines);
}

fn ended(report: &Report, closed: &Closed) {
    let mut lines = Lines::default();
    report.closed(closed, &mut lines);
    report.write(lines);
}

fn metric(registry: &Registry, name: &str) -> Vec<String> {
    let text = registry.encode(None).1;
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .map(str::to_owned)
        .collect()
}

/// Open sockets with the reporter `source`.
fn sockets(registry: &Registry) -> String {
    let lines = metric(registry, "istio_tcp_sockets_open");
    let line = lines.iter().find(|line| line.contains("source")).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

/// One line of the captured metrics, and the labels in its order.
const CAPTURED_METRIC: &str = "istio_tcp_connections_opened_total{reporter=\"source\",source_workload=\"client\",\
    source_canonical_service=\"client\",source_canonical_revision=\"latest\",source_workload_namespace=\"app\",\
    source_principal=\"spiffe://cluster.local/ns/app/sa/client\",source_app=\"client\",source_version=\"latest\",\
    source_cluster=\"Kubernetes\",destination_service=\"echo.app.svc.cluster.local\",\
    destination_service_namespace=\"app\",destination_service_name=\"echo\",destination_workload=\"echo\",\
    destination_canonical_service=\"echo\",destination_canonical_revision=\"v1\",\
    destination_workload_namespace=\"app\",destination_principal=\"spiffe://cluster.local/ns/app/sa/echo\",\
    destination_app=\"echo\",destination_version=\"v1\",destination_cluster=\"Kubernetes\",request_protocol=\"tcp\",\
    response_flags=\"-\",connection_security_policy=\"mutual_tls\",source_region=\"unknown\",source_zone=\"unknown\",\
    destination_region=\"unknown\",destination_zone=\"unknown\"} 2";

#[test]
fn metrics_are_byte_for_byte_upstreams() {
    let (report, registry, _lines) = report();
    opened(&report, &carried(0, 0));
    opened(&report, &carried(0, 0));
    assert_eq!(
        metric(&registry, "istio_tcp_connections_opened_total"),
        [CAPTURED_METRIC]
    );
    assert_eq!(sockets(&registry), "2");
}

#[test]
fn bytes_of_a_live_connection_are_counted_once() {
    let (report, registry, _lines) = report();
    let connection = carried(0, 0);
    opened(&report, &connection);
    let total = |name| {
        report.count_live();
        metric(&registry, name)[0]
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    connection.bytes.add_sent(10);
    assert_eq!(total("istio_tcp_sent_bytes_total"), "10");
    connection.bytes.add_sent(5);
    assert_eq!(total("istio_tcp_sent_bytes_total"), "15");
    connection.bytes.add_received(7);
    ended(&report, &closed(connection, Reason::Complete, None));
    assert_eq!(total("istio_tcp_sent_bytes_total"), "15");
    assert_eq!(total("istio_tcp_received_bytes_total"), "7");
    assert!(report.live().is_empty());
}

#[test]
fn a_denied_connection_is_closed_and_failed_with_its_flag() {
    let (report, registry, _lines) = report();
    let connection = carried(0, 0);
    opened(&report, &connection);
    ended(&report, &closed(connection, Reason::PolicyDenied, None));
    for name in [
        "istio_tcp_connections_closed_total",
        "istio_tcp_connections_failed_total",
    ] {
        let flagged = metric(&registry, name)
            .into_iter()
            .find(|line| line.contains("response_flags=\"DENY\""));
        assert!(flagged.is_some_and(|line| line.ends_with(" 1")), "{name}");
    }
    assert_eq!(sockets(&registry), "0");
}

#[test]
fn an_end_without_a_beginning_is_counted_as_both() {
    let (report, registry, _lines) = report();
    ended(&report, &closed(carried(1, 1), Reason::Complete, None));
    assert_eq!(
        metric(&registry, "istio_tcp_connections_opened_total").len(),
        1
    );
    assert!(metric(&registry, "istio_tcp_connections_closed_total")[0].ends_with(" 1"));
}

#[test]
fn a_peer_that_invents_names_cannot_grow_the_metrics_without_end() {
    let registry = Registry::default();
    let mut metrics = Metrics::with_limit(&registry, 20);
    for number in 0..30 {
        let service = Some(format!("{number}{}", "x".repeat(500)).into());
        let baggage = hbone::headers::Baggage {
            service,
            ..Default::default()
        };
        let source_baggage = Some(Box::new(baggage));
        let connection = Arc::new(Connection {
            source_workload: None,
            source_baggage,
            ..captured()
        });
        metrics.opened(&connection);
        metrics.closed(&connection, reason::Flag::None, reason::Outcome::Complete);
    }
    let lines = metric(&registry, "istio_tcp_connections_opened_total");
    assert!(lines.len() <= 20, "{}", lines.len());
    assert!(lines.iter().all(|line| line.len() < 2_000));
}

/// A connection whose peer gives this name to itself.
fn named(name: &str) -> Arc<Connection> {
    let baggage = hbone::headers::Baggage {
        service: Some(name.into()),
        ..Default::default()
    };
    Arc::new(Connection {
        source_workload: None,
        source_baggage: Some(Box::new(baggage)),
        ..captured()
    })
}

#[test]
fn names_that_nobody_uses_any_more_make_room_for_others() {
    let registry = Registry::default();
    let mut metrics = Metrics::with_limit(&registry, 20);
    let (steady, used) = (named("steady"), Arc::new(captured()));
    metrics.opened(&steady);
    for number in 0..100 {
        let connection = named(&format!("invented-{number}"));
        metrics.opened(&connection);
        metrics.closed(&connection, reason::Flag::Deny, reason::Outcome::Failed);
        metrics.opened(&used);
        metrics.closed(&used, reason::Flag::None, reason::Outcome::Complete);
    }
    for name in ["opened", "closed", "failed"] {
        let lines = metric(&registry, &format!("istio_tcp_connections_{name}_total"));
        assert!(lines.len() <= 40, "{name}: {} series", lines.len());
    }
    let lines = metric(&registry, "istio_tcp_connections_opened_total");
    let count = |name: &str| {
        let of_name = format!("source_workload=\"unknown\",source_canonical_service=\"{name}\"");
        lines.iter().find(|line| line.contains(&of_name)).cloned()
    };
    assert!(count("invented-99").is_some_and(|line| line.ends_with(" 1")));
    assert!(count("invented-0").is_none());
    assert!(count("steady").is_some_and(|line| line.ends_with(" 1")));
    let busy = lines
        .iter()
        .find(|line| line.contains("source_workload=\"client\""));
    assert!(busy.is_some_and(|line| line.ends_with(" 100")), "{busy:?}");
}

#[test]
fn when_all_names_are_in_use_what_comes_after_is_counted_coarsely() {
    let registry = Registry::default();
    let mut metrics = Metrics::with_limit(&registry, 20);
    let live: Vec<_> = (0..30)
        .map(|number| named(&format!("live-{number}")))
        .collect();
    for connection in &live {
        metrics.opened(connection);
    }
    let lines = metric(&registry, "istio_tcp_connections_opened_total");
    assert_eq!(lines.len(), 21);
    let coarse = lines
        .iter()
        .find(|line| line.contains("destination_workload=\"unknown\""))
        .unwrap();
    assert!(coarse.ends_with(" 10"), "{coarse}");
}
