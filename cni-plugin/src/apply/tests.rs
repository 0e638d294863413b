use super::*;
use crate::rules::{Options, PROXY_MARK, render};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use sys::socket::{ConnectOptions, ListenOptions, any_address, connect_tcp, listen_tcp};

mod older;
mod open;
mod strays;
mod writers;

const BOTH: Options = Options {
    dns: false,
    ipv6: true,
};

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        // Past libtest's capture, so that `scripts/test` counts it.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: rules in a network namespace need root"
        );
    }
    root
}

fn run_in(netns: &Netns, command: &str) -> String {
    let mut words = command.split_whitespace();
    let mut run = Command::new(words.next().unwrap());
    let out = netns.enter(|| run.args(words).output()).unwrap().unwrap();
    assert!(
        out.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// A namespace with `lo` up and addresses that are not loopback, like a pod's.
fn pod() -> Netns {
    let netns = Netns::create().unwrap();
    run_in(&netns, "ip link set lo up");
    run_in(&netns, "ip link add eth0 type veth peer name far0");
    run_in(&netns, "ip link set eth0 up");
    run_in(&netns, "ip link set far0 up");
    run_in(&netns, "ip addr add 10.9.8.7/24 dev eth0");
    run_in(&netns, "ip -6 addr add fd09::7/64 dev eth0 nodad");
    run_in(&netns, "ip route add default dev eth0");
    run_in(&netns, "ip -6 route add default dev eth0");
    netns
}

/// What the kernel holds, without handles, as nft shows it.
fn listed(netns: &Netns) -> serde_json::Value {
    let mut list: serde_json::Value =
        serde_json::from_str(&run_in(netns, "nft -j list ruleset")).unwrap();
    for item in list["nftables"].as_array_mut().unwrap() {
        for (_, inner) in item.as_object_mut().unwrap() {
            inner.as_object_mut().unwrap().remove("handle");
        }
    }
    list
}

fn routing(netns: &Netns) -> String {
    [
        "ip -4 rule",
        "ip -6 rule",
        "ip -4 route show table all",
        "ip -6 route show table all",
    ]
    .map(|command| run_in(netns, command))
    .concat()
    .lines()
    // Addresses and routes of links come by themselves, a moment after the link.
    .filter(|line| line.contains("lookup") || line.contains("table 100"))
    .map(|line| format!("{line}\n"))
    .collect()
}

#[test]
fn what_netlink_writes_is_what_nft_reads_from_the_golden_text() {
    if !root() {
        return;
    }
    for options in [
        BOTH,
        Options {
            dns: true,
            ipv6: true,
        },
        Options {
            dns: true,
            ipv6: false,
        },
    ] {
        let rules = render(options);
        let (ours, theirs) = (pod(), pod());
        install(&ours, &rules).unwrap();
        theirs.enter(|| load_text(&rules.to_string())).unwrap();
        assert_eq!(listed(&ours), listed(&theirs), "{rules}");
    }
}

fn load_text(text: &str) {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    nft.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(nft.wait().unwrap().success(), "nft does not read:\n{text}");
}

#[test]
fn rules_that_cannot_be_written_again_leave_the_older_ones_in_force() {
    if !root() {
        return;
    }
    let (netns, rules) = (pod(), render(BOTH));
    install(&netns, &rules).unwrap();
    let mut bad = rules.clone();
    bad.chains[0].kind = "no such kind";
    assert!(matches!(restore(&netns, &bad), Err(ApplyError::Rules(_))));
    check(&netns, &rules).unwrap();
}

#[test]
fn install_replaces_itself_and_remove_leaves_no_rest() {
    if !root() {
        return;
    }
    let netns = pod();
    let (nft_before, routes_before) = (listed(&netns), routing(&netns));
    remove(&netns).unwrap();
    assert_eq!(
        (listed(&netns), routing(&netns)),
        (nft_before.clone(), routes_before.clone())
    );
    install(&netns, &render(BOTH)).unwrap();
    let once = listed(&netns);
    install(&netns, &render(BOTH)).unwrap();
    assert_eq!(listed(&netns), once);
    check(&netns, &render(BOTH)).unwrap();
    let routes = routing(&netns);
    assert_eq!(
        routes.matches("fwmark 0x111/0xfff lookup 100").count(),
        2,
        "{routes}"
    );
    assert_eq!(
        routes.matches("local default dev lo table 100").count(),
        2,
        "{routes}"
    );
    remove(&netns).unwrap();
    assert_eq!(
        (listed(&netns), routing(&netns)),
        (nft_before, routes_before)
    );
    remove(&netns).unwrap();
}

#[test]
fn check_names_what_differs() {
    if !root() {
        return;
    }
    let netns = pod();
    let rules = render(BOTH);
    let text = check(&netns, &rules).unwrap_err().to_string();
    assert!(text.contains("is missing"), "{text}");
    install(&netns, &rules).unwrap();
    run_in(&netns, "ip rule del fwmark 0x111/0xfff lookup 100");
    let text = check(&netns, &rules).unwrap_err().to_string();
    assert!(text.contains("policy routing V4 is missing"), "{text}");
    install(&netns, &rules).unwrap();
    run_in(&netns, "nft add rule inet causeway redirect_out accept");
    let text = check(&netns, &rules).unwrap_err().to_string();
    assert!(text.contains("beyond ours"), "{text}");
    // Other people's tables are none of our business.
    install(&netns, &rules).unwrap();
    run_in(&netns, "nft add table inet other");
    check(&netns, &rules).unwrap();
}

#[test]
fn a_pod_without_ipv6_gets_its_ipv4_routing() {
    if !root() {
        return;
    }
    let netns = Netns::create().unwrap();
    run_in(
        &netns,
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1",
    );
    run_in(&netns, "ip link set lo up");
    install(&netns, &render(BOTH)).unwrap();
    check(&netns, &render(BOTH)).unwrap();
    remove(&netns).unwrap();
}

/// The port and the connection of the first that some listener gets.
fn accepted(listeners: &[(u16, TcpListener)]) -> (u16, TcpStream) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut wanted: Vec<_> = listeners
        .iter()
        .map(|(_, l)| PollFd::new(l.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut wanted, PollTimeout::NONE).unwrap();
    let ready = wanted.iter().position(|fd| fd.any() == Some(true)).unwrap();
    let (port, listener) = &listeners[ready];
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    (*port, stream)
}

fn accepted_port(listeners: &[(u16, TcpListener)]) -> u16 {
    let (port, mut stream) = accepted(listeners);
    stream.write_all(b"!").unwrap();
    port
}

fn dial(to: &str, mark: Option<u32>) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    connect_tcp(
        to,
        &ConnectOptions {
            mark,
            ..ConnectOptions::default()
        },
    )
    .unwrap()
}

#[test]
fn outbound_traffic_is_captured_and_the_proxys_and_loopback_are_not() {
    if !root() {
        return;
    }
    let netns = pod();
    install(&netns, &render(BOTH)).unwrap();
    netns
        .enter(|| {
            let listen = |port| {
                (
                    port,
                    listen_tcp(any_address(true, port), &ListenOptions::default()).unwrap(),
                )
            };
            let listeners: Vec<_> = [15001, 15006, 8080].map(listen).into();
            for (to, mark, port) in [
                ("192.0.2.1:80", None, 15001),
                ("[2001:db8::1]:443", None, 15001),
                // A mark of somebody else does not exempt.
                ("192.0.2.1:80", Some(0x38), 15001),
                // The upper bits are not ours.
                ("127.0.0.1:8080", None, 8080),
                ("[::1]:8080", None, 8080),
                // The pod's own address, over lo.
                ("10.9.8.7:8080", None, 8080),
                ("[fd09::7]:8080", None, 8080),
                ("10.9.8.7:8080", Some(PROXY_MARK), 8080),
                ("10.9.8.7:8080", Some(0x7000 | PROXY_MARK), 8080),
            ] {
                let mut stream = dial(to, mark);
                assert_eq!(accepted_port(&listeners), port, "{to} {mark:?}");
                stream.set_nonblocking(false).unwrap();
                stream.read_exact(&mut [0]).unwrap();
            }
        })
        .unwrap();
}

#[test]
fn inbound_traffic_is_captured_but_for_hbone_and_probes() {
    if !root() {
        return;
    }
    let (pod, client) = (Netns::create().unwrap(), Netns::create().unwrap());
    connect(&client, &pod);
    install(&pod, &render(BOTH)).unwrap();
    let listen = |port| {
        let listener =
            pod.enter(|| listen_tcp(any_address(true, port), &ListenOptions::default()).unwrap());
        (port, listener.unwrap())
    };
    let listeners: Vec<_> = [15006, 15008, 8080].map(listen).into();
    for (source, to, port) in [
        ("10.1.0.1", "10.1.0.2:8080", 15006),
        ("fd01::1", "[fd01::2]:8080", 15006),
        ("10.1.0.1", "10.1.0.2:15008", 15008),
        ("fd01::1", "[fd01::2]:15008", 15008),
        ("169.254.7.127", "10.1.0.2:8080", 8080),
        (
            "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
            "[fd01::2]:8080",
            8080,
        ),
    ] {
        let source = Some(SocketAddr::new(source.parse().unwrap(), 0));
        let options = ConnectOptions {
            source,
            ..ConnectOptions::default()
        };
        let to: SocketAddr = to.parse().unwrap();
        let mut stream = client.enter(|| connect_tcp(to, &options).unwrap()).unwrap();
        assert_eq!(accepted_port(&listeners), port, "{source:?} {to}");
        stream.set_nonblocking(false).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
}

/// A veth pair between two namespaces, addresses .1 and .2, and the node's probe addresses.
fn connect(client: &Netns, pod: &Netns) {
    let pid = std::process::id();
    let command = format!("ip link add eth0 type veth peer name p{pid}");
    run_in(client, &command);
    let link = format!("ip link set p{pid} netns");
    // `ip` wants a path: our descriptor, seen from its own /proc.
    use std::os::fd::AsRawFd;
    let path = format!("/proc/{pid}/fd/{}", pod.as_raw_fd());
    run_in(client, &format!("{link} {path}"));
    run_in(pod, &format!("ip link set p{pid} name eth0"));
    for (netns, v4, v6) in [
        (client, "10.1.0.1/24", "fd01::1/64"),
        (pod, "10.1.0.2/24", "fd01::2/64"),
    ] {
        run_in(netns, "ip link set lo up");
        run_in(netns, "ip link set eth0 up");
        run_in(netns, &format!("ip addr add {v4} dev eth0"));
        run_in(netns, &format!("ip -6 addr add {v6} dev eth0 nodad"));
    }
    run_in(client, "ip addr add 169.254.7.127/32 dev eth0");
    run_in(
        client,
        "ip -6 addr add fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128 dev eth0 nodad",
    );
    run_in(pod, "ip route add default via 10.1.0.1");
    run_in(pod, "ip -6 route add default via fd01::1");
}

#[test]
fn the_apps_reply_to_a_spoofed_client_comes_back_to_the_proxy() {
    if !root() {
        return;
    }
    let netns = pod();
    install(&netns, &render(BOTH)).unwrap();
    netns
        .enter(|| {
            for (source, app) in [
                ("192.0.2.44:0", "10.9.8.7:8080"),
                ("[2001:db8::44]:0", "[fd09::7]:8080"),
            ] {
                let app: SocketAddr = app.parse().unwrap();
                let listener = listen_tcp(app, &ListenOptions::default()).unwrap();
                let source: SocketAddr = source.parse().unwrap();
                let options = ConnectOptions {
                    source: Some(source),
                    mark: Some(PROXY_MARK),
                    ..ConnectOptions::default()
                };
                let mut proxy = connect_tcp(app, &options).unwrap();
                let listeners = [(8080, listener)];
                assert_eq!(accepted_port(&listeners), 8080);
                proxy.set_nonblocking(false).unwrap();
                proxy.read_exact(&mut [0]).unwrap();
                assert_eq!(proxy.local_addr().unwrap().ip(), source.ip());
            }
        })
        .unwrap();
}
