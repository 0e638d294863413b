//! Names: a captured pod asks port 53 of whatever server it was told, and the mesh answers what it knows; others are asked
//! for at a scripted name server, which sees the pod. With the node agent's own rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use testkit::echo;
use testkit::mesh::{LIMIT, Mesh, Pod};
use testkit::topology::Namespace;

/// What the node agent writes into a pod whose DNS is captured, as `nft -f` and `ip` take it.
const RULES: &str = include_str!("../../../cni-plugin/testdata/dual-stack-dns.nft");
/// A resolver that does not exist: whoever gets an answer got it from ztunnel.
const NOBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 53)),
    IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x53)),
];
/// The scripted server's address on the underlay.
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0xfe);
/// What it says of any name.
const ELSEWHERE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7),
);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const ECHO: &str = "echo.app.svc.cluster.local.";
const FOREIGN: &str = "www.example.com.";
/// Of this name the server says where it lives itself.
const DATABASE: &str = "db.example.com.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
}

/// A question that the scripted server got: who asked, what, and how.
type Asked = (IpAddr, String, Over);

fn capture(pod: &Pod) -> Result<()> {
    pod.net.ns.nft(RULES)?;
    for line in RULES.lines() {
        if let Some(line) = line.strip_prefix("# ip -4 ") {
            pod.net.ns.ip(&format!("{line}\n"))?;
        } else if let Some(line) = line.strip_prefix("# ip -6 ") {
            pod.net.ns.ip6(&format!("{line}\n"))?;
        }
    }
    Ok(())
}

/// The scripted server, on both transports of `address`.
fn serve(namespace: &Namespace, address: IpAddr, asked: &Sender<Asked>) -> Result<()> {
    let at = SocketAddr::new(address, 53);
    let packets = namespace.run(|| UdpSocket::bind(at))??;
    let connections = namespace.listen(at)?;
    let of_packets = asked.clone();
    namespace.spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = packets.recv_from(&mut buffer) {
            let (name, reply) = reply(&buffer[..length]);
            let _test_is_over = of_packets.send((from.ip(), name, Over::Udp));
            let _client_may_leave = packets.send_to(&reply, from);
        }
    })?;
    let of_connections = asked.clone();
    namespace.spawn(move || {
        while let Ok((mut stream, from)) = connections.accept() {
            let Ok(packet) = read(&mut stream) else {
                continue;
            };
            let (name, reply) = reply(&packet);
            let _test_is_over = of_connections.send((from.ip(), name, Over::Tcp));
            let _client_may_leave = write(&mut stream, &reply);
        }
    })?;
    Ok(())
}

fn reply(packet: &[u8]) -> (String, Vec<u8>) {
    let asked = Message::from_vec(packet).expect("ztunnel asks in order");
    let query = asked.queries[0].clone();
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    let found = match query.query_type() {
        RecordType::A if query.name().to_string() == DATABASE => {
            Some(RData::A(A(Ipv4Addr::new(172, 30, 0, 254))))
        }
        RecordType::A => Some(RData::A(A(ELSEWHERE.0))),
        RecordType::AAAA if query.name().to_string() != DATABASE => {
            Some(RData::AAAA(AAAA(ELSEWHERE.1)))
        }
        _ => None,
    };
    let records = found.map(|found| Record::from_rdata(query.name().clone(), 60, found));
    message.add_answers(records);
    message.add_query(query.clone());
    let bytes = message.to_vec().expect("a small message");
    (query.name().to_string(), bytes)
}

