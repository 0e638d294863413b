//! The future that moves bytes between the carrier and the codec. It holds no buffer while nothing flows.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::{KEEP, Shared};
use crate::proto::ProtocolError;

/// How much is read at once, into a buffer that all drivers of a thread share.
const READ: usize = 64 << 10;
/// Reads per poll, so that one busy connection leaves room for others.
const READS_PER_POLL: usize = 16;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a connection ended other than gracefully.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The carrier failed.
    #[error("carrier: {0}")]
    Io(#[from] io::Error),
    /// The peer broke HTTP/2.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Moves the bytes of one connection. Run it until it ends; dropping it cuts the connection and all its streams.
#[derive(Debug)]
#[must_use = "nothing moves unless the driver is run"]
pub struct Driver<Io> {
    io: Io,
    shared: Shared,
    /// Bytes on their way to the carrier, and how many of them are there.
    writing: Vec<u8>,
    written: usize,
    ticked: Instant,
    failed: Option<ProtocolError>,
    /// The carrier takes no more. A peer that closes while our credit is on its way makes that a reset, behind bytes that it
    /// has sent in order: what has arrived is read first.
    broken: Option<io::Error>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    pub(super) fn new(io: Io, shared: Shared) -> Self {
        Self {
            io,
            shared,
            writing: Vec::new(),
            written: 0,
            ticked: Instant::now(),
            failed: None,
            broken: None,
        }
    }

    /// Writes all there is. Ready: the carrier has taken it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                if self.writing.capacity() > KEEP {
                    self.writing = Vec::new();
                }
                self.shared.lock().take_transmit(&mut self.writing);
                if self.writing.is_empty() {
                    return Pin::new(&mut self.io).poll_flush(cx);
                }
            }
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.writing[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
    }

    /// Reads once. Ready(false): end of file.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Taken, not borrowed: a carrier may itself be a tunnel whose driver is polled in here.
        let mut buffer = BUFFER.take();
        buffer.resize(READ, 0);
        let result = self.poll_read_into(cx, &mut buffer);
        BUFFER.set(buffer);
        result
    }

    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<bool>> {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        let mut state = self.shared.lock();
        if self.ticked.elapsed() >= Duration::from_secs(1) {
            self.ticked = Instant::now();
            state.connection.tick();
        }
        if let Err(error) = state.receive(read.filled()) {
            self.failed = Some(error);
            state.close();
        }
        Poll::Ready(Ok(true))
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DriveError>> {
        let mut reads = 0;
        loop {
            self.shared.lock().park_driver(cx.waker());
            let written = self.broken.is_none()
                && match self.poll_write(cx) {
                    Poll::Ready(Err(error)) => {
                        self.broken = Some(error);
                        false
                    }
                    poll => poll.is_ready(),
                };
            if written {
                if let Some(error) = self.failed {
                    return Poll::Ready(Err(error.into()));
                }
                if self.shared.lock().is_done() {
                    return Pin::new(&mut self.io)
                        .poll_shutdown(cx)
                        .map_err(DriveError::Io);
                }
            }
            if let Some(error) = self.failed {
                return match self.broken {
                    Some(_) => Poll::Ready(Err(error.into())),
                    None => Poll::Pending,
                };
            }
            // A carrier that takes nothing gets nothing read: replies to it would pile up. Streams go on reading
            // as long as the codec's own output is small.
            let waits = !written && self.broken.is_none();
            if waits && self.shared.lock().connection.output().len() > KEEP {
                return Poll::Pending;
            }
            let read = self.poll_read(cx);
            // What is there now, and no waiting: a carrier may break in one direction alone.
            let dry = !matches!(read, Poll::Ready(Ok(true)));
            if let Some(broken) = self.broken.take_if(|_| dry) {
                return Poll::Ready(self.end_of_carrier(broken));
            }
            match ready!(read) {
                Ok(true) => {}
                Ok(false) => {
                    let end = io::ErrorKind::UnexpectedEof.into();
                    return Poll::Ready(self.end_of_carrier(end));
                }
                Err(error) => return Poll::Ready(self.end_of_carrier(error)),
            }
            reads += 1;
            if reads == READS_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// The peer closed the carrier, or it broke: fine if no stream was left.
    fn end_of_carrier(&self, error: io::Error) -> Result<(), DriveError> {
        match self.shared.lock().connection.streams_len() {
            0 => Ok(()),
            _ => Err(DriveError::Io(error)),
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Future for Driver<Io> {
    type Output = Result<(), DriveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.poll_drive(cx));
        self.shared.lock().close();
        Poll::Ready(result)
    }
}

impl<Io> Drop for Driver<Io> {
    fn drop(&mut self) {
        self.shared.lock().close();
    }
}
