//! The applications inside the demo's pods: an HTTP server that says who it is, one that always fails,
//! and a TCP echo. Started by the demo itself as `causeway demo app …`; not meant for users.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// A connection that says nothing for that long is closed.
const QUIET: Duration = Duration::from_secs(120);
/// Longest request head that is read.
const HEAD_LIMIT: u64 = 64 << 10;

/// Which application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Answers 200 with its name.
    Http,
    /// Answers 503 with its name.
    Broken,
    /// Sends back what it gets.
    Echo,
}

/// Serves on `port` until killed.
///
/// # Errors
/// When the port cannot be bound.
pub fn serve(kind: Kind, name: &str, port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("bind port {port}"))?;
    for stream in listener.incoming() {
        // A connection that died in the queue is its peer's affair.
        let Ok(stream) = stream else { continue };
        let name = name.to_owned();
        std::thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(QUIET));
            let _ = stream.set_nodelay(true);
            // The peer went away in the middle: nothing is left to tell it.
            let _ = match kind {
                Kind::Http => answer(stream, &name, "200 OK"),
                Kind::Broken => answer(stream, &name, "503 Service Unavailable"),
                Kind::Echo => echo(stream),
            };
        });
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(std::net::Shutdown::Write),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

fn answer(stream: TcpStream, name: &str, status: &str) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut length, mut close) = (String::new(), 0, false);
        loop {
            let mut line = String::new();
            if (&mut reader).take(HEAD_LIMIT).read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if first.is_empty() {
                first = line.to_owned();
            } else if line.is_empty() {
                break;
            } else if let Some((key, value)) = line.split_once(':') {
                let value = value.trim();
                if key.eq_ignore_ascii_case("content-length") {
                    length = value.parse().unwrap_or(0);
                } else if key.eq_ignore_ascii_case("connection") {
                    close = value.eq_ignore_ascii_case("close");
                }
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        // One line a request, so that the demo can count what this application really answered.
        writeln!(
            std::io::stdout(),
            "{} {first}",
            status.split(' ').next().unwrap_or(status)
        )?;
        let body = format!("{name}: {first}\n");
        let ending = if close { "connection: close\r\n" } else { "" };
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{ending}\r\n{body}",
            body.len()
        )?;
        if close {
            return Ok(());
        }
    }
}