fn read(stream: &mut impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

fn write(stream: &mut impl std::io::Write, packet: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(packet.len()).expect("a small message");
    stream.write_all(&[&length.to_be_bytes()[..], packet].concat())
}

/// Asks `server` from inside of a namespace as a C library would.
fn ask(
    from: &Namespace,
    server: IpAddr,
    over: Over,
    (name, kind): (&str, RecordType),
) -> Result<Message> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    let (packet, to) = (message.to_vec()?, SocketAddr::new(server, 53));
    let bytes = match over {
        Over::Tcp => {
            let mut stream = echo::connect(from, to)?;
            write(&mut stream, &packet)?;
            read(&mut stream)?
        }
        Over::Udp => from.run(|| -> Result<Vec<u8>> {
            let any: IpAddr = match server {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            // Connected: an answer from any other address than the server's would not be taken.
            socket.connect(to)?;
            socket.send(&packet)?;
            let mut buffer = [0; 5000];
            let length = socket.recv(&mut buffer)?;
            Ok(buffer[..length].to_vec())
        })??,
    };
    let answer = Message::from_vec(&bytes)?;
    ensure!(answer.metadata.id == 4711, "another question's answer");
    Ok(answer)
}

fn addresses(answer: &Message) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(A(address)) => Some(IpAddr::V4(*address)),
        RData::AAAA(AAAA(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    answer.answers.iter().filter_map(address).collect()
}

/// One node whose ztunnel asks the scripted server, and what that was asked.
fn mesh(settings: &[(&str, &str)]) -> Result<(Mesh, Receiver<Asked>, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    let resolv = dir.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 172.30.0.254\n")?;
    let path = resolv.to_string_lossy().into_owned();
    let all = [&[("DNS_RESOLV_CONF", path.as_str())], settings].concat();
    let mesh = Mesh::without_ztunnels(1, &all)?;
    let control = mesh.topology.control();
    control.ip(&format!(
        "addr add {SERVER_V6}/64 dev br0 nodad\nroute add fd00:244:1::/64 via fd00:30::1\n"
    ))?;
    mesh.nodes[0]
        .net
        .ns
        .ip6(&format!("route add default via {SERVER_V6}\n"))?;
    let (sender, asked) = channel();
    serve(control, mesh.topology.control_ip(), &sender)?;
    serve(control, SERVER_V6.into(), &sender)?;
    Ok((mesh, asked, dir))
}

/// A pod whose DNS is captured too.
fn captured(mesh: &Mesh, name: &str) -> Result<Pod> {
    let pod = mesh.bare_pod(0, name, name)?;
    mesh.publish(&pod.workload);
    capture(&pod)?;
    mesh.nodes[0].agent.add(&pod.uid(), &pod.net, pod.info())?;
    Ok(pod)
}

#[test]
fn a_captured_pod_learns_names_of_the_mesh_and_others_are_asked_for_in_its_name() -> Result<()> {
    testkit::root_or_skip!();
    let (mut mesh, asked, _resolv) = mesh(&[])?;
    mesh.start_ztunnel(0)?;
    let mut pod = captured(&mesh, "client")?;
    mesh.service("echo", VIP.into(), (80, 8080), &mut [&mut pod]);
    mesh.settle()?;
    for server in NOBODY {
        for over in [Over::Udp, Over::Tcp] {
            let known = |name, kind| ask(&pod.net.ns, server, over, (name, kind));
            let by = format!("{over:?} to {server}");
            let answer = known(ECHO, RecordType::A).with_context(|| by.clone())?;
            assert_eq!(addresses(&answer), [IpAddr::V4(VIP)], "{by}");
            assert!(answer.metadata.authoritative, "{by}");
            assert_eq!(
                addresses(&known("echo.", RecordType::A)?),
                [IpAddr::V4(VIP)],
                "{by}"
            );
            let none = known(ECHO, RecordType::AAAA)?;
            assert_eq!(none.metadata.response_code, ResponseCode::NoError, "{by}");
            assert!(none.answers.is_empty(), "{by}");
            assert!(
                asked.try_recv().is_err(),
                "a name of the mesh was asked for elsewhere: {by}"
            );

            let foreign = known(FOREIGN, RecordType::AAAA)?;
            assert_eq!(addresses(&foreign), [IpAddr::V6(ELSEWHERE.1)], "{by}");
            let seen = asked.recv_timeout(LIMIT)?;
            assert_eq!(seen, (pod.net.ip, FOREIGN.to_owned(), over), "{by}");
        }
    }
    let node = &mesh.nodes[0];
    let count = |name: &str, labels: &[&str]| node.metric(name, labels);
    let client = "source_canonical_service=\"client\"";
    assert_eq!(count("istio_dns_requests_total", &[client])?, 16.0);
    assert_eq!(
        count("istio_dns_upstream_requests_total", &[client, "tcp"])?,
        2.0
    );
    assert_eq!(count("istio_dns_upstream_failures_total", &[])?, 0.0);
    Ok(())
}

#[test]
fn a_name_server_on_ipv6_is_asked_over_ipv6() -> Result<()> {
    testkit::root_or_skip!();
    let (mut mesh, asked, resolv) = mesh(&[])?;
    std::fs::write(
        resolv.path().join("resolv.conf"),
        format!("nameserver {SERVER_V6}\n"),
    )?;
    mesh.start_ztunnel(0)?;
    let pod = captured(&mesh, "client")?;
    mesh.settle()?;
    for over in [Over::Udp, Over::Tcp] {
        let answer = ask(&pod.net.ns, NOBODY[1], over, (FOREIGN, RecordType::A))?;
        assert_eq!(addresses(&answer), [IpAddr::V4(ELSEWHERE.0)]);
        assert_eq!(
            asked.recv_timeout(LIMIT)?,
            (pod.net.ip6, FOREIGN.to_owned(), over)
        );
    }
    Ok(())
}

#[test]
fn who_is_not_captured_asks_for_itself_and_without_the_proxy_nobody_listens() -> Result<()> {
    testkit::root_or_skip!();
    let (mut mesh, asked, _resolv) = mesh(&[("ISTIO_META_DNS_CAPTURE", "false")])?;
    mesh.start_ztunnel(0)?;
    // TCP is captured, DNS is not: the rules of a node agent with AMBIENT_DNS_CAPTURE=false.
    let mut pod = mesh.pod(0, "client", "client")?;
    mesh.service("echo", VIP.into(), (80, 8080), &mut [&mut pod]);
    mesh.settle()?;
    let server = mesh.topology.control_ip();
    let answer = ask(&pod.net.ns, server, Over::Udp, (ECHO, RecordType::A))?;
    assert_eq!(addresses(&answer), [IpAddr::V4(ELSEWHERE.0)]);
    assert_eq!(
        asked.recv_timeout(LIMIT)?,
        (pod.net.ip, ECHO.to_owned(), Over::Udp)
    );
    for ip in ["127.0.0.1:15053", "[::1]:15053"] {
        assert!(echo::connect(&pod.net.ns, ip.parse()?).is_err(), "{ip}");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_known_by_name_is_resolved_when_somebody_calls_it() -> Result<()> {
    testkit::root_or_skip!();
    let (mut mesh, asked, _resolv) = mesh(&[])?;
    mesh.start_ztunnel(0)?;
    let client = mesh.pod(0, "client", "client")?;
    let mut database = mesh.bare_pod(0, "db", "db")?;
    database.workload.addresses.clear();
    database.workload.hostname = DATABASE.trim_end_matches('.').to_owned();
    database.workload.tunnel_protocol = 0;
    mesh.service("db", VIP.into(), (80, 9000), &mut [&mut database]);
    mesh.settle()?;
    let server = mesh.topology.control_ip();
    echo::serve(mesh.topology.control(), 9000, echo::Behaviour::Echo)?;
    for _ in 0..2 {
        let stream = echo::connect(&client.net.ns, SocketAddr::new(VIP.into(), 80))?;
        assert_eq!(echo::exchange(stream, b"select")?, b"select");
    }
    // Once for each family, by ztunnel itself, however many call.
    let node = mesh.nodes[0].net.ip;
    for _ in 0..2 {
        assert_eq!(
            asked.recv_timeout(LIMIT)?,
            (node, DATABASE.to_owned(), Over::Udp)
        );
    }
    assert!(asked.try_recv().is_err());
    let line =
        mesh.nodes[0].log_line(&["connection complete", &format!("dst.addr={server}:9000")])?;
    assert!(
        line.contains("dst.service=\"db.app.svc.cluster.local\""),
        "{line}"
    );
    let labels = [
        "source_canonical_service=\"client\"",
        "hostname=\"db.example.com\"",
    ];
    testkit::wait::until("both calls are counted", LIMIT, || {
        let count = mesh.nodes[0].metric("istio_on_demand_dns_total", &labels)?;
        ensure!(count == 2.0, "{count}");
        Ok(())
    })
}

#[test]
fn a_pod_that_leaves_has_no_dns_proxy_any_more() -> Result<()> {
    testkit::root_or_skip!();
    let (mut mesh, _asked, _resolv) = mesh(&[])?;
    mesh.start_ztunnel(0)?;
    let pod = mesh.pod(0, "client", "client")?;
    mesh.settle()?;
    let open = || -> Result<bool> {
        let mut all = Vec::new();
        for ip in ["127.0.0.1:15053", "[::1]:15053"] {
            all.push(echo::connect(&pod.net.ns, ip.parse()?).is_ok());
        }
        ensure!(all[0] == all[1], "on one loopback address only: {all:?}");
        Ok(all[0])
    };
    assert!(open()?);
    mesh.nodes[0].agent.remove(&pod.uid())?;
    testkit::wait::until("the sockets close", LIMIT, || {
        ensure!(!open()?, "still open");
        Ok(())
    })
}
