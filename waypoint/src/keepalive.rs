//! Finds out that the other end of a carrier is gone: a node that died closes nothing. Used for both directions, by
//! `listener` and `upstream::dial`.

use hbone::tokio::Pulse;
use std::time::Duration;

/// Silence after which the other end is asked, and how long it may take to answer.
pub type Times = (Duration, Duration);

/// What istiod sends for `connect_terminate`; for carriers of which nothing is said.
pub const DEFAULT: Times = (Duration::from_secs(10), Duration::from_secs(20));

/// Ends when the other end was silent for the one time and then answered no PING for the other.
pub async fn lost(pulse: Pulse, (silence, patience): Times) {
    loop {
        let before = pulse.received();
        tokio::time::sleep(silence).await;
        if pulse.received() != before {
            continue;
        }
        match tokio::time::timeout(patience, pulse.ping()).await {
            Ok(true) => {}
            // The connection has ended by itself.
            Ok(false) => std::future::pending::<()>().await,
            Err(_) if pulse.received() != before => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hbone::proto::Config;
    use hbone::tokio::{client, server};
    use tokio::time::Instant;

    const TIMES: Times = (Duration::from_secs(10), Duration::from_secs(20));

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_lives_and_one_that_does_not_is_lost() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (incoming, driver) = server::accept(far, Config::server());
        let tasks = runtime::Shutdown::new();
        drop(tasks.spawn_aside(driver));
        let (handle, driver) = client::connect(near, Config::client());
        drop(tasks.spawn_aside(driver));
        for pulse in [incoming.pulse(), handle.pulse()] {
            let hour = Duration::from_secs(3600);
            let waited = tokio::time::timeout(hour, lost(pulse, TIMES)).await;
            assert!(waited.is_err(), "it was alive");
        }
        // It closes nothing, and moves no bytes.
        let (silent, far) = tokio::io::duplex(1 << 16);
        let (incoming, driver) = server::accept(far, Config::server());
        drop(tasks.spawn_aside(driver));
        let since = Instant::now();
        lost(incoming.pulse(), TIMES).await;
        assert_eq!(since.elapsed(), Duration::from_secs(30));
        drop(silent);
    }
}
