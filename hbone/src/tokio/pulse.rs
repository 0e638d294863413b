//! Does the other end of a connection still live? Whoever runs a connection asks, with timers of its own.

use std::future::poll_fn;

use super::shared::Shared;

/// The life of one connection, either side. It keeps the connection neither open nor in use.
#[derive(Debug, Clone)]
pub struct Pulse {
    shared: Shared,
}

impl Pulse {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// How often something has arrived from the peer; grows while it sends anything at all.
    pub fn received(&self) -> u64 {
        self.shared.lock().arrivals
    }

    /// Sends a PING and waits for the answer; false: the connection closed first. For connections that are silent, and
    /// without a deadline.
    pub async fn ping(&self) -> bool {
        let seen = {
            let mut state = self.shared.lock();
            state.connection.ping();
            state.wake_driver();
            state.pongs
        };
        poll_fn(|cx| self.shared.lock().poll_pong(cx, seen)).await
    }
}
