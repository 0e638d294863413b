//! Two real ztunnels in two nodes (network namespaces), real pods, a control plane that the test scripts: what only
//! the kernel and the whole process can show. Needs root and the release binaries (`make test` builds them).

#[path = "ztunnel/dns.rs"]
mod dns;
#[path = "ztunnel/ends.rs"]
mod ends;
#[path = "ztunnel/life.rs"]
mod life;
#[path = "ztunnel/pod.rs"]
mod pod;
#[path = "ztunnel/policy.rs"]
mod policy;
#[path = "ztunnel/same_node.rs"]
mod same_node;
#[path = "ztunnel/traffic.rs"]
mod traffic;

use std::net::SocketAddr;

use testkit::echo;
use testkit::topology::Namespace;

const SECRET: &[u8] = b"a sentence that must not be readable between the nodes";

/// Whether a connection ends before a byte came back. (It may be accepted and reset before `connect` returns.)
fn refused(from: &Namespace, to: SocketAddr) -> bool {
    let answer = echo::connect(from, to).and_then(|stream| echo::exchange(stream, b"let me in"));
    answer.map_or(true, |answer| answer.is_empty())
}
