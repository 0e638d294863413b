//! One tunnel as AsyncRead + AsyncWrite. Shutdown closes our half; dropping it unfinished resets it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Error;
use super::shared::{KEEP, Shared};
use crate::headers::ConnectResponse;
use crate::proto::ErrorCode;

/// A tunnel. Reads end where the peer closed its half; a reset before that, whatever its code, is `ConnectionReset`
/// behind the bytes that came before it: a cut must never look like a whole answer. Writes wait for the peer's credit.
#[derive(Debug)]
pub struct Stream {
    shared: Shared,
    slot: usize,
}

impl Stream {
    pub(super) fn new(shared: Shared, slot: usize) -> Self {
        Self { shared, slot }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// Resets the tunnel, for a user whose own side broke (CONNECT_ERROR) or that may not go on.
    pub fn reset(self, code: ErrorCode) {
        let mut state = self.shared.lock();
        if let Some(slot) = state.slots.get_mut(self.slot) {
            let stream = slot.stream;
            slot.reset = Some(code);
            state.connection.reset(stream, code);
        }
    }

    /// Client: waits for the answer.
    pub(super) async fn response(&self) -> Result<Box<ConnectResponse>, Error> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            let Some(slot) = state.slots.get_mut(self.slot) else {
                return Poll::Ready(Err(Error::Closed));
            };
            if let Some(response) = slot.response.take() {
                return Poll::Ready(Ok(response));
            }
            if let Some(code) = slot.reset {
                let closed = state.closed;
                return Poll::Ready(Err(if closed {
                    Error::Closed
                } else {
                    Error::Reset(code)
                }));
            }
            slot.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

fn reset_error(code: ErrorCode) -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        format!("stream reset: {code}"),
    )
}

fn broken_pipe() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Some(slot) = state.slots.get_mut(self.slot) else {
            return Poll::Ready(Err(broken_pipe()));
        };
        if slot.received.is_empty() {
            return match slot.reset {
                _ if slot.ended || buf.remaining() == 0 => Poll::Ready(Ok(())),
                Some(code) => Poll::Ready(Err(reset_error(code))),
                None => {
                    slot.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let before = buf.filled().len();
        let (first, second) = slot.received.as_slices();
        for part in [first, second] {
            buf.put_slice(&part[..part.len().min(buf.remaining())]);
        }
        let n = buf.filled().len() - before;
        slot.received.drain(..n);
        if slot.received.is_empty() && slot.received.capacity() > KEEP {
            slot.received = Default::default();
        }
        state.connection.consumed(slot.stream, n);
        if !state.connection.output().is_empty() {
            state.wake_driver();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        let Some(slot) = state.slots.get_mut(self.slot) else {
            return Poll::Ready(Err(broken_pipe()));
        };
        if let Some(code) = slot.reset {
            return Poll::Ready(Err(reset_error(code)));
        }
        if slot.shut {
            return Poll::Ready(Err(broken_pipe()));
        }
        // Before `send`: it leaves word that this slot waits.
        if !slot
            .writer
            .as_ref()
            .is_some_and(|writer| writer.will_wake(cx.waker()))
        {
            slot.writer = Some(cx.waker().clone());
        }
        match state.send(self.slot, buf) {
            0 if !buf.is_empty() => Poll::Pending,
            n => Poll::Ready(Ok(n)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver writes whatever it has as soon as the carrier takes it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        if let Some(slot) = state.slots.get_mut(self.slot)
            && !slot.shut
        {
            slot.shut = true;
            state.connection.end(slot.stream);
            state.wake_driver();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().remove(self.slot);
    }
}
