//! The side that accepts tunnels.

use std::future::poll_fn;
use std::task::Poll;

use ::tokio::io::{AsyncRead, AsyncWrite};

use super::shared::Shared;
use super::{Driver, Pulse, Stream};
use crate::headers::{ConnectRequest, ConnectResponse};
use crate::proto::{Config, ErrorCode};

/// Begins HTTP/2 on a carrier that is ready (TLS done). Run the driver, take requests from [`Incoming`].
pub fn accept<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    config: Config,
) -> (Incoming, Driver<Io>) {
    let shared = Shared::server(config);
    (
        Incoming {
            shared: shared.clone(),
        },
        Driver::new(io, shared),
    )
}

/// The requests of one connection. Dropping it drains the connection.
#[derive(Debug)]
pub struct Incoming {
    shared: Shared,
}

impl Incoming {
    /// The next CONNECT; none when the connection is over or has drained. Requests that are no valid CONNECT were
    /// answered already. Cancel safe.
    pub async fn next(&mut self) -> Option<(ConnectRequest, Responder)> {
        let next = poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some(next) = state.requests.pop_front() {
                return Poll::Ready(Some(next));
            }
            if state.closed || state.connection.is_drained() {
                return Poll::Ready(None);
            }
            state.acceptor = Some(cx.waker().clone());
            Poll::Pending
        });
        let (slot, head) = next.await?;
        Some((
            *head,
            Responder {
                stream: Stream::new(self.shared.clone(), slot),
            },
        ))
    }

    /// Tells whether the peer still lives.
    pub fn pulse(&self) -> Pulse {
        Pulse::new(self.shared.clone())
    }

    /// A handle to drain this connection from elsewhere.
    pub fn drainer(&self) -> Drainer {
        Drainer {
            shared: self.shared.clone(),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.accepting = false;
        for (slot, _) in std::mem::take(&mut state.requests) {
            if let Some(slot) = state.slots.try_remove(slot) {
                state
                    .connection
                    .reset(slot.stream, ErrorCode::REFUSED_STREAM);
            }
        }
        state.release_owner();
    }
}

/// Ends a server's connection gracefully; see [`crate::proto::Connection::drain`].
#[derive(Debug, Clone)]
pub struct Drainer {
    shared: Shared,
}

impl Drainer {
    /// GOAWAY in two steps; tunnels live on, the driver ends after the last of them.
    pub fn drain(&self) {
        let mut state = self.shared.lock();
        state.connection.drain();
        state.wake_driver();
    }
}

/// Answers one request. Dropping it unanswered resets the stream.
#[derive(Debug)]
pub struct Responder {
    stream: Stream,
}

impl Responder {
    /// 200: the tunnel is open.
    pub fn accept(self, response: &ConnectResponse) -> Stream {
        let mut state = self.stream.shared().lock();
        if let Some(slot) = state.slots.get(self.stream.slot()) {
            let stream = slot.stream;
            state.connection.respond(stream, response, false);
            state.wake_driver();
        }
        drop(state);
        self.stream
    }

    /// Any other status, with END_STREAM and no body.
    pub fn refuse(self, response: &ConnectResponse) {
        let mut state = self.stream.shared().lock();
        if let Some(slot) = state.slots.get_mut(self.stream.slot()) {
            let stream = slot.stream;
            (slot.ended, slot.shut) = (true, true);
            state.connection.respond(stream, response, true);
            state.wake_driver();
        }
    }

    /// Resets the stream without an answer.
    pub fn reset(self, code: ErrorCode) {
        self.stream.reset(code);
    }
}
