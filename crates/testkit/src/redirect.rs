//! Capture rules for a test pod, the least that in-pod mode needs. The product's own rules are
//! `cni-plugin`'s; this lets ztunnel be tested without a node agent.

use anyhow::Result;

use crate::topology::Pod;

/// Marks and ports are Istio's: 0x539 is ztunnel's own traffic, 0x111 a connection that it opened with
/// a borrowed source address, whose replies must come back to the loopback.
const RULES: &str = r"
table inet causeway_test {
    chain mark_in {
        type filter hook prerouting priority mangle; policy accept;
        meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
    }
    chain mark_out {
        type route hook output priority mangle; policy accept;
        ct mark & 0xfff == 0x111 meta mark set ct mark
    }
    chain nat_in {
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr 127.0.0.1 accept
        ip6 daddr ::1 accept
        tcp dport 15008 accept
        meta mark & 0xfff == 0x539 accept
        meta l4proto tcp redirect to :15006
    }
    chain nat_out {
        type nat hook output priority -100; policy accept;
        meta mark & 0xfff == 0x111 accept
        meta mark & 0xfff == 0x539 accept
        oifname lo accept
        ip daddr 127.0.0.1 accept
        ip6 daddr ::1 accept
        meta l4proto tcp redirect to :15001
    }
}
";

/// Sends the pod's TCP to ztunnel's listeners (15001 out, 15006 in, 15008 untouched).
///
/// # Errors
/// When nft or ip refuse.
pub fn capture(pod: &Pod) -> Result<()> {
    pod.ns.nft(RULES)?;
    let rule = "rule add fwmark 0x111/0xfff pref 32764 lookup 100\n";
    pod.ns.ip(&format!(
        "{rule}route add local 0.0.0.0/0 dev lo table 100\n"
    ))?;
    pod.ns
        .ip6(&format!("{rule}route add local ::/0 dev lo table 100\n"))
}

/// Takes [`capture`] back, as when a pod leaves the mesh.
///
/// # Errors
/// When nft or ip refuse.
pub fn release(pod: &Pod) -> Result<()> {
    pod.ns.nft("delete table inet causeway_test\n")?;
    let lines = "rule del fwmark 0x111/0xfff\nroute flush table 100\n";
    pod.ns.ip(lines)?;
    pod.ns.ip6(lines)
}
