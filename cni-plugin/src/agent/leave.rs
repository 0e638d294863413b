//! Pods that were taken out of the mesh while they run: new connections go their own way, but ztunnel serves them for a
//! while. Peers hear of the change only after a moment and speak HBONE until then, and connections that are open end by
//! themselves; the rules that these need are the last to go, after ztunnel has let go: what is open would go on in the
//! clear. Called by `membership`, `repair` and `uninstall`.
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use objects::enroll::Why;
use sys::Netns;

use super::membership::{Membership, Wanted};
use super::pods::Entry;

/// Peers know by then.
const TOLD: Duration = Duration::from_secs(5);
/// A ztunnel that runs has connected by then; longer nobody waits for one that is to be told.
const ABSENT: Duration = Duration::from_secs(15);
/// Between two looks at those that leave.
pub const STEP: Duration = Duration::from_secs(1);

/// Milliseconds since the node was started: what an agent writes down means the same to the next one.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has this clock");
    u64::try_from(Duration::from(now).as_millis()).unwrap_or(u64::MAX)
}

/// How it stands with a pod that leaves.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// Since it was taken out.
    elapsed: Duration,
    /// A connection is open through ztunnel.
    open: bool,
    /// A ztunnel is there to be told.
    connected: bool,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    /// ztunnel lets go of it, and then its last rules go.
    LetGo,
    /// The same, though ztunnel may not have heard of it.
    Force,
}

/// What is open may last `limit`. Pure.
fn step(standing: Standing, limit: Duration) -> Step {
    let Standing {
        elapsed,
        open,
        connected,
    } = standing;
    if elapsed >= limit.saturating_add(ABSENT) {
        return Step::Force;
    }
    let due = if open {
        elapsed >= limit && connected
    } else {
        elapsed >= limit.min(TOLD)
    };
    if due { Step::LetGo } else { Step::Wait }
}

/// Lets ztunnel go of those whose time has come, and takes away their last rules. What is open may last `limit`.
pub async fn settle(members: &Membership, limit: Duration) {
    for entry in members.pods.leaving() {
        let limit = match members.wanted(&entry) {
            // Nothing in it speaks any more.
            Wanted::Out(Why::Finished) => Duration::ZERO,
            // It comes back as soon as ztunnel takes it.
            Wanted::In(_) if !members.is_uninstalling() => continue,
            _ => limit,
        };
        let standing = Standing {
            elapsed: elapsed(&entry),
            open: in_use(members, &entry).await,
            connected: *members.ztunnel.connected().borrow() > 0,
        };
        let step = step(standing, limit);
        if step == Step::Wait {
            continue;
        }
        let _turn = members.turn.lock().await;
        // It may have come back meanwhile, or be gone.
        let held = members.pods.find(&entry.key());
        let same =
            |held: &Entry| held.uid == entry.uid && held.leaving_since == entry.leaving_since;
        if let Some(entry) = held.filter(same) {
            let_go(members, &entry, step == Step::Force).await;
        }
    }
}

fn elapsed(entry: &Entry) -> Duration {
    // A list of before the node was started anew: nothing is open any more.
    let since = entry
        .leaving_since
        .and_then(|since| now().checked_sub(since));
    since.map_or(Duration::MAX, Duration::from_millis)
}

/// Ends it, or leaves it as it is, to be tried again. Hold the turn.
async fn let_go(members: &Membership, entry: &Entry, force: bool) {
    let key = entry.key();
    // Before ztunnel hears of it: one that connects just now is not told of the pod.
    members.pods.set_enrolled(&key, false);
    let mut done = members.unserve(entry).await || force;
    if done && let Err(error) = members.release(entry).await {
        tracing::warn!(%error, uid = entry.uid, "rules of a pod that is out cannot be removed, tried again");
        done = false;
    }
    if !done {
        members
            .pods
            .set_leaving(&key, entry.leaving_since.unwrap_or_else(now));
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
    fn rules_stay_while_ztunnel_carries_what_is_open_but_not_for_ever() {
        let limit = Duration::from_secs(60);
        for (seconds, open, connected, expected) in [
            (4, false, true, Step::Wait),
            (5, false, true, Step::LetGo),
            // Nothing is open: nobody has to hear of it first.
            (5, false, false, Step::LetGo),
            (59, true, true, Step::Wait),
            (60, true, true, Step::LetGo),
            // It carries on what is open without us, until it connects and hears of it.
            (60, true, false, Step::Wait),
            (75, true, false, Step::Force),
        ] {
            let standing = Standing {
                elapsed: Duration::from_secs(seconds),
                open,
                connected,
            };
            assert_eq!(step(standing, limit), expected, "{standing:?}");
        }
        let standing = Standing {
            elapsed: Duration::ZERO,
            open: true,
            connected: true,
        };
        assert_eq!(step(standing, Duration::ZERO), Step::LetGo);
    }

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
