//! A carrier that moves a random number of bytes at a time, so that frames are cut everywhere. Used by `relay.rs`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The carrier.
pub struct Cut<T> {
    io: T,
    rng: SmallRng,
}

impl<T> Cut<T> {
    pub fn new(io: T, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { io, rng }
    }

    /// Seldom a few bytes, often all there is.
    fn most(&mut self) -> usize {
        match self.rng.random_range(0..8) {
            0 => self.rng.random_range(1..30),
            1 | 2 => self.rng.random_range(1..5_000),
            _ => self.rng.random_range(1..1 << 17),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Cut<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.most().min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let poll = Pin::new(&mut self.io).poll_read(cx, &mut part);
        let n = part.filled().len();
        buf.advance(n);
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cut<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = self.most().min(buf.len());
        Pin::new(&mut self.io).poll_write(cx, &buf[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
