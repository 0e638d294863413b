//! The proxy on real sockets of the loopback: both transports, budgets, the end.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use mesh::service::{Service, Vip};
use mesh::state::{State, Update};
use mesh::workload::NamespacedHostname;
use runtime::metrics::Registry;

use super::*;

const WAIT: Duration = Duration::from_secs(20);

fn mesh() -> Arc<Snapshot> {
    let service = Service {
        key: NamespacedHostname::new("app", "echo.app.svc.cluster.local"),
        vips: (0..100)
            .map(|n| Vip::address("", IpAddr::from([10, 96, 0, n])))
            .collect(),
        ..Service::default()
    };
    let workload = Workload {
        uid: "Kubernetes//Pod/app/client".into(),
        name: "client".into(),
        namespace: "app".into(),
        canonical_name: "shop".into(),
        canonical_revision: "v1".into(),
        ..Workload::default()
    };
    let mut state = State::new();
    state.apply(vec![
        Update::Service(Arc::new(service)),
        Update::Workload(Arc::new(workload)),
    ]);
    state.snapshot()
}

/// A served pod in this very namespace.
struct World {
    udp: SocketAddr,
    tcp: SocketAddr,
    registry: Registry,
    served: Option<Served>,
}

impl World {
    /// `other`: the server for what the mesh does not know.
    fn start(other: &[SocketAddr]) -> Self {
        let listen = Listen {
            address: Address::At("127.0.0.1:0".parse().unwrap()),
            ipv6: false,
            mark: None,
            reuse_port: false,
        };
        let zone = Zone {
            network: "".into(),
            cluster: "Kubernetes".into(),
            domain: "cluster.local".into(),
            preferred: None,
            ipv6: true,
        };
        let (registry, snapshot) = (Registry::default(), mesh());
        let dns = Dns::new(
            (listen, zone),
            Box::new(move || snapshot.clone()),
            Upstream::new(other, None),
            Metrics::new(&registry),
            Shutdown::new(),
        );
        let pod = Arc::new(Pod {
            uid: "u".into(),
            name: "client".into(),
            namespace: "app".into(),
            service_account: "client".into(),
            netns: Arc::new(Netns::current().unwrap()),
        });
        let sockets = listen.open().unwrap();
        let (udp, tcp) = (
            sockets.udp[0].local_addr().unwrap(),
            sockets.tcp[0].local_addr().unwrap(),
        );
        let served = Some(dns.serve(&pod, sockets).unwrap());
        Self {
            udp,
            tcp,
            registry,
            served,
        }
    }

    async fn client(&self) -> tokio::net::UdpSocket {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.udp).await.unwrap();
        socket
    }

    fn counted(&self, line: &str) -> bool {
        self.registry
            .encode(None)
            .1
            .lines()
            .any(|other| other == line)
    }
}

fn question(name: &str, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn answer_to(socket: &tokio::net::UdpSocket) -> Message {
    let mut buffer = [0; 5000];
    let length = timeout(WAIT, socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, packet: &[u8]) -> io::Result<Message> {
    stream.write_all(&framed(packet)).await?;
    let length = timeout(WAIT, stream.read_u16()).await??;
    let mut bytes = vec![0; length.into()];
    timeout(WAIT, stream.read_exact(&mut bytes)).await??;
    Ok(Message::from_vec(&bytes).unwrap())
}

const ECHO: &str = "echo.app.svc.cluster.local.";

#[tokio::test]
async fn what_udp_cannot_carry_comes_over_tcp_and_both_are_counted() {
    let world = World::start(&[]);
    let client = world.client().await;
    client.send(&question(ECHO, 9)).await.unwrap();
    let cut = answer_to(&client).await;
    assert!(cut.metadata.truncation && cut.metadata.id == 9);
    let mut stream = TcpStream::connect(world.tcp).await.unwrap();
    for id in [10, 11] {
        let whole = over_tcp(&mut stream, &question(ECHO, id)).await.unwrap();
        assert_eq!((whole.metadata.id, whole.answers.len()), (id, 100));
    }
    for (protocol, count) in [("udp", 1), ("tcp", 2)] {
        let line = format!(
            "istio_dns_requests_total{{request_query_type=\"a\",request_protocol=\"{protocol}\",\
             source_canonical_service=\"shop\",source_canonical_revision=\"v1\"}} {count}"
        );
        assert!(world.counted(&line), "{}", world.registry.encode(None).1);
    }
}

#[tokio::test]
async fn a_name_that_nobody_can_be_asked_for_fails_and_is_counted() {
    let world = World::start(&[]);
    let client = world.client().await;
    client.send(&question("www.example.com.", 1)).await.unwrap();
    let answer = answer_to(&client).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let labels = "{request_query_type=\"a\",request_protocol=\"udp\",\
                  source_canonical_service=\"shop\",source_canonical_revision=\"v1\"} 1";
    for name in [
        "requests",
        "upstream_requests",
        "upstream_failures",
        "upstream_request_duration_seconds_count",
    ] {
        let total = if name.ends_with("count") {
            ""
        } else {
            "_total"
        };
        let line = format!("istio_dns_{name}{total}{labels}");
        assert!(
            world.counted(&line),
            "{line} not in {}",
            world.registry.encode(None).1
        );
    }
}

#[tokio::test]
async fn beyond_its_budget_a_pods_questions_fail_at_once_and_known_names_are_still_answered() {
    let other = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&[other.local_addr().unwrap()]);
    let client = world.client().await;
    let mut buffer = [0; 600];
    for id in 0..POD_OUTSTANDING {
        client
            .send(&question("www.example.com.", u16::try_from(id).unwrap()))
            .await
            .unwrap();
        // Each is on its way before the next comes.
        let asked = timeout(WAIT, other.recv(&mut buffer)).await;
        asked.unwrap().unwrap();
    }
    client
        .send(&question("www.example.com.", 5000))
        .await
        .unwrap();
    let refused = answer_to(&client).await;
    assert_eq!(
        (refused.metadata.id, refused.metadata.response_code),
        (5000, ResponseCode::ServFail)
    );
    assert!(world.counted("causeway_dns_refused_total{cause=\"pod_limit\"} 1"));
    client.send(&question(ECHO, 5001)).await.unwrap();
    assert_eq!(answer_to(&client).await.metadata.id, 5001);
}

#[tokio::test]
async fn connections_have_a_limit_and_end_with_the_pod() {
    let mut world = World::start(&[]);
    let mut held = Vec::new();
    for _ in 0..POD_CONNECTIONS {
        let mut stream = TcpStream::connect(world.tcp).await.unwrap();
        over_tcp(&mut stream, &question(ECHO, 1)).await.unwrap();
        held.push(stream);
    }
    let mut one_more = TcpStream::connect(world.tcp).await.unwrap();
    over_tcp(&mut one_more, &question(ECHO, 1))
        .await
        .unwrap_err();
    world.served = None;
    for mut stream in held {
        let end = timeout(WAIT, stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)));
    }
    // The sockets are closed by then or soon: whoever comes next can have the port.
    let free = async {
        while std::net::UdpSocket::bind(world.udp).is_err()
            || std::net::TcpListener::bind(world.tcp).is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(WAIT, free).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_says_too_much_or_nothing_sensible_is_closed() {
    let world = World::start(&[]);
    for message in [vec![0xff; 4000], framed(b"short"), framed(&[0; 0])] {
        let mut stream = TcpStream::connect(world.tcp).await.unwrap();
        stream.write_all(&message).await.unwrap();
        let end = timeout(WAIT, stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
