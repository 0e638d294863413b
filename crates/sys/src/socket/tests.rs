use super::*;
use crate::testing::{pod, root, run_in};
use std::io::{Read, Write};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn wait(fd: impl AsFd, flags: PollFlags) {
    poll(&mut [PollFd::new(fd.as_fd(), flags)], PollTimeout::NONE).unwrap();
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    wait(listener, PollFlags::POLLIN);
    let (stream, peer) = listener.accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    (stream, peer)
}

fn dial(to: SocketAddr, options: &ConnectOptions) -> TcpStream {
    let stream = connect_tcp(to, options).unwrap();
    wait(&stream, PollFlags::POLLOUT);
    if let Some(error) = stream.take_error().unwrap() {
        panic!("{error}");
    }
    stream.set_nonblocking(false).unwrap();
    stream
}

#[test]
fn a_dial_is_in_progress_then_carries_bytes() {
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
    let keepalive = Keepalive {
        time: Duration::from_secs(180),
        interval: Duration::from_secs(180),
        retries: 9,
    };
    let options = ConnectOptions {
        keepalive: Some(keepalive),
        user_timeout: Some(Duration::from_secs(30)),
        ..ConnectOptions::default()
    };
    let mut client = dial(listener.local_addr().unwrap(), &options);
    let (mut server, _) = accept(&listener);
    client.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    let socket = SockRef::from(&client);
    assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.time);
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
    assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
}

#[test]
fn a_refused_dial_shows_in_take_error() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let stream = connect_tcp(port, &ConnectOptions::default()).unwrap();
    wait(&stream, PollFlags::POLLOUT);
    let error = stream.take_error().unwrap().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn linger_reset_makes_close_a_reset() {
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
    let client = dial(listener.local_addr().unwrap(), &ConnectOptions::default());
    let (mut server, _) = accept(&listener);
    set_linger_reset(&client).unwrap();
    drop(client);
    let error = server.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn two_listeners_share_a_port_with_reuse_port_only() {
    let shared = ListenOptions {
        reuse_port: true,
        ..ListenOptions::default()
    };
    let first = listen_tcp("127.0.0.1:0".parse().unwrap(), &shared).unwrap();
    let taken = first.local_addr().unwrap();
    let refused = listen_tcp(taken, &ListenOptions::default()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    listen_tcp(taken, &shared).unwrap();
}

#[test]
fn a_mapped_address_is_dialled_as_ipv4() {
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
    let client = dial(mapped, &ConnectOptions::default());
    assert!(client.peer_addr().unwrap().is_ipv4());
}

#[test]
fn a_dial_keeps_a_source_address_that_is_not_ours() {
    if !root("a spoofed source") {
        return;
    }
    for (to, source) in [
        ("127.0.0.1:0", "192.0.2.7:4242"),
        ("[::1]:0", "[2001:db8::7]:4242"),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let source: SocketAddr = source.parse().unwrap();
        let netns = pod();
        // Replies to the foreign source come back in through lo.
        let family = if to.is_ipv4() { "-4" } else { "-6" };
        run_in(
            &netns,
            &format!("ip {family} route add local {}/128 dev lo", source.ip())
                .replace("192.0.2.7/128", "192.0.2.7/32"),
        );
        let options = ConnectOptions {
            source: Some(source),
            mark: Some(0x539),
            ..Default::default()
        };
        netns
            .enter(|| {
                let listener = listen_tcp(to, &ListenOptions::default()).unwrap();
                let client = dial(listener.local_addr().unwrap(), &options);
                let (_server, peer) = accept(&listener);
                assert_eq!(peer, source);
                assert_eq!(SockRef::from(&client).mark().unwrap(), 0x539);
            })
            .unwrap();
    }
}

#[test]
fn a_foreign_source_gets_a_port_that_clients_have_not_and_any_when_those_are_taken() {
    if !root("a spoofed source") {
        return;
    }
    let netns = pod();
    run_in(&netns, "ip -4 route add local 192.0.2.7/32 dev lo");
    let source = "192.0.2.7:0".parse().unwrap();
    let options = ConnectOptions {
        source: Some(source),
        ..Default::default()
    };
    netns
        .enter(|| {
            let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default());
            let listener = listener.unwrap();
            let to = listener.local_addr().unwrap();
            let first = dial(to, &options).local_addr().unwrap().port();
            let open: Vec<_> = (0..100).map(|_| dial(to, &options)).collect();
            for port in open.iter().map(|one| one.local_addr().unwrap().port()) {
                assert!(port % 2 == 1 && port < 32_768 && port != first, "{port}");
            }
            let taken = open[0].local_addr().unwrap().port();
            let other = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default());
            let other = other.unwrap().local_addr().unwrap();
            for (to, expected) in [(other, true), (to, false)] {
                let again = dial_from_any_port(to, source, &options, [taken]).unwrap();
                let port = again.local_addr().unwrap().port();
                assert_eq!(port == taken, expected, "{to} from {port}");
            }
        })
        .unwrap();
}

