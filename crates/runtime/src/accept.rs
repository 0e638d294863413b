//! Errors of `accept`, sorted by what an accept loop should do: it never ends because of a peer and
//! never spins. Used by every accept loop of the tokio half.
use std::io;
use std::time::Duration;

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
