//! How long a client's HTTP connection may be without a request, and how long the head of one may take. Kept by
//! `listener` for each inner connection; an answer's body tells when its request has ended.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What a connection is doing.
#[derive(Debug)]
struct State {
    /// Requests under way.
    active: usize,
    /// When the last one ended, or the connection began.
    quiet_since: Instant,
    /// When the first byte of the next head came.
    head_since: Option<Instant>,
}

/// The pace of one connection.
#[derive(Debug)]
pub struct Pace(Mutex<State>);

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// No request for too long.
    Idle,
    /// A head that does not end.
    Head,
}

impl Pace {
    /// A connection that begins now.
    pub fn begin() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            active: 0,
            quiet_since: Instant::now(),
            head_since: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of a request has come. The request lasts as long as what is returned.
    pub fn request(self: &Arc<Self>) -> Busy {
        let mut state = self.lock();
        state.active += 1;
        state.head_since = None;
        drop(state);
        Busy(self.clone())
    }

    /// Ends when the connection has to be closed.
    pub async fn overdue(&self, idle: Duration, head: Duration) -> Overdue {
        loop {
            let (end, why) = {
                let state = self.lock();
                match (state.active, state.head_since) {
                    (0, Some(since)) => (since.checked_add(head), Overdue::Head),
                    (0, None) => (state.quiet_since.checked_add(idle), Overdue::Idle),
                    _ => (None, Overdue::Idle),
                }
            };
            let now = Instant::now();
            if end.is_some_and(|end| end <= now) {
                return why;
            }
            // Whatever begins meanwhile has at least this much time.
            let look = now + idle.min(head);
            tokio::time::sleep_until(end.map_or(look, |end| end.min(look))).await;
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Busy(Arc<Pace>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.active -= 1;
        state.quiet_since = Instant::now();
    }
}

/// A stream that tells when the first byte of a head comes. For HTTP/1 alone: in HTTP/2 other frames come too.
pub struct Paced<T> {
    /// The stream.
    pub io: T,
    /// Its connection's pace.
    pub pace: Arc<Pace>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            let mut state = self.pace.lock();
            if state.active == 0 && state.head_since.is_none() {
                state.head_since = Some(Instant::now());
            }
        }
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
