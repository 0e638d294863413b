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
/// Longest request line looked at; a longer one is not taken for HTTP. Envoy's inspector looks as far.
const LONGEST_LINE: usize = 64 << 10;

/// A look at bytes, of which so many were looked at already; `None` asks for more of them.
pub type Look = fn(&[u8], usize) -> Option<Spoken>;

/// Tells the versions of HTTP apart where nothing else may come: what is none is for HTTP/1 to refuse.
pub fn version(bytes: &[u8], _: usize) -> Option<Spoken> {
    match is_preface(bytes) {
        Some(true) => Some(Spoken::Http2),
        Some(false) => Some(Spoken::Http1),
        None => None,
    }
}

/// Is this HTTP/2's preface? `None` while it may still become it.
fn is_preface(bytes: &[u8]) -> Option<bool> {
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] != PREFACE[..shared] {
        return Some(false);
    }
    (shared == PREFACE.len()).then_some(true)
}

/// Tells HTTP from anything else.
pub fn spoken(bytes: &[u8], looked: usize) -> Option<Spoken> {
    if is_preface(bytes)? {
        return Some(Spoken::Http2);
    }
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let method = bytes.iter().take_while(|b| token(b)).count();
    if method > 32 || (method < bytes.len() && (method == 0 || bytes[method] != b' ')) {
        return Some(Spoken::Other);
    }
    // Only what is new: a client that sends byte by byte must not have us read its line again each time.
    let end = bytes.iter().skip(looked).position(|b| *b == b'\n');
    match end {
        Some(end) => {
            let line = bytes[..looked + end].trim_ascii_end();
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
pub async fn sniff(mut io: Io, patience: Duration, look: Look) -> io::Result<(Spoken, Rewind)> {
    let mut seen = BytesMut::with_capacity(512);
    let look = async {
        loop {
            let looked = seen.len();
            if io.read_buf(&mut seen).await? == 0 {
                return io::Result::Ok(Spoken::Other);
            }
            if let Some(spoken) = look(&seen, looked) {
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
            assert_eq!(spoken(bytes, 0), want, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(spoken(&[b'A'; 33], 0), Some(Spoken::Other));
        let mut long = b"GET /".to_vec();
        long.resize(60_000, b'x');
        assert_eq!(spoken(&long, 0), None);
        long.extend_from_slice(b" HTTP/1.1\r\n");
        assert_eq!(spoken(&long, 0), Some(Spoken::Http1));
        long.clear();
        long.resize(70_000, b'A');
        long[3] = b' ';
        let parts: [(&[u8], usize); 3] = [
            (b"GET / HTTP", 4),
            (b"GET / HTTP/1.1\r\n", 10),
            (b"GET / HTTP/1.1\r\n", 15),
        ];
        let want = [None, Some(Spoken::Http1), Some(Spoken::Http1)];
        assert_eq!(parts.map(|(bytes, looked)| spoken(bytes, looked)), want);
        let versions = [
            (&b"PRI * HT"[..], None),
            (PREFACE, Some(Spoken::Http2)),
            (b"G", Some(Spoken::Http1)),
            (b"\x16\x03", Some(Spoken::Http1)),
        ];
        for (bytes, want) in versions {
            assert_eq!(version(bytes, 0), want);
        }
        assert_eq!(spoken(&long, 0), Some(Spoken::Other));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_not_http_and_no_byte_is_lost() {
        let (mut client, server) = tokio::io::duplex(64);
        let (what, _) = sniff(Box::new(server), Duration::from_millis(100), spoken)
            .await
            .unwrap();
        assert_eq!(what, Spoken::Other);
        client.write_all(b"x").await.unwrap_err();
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET / HTTP/1.1\r\nrest").await.unwrap();
        drop(client);
        let (what, mut again) = sniff(Box::new(server), Duration::from_millis(100), spoken)
            .await
            .unwrap();
        assert_eq!(what, Spoken::Http1);
        let mut all = String::new();
        again.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1\r\nrest");
    }
}
