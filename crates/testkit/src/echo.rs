//! TCP peers inside a namespace: echo (bytes come back), sink (bytes are counted), source (bytes are
//! sent until the peer closes). Each accepted connection is reported with the peer's address.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::topology::Namespace;

/// What a peer does with an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Returns what it reads, and closes after the other side did.
    Echo,
    /// Reads to the end, answers with nothing.
    Sink,
    /// Writes until the other side closes.
    Source,
    /// Says the given byte once, then echoes: tells endpoints apart.
    Greet(u8),
}

/// A listening peer; its threads end when the process or the namespace's last user ends.
#[derive(Debug)]
pub struct Peer {
    /// Port it listens on.
    pub port: u16,
    /// Address of each accepted connection's other end, in order.
    pub accepted: Receiver<SocketAddr>,
}

/// Starts a peer on `port` (0 picks one) of every address of `namespace`.
///
/// # Errors
/// When the port cannot be bound.
pub fn serve(namespace: &Namespace, port: u16, behaviour: Behaviour) -> Result<Peer> {
    let listener = namespace.listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
    let port = listener.local_addr()?.port();
    let (report, accepted) = channel();
    // An accepted socket belongs to the namespace of its listener, whichever thread accepts it.
    thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            let _test_may_not_listen =
                report.send(SocketAddr::new(peer.ip().to_canonical(), peer.port()));
            thread::spawn(move || serve_one(stream, behaviour));
        }
    });
    Ok(Peer { port, accepted })
}

/// Connects from inside `namespace`; reads and writes are bounded by ten seconds.
///
/// # Errors
/// When the connection is refused or takes longer than five seconds.
pub fn connect(namespace: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = namespace
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?
        .with_context(|| format!("connect to {to} from {}", namespace.name()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Sends `bytes`, closes our half and reads to the end.
///
/// # Errors
/// When the connection breaks.
pub fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let writing = scope.spawn(move || -> io::Result<()> {
            writer.write_all(bytes)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        writing
            .join()
            .expect("the writer does not panic")
            .context("write")?;
        read.context("read")?;
        Ok(answer)
    })
}

/// One message there and back on a connection that stays open.
///
/// # Errors
/// When the connection breaks or ends.
pub fn ping(stream: &mut TcpStream, message: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(message)?;
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Whether the peer ends a connection on which nothing is sent, within the read timeout. Silence is no end.
pub fn ended(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(read) => read == 0,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ),
    }
}

fn serve_one(mut stream: TcpStream, behaviour: Behaviour) {
    let mut buffer = vec![0; 64 * 1024];
    let _peer_may_leave = match behaviour {
        Behaviour::Echo => echo(&mut stream, &mut buffer),
        Behaviour::Greet(byte) => stream
            .write_all(&[byte])
            .and_then(|()| echo(&mut stream, &mut buffer)),
        Behaviour::Sink => io::copy(&mut stream, &mut io::sink()).map(drop),
        Behaviour::Source => source(&mut stream, &buffer),
    };
}

fn echo(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match stream.read(buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

fn source(stream: &mut TcpStream, buffer: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(buffer)?;
    }
}
