use super::*;
use crate::rules::{Options, Switches, host, render};

const UPSTREAM: [(&str, bool); 2] = [
    (
        include_str!("../../../testdata/upstream-pod.iptables"),
        false,
    ),
    (
        include_str!("../../../testdata/upstream-pod.ip6tables"),
        true,
    ),
];
const DNS: Options = Options {
    dns: true,
    ipv6: true,
};
const PLAIN: Options = Options {
    dns: false,
    ipv6: true,
};

/// What a namespace without any rule of ours saves.
const OTHERS: &str =
    "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j RETURN\nCOMMIT\n";

#[test]
fn the_rules_are_those_that_istios_cni_writes() {
    for (saved, ipv6) in UPSTREAM {
        assert_eq!(lines(&render(DNS), ipv6).difference(saved), None);
        // And they are all of them.
        let there = Saved::read(saved);
        let count: usize = there.tables.values().map(|held| held.rules.len()).sum();
        let ours = lines(&render(DNS), ipv6);
        let all: usize = ours.tables.values().map(|table| table.all().len()).sum();
        assert_eq!(all, count);
    }
}

#[test]
fn a_difference_is_named() {
    let (saved, _) = UPSTREAM[0];
    let wanted = lines(&render(DNS), false);
    assert!(
        wanted
            .difference(OTHERS)
            .unwrap()
            .contains("is missing in table mangle")
    );
    let less = saved.replace("-A OUTPUT -j ISTIO_OUTPUT\n", "");
    assert!(
        wanted
            .difference(&less)
            .unwrap()
            .contains("OUTPUT -j ISTIO_OUTPUT")
    );
    let more = saved.replace("COMMIT", "-A ISTIO_OUTPUT -j ACCEPT\nCOMMIT");
    assert!(wanted.difference(&more).unwrap().contains("beyond ours"));
    let lo = "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT\n";
    let first = "-A ISTIO_OUTPUT -d 169";
    let moved = saved
        .replace(lo, "")
        .replace(first, &format!("{lo}{first}"));
    assert!(
        wanted.difference(&moved).unwrap().contains("the order"),
        "{moved}"
    );
    assert!(lines(&render(PLAIN), false).difference(saved).is_some());
}

#[test]
fn jumps_that_are_there_are_not_written_twice_and_tables_that_are_stale_go() {
    let (saved, _) = UPSTREAM[0];
    let first = lines(&render(DNS), false).install(OTHERS);
    assert_eq!(first.matches("-j ISTIO_").count(), 6, "{first}");
    let again = lines(&render(DNS), false).install(saved);
    assert_eq!(again.matches("-j ISTIO_").count(), 0, "{again}");
    let without = lines(&render(PLAIN), false).install(saved);
    let raw = "*raw\n-D PREROUTING -j ISTIO_PRERT\n-D OUTPUT -j ISTIO_OUTPUT\n\
               -F ISTIO_OUTPUT\n-F ISTIO_PRERT\n-X ISTIO_OUTPUT\n-X ISTIO_PRERT\nCOMMIT\n";
    assert!(without.contains(raw), "{without}");
}

#[test]
fn removal_takes_what_is_ours_and_leaves_a_sidecars_chains() {
    let (saved, _) = UPSTREAM[0];
    let text = removal(saved);
    assert_eq!(text.matches("-D ").count(), 6, "{text}");
    assert_eq!(text.matches("-X ").count(), 6, "{text}");
    assert_eq!(removal(OTHERS), "");
    let sidecar = "*nat\n:ISTIO_INBOUND - [0:0]\n:ISTIO_OUTPUT - [0:0]\n\
                   -A PREROUTING -p tcp -j ISTIO_INBOUND\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\nCOMMIT\n";
    assert_eq!(removal(sidecar), "");
}

#[test]
fn probes_of_the_node_get_one_rule_for_each_pod() {
    let pods = ["10.0.0.2", "fd00::2", "10.0.0.1"].map(|ip| ip.parse().unwrap());
    let rules = host(true, pods);
    let v4 = lines(&rules, false).install("");
    assert_eq!(
        v4,
        "*nat\n:ISTIO_POSTRT - [0:0]\n-I POSTROUTING -j ISTIO_POSTRT\n\
         -A ISTIO_POSTRT -d 10.0.0.1/32 -p tcp -m owner --socket-exists -j SNAT --to-source 169.254.7.127\n\
         -A ISTIO_POSTRT -d 10.0.0.2/32 -p tcp -m owner --socket-exists -j SNAT --to-source 169.254.7.127\nCOMMIT\n"
    );
    let v6 = lines(&rules, true).install("");
    assert!(v6.contains("-d fd00::2/128 -p tcp"), "{v6}");
}

#[test]
fn a_pods_switches_change_its_rules() {
    use crate::rules::{Interface, render_switched};
    let switches = Switches {
        dns: Some(false),
        bypass_inbound: true,
        reroute: vec![Interface::new("tap0").unwrap()],
    };
    let text = lines(&render_switched(DNS, &switches), false).install("");
    assert!(
        text.contains("-A ISTIO_PRERT -i tap0 -p tcp -j REDIRECT --to-ports 15001"),
        "{text}"
    );
    for not in ["15006", "15053", "-s 169.254.7.127", "*raw"] {
        assert!(!text.contains(not), "{not}: {text}");
    }
}
