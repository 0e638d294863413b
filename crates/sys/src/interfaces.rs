//! The addresses by which others reach this network namespace. Called by whoever tells a control plane where it is.
use std::io;
use std::net::IpAddr;

use nix::net::if_::InterfaceFlags;

/// Addresses of the interfaces that are up, in the kernel's order: without loopback and link-local ones.
///
/// # Errors
/// What the kernel says.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
    let up = all.filter(|one| {
        one.flags.contains(InterfaceFlags::IFF_UP)
            && !one.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    });
    let ips = up.filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(ips.filter(|ip| is_reached(*ip)).collect())
}

fn is_reached(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_can_reach_are_told() {
        let told = |text: &str| is_reached(text.parse().unwrap());
        for ip in ["10.0.0.3", "fd00::3", "2001:db8::1", "192.0.2.1"] {
            assert!(told(ip), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "0.0.0.0",
            "ff02::1",
        ] {
            assert!(!told(ip), "{ip}");
        }
    }

    #[test]
    fn the_kernel_is_asked() {
        // The loopback interface is there in every namespace, and never told.
        assert!(addresses().unwrap().iter().all(|ip| !ip.is_loopback()));
    }
}