#[test]
fn the_original_destination_of_a_redirected_connection_is_known() {
    if !root("redirect rules") {
        return;
    }
    let netns = pod();
    run_in(&netns, "nft add table inet t");
    run_in(
        &netns,
        "nft add chain inet t o { type nat hook output priority -100 ; }",
    );
    run_in(
        &netns,
        "nft add rule inet t o meta l4proto tcp th dport 7000 redirect to :15001",
    );
    netns
        .enter(|| {
            let listener = listen_tcp(any_address(true, 15001), &ListenOptions::default()).unwrap();
            for to in ["127.0.0.9:7000", "[::1]:7000"] {
                let to: SocketAddr = to.parse().unwrap();
                let _client = dial(to, &ConnectOptions::default());
                let (server, _) = accept(&listener);
                assert_eq!(original_dst(&server).unwrap(), to);
            }
        })
        .unwrap();
}

#[test]
fn tcp_migrate_req_is_set_inside_the_namespace_only() {
    if !root("a sysctl of a namespace") {
        return;
    }
    let path = "/proc/sys/net/ipv4/tcp_migrate_req";
    let before = std::fs::read_to_string(path).unwrap();
    let netns = pod();
    set_tcp_migrate_req(&netns).unwrap();
    let inside = netns
        .enter(|| std::fs::read_to_string(path).unwrap())
        .unwrap();
    assert_eq!(inside.trim(), "1");
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
}

#[test]
fn what_the_peer_has_not_acknowledged_is_counted_until_it_reads() {
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
    let mut client = dial(listener.local_addr().unwrap(), &ConnectOptions::default());
    let (mut server, _) = accept(&listener);
    assert_eq!(unacknowledged(&client).unwrap(), 0);
    client.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(n) = client.write(&[7; 64 << 10]) {
        written += n;
    }
    let waiting = unacknowledged(&client).unwrap();
    assert!(waiting > 0 && waiting <= written, "{waiting} of {written}");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    server.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), written);
    // Its end carries the acknowledgement of ours.
    drop(server);
    client.set_nonblocking(false).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(unacknowledged(&client).unwrap(), 0);
}

#[test]
fn two_udp_sockets_share_a_port_if_both_want_to_and_a_connected_one_hears_its_peer_alone() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = bind_udp(any, true, None).unwrap();
    let shared = first.local_addr().unwrap();
    assert!(bind_udp(shared, true, None).is_ok());
    assert!(bind_udp(shared, false, None).is_err());
    let client = connect_udp(shared, None).unwrap();
    let client_at = client.local_addr().unwrap();
    let stranger = std::net::UdpSocket::bind(any).unwrap();
    stranger.send_to(b"stranger", client_at).unwrap();
    first.send_to(b"peer", client_at).unwrap();
    let mut buffer = [0; 16];
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"peer");
}
