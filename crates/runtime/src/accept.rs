//! Listeners, and errors of `accept` sorted by what an accept loop should do: it never ends because of a peer and
//! never spins. Used by every accept loop of the tokio half.
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sys::socket::{ListenOptions, listen_tcp};
use tokio::net::TcpListener;

/// Opens a listener. `[::]` takes IPv4 too, unless `only_v6`; on a kernel without IPv6 it is `0.0.0.0` then.
///
/// # Errors
/// When the address is taken or not ours; the text names it.
pub fn listen(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    const EAFNOSUPPORT: i32 = 97;
    let options = ListenOptions {
        only_v6,
        ..ListenOptions::default()
    };
    let any = address.ip().is_unspecified() && address.is_ipv6() && !only_v6;
    let opened = match listen_tcp(address, &options) {
        Err(error) if any && error.raw_os_error() == Some(EAFNOSUPPORT) => {
            listen_tcp((Ipv4Addr::UNSPECIFIED, address.port()).into(), &options)
        }
        opened => opened,
    };
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    opened.and_then(TcpListener::from_std).map_err(named)
}

/// What an accept loop does after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// This one peer is gone already; accept the next at once.
    Next,
    /// We lack descriptors or memory; wait this long, then go on.
    Pause(Duration),
    /// The listener itself is unusable.
    Stop,
}

/// Sorts an error of `accept`.
#[must_use]
pub fn advice(error: &io::Error) -> Advice {
    const EBADF: i32 = 9;
    const EINVAL: i32 = 22;
    const ENOTSOCK: i32 = 88;
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOMEM: i32 = 12;
    const ENOBUFS: i32 = 105;
    match error.raw_os_error() {
        Some(EBADF | EINVAL | ENOTSOCK) => Advice::Stop,
        Some(EMFILE | ENFILE | ENOMEM | ENOBUFS) => Advice::Pause(Duration::from_millis(50)),
        _ => Advice::Next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_can_listen_on_one_port_and_one_can_take_both() {
        let any = |port| listen(([0; 8], port).into(), false);
        let both = any(0).unwrap();
        let port = both.local_addr().unwrap().port();
        let seen = std::net::TcpStream::connect(("127.0.0.1", port));
        assert!(seen.is_ok(), "[::] takes IPv4: {seen:?}");
        let four = listen(([0, 0, 0, 0], 0).into(), false).unwrap();
        let port = four.local_addr().unwrap().port();
        let error = any(port).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on [::]:{port}: ")),
            "{error}"
        );
        listen(([0; 8], port).into(), true).unwrap();
    }

    #[test]
    fn errors_are_sorted_by_whose_fault_they_are() {
        let sorted = |code| advice(&io::Error::from_raw_os_error(code));
        assert_eq!(sorted(103), Advice::Next, "ECONNABORTED");
        assert_eq!(
            sorted(1),
            Advice::Next,
            "EPERM: a firewall refused this peer"
        );
        assert_eq!(
            sorted(24),
            Advice::Pause(Duration::from_millis(50)),
            "EMFILE"
        );
        assert_eq!(sorted(9), Advice::Stop, "EBADF");
    }
}
