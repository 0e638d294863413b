//! Accepts ztunnels, at most five a second, and gives each an owner. The future that `serve`
//! returns.
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Link, Listener, Shared, owner};
use crate::socket::Socket;

const PER_SECOND: usize = 5;
/// A node has one ztunnel, two during an upgrade; more live connections than this are refused.
const MAX_LINKS: usize = 16;

pub(super) async fn run(listener: Listener, shared: Arc<Shared>) -> io::Error {
    // Owners end with this future.
    let mut owners = JoinSet::new();
    let mut pace = Pace::default();
    for number in 0.. {
        sleep_until(pace.next(Instant::now())).await;
        let socket = loop {
            while owners.try_join_next().is_some() {}
            match listener.accept().await {
                Ok(connection) if owners.len() < MAX_LINKS => match Socket::new(connection) {
                    Ok(socket) => break socket,
                    Err(error) => tracing::warn!(%error, "cannot serve a ztunnel"),
                },
                Ok(_) => tracing::warn!("too many ztunnel connections, one refused"),
                Err(error) if is_fatal(&error) => return error,
                Err(error) => tracing::warn!(%error, "cannot accept a ztunnel"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        pace.accepted(Instant::now());
        let (orders, taken) = mpsc::unbounded_channel();
        // Registered before the snapshot is taken: see `Pods`.
        shared.links().push(Link { number, orders });
        let shared = Arc::clone(&shared);
        owners.spawn(async move {
            tracing::info!(connection = number, "ztunnel connected");
            let ended = owner::run(socket, &shared, taken).await;
            shared.links().retain(|link| link.number != number);
            tracing::info!(connection = number, reason = %ended, "ztunnel connection ended");
        });
    }
    io::Error::other("out of connection numbers")
}

fn is_fatal(error: &io::Error) -> bool {
    const EBADF: i32 = 9;
    const EINVAL: i32 = 22;
    matches!(error.raw_os_error(), Some(EBADF | EINVAL))
}

/// When the next connection may be accepted.
#[derive(Default)]
struct Pace {
    last: VecDeque<Instant>,
}

impl Pace {
    fn next(&self, now: Instant) -> Instant {
        match self.last.front() {
            Some(first) if self.last.len() == PER_SECOND => *first + Duration::from_secs(1),
            _ => now,
        }
    }

    fn accepted(&mut self, now: Instant) {
        if self.last.len() == PER_SECOND {
            self.last.pop_front();
        }
        self.last.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_connections_pass_at_once_and_the_sixth_waits_a_second() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..PER_SECOND {
            assert_eq!(pace.next(start), start);
            pace.accepted(start);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.next(start), later);
        pace.accepted(later);
        assert_eq!(
            pace.next(later),
            later,
            "four of the first five still count as of `start`"
        );
    }
}
