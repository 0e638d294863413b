//! The other ways into the kernel: iptables, and the node's own rule.
use std::path::Path;

use sys::Netns;
use sys::socket::{ListenOptions, any_address, listen_tcp};

use super::{BOTH, accepted_port, connect, dial, listed, load_text, pod, root, routing, run_in};
use crate::apply::{check, check_removed, install, remove, remove_table, restore};
use crate::rules::{Options, Ruleset, Writer, render};

fn by_iptables(rules: Ruleset) -> Ruleset {
    Ruleset {
        writer: Writer::Iptables("iptables-nft"),
        ..rules
    }
}

#[test]
fn iptables_rules_are_those_of_istios_cni_and_either_writer_replaces_the_other() {
    if !root() {
        return;
    }
    let dns = Options {
        dns: true,
        ipv6: true,
    };
    let (netns, nft) = (pod(), render(dns));
    let iptables = by_iptables(nft.clone());
    let routes_before = routing(&netns);
    install(&netns, &nft).unwrap();
    install(&netns, &iptables).unwrap();
    check(&netns, &iptables).unwrap();
    assert!(check(&netns, &nft).is_err(), "its table is gone");
    for (command, upstream) in [
        ("iptables-nft-save", "upstream-pod.iptables"),
        ("ip6tables-nft-save", "upstream-pod.ip6tables"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata")
            .join(upstream);
        let sorted = |text: String| {
            let mut rules: Vec<_> = text
                .lines()
                .filter(|l| l.starts_with("-A"))
                .map(str::to_owned)
                .collect();
            rules.sort();
            rules
        };
        let captured = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            sorted(run_in(&netns, command)),
            sorted(captured),
            "{command}"
        );
    }
    // Twice is once; another setting takes the rest away.
    install(&netns, &iptables).unwrap();
    check(&netns, &iptables).unwrap();
    restore(&netns, &by_iptables(render(BOTH))).unwrap();
    assert!(!run_in(&netns, "iptables-nft-save").contains("15053"));
    run_in(&netns, "iptables-nft -t nat -F ISTIO_OUTPUT");
    let text = check(&netns, &by_iptables(render(BOTH)))
        .unwrap_err()
        .to_string();
    assert!(text.contains("is missing in table nat"), "{text}");
    // What Istio's CNI left is taken over.
    install(&netns, &nft).unwrap();
    assert!(!run_in(&netns, "iptables-nft-save").contains("ISTIO_"));
    install(&netns, &iptables).unwrap();
    remove(&netns).unwrap();
    check_removed(&netns, iptables.writer).unwrap();
    assert!(!run_in(&netns, "iptables-nft-save").contains("ISTIO_"));
    assert_eq!(routing(&netns), routes_before);
}

#[test]
fn what_the_node_itself_sends_to_a_captured_pod_passes_and_what_it_forwards_does_not() {
    if !root() {
        return;
    }
    for writer in [Writer::Nftables, Writer::Iptables("iptables-nft")] {
        let (node, pod) = (Netns::create().unwrap(), Netns::create().unwrap());
        connect(&node, &pod);
        // The node has no such addresses; what comes back is meant for its own connections.
        run_in(&node, "ip addr del 169.254.7.127/32 dev eth0");
        run_in(
            &node,
            "ip -6 addr del fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128 dev eth0",
        );
        install(&pod, &render(BOTH)).unwrap();
        let addresses = ["10.1.0.2", "fd01::2"].map(|ip| ip.parse().unwrap());
        let rules = Ruleset {
            writer,
            ..crate::rules::host(true, addresses)
        };
        let listen = |port| {
            let listener = pod
                .enter(|| listen_tcp(any_address(true, port), &ListenOptions::default()).unwrap());
            (port, listener.unwrap())
        };
        let listeners: Vec<_> = [15006, 8080].map(listen).into();
        let probe = |to: &str| {
            let _stream = node.enter(|| dial(to, None)).unwrap();
            accepted_port(&listeners)
        };
        let both = ["10.1.0.2:8080", "[fd01::2]:8080"];
        assert_eq!(
            both.map(probe),
            [15006, 15006],
            "without the rule it is captured"
        );
        restore(&node, &rules).unwrap();
        check(&node, &rules).unwrap();
        assert_eq!(both.map(probe), [8080, 8080]);
        // A client behind the node: the packet has no socket here.
        let client = Netns::create().unwrap();
        join(&node, &client);
        let _stream = client.enter(|| dial("10.1.0.2:8080", None)).unwrap();
        assert_eq!(accepted_port(&listeners), 15006);
        // A pod that is not of the mesh any more.
        restore(
            &node,
            &Ruleset {
                writer,
                ..crate::rules::host(true, [])
            },
        )
        .unwrap();
        assert_eq!(probe("10.1.0.2:8080"), 15006);
        remove_table(&node, crate::rules::HOST_TABLE).unwrap();
        assert!(!run_in(&node, "nft list ruleset").contains("169.254"));
    }
}

/// A client whose packets the node forwards.
fn join(node: &Netns, client: &Netns) {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/{}/fd/{}", std::process::id(), client.as_raw_fd());
    run_in(node, "ip link add far0 type veth peer name c0");
    run_in(node, &format!("ip link set c0 netns {path}"));
    for command in [
        "ip link set far0 up",
        "ip addr add 10.2.0.1/24 dev far0",
        "sysctl -qw net.ipv4.ip_forward=1",
    ] {
        run_in(node, command);
    }
    for command in [
        "ip link set lo up",
        "ip link set c0 up",
        "ip addr add 10.2.0.2/24 dev c0",
        "ip route add default via 10.2.0.1",
    ] {
        run_in(client, command);
    }
}

#[test]
fn the_nodes_rule_is_what_nft_reads_from_its_text() {
    if !root() {
        return;
    }
    let addresses = ["10.1.0.2", "10.1.0.3", "fd01::2"].map(|ip| ip.parse().unwrap());
    for rules in [
        crate::rules::host(true, addresses),
        crate::rules::host(false, []),
    ] {
        let (ours, theirs) = (Netns::create().unwrap(), Netns::create().unwrap());
        restore(&ours, &rules).unwrap();
        theirs.enter(|| load_text(&rules.to_string())).unwrap();
        assert_eq!(listed(&ours), listed(&theirs), "{rules}");
    }
}

#[test]
fn a_pods_switches_are_what_nft_reads_from_their_text() {
    if !root() {
        return;
    }
    use crate::rules::{Interface, Switches, render_switched};
    let switches = Switches {
        dns: Some(true),
        bypass_inbound: true,
        reroute: vec![Interface::new("tap0").unwrap()],
    };
    let rules = render_switched(BOTH, &switches);
    let (ours, theirs) = (pod(), pod());
    install(&ours, &rules).unwrap();
    theirs.enter(|| load_text(&rules.to_string())).unwrap();
    assert_eq!(listed(&ours), listed(&theirs), "{rules}");
}
