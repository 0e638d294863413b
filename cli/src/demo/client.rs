//! The demo's traffic: small HTTP and TCP clients that run inside a pod's namespace on the caller's
//! thread. They speak through ordinary sockets, so the pod's capture rules see what any application's
//! traffic would look like.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::net;

/// Longest time that one exchange may take.
const LIMIT: Duration = Duration::from_secs(5);

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// One request to send.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Address of the service or pod.
    pub to: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Host header.
    pub host: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Sends one HTTP/1.1 request from inside namespace `from` on a connection of its own.
///
/// # Errors
/// Connect, write or read failed, or what came back is not HTTP.
pub fn http(from: &str, request: &Request<'_>) -> Result<Answer> {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
        request.method, request.path, request.host
    );
    for (name, value) in request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let answer = exchange(from, request.to, request.port, text.as_bytes(), false)?;
    parse(&answer).with_context(|| {
        format!(
            "{} {}:{}{}",
            request.method, request.to, request.port, request.path
        )
    })
}

/// Sends `bytes` to a TCP echo from inside namespace `from`, half-closes, and returns all that comes back.
///
/// # Errors
/// Connect, write or read failed (a reset is a failed read).
pub fn echo(from: &str, to: Ipv4Addr, port: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    exchange(from, to, port, bytes, true)
}

/// Opens a TCP connection from inside namespace `from`.
///
/// # Errors
/// When it cannot be opened within the limit.
pub fn connect(from: &str, to: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let stream = net::open(from)?
        .enter(|| TcpStream::connect_timeout(&SocketAddr::from((to, port)), LIMIT))
        .and_then(|r| r)
        .with_context(|| format!("{from} -> {to}:{port}: connect"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(
    from: &str,
    to: Ipv4Addr,
    port: u16,
    bytes: &[u8],
    half_close: bool,
) -> Result<Vec<u8>> {
    let mut stream = connect(from, to, port)?;
    stream
        .write_all(bytes)
        .with_context(|| format!("{from} -> {to}:{port}: write"))?;
    if half_close {
        stream.shutdown(std::net::Shutdown::Write)?;
    }
    let mut back = Vec::new();
    stream
        .read_to_end(&mut back)
        .with_context(|| format!("{from} -> {to}:{port}: read"))?;
    Ok(back)
}

fn parse(answer: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("no HTTP answer came back")?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .with_context(|| {
            format!(
                "not an HTTP status line: {:?}",
                head.lines().next().unwrap_or("")
            )
        })?;
    let chunked = head
        .lines()
        .any(|l| l.eq_ignore_ascii_case("transfer-encoding: chunked"));
    let body = if chunked {
        join_chunks(body)
    } else {
        body.to_owned()
    };
    Ok(Answer { status, body })
}

fn join_chunks(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        if size == 0 {
            break;
        }
        joined.push_str(rest.get(..size).unwrap_or(rest));
        body = rest.get(size + 2..).unwrap_or("");
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_length_is_read() {
        let answer = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 200,
                body: "hi".into()
            }
        );
    }

    #[test]
    fn a_chunked_answer_is_joined() {
        let answer = parse(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\n yo\r\n0\r\n\r\n").unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 403,
                body: "hi yo".into()
            }
        );
    }

    #[test]
    fn something_else_is_refused() {
        assert!(parse(b"").is_err());
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
