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
    /// Requests under way: their answers have not ended.
    active: usize,
    /// Requests whose bodies have not ended; an answer may have ended before.
    uploads: usize,
    /// When the last one ended, its body moved, or the connection began.
    quiet_since: Instant,
    /// When the first byte of the next head came.
    head_since: Option<Instant>,
    /// Bytes of a next head came before the answer to the last request had ended.
    ahead: bool,
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
            uploads: 0,
            quiet_since: Instant::now(),
            head_since: None,
            ahead: false,
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
        state.ahead = false;
        drop(state);
        Busy(self.clone())
    }

    /// Its body begins; until what is returned is gone, the bytes that come are the body's.
    pub fn upload(self: &Arc<Self>) -> Uploading {
        self.lock().uploads += 1;
        Uploading(self.clone())
    }

    /// Is a request under way?
    pub fn is_active(&self) -> bool {
        self.lock().active > 0
    }

    /// Is the body of a request on its way?
    #[cfg(test)]
    pub fn is_uploading(&self) -> bool {
        self.lock().uploads > 0
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
        state.rest();
    }
}

/// The body of a request that has not ended.
#[derive(Debug)]
pub struct Uploading(Arc<Pace>);

impl Drop for Uploading {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.uploads -= 1;
        state.rest();
    }
}

impl State {
    /// An answer or a body has ended.
    fn rest(&mut self) {
        self.quiet_since = Instant::now();
        if self.active == 0 && self.uploads == 0 && std::mem::take(&mut self.ahead) {
            self.head_since = Some(self.quiet_since);
        }
    }

    /// Bytes came.
    fn read(&mut self) {
        let now = Instant::now();
        if self.uploads > 0 {
            self.quiet_since = now;
        } else if self.active > 0 {
            self.ahead = true;
        } else {
            self.head_since.get_or_insert(now);
        }
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
            self.pace.lock().read();
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

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(600);
    const HEAD: Duration = Duration::from_secs(60);

    /// Why the connection is closed, and how long after now.
    async fn overdue(pace: &Pace) -> (Overdue, Duration) {
        let since = Instant::now();
        (pace.overdue(IDLE, HEAD).await, since.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_goes_on_after_its_answer_is_no_head() {
        let pace = Pace::begin();
        let (busy, upload) = (pace.request(), pace.upload());
        pace.lock().read();
        drop(busy);
        for _ in 0..30 {
            pace.lock().read();
            let waited = tokio::time::timeout(IDLE / 2, overdue(&pace)).await;
            assert!(waited.is_err(), "{waited:?}");
        }
        // A body that does not move is as idle as none.
        pace.lock().read();
        assert_eq!(overdue(&pace).await, (Overdue::Idle, IDLE));
        drop(upload);
        pace.lock().read();
        assert_eq!(overdue(&pace).await, (Overdue::Head, HEAD));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_began_before_the_last_answer_ended_has_its_time_from_then_on() {
        let pace = Pace::begin();
        let busy = pace.request();
        pace.lock().read();
        tokio::time::advance(HEAD * 2).await;
        drop(busy);
        assert_eq!(overdue(&pace).await, (Overdue::Head, HEAD));
        // The next request's head is complete.
        drop(pace.request());
        assert_eq!(overdue(&pace).await, (Overdue::Idle, IDLE));
    }
}
