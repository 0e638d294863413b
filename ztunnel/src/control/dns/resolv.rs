//! `resolv.conf`: who is asked what the mesh does not know. Pure; read by `app` at the start.

use std::net::{IpAddr, SocketAddr};

/// The C library reads so many and no more.
const MAX_SERVERS: usize = 3;

/// The name servers of a `resolv.conf`, in its order. Lines that nobody understands are skipped, as everywhere.
pub fn servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let named = words.next() == Some("nameserver");
        words.next().filter(|_| named)?.parse::<IpAddr>().ok()
    });
    lines
        .take(MAX_SERVERS)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// Servers that a pod cannot reach, because their address means the pod itself.
pub fn out_of_reach(servers: &[SocketAddr]) -> Vec<IpAddr> {
    let addresses = servers.iter().map(SocketAddr::ip);
    addresses
        .filter(|address| address.to_canonical().is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_name_servers_count() {
        let text = "# comment\nsearch app.svc.cluster.local\nnameserver 10.96.0.10\nnameserver\nnameserver nonsense\n\
             options ndots:5\n  nameserver fd00::a # kube-dns\nnameserver 127.0.0.53\nnameserver 10.0.0.9\n";
        let found = servers(text);
        let expected: Vec<SocketAddr> = ["10.96.0.10:53", "[fd00::a]:53", "127.0.0.53:53"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(found, expected);
        assert_eq!(out_of_reach(&found), [IpAddr::from([127, 0, 0, 53])]);
        assert_eq!(servers(""), []);
    }
}
