//! Byte streams of any origin, bytes read ahead put back, and the look at the first bytes that tells HTTP
//! from anything else. Used by `listener`, `tcp` and `upstream`.

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream of bytes: a tunnel or a socket.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Any stream.
pub type Io = Box<dyn Stream>;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Neither, or nothing in time.
    Other,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest request line looked at; a longer one is not taken for HTTP.
const LONGEST_LINE: usize = 8 << 10;

/// Looks at bytes; `None` asks for more of them.
pub fn spoken(bytes: &[u8]) -> Option<Spoken> {
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] == PREFACE[..shared] {
        return (bytes.len() >= PREFACE.len()).then_some(Spoken::Http2);
    }
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let method = bytes.iter().take_while(|b| token(b)).count();
    if method > 32 || (method < bytes.len() && (method == 0 || bytes[method] != b' ')) {
        return Some(Spoken::Other);
    }
    match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => {
            let line = bytes[..end].trim_ascii_end();
            let version = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
            Some(if version.starts_with(b"HTTP/1.") {
                Spoken::Http1
            } else {
                Spoken::Other
            })
        }
        None if bytes.len() > LONGEST_LINE => Some(Spoken::Other),
        None => None,
    }
}

/// Reads until it is clear what is spoken, at most for `patience`. The bytes are put back.
pub async fn sniff(mut io: Io, patience: Duration) -> io::Result<(Spoken, Rewind)> {
    let mut seen = BytesMut::with_capacity(512);
    let look = async {
        loop {
            if io.read_buf(&mut seen).await? == 0 {
                return io::Result::Ok(Spoken::Other);
            }
            if let Some(spoken) = spoken(&seen) {
                return Ok(spoken);
            }
        }
    };
    let spoken = match tokio::time::timeout(patience, look).await {
        Ok(spoken) => spoken?,
        Err(_) => Spoken::Other,
    };
    Ok((
        spoken,
        Rewind {
            ahead: seen.freeze(),
            io,
        },
    ))
}

/// A stream whose first bytes were read already.
pub struct Rewind {
    ahead: Bytes,
    io: Io,
}

impl AsyncRead for Rewind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewind {
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

/// Bytes that went through a [`Counted`] stream.
#[derive(Debug, Default)]
pub struct Count {
    /// Read from it.
    pub read: AtomicU64,
    /// Written to it.
    pub written: AtomicU64,
}

/// A stream that counts.
pub struct Counted<T>(pub T, pub Arc<Count>);

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.0).poll_read(cx, buf);
        self.1
            .read
            .fetch_add((buf.filled().len() - before) as u64, Relaxed);
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.0).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &poll {
            self.1.written.fetch_add(*n as u64, Relaxed);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn first_bytes_tell_the_protocol() {
        let cases: [(&[u8], Option<Spoken>); 10] = [
            (b"", None),
            (b"GE", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET / HTTP/1.0\n", Some(Spoken::Http1)),
            (b"GET /\r\n", Some(Spoken::Other)),
            (b"PRI * HT", None),
            (PREFACE, Some(Spoken::Http2)),
            (b"\x16\x03\x01", Some(Spoken::Other)),
            (b"SELECT\x00", Some(Spoken::Other)),
            (b"QUIT\r\n", Some(Spoken::Other)),
        ];
        for (bytes, want) in cases {
            assert_eq!(spoken(bytes), want, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(spoken(&[b'A'; 33]), Some(Spoken::Other));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_not_http_and_no_byte_is_lost() {
        let (mut client, server) = tokio::io::duplex(64);
        let (what, _) = sniff(Box::new(server), Duration::from_millis(100))
            .await
            .unwrap();
        assert_eq!(what, Spoken::Other);
        client.write_all(b"x").await.unwrap_err();
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET / HTTP/1.1\r\nrest").await.unwrap();
        drop(client);
        let (what, mut again) = sniff(Box::new(server), Duration::from_millis(100))
            .await
            .unwrap();
        assert_eq!(what, Spoken::Http1);
        let mut all = String::new();
        again.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1\r\nrest");
    }
}
