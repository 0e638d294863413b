//! Pods that were taken out of the mesh while they run: new connections go their own way, but ztunnel serves them for a
//! while. Peers hear of the change only after a moment and speak HBONE until then, and connections that are open end by
//! themselves; the rules that these need are the last to go. Called by `membership` and `repair`.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sys::Netns;
use tokio::time::Instant;

use super::membership::Membership;
use super::pods::Entry;

/// Peers know by then.
const TOLD: Duration = Duration::from_secs(5);
/// Between two looks at those that leave.
pub const STEP: Duration = Duration::from_secs(1);

/// Those that leave.
#[derive(Debug, Default)]
pub struct Leaving(Mutex<Vec<(Entry, Instant)>>);

impl Leaving {
    /// One more.
    pub fn put(&self, entry: Entry) {
        self.lock().push((entry, Instant::now()));
    }

    /// Takes a pod off the list; was it there?
    pub fn take(&self, uid: &str) -> bool {
        let mut all = self.lock();
        let before = all.len();
        all.retain(|(entry, _)| entry.uid != uid);
        all.len() != before
    }

    /// Does any leave?
    #[must_use]
    pub fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn all(&self) -> Vec<(Entry, Instant)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Entry, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets ztunnel go of those whose time has come, and takes away their last rules.
pub async fn settle(members: &Membership) {
    for (entry, since) in members.leaving.all() {
        let elapsed = since.elapsed();
        let open = || in_use(members, &entry);
        let limit = members.config.withdraw_wait;
        if elapsed < limit && (elapsed < TOLD || open().await) {
            continue;
        }
        let _turn = members.turn.lock().await;
        // It may have come back meanwhile, or be gone.
        if members.leaving.take(&entry.uid) {
            members.unserve(&entry).await;
            if let Err(error) = members.release(&entry).await {
                tracing::warn!(%error, uid = entry.uid, "rules of a pod that is out cannot be removed, tried again");
                members.leaving.put(entry);
            }
        }
    }
}

async fn in_use(members: &Membership, entry: &Entry) -> bool {
    let Some(netns) = entry.netns.clone() else {
        return false;
    };
    let look = members.shutdown.spawn_blocking(move || connections(&netns));
    look.await.is_ok_and(|open| open)
}

/// Is any connection open at one of ztunnel's ports in the namespace?
fn connections(netns: &Netns) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let tables = netns.enter(|| ["tcp", "tcp6"].map(|name| read(name).unwrap_or_default()));
    tables.is_ok_and(|tables| tables.iter().any(|table| has_open(table)))
}

/// The same of a table as /proc/net/tcp shows it: number, local and remote address with port, state, all hexadecimal. One
/// that is half closed may still carry bytes, one that is being closed its last ones.
fn has_open(table: &str) -> bool {
    const TIME_WAIT: &str = "06";
    const CLOSE: &str = "07";
    const LISTEN: &str = "0A";
    const PORTS: [u16; 3] = [15001, 15006, 15008];
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1).and_then(|address| address.rsplit_once(':'));
        let port = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        let state = fields.nth(1);
        state.is_some_and(|state| ![TIME_WAIT, CLOSE, LISTEN].contains(&state))
            && port.is_some_and(|port| PORTS.contains(&port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_connection_at_ztunnels_ports_counts() {
        let head =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
        let v6 = "00000000000000000000000001000000";
        let at = |local: &str, state: &str| {
            format!("   0: {local} 0200A8C0:D431 {state} 0:0 00:0 0 0 0 1 1")
        };
        let (outbound, application) = ("0100007F:3A99", "0100007F:D431");
        // From ESTABLISHED over SYN_RECV, FIN_WAIT1 and 2, CLOSE_WAIT, LAST_ACK to CLOSING.
        let open = ["01", "03", "04", "05", "08", "09", "0B"];
        let mut cases: Vec<_> = open.map(|state| (at(outbound, state), true)).into();
        cases.extend(["06", "07", "0A"].map(|state| (at(outbound, state), false)));
        cases.extend([
            (at(&format!("{v6}:3AA0"), "01"), true),
            (at(&format!("{v6}:3A9E"), "01"), true),
            (at(application, "01"), false),
            ("nonsense".into(), false),
        ]);
        for (line, expected) in cases {
            assert_eq!(has_open(&format!("{head}{line}\n")), expected, "{line}");
        }
        assert!(!has_open(""));
    }
}
